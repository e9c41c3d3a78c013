"""Disks that are full, slow, damaged or new."""

from __future__ import annotations

import os
import random
from pathlib import Path

from fortdb.storage.segments import MAKING, used_bytes
from fortdb.torture.faults.base import Cast, Fault, Need
from fortdb.torture.faults.world import World

_LEFT_ISR_S_MAX = 20.0
_SERVES_S = 2.0  # how long a node runs on a damaged disk, at least


class FullDisk(Fault):
    """No room below a node's data directory. A node that ends of it is started again afterwards."""

    name = "full-disk"
    needs = frozenset({Need.SHIM})

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._name = chance.choice(list(cast.nodes))
        self.targets = frozenset({self._name})
        self.seconds = chance.uniform(1.0, 3 * cast.lease_s)

    def begin(self, world: World) -> None:
        world.shims[self._name].fill_disk(True)

    def end(self, world: World) -> None:
        world.shims[self._name].fill_disk(False)
        with world.hold(self._name) as process:
            process.start()

    def describe(self) -> str:
        return f"disk of {self._name} full"


class SlowDisk(Fault):
    """Every fsync of a node takes longer."""

    name = "slow-disk"
    needs = frozenset({Need.SHIM})

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._name = chance.choice(list(cast.nodes))
        self._delay_ms = 10 ** chance.uniform(1, 3)
        self.seconds = chance.uniform(1.0, 3 * cast.lease_s)

    def begin(self, world: World) -> None:
        world.shims[self._name].delay_syncs(self._delay_ms)

    def end(self, world: World) -> None:
        world.shims[self._name].delay_syncs(0.0)

    def describe(self) -> str:
        return f"each fsync of {self._name} takes {self._delay_ms:.0f} ms more"


class EmptyDisk(Fault):
    """A node comes back with an empty disk."""

    name = "empty-disk"
    destroys = True

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._name = chance.choice(list(cast.nodes))
        self.targets = frozenset({self._name})
        self.seconds = chance.uniform(0.0, 2 * cast.lease_s)

    def begin(self, world: World) -> None:
        with world.hold(self._name) as process:
            process.kill()
            world.empty_disk(self._name)

    def end(self, world: World) -> None:
        with world.hold(self._name) as process:
            process.start()

    def describe(self) -> str:
        return f"disk of {self._name} emptied"


class DamagedDisk(Fault):
    """Bits flip, or a file is cut short, on the disk of a node that is down; then it runs on it.

    A file cut short can look like one that was torn when the process died, so such a node is protected
    by being out of every ISR (rule 9): the damage comes once it is. Afterwards its disk is emptied, as an
    operator is told to do: damage that nobody has met yet would meet the next fault.
    """

    name = "damaged-disk"
    destroys = True

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._name = chance.choice(list(cast.nodes))
        self._cuts = chance.random() < 0.4
        self._seed = chance.getrandbits(32)
        self.targets = frozenset({self._name})
        self.seconds = _SERVES_S + chance.uniform(0.0, 2 * cast.lease_s)

    def begin(self, world: World) -> None:
        with world.hold(self._name) as process:
            process.kill()
            if not world.wait(lambda: self._is_out(world), _LEFT_ISR_S_MAX):
                world.say(f"{self._name} stays in an ISR: its disk is spared")
            elif (
                damage := _damage(world.data_of(self._name) / "engine", self._seed, self._cuts)
            ) is not None:
                world.say(f"{self._name}: {damage}")
            process.start()

    def end(self, world: World) -> None:
        with world.hold(self._name) as process:
            process.kill()
            world.empty_disk(self._name)
            process.start()

    def _is_out(self, world: World) -> bool:
        status = world.status()
        return status is not None and all(self._name not in partition.isr for partition in status.partitions)

    def describe(self) -> str:
        return f"{'a file cut short' if self._cuts else 'bits flipped'} on the disk of {self._name}"


def _damage(directory: Path, seed: int, cuts: bool) -> str | None:
    """Damage one file of the engine where somebody may read it; what was done."""
    chance = random.Random(seed)  # nosec B311 # drawn again by the same seed
    files = {
        path: reach
        for path in sorted(path for path in directory.rglob("*") if path.is_file())
        if not path.name.startswith("LOG") and (reach := _reach(path))
    }
    if not files:
        return None
    path = chance.choice(list(files))
    size = path.stat().st_size
    at = chance.randrange(size if cuts else files[path])
    if cuts:
        os.truncate(path, at)
        return f"{path.name} cut from {size:,} to {at:,} bytes"
    with path.open("r+b") as file:
        file.seek(at)
        former = file.read(1)[0]
        file.seek(at)
        file.write(bytes([former ^ 1 << chance.randrange(8)]))
    return f"a bit of {path.name} flipped at {at:,} of {size:,}"


def _reach(path: Path) -> int:
    """How far the file's content means anything. Most of a segment is zeros, or left of a former use; one
    that was not made completely is removed unread."""
    if path.name == MAKING:
        return 0
    return used_bytes(path) if path.name.startswith("segment-") else path.stat().st_size
