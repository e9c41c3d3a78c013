"""Which faults come when: drawn from a seed before anything runs, so the same seed is the same schedule.

Faults come in *spells*: one, two or three together, beginning within moments of each other, then a pause
in which the ring heals. What a fault strikes does not depend on how the ring stands, only whether it may
strike: one that destroys a replica waits for a ring that is whole, and is left out if that takes too long.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fortdb.errors import ConfigError
from fortdb.torture.faults import disks, links, operations, processes, store
from fortdb.torture.faults.base import Cast, Fault, Need

CATALOGUE: dict[str, tuple[type[Fault], float]] = {
    fault.name: (fault, weight)
    for fault, weight in (
        (processes.Kill, 3.0),
        (processes.Pause, 3.0),
        (processes.PowerLoss, 3.0),
        (processes.ClockJump, 1.0),
        (disks.FullDisk, 1.0),
        (disks.SlowDisk, 1.0),
        (disks.EmptyDisk, 1.0),
        (disks.DamagedDisk, 1.0),
        (links.Partition, 3.0),
        (links.OneWay, 2.0),
        (links.Bridge, 2.0),
        (links.EtcdUnreachable, 2.0),
        (links.Loss, 1.0),
        (links.Delay, 1.0),
        (store.EtcdKilled, 1.0),
        (store.EtcdPaused, 1.0),
        (store.EtcdLeaderLost, 1.0),
        (store.EtcdRestored, 0.5),
        (store.LeaseRevoked, 1.0),
        (operations.Switchover, 1.5),
        (operations.RollingRestart, 0.5),
        (operations.LayoutChange, 0.5),
    )
}
"""By name: what there is, and how often it is drawn."""

_FIRST_S = 3.0  # until then the ring shows that it works
_LAST_S = 5.0  # nothing begins so shortly before the end
_TOGETHER = (5, 3, 2)  # how often one, two, three faults make a spell
_WITHIN_S = 2.0  # in which the faults of a spell begin
_PAUSE_S = (1.0, 5.0)  # between two spells


@dataclass(frozen=True, slots=True)
class Step:
    """A fault with its moments, in seconds from the start."""

    starts_s: float
    ends_s: float
    fault: Fault

    def describe(self) -> str:
        """One line for a person."""
        return f"{self.starts_s:6.1f} to {self.ends_s:6.1f} s  {self.fault.name}: {self.fault.describe()}"


def choose(asked: Sequence[str], missing: dict[Need, str]) -> tuple[list[str], dict[str, str]]:
    """Names of the faults to draw from, and of those among them that cannot be had, with the reason: these
    are drawn all the same, and left out afterwards, so that a seed is the same schedule on every machine.

    `asked` empty: all. Raises `ConfigError` for a name that is none.
    """
    unknown = sorted(set(asked) - CATALOGUE.keys())
    if unknown:
        raise ConfigError(f"no fault {', '.join(unknown)}; there are {', '.join(CATALOGUE)}")
    names = [name for name in CATALOGUE if not asked or name in asked]
    left_out = {name: missing[need] for name in names for need in CATALOGUE[name][0].needs if need in missing}
    return names, left_out


def draw(seed: int, seconds: float, names: Sequence[str], cast: Cast) -> list[Step]:
    """The schedule of a seed."""
    chance = random.Random(seed)  # nosec B311 # drawn again by the same seed
    steps: list[Step] = []
    now_s = _FIRST_S
    while names and now_s < seconds - _LAST_S:
        spell: list[Step] = []
        for _ in range(chance.choices((1, 2, 3), _TOGETHER)[0]):
            fault = _draw_fault(chance, names, cast)
            if _goes_with(fault, [step.fault for step in spell]):
                starts_s = now_s if fault.destroys else now_s + chance.uniform(0.0, _WITHIN_S)
                spell.append(Step(starts_s, min(starts_s + fault.seconds, seconds), fault))
        steps += spell
        now_s = max(step.ends_s + step.fault.begins_s for step in spell) + chance.uniform(*_PAUSE_S)
    return steps


def _draw_fault(chance: random.Random, names: Sequence[str], cast: Cast) -> Fault:
    name = chance.choices(names, [CATALOGUE[name][1] for name in names])[0]
    return CATALOGUE[name][0](chance, cast)


def _goes_with(fault: Fault, others: Sequence[Fault]) -> bool:
    """Nobody is struck in two ways at once, nothing is done twice, one replica at most is destroyed; and
    the replicas stay three while one is destroyed, so that two have everything."""
    destructive = [one for one in (fault, *others) if one.destroys]
    names = [one.name for one in (fault, *others)]
    return (
        all(not fault.targets & other.targets and fault.name != other.name for other in others)
        and len(destructive) <= 1
        and not (destructive and operations.LayoutChange.name in names)
    )
