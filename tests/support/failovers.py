"""Clients that use a feature all the time while the leader of a partition is killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fortdb.client import Client
from fortdb.errors import Answer, FortError
from fortdb.local.ring import LocalRing
from tests.support.rings import partition_of
from tests.support.waiting import eventually

Work = Callable[[Client, int, int], None]
"""One turn of a client: (client, number of the client, number of the turn). It deals with `OutcomeUnknown` itself."""


class Busy:
    """Clients, each of them at work until it is told to stop."""

    def __init__(self, ring: LocalRing, work: Work, clients: int = 3) -> None:
        self.turns = [0] * clients
        self.failures: list[str] = []
        self._ring, self._work = ring, work
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def start(self) -> None:
        """Let them work."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each end its turn."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"

    def wait(self, more: int) -> None:
        """Until each has had so many more turns."""
        goals = [turns + more for turns in self.turns]

        def is_there() -> bool:
            assert not self.failures, self.failures
            return all(turns >= goal for turns, goal in zip(self.turns, goals, strict=True))

        eventually(f"{more} more turns of each", is_there, within_s=30)

    def _run(self, number: int) -> None:
        with self._ring.client(timeout_s=30, connections_max=1) as client:
            while not self._stopping.is_set():
                try:
                    self._work(client, number, self.turns[number])
                except FortError as error:
                    if error.answer is not Answer.RETRY:
                        self.failures.append(repr(error))
                        return
                except AssertionError as error:
                    self.failures.append(f"client {number}: {error}")
                    return
                self.turns[number] += 1


@contextmanager
def failover_under(
    ring: LocalRing, partition: str, work: Work, *, clients: int = 3, turns: int = 20
) -> Iterator[Busy]:
    """Kill the leader of a partition while clients work, and let them go on under the next one. The body runs then,
    beside them, the dead node being down yet."""
    leader = partition_of(ring, partition).leader
    assert leader is not None
    busy = Busy(ring, work, clients)
    busy.start()
    try:
        busy.wait(turns)
        ring.process(leader).kill()
        busy.wait(turns)
        assert partition_of(ring, partition).leader not in (None, leader)
        yield busy
    finally:
        busy.stop()
    assert busy.failures == []
