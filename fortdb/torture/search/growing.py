"""The search for a key that was only counted up and read, or only appended to and read.

Such a key has a *size*, the count or the length in bytes, that never shrinks, and every result tells the size
before the call. So the state is the size alone: what a list holds up to the length of the longest read is that
read, and what comes after it nobody saw. Two more rules:

* The known call that began with the smallest size, of those to be placed, is the next one. If the size is
  above it already, or another must come first, there is no order.
* An unknown call may not carry the size beyond that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fortdb.torture.history import Kind, Operation, Outcome
from fortdb.torture.search.base import Position, Search, placed

_NEVER = -1


class _Step(NamedTuple):
    """What a call says: the size before it, how much it added, and which bytes, if it is a list."""

    before: int
    adds: int
    element: bytes


def is_growing(operations: Sequence[Operation]) -> bool:
    """Whether a key has a size."""
    changes = [call for call in operations if call.kind is not Kind.READ]
    if all(call.kind is Kind.INCREMENT for call in changes):
        return all(isinstance(call.arguments[0], int) and call.arguments[0] > 0 for call in changes)
    return all(call.kind is Kind.APPEND and call.arguments[0] for call in changes)


class GrowingSearch(Search[int]):
    """Increments or appends, and reads; the state is the size."""

    def __init__(self, operations: Sequence[Operation], states_max: int) -> None:
        super().__init__(operations, states_max, lambda call: call.arguments)
        self._is_list = any(call.kind is Kind.APPEND for call in operations)
        reads = [call.result for call in self._known if call.kind is Kind.READ and self._is_list]
        self._longest = max((str(value).encode() for value in reads if value), key=len, default=b"")
        self._steps = [self._step(call) for call in self._known]
        self._unknown_steps = [self._step(call) for call in self._unknown]
        self._least_from = [step.before for step in self._steps]  # the smallest size told from an index on
        for index in range(len(self._steps) - 2, -1, -1):
            self._least_from[index] = min(self._least_from[index], self._least_from[index + 1])

    @property
    def _start(self) -> int:
        return 0

    def _is_hopeless(self) -> bool:
        return self._least_from[0] == _NEVER

    def _next(self, position: Position[int]) -> Iterator[tuple[int, Position[int]]]:
        low, mask, used, size = position
        candidates, first_end_ns = self._candidates(low, mask)
        least = min(self._steps[index].before for index in candidates)
        if least < size or self._least(low, mask) < least:
            return
        if least == size:
            index = min(
                (index for index in candidates if self._steps[index].before == size),
                key=lambda index: self._steps[index].adds,
            )
            if self._fits(size, self._steps[index]):
                yield index, (*placed(low, mask, index), used, size + self._steps[index].adds)
            return
        for index in self._unused(used, first_end_ns):
            step = self._unknown_steps[index]
            if size + step.adds <= least and self._fits(size, step):
                yield ~index, (low, mask, used | 1 << index, size + step.adds)

    def _least(self, low: int, mask: int) -> int:
        """The smallest size that a call to be placed told."""
        end = low + mask.bit_length()
        sizes = [self._steps[index].before for index in range(low, end) if not mask >> (index - low) & 1]
        return min([*sizes, *self._least_from[end : end + 1]])

    def _fits(self, size: int, step: _Step) -> bool:
        """Whether the longest read shows that element in that place, as far as it goes."""
        return self._longest[size : size + step.adds] == step.element[: max(0, len(self._longest) - size)]

    def _step(self, call: Operation) -> _Step:
        is_known, result = call.outcome is Outcome.OK, call.result
        if call.kind is Kind.READ:
            return _Step(self._read_size(call), 0, b"")
        amount = call.arguments[0]
        element = str(amount).encode() if self._is_list else b""
        adds = len(element) if self._is_list else int(amount or 0)
        if not is_known or not isinstance(result, int) or isinstance(result, bool):
            return _Step(_NEVER, adds, element)
        return _Step(max(_NEVER, result - adds), adds, element)

    def _read_size(self, call: Operation) -> int:
        if call.result is None:
            return 0
        if not isinstance(call.result, str):
            return _NEVER
        value = call.result
        if self._is_list:
            return len(value.encode()) if value and self._longest.startswith(value.encode()) else _NEVER
        return int(value) if value.isdecimal() and value == str(int(value)) and value != "0" else _NEVER
