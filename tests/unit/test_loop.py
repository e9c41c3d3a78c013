"""What the loop does in a turn, and before it waits."""

from __future__ import annotations

import os

import pytest

from fortdb.native import lane
from fortdb.net import loop as loop_module
from fortdb.net.loop import Loop


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
