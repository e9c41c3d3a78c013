"""One thread, one epoll: the server core of nodes and routers.

A *tick* takes everything that is readable, then lets the owner do its work for all of it at once
(`on_tick`), then sends what has collected. The functions in C go from turn to turn by themselves while ticks have little
to do. Batching comes from load, never from a timer: a tick
with one request has a batch of one. Work done elsewhere comes in by `call_soon`, the only method
that other threads may use.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
from collections import deque
from collections.abc import Callable
from threading import RLock
from typing import Any, Protocol

from fortdb.clock import steady_ms
from fortdb.limits import IDLE_WAIT_MS
from fortdb.native import bind, lane

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
_FAILED = select.EPOLLHUP | select.EPOLLERR


TickWay = tuple[Callable[[Any], bool], object]
"""A function in C that does what a tick has to do where that is plain, and what it is called with. If there is
more to be done it returns False, and `on_tick` does the tick, or does it once more. See `fortdb.native`."""


class Handler(Protocol):
    """What epoll wakes."""

    def readable(self) -> None: ...

    def writable(self) -> None: ...


class Loop:
    """Runs until `stop`. Exceptions of handlers and ticks end it: they are defects or a failed disk."""

    __slots__ = (
        *("__dict__", "epoll_descriptor", "handlers", "now_ms", "wakeup"),
        *("_again", "_calls", "_running", "_timers", "_way"),
    )

    def __init__(self) -> None:
        self.now_ms = steady_ms()
        self._epoll = select.epoll()
        self.epoll_descriptor = self._epoll.fileno()
        self.handlers: dict[int, Handler] = {}
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waking = RLock()  # handlers of signals wake the loop's own thread, wherever that is
        self._epoll.register(self.wakeup, READ)
        self._running = False
        self._again = False
        self._before_waiting: Callable[[], None] | None = None
        self._way: TickWay | None = None

    def register(self, descriptor: int, handler: Handler, events: int = READ) -> None:
        """Watch a descriptor."""
        self.handlers[descriptor] = handler
        self._epoll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Watch for other events."""
        self._epoll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Stop watching."""
        del self.handlers[descriptor]
        self._epoll.unregister(descriptor)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run `call` on the loop's thread; from any thread. Nothing happens once the loop is closed."""
        with self._waking:
            if self.wakeup < 0:
                return
            self._calls.append(call)
            os.eventfd_write(self.wakeup, 1)

    def call_next(self, call: Callable[[], None]) -> None:
        """Run `call` in this tick or the next; from the loop's own thread."""
        self._calls.append(call)

    def call_later(self, delay_ms: int, call: Callable[[], None]) -> None:
        """Run `call` after a delay."""
        heapq.heappush(self._timers, (steady_ms() + delay_ms, next(self._order), call))

    def call_every(self, period_ms: int, call: Callable[[], None]) -> None:
        """Run `call` now and then; periods that were missed are not made up for."""

        def run() -> None:
            call()
            self.call_later(period_ms, run)

        self.call_later(period_ms, run)

    def tick_again(self) -> None:
        """Do not wait before the next tick: work is left."""
        self._again = True

    def before_waiting(self, call: Callable[[], None]) -> None:
        """From a tick: run `call` in the next turn, if nothing has arrived then: what can wait while there is work. It
        is forgotten otherwise."""
        self._before_waiting = call

    def run(self, on_tick: Callable[[], None], way: TickWay | None = None) -> None:
        """Serve until stopped. Ticks that the `way` is for are not left to `on_tick`."""
        self._running = True
        self._way = way
        while self._running:
            self._wait()
            while self._calls:
                self._calls.popleft()()
            due_ms = self.now_ms  # later than that, a timer waits for the next turn, however long these take
            while self._timers and self._timers[0][0] <= due_ms:
                heapq.heappop(self._timers)[2]()
            on_tick()
        if self._before_waiting is not None:
            self._before_waiting()
            self._before_waiting = None

    def _wait(self) -> None:
        call, self._before_waiting = self._before_waiting, None
        if call is not None:
            if self._turn(0):
                return
            call()
        self._turn(self._timeout_ms())

    def _turn(self, timeout_ms: int) -> int:
        """Wait for descriptors, and wake whom they concern; how many were ready. In C, again and again while the way
        does all that is to be done in between."""
        if lane is not None:
            return lane.turns(self, timeout_ms)  # type: ignore[no-any-return]
        events = self._epoll.poll(timeout_ms / 1000)
        self.now_ms = steady_ms()
        for descriptor, event in events:
            handler = self.handlers.get(descriptor)
            if handler is None:
                if descriptor == self.wakeup:
                    os.eventfd_read(self.wakeup)
                continue
            if event & (READ | _FAILED):
                handler.readable()
            if event & WRITE and descriptor in self.handlers:
                handler.writable()
        return len(events)

    def stop(self) -> None:
        """Let `run` return after the present tick."""
        self._running = False

    def close(self) -> None:
        """Release the loop's descriptors. Other threads may still be about to wake it: by then the number can be that
        of another file."""
        with self._waking:
            wakeup, self.wakeup = self.wakeup, -1
            os.close(wakeup)
        self._epoll.close()

    def _timeout_ms(self) -> int:
        if self._again or self._calls:
            self._again = False
            return 0
        if not self._timers:
            return IDLE_WAIT_MS
        return max(0, min(IDLE_WAIT_MS, self._timers[0][0] - steady_ms()))


bind(Loop)
