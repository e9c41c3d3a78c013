"""Which keys there are: of which sorts, in which places, in which keyspaces.

*Hot* keys are few, and everybody works on them; each is left for a fresh one after `HOT_CALLS_MAX` calls, so that a
history of one key stays short enough to be judged. *Cold* keys are many; they find what is lost or comes back long
after it was written. Keys of one *place* carry one tag, so they lie in one partition, and a client of a node soon
knows which places that node leads. The first letter of a place is its *sort*: what is done there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fortdb.model import Mode, Policy

HOT_CALLS_MAX = 300
COLD_KEYS = 25  # of each cold place
VERSIONS_KEPT = 10  # where they are bounded
GOVERNED_MS = 5_000  # longer than most failovers
COMPLIANT_MS = 8_000

REGISTER, COUNTER, LIST, COLD = "r", "c", "l", "k"
RECORDS, HISTORY, BOUNDED, GOVERNED, COMPLIANT = "e", "v", "b", "g", "d"


@dataclass(frozen=True, slots=True)
class Space:
    """A keyspace for one sort of keys. `what` it keeps, for a person; `suffix` goes behind the name of the torture."""

    what: str
    suffix: str
    policy: Policy
    keep: int | None = None
    retention_ms: int | None = None
    mode: Mode | None = None


@dataclass(frozen=True, slots=True)
class KeySort:
    """How many places of a sort there are, which share of calls they get, and the keyspace of their keys, if they
    have one."""

    places: int
    share: float
    space: Space | None = None


SORTS: Mapping[str, KeySort] = {
    REGISTER: KeySort(6, 0.40),
    COUNTER: KeySort(3, 0.10),
    LIST: KeySort(3, 0.10),
    COLD: KeySort(16, 0.20),
    RECORDS: KeySort(3, 0.08, Space("records", "", Policy.RECORDS)),
    HISTORY: KeySort(2, 0.04, Space("versions", "-versions", Policy.VERSIONS)),
    BOUNDED: KeySort(1, 0.02, Space("bounded versions", "-bounded", Policy.VERSIONS, keep=VERSIONS_KEPT)),
    GOVERNED: KeySort(
        2,
        0.04,
        Space(
            "WORM records in governance",
            "-governed",
            Policy.WORM,
            retention_ms=GOVERNED_MS,
            mode=Mode.GOVERNANCE,
        ),
    ),
    COMPLIANT: KeySort(
        1,
        0.02,
        Space(
            "WORM records in compliance",
            "-compliant",
            Policy.WORM,
            retention_ms=COMPLIANT_MS,
            mode=Mode.COMPLIANCE,
        ),
    ),
}
"""By letter. Sorts with a keyspace get their share from those that are judged by the search, which have most of the
calls all the same: what is kept of versions and WORM records makes their calls the dearest."""


def sort_of(place_or_key: str) -> str:
    """The letter of a place, or of the place of a key."""
    return place_or_key.rpartition("{")[2][:1]


class Keys:
    """Which keys were used; what their values were a moment ago (`recent`, to compare and set) and their records or
    versions (`rows`, as they are noted). Without keys of sorts that are `left_out`."""

    def __init__(self, prefix: str, keyspace: str) -> None:
        self._prefix = prefix
        self._keyspace = keyspace
        self._calls: dict[str, itertools.count[int]] = {}
        self.used: dict[str, None] = {}
        self.recent: dict[str, str] = {}
        self.rows: dict[str, str] = {}
        self.left_out: set[str] = set()

    def draw_place(self, chance: random.Random) -> str:
        """A place, as often as its sort is due."""
        names = [name for name in SORTS if name not in self.left_out]
        name = chance.choices(names, [SORTS[name].share for name in names])[0]
        return f"{name}{chance.randrange(SORTS[name].places)}"

    def draw(self, place: str, chance: random.Random) -> str:
        """The present key of a hot place, or one of a cold place."""
        if sort_of(place) == COLD:
            return self.cold(place, chance.randrange(COLD_KEYS))
        return self.hot(place)

    def hot(self, place: str) -> str:
        """The present key of a hot place."""
        calls = self._calls.setdefault(place, itertools.count())
        return self._key(place, next(calls) // HOT_CALLS_MAX)

    def cold(self, place: str, number: int) -> str:
        """One of the many keys of a cold place."""
        return self._key(place, number)

    def used_of(self, sorts: Sequence[str]) -> list[str]:
        """Keys of some sorts."""
        return [key for key in self.used if sort_of(key) in sorts]

    def name_of(self, space: Space) -> str:
        """What a keyspace is called."""
        return self._keyspace + space.suffix

    def probe(self, sort: str) -> str:
        """A key that is never used otherwise."""
        return self._path(sort, f"{self._prefix}{{{sort}}}.probe")

    def _key(self, place: str, number: int) -> str:
        key = self._path(sort_of(place), f"{self._prefix}{{{place}}}.{number}")
        self.used[key] = None
        return key

    def _path(self, sort: str, name: str) -> str:
        space = SORTS[sort].space
        return name if space is None else f"{self.name_of(space)}/{name}"
