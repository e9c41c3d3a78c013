"""What a fault is: it begins, lasts, and ends. Its particulars were drawn before the torture began."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from fortdb.torture.faults.world import World


class Need(Enum):
    """What must be there for a fault."""

    NETWORK = "network"
    SHIM = "shim"


@dataclass(frozen=True, slots=True)
class Cast:
    """Whom a fault may strike, by name, and what it needs to know to be drawn."""

    nodes: Sequence[str]
    routers: Sequence[str]
    members: Sequence[str]  # of etcd
    lease_s: float


class Fault(ABC):
    """One fault. `targets` are processes that no other fault may strike meanwhile."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    destroys: ClassVar[bool] = False
    """It takes a replica's data for good, or etcd's, so it begins only in a ring that is whole: then every other
    replica is in sync, and what was acknowledged is on their disks."""
    targets: frozenset[str] = frozenset()
    seconds: float = 0.0
    begins_s: ClassVar[float] = 0.0
    """How long it takes to begin, about: so long the next faults have to wait."""

    @abstractmethod
    def __init__(self, chance: random.Random, cast: Cast) -> None:
        """Draw the particulars."""

    @abstractmethod
    def begin(self, world: World) -> None:
        """Break it."""

    @abstractmethod
    def end(self, world: World) -> None:
        """Mend it, so that the ring can heal by itself."""

    @abstractmethod
    def describe(self) -> str:
        """For a person: what is broken."""


def some(chance: random.Random, names: Sequence[str], weights: Sequence[float]) -> list[str]:
    """One name, or two, or more: `weights` by how many."""
    count = chance.choices(range(1, len(weights) + 1), weights)[0]
    return sorted(chance.sample(list(names), min(count, len(names))))


def listed(names: Any) -> str:
    """Names for a person."""
    return ", ".join(sorted(names))
