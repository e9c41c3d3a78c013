"""A reader of the change feed beside the clients, and what it must have been told.

It takes the feed of all its keys from the beginning of the torture to its end, and connects again by itself. Values of
registers and records are written once each, so a change names the call that made it. Right is a feed in which

* every value of an acknowledged write, and every record that was acknowledged, comes at least once,
* no value comes that nobody wrote, or whose write certainly had no effect,
* of two writes of one key, of which the one was answered before the other began, the earlier comes first.

Logs are short in a torture. A reader that a busy machine kept waiting, or whose router was down, finds that what it has
not read is gone, begins anew, and is judged by what was written from then on; the report says so. (A record from before
may come late, and for the first time, when it is held or kept longer: that tells it again.)
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from fortdb.client import Feed
from fortdb.errors import FeedLost, FortError
from fortdb.torture.caller import Door
from fortdb.torture.findings import HISTORY_FILE, Findings
from fortdb.torture.history import Kind, Operation, Outcome, load

_WRITES = {Kind.WRITE: 0, Kind.CAS: 1, Kind.ADD: 0, Kind.KEEP: 0}
"""Calls that write a value of their own, and where it stands among their arguments."""

_LOOK_S = 0.2
_QUIET_S = 5.0  # longer than a feed waits for a leader that is well
_CATCH_UP_S_MAX = 60.0
_FAULTS_SHOWN = 10

Seen = Mapping[str, Sequence[str]]
"""By key, the values in the order in which they came first."""


class FeedReader:
    """One feed, on a thread of its own."""

    def __init__(self, door: Door, prefix: str = "") -> None:
        self._client = door.client()
        self._prefix = prefix
        self._feed: Feed | None = None
        self._seen: dict[str, dict[str, None]] = {}
        self._thread = threading.Thread(target=self._read, name="feed-reader", daemon=True)
        self._stopping = threading.Event()
        self._heard_s = time.monotonic()
        self._since_ns = 0  # every write that began later must be told
        self._times_lost = 0
        self.is_over = False  # whether it was read to its end
        self.failure = ""
        self.changes = 0

    @property
    def seen(self) -> Seen:
        """What has come so far."""
        return {key: list(values) for key, values in self._seen.items()}

    def start(self) -> None:
        """Every change from now on is read, of keys with the prefix if there is one. Raises `FortError`."""
        self._feed = self._client.feed(prefix=self._prefix or None)
        self._thread.start()

    def finish(self) -> None:
        """Nobody writes any more: read on until nothing comes for a while, then end."""
        ends_s = time.monotonic() + _CATCH_UP_S_MAX
        while not self.failure and ends_s > time.monotonic() < self._heard_s + _QUIET_S:
            time.sleep(_LOOK_S)
        self.is_over = True
        self.close()

    def close(self) -> None:
        """Read no more. Idempotent."""
        self._stopping.set()
        if self._feed is not None:
            self._thread.join()
            self._feed.close()
        self._client.close()

    def judge(self, directory: Path, findings: Findings) -> None:
        """Hold what was told beside the history in the directory."""
        if not self.is_over:
            return
        if self.failure:
            findings.unjudged.append(f"the change feed ended early: {self.failure}")
            return
        operations, _ = load(directory / HISTORY_FILE)
        faults = list(faults_of_feed(operations, self.seen, self._since_ns))
        findings.violations += faults[:_FAULTS_SHOWN]
        if len(faults) > _FAULTS_SHOWN:
            findings.violations.append(f"and {len(faults) - _FAULTS_SHOWN} more faults of the feed")
        findings.changes = self.changes
        findings.feed_losses = self._times_lost

    def _read(self) -> None:
        assert self._feed is not None
        while not self._stopping.is_set():
            try:
                change = self._feed.next(_LOOK_S)
            except FeedLost:
                self._times_lost += 1
                self._begin_anew()
                continue
            except FortError as error:
                self.failure = f"{error.code} {error}"
                return
            if change is not None:
                self.changes += 1
                if change.value is not None:  # else something ended, which goes on when nobody writes
                    self._heard_s = time.monotonic()
                    values = self._seen.setdefault(change.key.decode(), {})
                    values.setdefault(change.value.decode("utf-8", "replace"))

    def _begin_anew(self) -> None:
        """From now on, as soon as a router answers."""
        assert self._feed is not None
        self._feed.close()
        self._since_ns = sys.maxsize
        while not self._stopping.is_set():
            try:
                self._feed = self._client.feed(prefix=self._prefix or None)
            except FortError:
                time.sleep(_LOOK_S)
            else:
                self._since_ns = time.monotonic_ns()
                return


def faults_of_feed(calls: Sequence[Operation], seen: Seen, since_ns: int = 0) -> Iterator[str]:
    """What the feed told wrongly, in sentences; of writes that began before a moment it may lack some, or tell them
    only when their records are changed."""
    for call in _missing(calls, seen):
        if call.started_ns < since_ns:
            continue
        yield f"the feed did not tell “{call}”, which was acknowledged"
    by_key: dict[str, list[Operation]] = {}
    for call in _writes(calls):
        by_key.setdefault(call.key, []).append(call)
    for key, written in by_key.items():
        yield from _of_key(key, written, seen.get(key, ()), since_ns)


def _of_key(key: str, written: Sequence[Operation], values: Sequence[str], since_ns: int) -> Iterator[str]:
    calls = {_value(call): call for call in written}
    latest_begin_ns, latest = -1, ""
    for value in values:
        call = calls.get(value)
        if call is None or call.outcome is Outcome.FAILED:
            yield f"the feed told {value} of {key}, which {'was refused' if call else 'nobody wrote'}"
        elif call.outcome is Outcome.OK and since_ns <= call.started_ns <= call.ended_ns < latest_begin_ns:
            yield f"the feed told {latest} of {key} before {value}, whose write had ended before the other began"
        if call is not None and call.started_ns > latest_begin_ns:
            latest_begin_ns, latest = call.started_ns, value


def _missing(calls: Iterable[Operation], seen: Seen) -> Iterator[Operation]:
    sets = {key: set(values) for key, values in seen.items()}
    for call in _writes(calls):
        took_effect = call.outcome is Outcome.OK and not (call.kind is Kind.CAS and call.result is False)
        if took_effect and _value(call) not in sets.get(call.key, ()):
            yield call


def _writes(calls: Iterable[Operation]) -> Iterator[Operation]:
    return (call for call in calls if call.kind in _WRITES)


def _value(call: Operation) -> str:
    return str(call.arguments[_WRITES[call.kind]])
