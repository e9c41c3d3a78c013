"""Brings the faults of a schedule upon a ring, at their moments, and notes when each began and ended."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Sequence

from fortdb.torture.faults.base import Fault
from fortdb.torture.faults.world import World
from fortdb.torture.history import FaultEvent, History
from fortdb.torture.schedule import Step

_NEWS_S = 1.0  # after which a router has heard what the store holds
_WHOLE_S_MAX = 25.0  # a fault that destroys is left out if the ring is not whole by then


class Director:
    """Plays a schedule on a thread of its own."""

    def __init__(self, world: World, steps: Sequence[Step], history: History) -> None:
        self.done = 0
        self.skipped: list[str] = []
        self.failure: BaseException | None = None
        self._world = world
        self._steps = steps
        self._history = history
        self._in_force: list[Fault] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="director", daemon=True)

    @property
    def in_force(self) -> list[str]:
        """What is broken now, for a person."""
        return [fault.describe() for fault in list(self._in_force)]

    @property
    def is_over(self) -> bool:
        """Whether the whole schedule has been played, or could not be."""
        return not self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End what is in force, and nothing new."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._play()
        except Exception as error:  # noqa: BLE001
            self.failure = error  # raised by the runner: a fault that cannot be made proves nothing
        for fault in list(self._in_force):
            try:
                self._end(fault)
            except Exception as error:  # noqa: BLE001  raised by the runner too
                self.failure = self.failure or error

    def _play(self) -> None:
        began_s = time.monotonic()
        number = itertools.count()
        due = [(step.starts_s, next(number), step, True) for step in self._steps]
        heapq.heapify(due)
        while due:
            at_s, _, step, begins = heapq.heappop(due)
            if self._stopping.wait(max(0.0, began_s + at_s - time.monotonic())):
                return
            if not begins:
                self._end(step.fault)
            elif self._may_begin(step.fault):
                self._begin(step.fault)
                lasts_s = step.ends_s - step.starts_s
                heapq.heappush(due, (time.monotonic() - began_s + lasts_s, next(number), step, False))

    def _may_begin(self, fault: Fault) -> bool:
        if not fault.destroys:
            return True
        world = self._world
        whole = not self._in_force and world.wait(
            lambda: self._stopping.is_set() or self._is_whole(), _WHOLE_S_MAX
        )
        if not whole or self._stopping.is_set():
            self.skipped.append(f"{fault.name}: {fault.describe()}")
            world.say(f"left out, the ring is not whole: {fault.describe()}")
            return False
        return True

    def _is_whole(self) -> bool:
        """Healthy, and still so when news that were on their way to the routers have come."""
        world = self._world
        return world.is_healthy() and not self._stopping.wait(_NEWS_S) and world.is_healthy()

    def _begin(self, fault: Fault) -> None:
        self._note(fault, "begin")
        self._in_force.append(fault)
        fault.begin(self._world)
        self.done += 1

    def _end(self, fault: Fault) -> None:
        fault.end(self._world)
        self._in_force.remove(fault)
        self._note(fault, "end")

    def _note(self, fault: Fault, phase: str) -> None:
        self._history.record_fault(
            FaultEvent(name=fault.name, phase=phase, detail=fault.describe(), at_ns=time.monotonic_ns())
        )
