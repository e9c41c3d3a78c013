"""What a node or a router runs to live with a coordination store: up to three threads of its own.

* The *watch* thread lists everything, makes a `ClusterView` and hands it out, then applies the
  changes that a watch delivers, one view a batch. When the watch is lost it lists again, after a
  pause that doubles. Views never go back in revision, unless the store itself did (restored from a
  backup): then the log says so and the store is believed. Every `RELIST_MS` the watch is ended on
  purpose, so that no fault of a watch, here or in a store, leaves a view stale for ever.
* The *worker* thread runs what is submitted, in order: compare-and-set work that must not block a
  server's thread.
* With a registration, the *lease* thread (registration.py).

Callbacks run on these threads and must be short: hand the value to your own thread. The session
does not own the store; close the session first, then the store.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from fortdb.clock import steady_ms
from fortdb.coordination.keys import Keys
from fortdb.coordination.records import apply_events, view_of
from fortdb.coordination.registration import Registration
from fortdb.coordination.store import Store, Watch
from fortdb.errors import Busy, FortError, StoreUnavailable, Unavailable, WatchLost
from fortdb.model import ClusterView, NodeRecord

log = structlog.get_logger(__name__)

RELIST_MS = 60_000  # one listing a minute and process is nothing to a store
PAUSE_MS_MIN = 50  # before listing again; a member of etcd that restarts is back soon
PAUSE_MS_MAX = 1_000  # later than this a healed store would be noticed too late
SUBMITTED_MAX = 1_000  # work that waits; more means the store is out of reach
CLOSE_MS_MAX = 5_000  # above one request's time-out; threads that are later die with the process

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Work:
    run: Callable[[Store], Any]
    done: Callable[[Any], None]


class Session:
    """Lives with `store`: views to `on_view`, the lease to `on_lease`, work from `submit`.

    With `registration` the node is registered on a lease of `lease_ttl_ms`, and `on_lease` hears
    until when (on `clock`, milliseconds) it holds, 0 when it is lost; without, as in a router, it
    is never called. `start` begins; `close` ends. Both once.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        on_view: Callable[[ClusterView], None],
        registration: NodeRecord | None = None,
        lease_ttl_ms: int = 0,
        on_lease: Callable[[int], None] = lambda valid_until_ms: None,
        clock: Callable[[], int] = steady_ms,
        relist_ms: int = RELIST_MS,
    ) -> None:
        self.store = store
        self.keys = keys
        self._on_view = on_view
        self._clock = clock
        self._relist_ms = relist_ms
        self._registration: Registration | None = None
        if registration is not None:
            self._registration = Registration(store, keys, registration, lease_ttl_ms, clock, on_lease)
        self._lock = threading.Lock()  # guards the next two, and that nothing is submitted after the end
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        self._work: queue.Queue[_Work | None] = queue.Queue(SUBMITTED_MAX)
        self._view: ClusterView | None = None
        self._threads = [
            threading.Thread(target=self._follow, name="coordination-watch", daemon=True),
            threading.Thread(target=self._run_work, name="coordination-work", daemon=True),
        ]
        if self._registration is not None:
            self._threads.append(
                threading.Thread(target=self._registration.run, name="coordination-lease", daemon=True)
            )

    @property
    def lease(self) -> int | None:
        """The node's lease; None without a registration, before it, and after the lease was lost."""
        return None if self._registration is None else self._registration.lease

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def update_registration(self, record: NodeRecord) -> None:
        """Have the node's record rewritten on its lease; returns at once, the view shows it."""
        assert self._registration is not None, "a session without a registration has no record"
        self._registration.update(record)

    def submit(self, run: Callable[[Store], T], done: Callable[[T | FortError], None]) -> None:
        """Run `run(store)` on the worker thread, then `done` there with its result or its error.

        `done` is called exactly once: with `Busy` on the caller's thread if too much waits already,
        with `Unavailable` if the session closes before.
        """
        with self._lock:
            refusal: FortError | None = None
            if self._stopping.is_set():
                refusal = Unavailable("this process is leaving the coordination store")
            else:
                try:
                    self._work.put_nowait(_Work(run, done))
                except queue.Full:
                    refusal = Busy(f"{SUBMITTED_MAX} changes wait for the coordination store already")
        if refusal is not None:
            done(refusal)

    def close(self, revoke: bool) -> None:
        """Stop every thread; with `revoke` end the lease too, and with it the node's record."""
        with self._lock:
            self._stopping.set()
            if self._watch is not None:
                self._watch.close()
        if self._registration is not None:
            self._registration.stop()
        with contextlib.suppress(queue.Full):  # then the worker is awake and looks at `_stopping`
            self._work.put_nowait(None)
        deadline_ms = steady_ms() + CLOSE_MS_MAX
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(deadline_ms - steady_ms(), 0) / 1000)
        if revoke and self._registration is not None:
            self._registration.revoke()

    # --- the watch thread -----------------------------------------------------------------------------

    def _follow(self) -> None:
        pause_ms = PAUSE_MS_MIN
        while not self._stopping.is_set():
            before = self._view
            try:
                self._list_and_watch()
                continue  # ended on purpose: the session closes, or it is time to list again
            except WatchLost as error:
                log.info("watch_lost", reason=str(error))
            except FortError as error:
                log.warning("view_stale", reason=str(error))
            except Exception:  # the edge of a thread: a view must never go stale in silence
                log.exception("view_stale")
            pause_ms = PAUSE_MS_MIN if self._view is not before else min(pause_ms * 2, PAUSE_MS_MAX)
            self._stopping.wait(pause_ms / 1000)

    def _list_and_watch(self) -> None:
        """Hand out views until the watch ends. Raises what listing, decoding and watching raise."""
        listing = self.store.list(self.keys.prefix)
        view = view_of(self.keys, listing)
        if self._view is not None and view.revision < self._view.revision:
            log.error(
                "store_went_back",
                revision=view.revision,
                revision_before=self._view.revision,
                advice="the coordination store was restored or replaced; its older records are believed",
            )
        self._show(view)
        watch = self.store.watch(self.keys.prefix, view.revision)
        with self._lock:
            if self._stopping.is_set():
                watch.close()
            self._watch = watch
        try:
            for events in watch:
                view = apply_events(self.keys, view, events)
                self._show(view)
        finally:
            watch.close()

    def _show(self, view: ClusterView) -> None:
        if self._registration is not None:
            self._registration.see(view)
        if view == self._view:  # listed again, and nothing had changed
            return
        self._view = view
        self._on_view(view)

    # --- the worker thread ----------------------------------------------------------------------------

    def _run_work(self) -> None:
        relist_ms = self._clock() + self._relist_ms
        while not self._stopping.is_set():
            if self._clock() >= relist_ms:
                relist_ms = self._clock() + self._relist_ms
                self._end_watch()
            try:
                work = self._work.get(timeout=max(relist_ms - self._clock(), 0) / 1000)
            except queue.Empty:
                continue
            if work is not None:
                self._run_one(work)
        while not self._work.empty():  # nothing is added any more
            work = self._work.get_nowait()
            if work is not None:
                work.done(Unavailable("this process is leaving the coordination store"))

    def _run_one(self, work: _Work) -> None:
        try:
            try:
                outcome = work.run(self.store)
            except FortError as error:
                outcome = error
            except Exception as error:
                log.exception("work_failed")
                outcome = StoreUnavailable(f"work with the coordination store failed: {error!r}")
            work.done(outcome)
        except Exception:  # the edge of a thread: one faulty callback must not end all the others
            log.exception("callback_failed")

    def _end_watch(self) -> None:
        with self._lock:
            if self._watch is not None:
                self._watch.close()
