"""Processes that die, stand still, or lose their power."""

from __future__ import annotations

import random

from fortdb.torture.faults.base import Cast, Fault, Need, listed, some
from fortdb.torture.faults.world import World


class Kill(Fault):
    """SIGKILL: of one node, several, all at once, or a router."""

    name = "kill"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        if chance.random() < 0.15:
            self._names = [chance.choice(list(cast.routers))]
        else:
            self._names = some(chance, cast.nodes, (6, 2, 2))
        self.targets = frozenset(self._names)
        self.seconds = chance.uniform(0.0, 2 * cast.lease_s)

    def begin(self, world: World) -> None:
        for name in self._names:
            with world.hold(name) as process:
                process.kill()

    def end(self, world: World) -> None:
        for name in self._names:
            with world.hold(name) as process:
                process.start()

    def describe(self) -> str:
        return f"{listed(self._names)} killed"


class PowerLoss(Kill):
    """As a kill, and everything that was not synced is gone."""

    name = "power"
    needs = frozenset({Need.SHIM})

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._names = some(chance, cast.nodes, (5, 2, 3))
        self.targets = frozenset(self._names)
        self.seconds = chance.uniform(0.0, 2 * cast.lease_s)
        self._seed = chance.getrandbits(32)

    def begin(self, world: World) -> None:
        super().begin(world)
        lost = {name: world.cut_power(name, self._seed) for name in self._names}
        world.say(
            ", ".join(f"{name} lost {size:,} bytes that were not synced" for name, size in lost.items())
        )

    def describe(self) -> str:
        return f"{listed(self._names)} without power"


class Pause(Fault):
    """SIGSTOP, for longer than the lease: a process that believes it still leads when it wakes."""

    name = "pause"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._names = some(chance, cast.nodes, (7, 2, 1))
        self.targets = frozenset(self._names)
        self.seconds = cast.lease_s * chance.uniform(1.2, 2.5)

    def begin(self, world: World) -> None:
        for name in self._names:
            with world.hold(name) as process:
                process.pause()

    def end(self, world: World) -> None:
        for name in self._names:
            with world.hold(name) as process:
                process.resume()

    def describe(self) -> str:
        return f"{listed(self._names)} paused"


class ClockJump(Fault):
    """The time of day of one node jumps, and back."""

    name = "clock"
    needs = frozenset({Need.SHIM})

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._name = chance.choice(list(cast.nodes))
        self._offset_s = chance.choice([-1, 1]) * 10 ** chance.uniform(-1, 4)
        self.seconds = chance.uniform(0.5, 3 * cast.lease_s)

    def begin(self, world: World) -> None:
        world.shims[self._name].set_clock(self._offset_s)

    def end(self, world: World) -> None:
        world.shims[self._name].set_clock(0.0)

    def describe(self) -> str:
        return f"clock of {self._name} {self._offset_s:+,.1f} s"
