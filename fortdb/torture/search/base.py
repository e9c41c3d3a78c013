"""The search for an order of one key's calls, and what holds for every key.

Depth first, as Wing and Gong (1993): from a *position*, which says which calls are placed and what the key's
state is then, to each that can follow. Positions that were met are not searched again (Lowe 2017). So a moment
at which nothing runs is a cut by itself: all orders of what came before meet there in one position a state.

Calls of known outcome (*known*) must all be placed, none before one that had ended when it began. Calls of
unknown outcome may be placed anywhere after their beginning, or not at all. Three rules keep these cheap; the
proofs change an order that explains the known calls into another that does.

* Of equal ones (same kind, same arguments) the one that began first is used first: swap the two.
* Of two positions that differ only in the unknown calls that they used, one that used fewer is as good as
  both: what can follow the other can follow it.
* They are tried only where a known call that may be next cannot have its result in this state. Say an order
  goes on with unknown calls and then the known call c, and c is possible at once. If c changes nothing (a
  read, a swap that failed), it can stand before the unknown ones. Otherwise c leaves the same state with and
  without them, and they can be left out. (Where a result does not tell the state, this fails: see `PlainSearch`.)

And two rules for known calls that may be next:

* One that changed nothing, and is possible at once, is placed without trying others: moved to the front of any
  order, it changes no state that another call met.
* Of equal ones (same kind, arguments and result) only the first to end is tried: where an order has another
  first, swap the two. The other may stand in the later place, since one that ended before it may.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

from fortdb.torture.history import Kind, Operation, Outcome

_FEWER_MAX = (
    32  # positions of one key and state that are remembered by what they used; beyond, only as wholes
)

S = TypeVar("S", bound=Hashable)
Position = tuple[int, int, int, S]
"""All known calls below an index, and those of a mask above it, are placed; the unknown ones of another
mask are used; the state."""


class Search(ABC, Generic[S]):
    """One search; subclasses know the states. `states`: positions that were met; `order`: what was found."""

    def __init__(
        self,
        operations: Sequence[Operation],
        states_max: int,
        equal: Callable[[Operation], Hashable],
    ) -> None:
        """`equal` is the same for calls of unknown outcome that can stand for each other."""
        self._known = sorted(
            (call for call in operations if call.outcome is Outcome.OK),
            key=lambda call: (call.started_ns, call.ended_ns),
        )
        self._starts = [call.started_ns for call in self._known]
        self._ends = [call.ended_ns for call in self._known]
        changes = [c for c in operations if c.outcome is Outcome.UNKNOWN and c.kind is not Kind.READ]
        by_class: dict[Hashable, list[Operation]] = {}
        for call in sorted(changes, key=lambda call: call.started_ns):
            by_class.setdefault(equal(call), []).append(call)
        self._unknown = [call for calls in by_class.values() for call in calls]
        self._classes: list[tuple[int, int]] = []  # first index, and a mask of as many as there are
        first = 0
        for calls in by_class.values():
            self._classes.append((first, (1 << len(calls)) - 1))
            first += len(calls)
        self._states_max = states_max
        self._met: dict[tuple[int, int, S], list[int]] = {}
        self._met_whole: set[Position[S]] = set()
        self.states = 0
        self.is_given_up = False
        self.order: list[Operation] = []

    @property
    @abstractmethod
    def _start(self) -> S:
        """The state before everything."""

    def _is_hopeless(self) -> bool:
        """Whether it is plain without a search that there is no order."""
        return False

    @abstractmethod
    def _next(self, position: Position[S]) -> Iterator[tuple[int, Position[S]]]:
        """Calls that may come next, with the position after them. An unknown one is ~ its index."""

    def run(self) -> bool:
        """Whether there is an order."""
        count = len(self._known)
        if count == 0 or self._is_hopeless():
            return count == 0
        path: list[tuple[Iterator[tuple[int, Position[S]]], int]] = [(self._next((0, 0, 0, self._start)), 0)]
        while path:
            found = next(path[-1][0], None)
            if found is None:
                path.pop()
                continue
            call, position = found
            if position[0] == count:
                self.order = [self._call(placed) for _, placed in path[1:]] + [self._call(call)]
                return True
            if self._is_new(position):
                self.states += 1
                if self.states > self._states_max:
                    self.is_given_up = True
                    return False
                path.append((self._next(position), call))
        return False

    def _call(self, index: int) -> Operation:
        return self._known[index] if index >= 0 else self._unknown[~index]

    def _is_new(self, position: Position[S]) -> bool:
        """Not if it was met, or one like it that had used fewer of the unknown calls."""
        low, mask, used, state = position
        met = self._met.setdefault((low, mask, state), [])
        for fewer in met:
            if fewer & used == fewer:
                return False
        if len(met) < _FEWER_MAX:
            met[:] = [more for more in met if more & used != used]
            met.append(used)
            return True
        if position in self._met_whole:
            return False
        self._met_whole.add(position)
        return True

    def _candidates(self, low: int, mask: int) -> tuple[list[int], int]:
        """Known calls that began before any other that is to be placed had ended, the first to end first; and
        the moment of that end, ns."""
        starts, ends = self._starts, self._ends
        first_end_ns = ends[low]
        found: list[int] = []
        free = ~mask
        while True:
            index = low + (free & -free).bit_length() - 1
            if index >= len(starts) or starts[index] > first_end_ns:
                break
            found.append(index)
            first_end_ns = min(first_end_ns, ends[index])
            free &= free - 1
        found = [index for index in found if starts[index] <= first_end_ns]
        found.sort(key=ends.__getitem__)
        return found, first_end_ns

    def _unused(self, used: int, first_end_ns: int) -> Iterator[int]:
        """Of each class of unknown calls the first that is not used, if it has begun."""
        for first, ones in self._classes:
            count = (used >> first & ones).bit_count()
            if ones >> count and self._unknown[first + count].started_ns <= first_end_ns:
                yield first + count


def placed(low: int, mask: int, index: int) -> tuple[int, int]:
    """`low` and `mask` of a position when one more known call is placed."""
    mask |= 1 << (index - low)
    ones = (~mask & mask + 1).bit_length() - 1  # at the bottom of the mask
    return low + ones, mask >> ones


def is_open(indexes: Sequence[int], low: int, mask: int) -> bool:
    """Whether any of these known calls, ascending, is still to be placed."""
    for index in reversed(indexes):
        if index < low:
            return False
        if not mask >> (index - low) & 1:
            return True
    return False
