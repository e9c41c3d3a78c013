"""No faults: what operators do on a good day, done while there are faults."""

from __future__ import annotations

import random
import threading

from fortdb.errors import FortError
from fortdb.torture.faults.base import Cast, Fault
from fortdb.torture.faults.world import REPLICATION, World

_MOVES_EVERY_S = 0.4


class _InBackground(Fault):
    """Something that goes on by itself until it is told to end."""

    def begin(self, world: World) -> None:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(world,), name=self.name, daemon=True)
        self._thread.start()

    def end(self, world: World) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self, world: World) -> None:
        raise NotImplementedError


class Switchover(_InBackground):
    """Partitions are handed from leader to leader all the time."""

    name = "switchover"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._chance = random.Random(chance.getrandbits(32))  # nosec B311 # drawn again by the same seed
        self.seconds = chance.uniform(2.0, 4 * cast.lease_s)

    def _run(self, world: World) -> None:
        while not self._ending.wait(_MOVES_EVERY_S):
            status = world.status()
            if status is None:
                continue
            partition = self._chance.choice(status.partitions)
            try:
                with world.client() as client:
                    client.move_leader(partition.name, self._chance.choice(partition.replicas))
            except FortError:
                continue  # refused: its leader is struck by something else

    def describe(self) -> str:
        return "partitions handed over"


class RollingRestart(_InBackground):
    """One node after another is stopped and started."""

    name = "rolling-restart"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._order = chance.sample(list(cast.nodes), len(cast.nodes))
        self.seconds = 6 * cast.lease_s

    def _run(self, world: World) -> None:
        for name in self._order:
            if self._ending.is_set():
                return
            with world.hold(name) as process:
                process.stop()
                process.start()
            world.wait(lambda: self._ending.is_set() or world.is_healthy(), 30.0)

    def describe(self) -> str:
        return "nodes restarted in turn"


class LayoutChange(_InBackground):
    """Replicas leave and come back: two replicas of each partition instead of three, then three again."""

    name = "layout"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self.seconds = 5 * cast.lease_s

    def begin(self, world: World) -> None:
        self._apply(world, REPLICATION - 1)
        super().begin(world)

    def end(self, world: World) -> None:
        super().end(world)
        if not world.wait(lambda: self._apply(world, REPLICATION), 30.0):
            world.say("the layout could not be changed back yet")

    def _run(self, world: World) -> None:
        if not self._ending.wait(self.seconds / 2):
            self._apply(world, REPLICATION)

    def _apply(self, world: World, replication: int) -> bool:
        try:
            return world.set_replication(replication)
        except FortError as error:
            world.say(f"layout: {error}")
            return False

    def describe(self) -> str:
        return "replicas leave and come back"
