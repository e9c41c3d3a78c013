"""What the loop does in a turn, and before it waits."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Thread

import pytest

from fortdb.native import lane
from fortdb.net import loop as loop_module
from fortdb.net.loop import Loop
from tests.support.ways import needs_c


class Pipe:
    """Something that becomes readable."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._from, self.to = os.pipe()
        loop.register(self._from, self)

    def readable(self) -> None:
        os.read(self._from, 100)
        self._loop.stop()

    def writable(self) -> None:
        raise AssertionError

    def close(self) -> None:
        self._loop.unregister(self._from)
        os.close(self._from)
        os.close(self.to)


@pytest.mark.parametrize("way", [lane, None], ids=["in-c", "in-python"])
def test_what_can_wait_is_done_when_nothing_has_arrived(monkeypatch: pytest.MonkeyPatch, way: object) -> None:
    monkeypatch.setattr(loop_module, "lane", way)
    loop = Loop()
    told: list[str] = []
    pipe = Pipe(loop)

    def wake() -> None:
        told.append("nothing came")
        os.write(pipe.to, b".")

    loop.before_waiting(wake)
    loop.run(lambda: told.append("tick"))
    assert told == ["nothing came", "tick"]

    os.write(pipe.to, b".")
    loop.before_waiting(lambda: told.append("too early"))
    loop.run(lambda: told.append("tick"))
    assert told == ["nothing came", "tick", "tick"]

    os.write(pipe.to, b".")
    loop.run(lambda: loop.before_waiting(lambda: told.append("the end")))
    assert told[3:] == ["the end"]
    pipe.close()
    loop.close()


def test_timers_that_become_due_meanwhile_leave_the_turn_to_others() -> None:
    """As connections do that are worked for in turns: each notes a later time than the last."""
    loop = Loop()
    told: list[str] = []

    def work() -> None:
        assert len(told) < 20, "the loop works for timers alone"
        told.append("work")
        loop.now_ms += 1_000
        loop.call_later(1, work)

    def tick() -> None:
        told.append("tick")
        if len(told) > 6:
            loop.stop()

    loop.call_later(0, work)
    loop.call_later(0, work)
    loop.tick_again()
    loop.run(tick)
    assert told[-6:] == ["work", "work", "tick", "work", "work", "tick"]
    loop.close()


class Bell:
    """Something that becomes readable, and does what it is told to then."""

    def __init__(self, loop: Loop, then: Callable[[], None]) -> None:
        self._loop, self._then = loop, then
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK)
        loop.register(self._descriptor, self)

    def ring(self) -> None:
        os.eventfd_write(self._descriptor, 1)

    def readable(self) -> None:
        os.eventfd_read(self._descriptor)
        self._then()

    def writable(self) -> None:
        raise AssertionError

    def close(self) -> None:
        self._loop.unregister(self._descriptor)
        os.close(self._descriptor)


class Turns:
    """A loop of which a bell rings in every turn, and of which the tick has a short way; it stops after some ticks."""

    def __init__(self, ticks: int) -> None:
        self.told: list[str] = []
        self.loop = Loop()
        self.bell = Bell(self.loop, lambda: self.rung())
        self.rung: Callable[[], None] = lambda: None
        self._left = ticks

    def run(self, plain: Callable[[], bool]) -> list[str]:
        """What happened. `plain` says whether a tick is one for the short way."""

        def on_tick() -> None:
            self._tell("tick")

        def way(turns: Turns) -> bool:
            assert turns is self
            if not plain():
                return False
            self._tell("short")
            return True

        self.bell.ring()
        self.loop.run(on_tick, (way, self))
        self.bell.close()
        self.loop.close()
        return self.told

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self._left -= 1
        if self._left == 0:
            self.loop.stop()
        self.bell.ring()


@needs_c
def test_plain_ticks_are_left_to_the_short_way_and_others_are_not() -> None:
    turns = Turns(6)
    told = turns.run(lambda: len(turns.told) != 2)
    assert told == ["short", "short", "tick", "short", "short", "short", "tick"]


@needs_c
def test_calls_and_timers_come_between_short_ticks() -> None:
    turns = Turns(40)

    def rung() -> None:
        if len(turns.told) == 3:
            turns.loop.call_next(lambda: turns.told.append("call"))
        elif len(turns.told) == 8:
            turns.loop.call_later(0, lambda: turns.told.append("timer"))
        elif len(turns.told) == 15:
            turns.loop.tick_again()

    turns.rung = rung
    told = turns.run(lambda: True)
    assert told[:6] == ["short", "short", "short", "call", "tick", "short"]
    timer = told.index("timer")
    assert timer <= 12
    assert told[timer + 1] == "tick"
    assert told.count("tick") == 4  # with the one that stops it


@needs_c
def test_a_call_from_another_thread_ends_the_short_turns() -> None:
    turns = Turns(1 << 40)
    caller = Thread(target=lambda: turns.loop.call_soon(turns.loop.stop))
    turns.rung = lambda: caller.start() if len(turns.told) == 5 else None
    assert turns.run(lambda: True)[-1] == "tick"
    caller.join()


def test_a_call_from_another_thread_may_come_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop takes the call, and is closed, before the thread that called has written that it is to wake up."""
    loop = Loop()
    told: list[str] = []
    ending = Thread(target=loop.close)

    def written_late(descriptor: int, value: int) -> None:
        ending.start()
        ending.join(0.2)  # closed meanwhile, if nothing holds it up
        write(descriptor, value)

    write = os.eventfd_write
    monkeypatch.setattr(os, "eventfd_write", written_late)
    loop.call_soon(lambda: told.append("call"))
    ending.join()
    loop.call_soon(lambda: told.append("too late"))
    assert not told


@needs_c
def test_an_error_in_the_short_way_ends_the_loop() -> None:
    turns = Turns(10)

    def broken() -> bool:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        turns.run(broken)
