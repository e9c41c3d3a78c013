"""The search for a key that was written, deleted, swapped and read, but not counted or appended to.

Values are only compared, so a value is a number here: 0 if the key is absent, 1 for every value that no call
asks for. Three more rules:

* A value becomes 1 once every call that asks for it is placed: nothing that follows can tell the two apart.
* A value may not be left while a call that needs it is to be placed and nothing can bring it again. Where each
  value is written once, that leaves hardly anything to search: the problem is easy then (Gibbons and Korach
  1997, theorem 4.4).
* Of the unknown calls only those are tried that bring a value with which a candidate becomes possible, or one
  that an unknown swap expects. Take an order with unknown calls before a known one, at a moment at which that
  is impossible: the last of them makes it possible, and each other one is followed by a swap that expects its
  value, or else by a call that overwrites it, and can be left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fortdb.torture.history import Kind, Operation, Outcome, Value
from fortdb.torture.search.base import Position, Search, is_open, placed

ABSENT, UNTOLD = 0, 1
_ANY, _SAME, _NEVER = -1, -1, -2


class _Effect(NamedTuple):
    """What a call says: the value was `needs` before (any if -1, never if -2), it was not `refuses`, and it was
    `gives` afterwards (the same if -1)."""

    needs: int
    refuses: int
    gives: int


class RegisterSearch(Search[int]):
    """Reads, writes, deletes and swaps; the state is the number of a value."""

    def __init__(self, operations: Sequence[Operation], states_max: int) -> None:
        self._numbers = _numbers(operations)
        super().__init__(operations, states_max, self._effect)
        self._effects = [self._effect(call) for call in self._known]
        self._unknown_effects = [self._effect(call) for call in self._unknown]
        count = len(self._numbers) + 2
        self._needing: list[list[int]] = [[] for _ in range(count)]  # by value: known calls, ascending
        self._asking: list[list[int]] = [[] for _ in range(count)]
        self._giving: list[list[int]] = [[] for _ in range(count)]
        self._unknown_asking = [0] * count  # by value: a mask of unknown calls
        self._unknown_giving = [0] * count
        self._sort()

    def _sort(self) -> None:
        for index, (needs, refuses, gives) in enumerate(self._effects):
            if needs >= 0:
                self._needing[needs].append(index)
                self._asking[needs].append(index)
            if refuses >= 0:
                self._asking[refuses].append(index)
            if gives >= 0:
                self._giving[gives].append(index)
        for index, (needs, _, gives) in enumerate(self._unknown_effects):
            if needs >= 0:
                self._unknown_asking[needs] |= 1 << index
            if gives >= 0:
                self._unknown_giving[gives] |= 1 << index

    @property
    def _start(self) -> int:
        return ABSENT

    def _is_hopeless(self) -> bool:
        """Somebody was told what nobody can have written, or what cannot be at all."""
        return any(effect.needs == _NEVER for effect in self._effects) or any(
            needing and value != ABSENT and not self._giving[value] and not self._unknown_giving[value]
            for value, needing in enumerate(self._needing)
        )

    def _next(self, position: Position[int]) -> Iterator[tuple[int, Position[int]]]:
        low, mask, used, state = position
        candidates, first_end_ns = self._candidates(low, mask)
        wanted: set[int] = set()
        is_unwanted = False  # this value, by a candidate that takes any other
        possible: list[int] = []
        for index in candidates:
            needs, refuses, gives = self._effects[index]
            if refuses == state:
                is_unwanted = True
            elif needs in (_ANY, state):
                if gives == _SAME:
                    yield index, self._at(*placed(low, mask, index), used, state)
                    return
                possible.append(index)
            else:
                wanted.add(needs)
        tried: set[_Effect] = set()
        for index in possible:
            effect = self._effects[index]
            if effect in tried:
                continue
            tried.add(effect)
            new_low, new_mask = placed(low, mask, index)
            if not self._is_missed(state, effect.gives, new_low, new_mask, used):
                yield index, self._at(new_low, new_mask, used, effect.gives)
        if not wanted and not is_unwanted:
            return
        for index in self._unused(used, first_end_ns):
            needs, _, gives = self._unknown_effects[index]
            now_used = used | 1 << index
            if (
                self._unknown_effects[index] not in tried  # swapped with the known one, as above
                and needs in (_ANY, state)
                and gives not in (_SAME, state)
                and (is_unwanted or gives in wanted or self._unknown_asking[gives] & ~now_used)
                and not self._is_missed(state, gives, low, mask, now_used)
            ):
                yield ~index, self._at(low, mask, now_used, gives)

    def _at(self, low: int, mask: int, used: int, state: int) -> Position[int]:
        """A position, with its value forgotten if nobody asks for it any more."""
        if (
            state > UNTOLD
            and not is_open(self._asking[state], low, mask)
            and not self._unknown_asking[state] & ~used
        ):
            state = UNTOLD
        return low, mask, used, state

    def _is_missed(self, state: int, new: int, low: int, mask: int, used: int) -> bool:
        """Whether the value that is left is needed later and does not come again."""
        return (
            new != state
            and is_open(self._needing[state], low, mask)
            and not self._unknown_giving[state] & ~used
            and not is_open(self._giving[state], low, mask)
        )

    def _effect(self, call: Operation) -> _Effect:
        is_known = call.outcome is Outcome.OK
        match call.kind:
            case Kind.WRITE:
                return _Effect(_ANY, _ANY, self._number(str(call.arguments[0])))
            case Kind.READ:
                return _Effect(self._number(call.result), _ANY, _SAME)
            case Kind.DELETE if not is_known:
                return _Effect(_ANY, _ANY, ABSENT)
            case Kind.DELETE if call.result is True:
                return _Effect(_ANY, ABSENT, ABSENT)
            case Kind.DELETE if call.result is False:
                return _Effect(ABSENT, _ANY, _SAME)
            case Kind.CAS if call.result is False and is_known:
                return _Effect(_ANY, self._number(call.arguments[0]), _SAME)
            case Kind.CAS if call.result is True or not is_known:
                expected, new = self._number(call.arguments[0]), self._number(str(call.arguments[1]))
                return _Effect(expected, _ANY, _SAME if expected == new else new)
            case _:
                return _Effect(_NEVER, _ANY, _SAME)

    def _number(self, value: Value) -> int:
        if value is None:
            return ABSENT
        return self._numbers.get(value, UNTOLD) if isinstance(value, str) else _NEVER


def _numbers(operations: Sequence[Operation]) -> dict[str, int]:
    """Numbers, from 2, of the values that some call asks for."""
    told: dict[str, int] = {}
    for call in operations:
        value: Value = None
        if call.kind is Kind.READ:
            value = call.result if call.outcome is Outcome.OK else None
        elif call.kind is Kind.CAS and call.outcome is not Outcome.FAILED:
            value = call.arguments[0]
        if isinstance(value, str):
            told.setdefault(value, len(told) + 2)
    return told
