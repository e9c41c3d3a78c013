"""What the processes of nodes and routers share: how they are told to stop, crossing from other threads to the loop's,
and memory."""

from __future__ import annotations

import gc
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Generic, TypeVar

from fortdb.net.loop import Loop

T = TypeVar("T")

_ANSWER_S_MAX = 2.0
_COLLECT_AFTER = (50_000, 20, 20)  # objects; collections of the young before one of the older, and of all


def spare_the_collector() -> None:
    """Let the collector of cycles pass over what was made at the start, and look seldom at the rest: a tick makes
    thousands of objects, which their counts of references free."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def stop_on_signals() -> threading.Event:
    """The event that SIGTERM or SIGINT sets from now on. SIGHUP is passed over until there is something to reload."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return stopping


def when_set(stopping: threading.Event, stop: Callable[[], None]) -> None:
    """Call `stop` after the event, on a thread of its own: a handler of signals may run anywhere, in `stop` too."""

    def wait() -> None:
        stopping.wait()
        stop()

    threading.Thread(target=wait, name="signals", daemon=True).start()


class Latest(Generic[T]):
    """Hands the newest of many values to the loop's thread; those it had no time for are skipped."""

    def __init__(self, loop: Loop, see: Callable[[T], None]) -> None:
        self._loop = loop
        self._see = see
        self._values: deque[T] = deque(maxlen=1)

    def put(self, value: T) -> None:
        """A newer value; from any thread."""
        self._values.append(value)
        self._loop.call_soon(self._take)

    def _take(self) -> None:
        try:
            value = self._values.pop()
        except IndexError:
            return  # an earlier call has taken it already
        self._see(value)


def on_loop(loop: Loop, ask: Callable[[], T], otherwise: T) -> T:
    """What `ask` returns on the loop's thread, or `otherwise` if that does not answer in time."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:  # noqa: BLE001  the scrape fails, the server goes on
            answer.set_exception(error)

    loop.call_soon(run)
    try:
        return answer.result(_ANSWER_S_MAX)
    except FutureTimeoutError:
        return otherwise
