"""The search for a key on which anything was called."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from fortdb.torture.history import Kind, Operation
from fortdb.torture.search.base import Position, Search, placed
from fortdb.torture.semantics import Impossible, State, after


class PlainSearch(Search[State]):
    """Any mixture of calls; the state is the value.

    An append tells a length only: possible at once, it may yet leave another value than after unknown calls.
    Where there is one, these are always tried.
    """

    def __init__(self, operations: Sequence[Operation], states_max: int) -> None:
        super().__init__(operations, states_max, lambda call: (call.kind, call.arguments))
        self._always_unknown = any(call.kind is Kind.APPEND for call in [*self._known, *self._unknown])
        self._changed_nothing = [_changed_nothing(call) for call in self._known]

    @property
    def _start(self) -> State:
        return None

    def _next(self, position: Position[State]) -> Iterator[tuple[int, Position[State]]]:
        low, mask, used, state = position
        candidates, first_end_ns = self._candidates(low, mask)
        possible: list[tuple[int, State]] = []
        tried: set[tuple[Hashable, ...]] = set()
        for index in candidates:
            try:
                new = after(state, self._known[index])
            except Impossible:
                continue
            if self._changed_nothing[index]:
                yield index, (*placed(low, mask, index), used, new)
                return
            possible.append((index, new))
        for index, new in possible:
            call = self._known[index]
            if (equal := (call.kind, call.arguments, call.result)) not in tried:
                tried.add(equal)
                yield index, (*placed(low, mask, index), used, new)
        if len(possible) == len(candidates) and not self._always_unknown:
            return
        for index in self._unused(used, first_end_ns):
            try:
                new = after(state, self._unknown[index])
            except Impossible:
                continue
            if new != state:
                yield ~index, (low, mask, used | 1 << index, new)


def _changed_nothing(call: Operation) -> bool:
    """Whether its result says so."""
    if call.kind in (Kind.DELETE, Kind.CAS):
        return call.result is False
    return call.kind is Kind.READ
