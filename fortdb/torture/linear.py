"""Whether what clients were told of one key can have happened one call after the other.

Linearizability is local: a history is linearizable if that of each key is (Herlihy and Wing 1990). For one
key we search, as Wing and Gong (1993) do, for an order of the calls in which each gives the result that it
gave and none comes before one that had ended when it began; positions that were met before are not searched
again (Lowe 2017). The search is exponential in what runs at the same time, and only in that.

A call of unknown outcome may come at any place after its beginning, or nowhere. It is tried only where the
search is stuck without it, and of two positions that differ in nothing but such calls the one that used
fewer is as good as both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from fortdb.torture.history import Kind, Operation, Outcome, Value

STATES_MAX = 300_000
"""Positions that are searched before a key is given up; some ten seconds."""

State = str | None


class Verdict(Enum):
    """What the search found."""

    LINEARIZABLE = "linearizable"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Witness:
    """The first call, by the time it ended, that cannot be explained. `before`: an order that explains all that
    had ended until then, which leaves the key at `state`; `beside`: what ran while it did."""

    culprit: Operation
    before: tuple[Operation, ...]
    state: State
    beside: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on one key, and how many positions it took."""

    verdict: Verdict
    states: int
    witness: Witness | None = None


class _Impossible(Exception):
    """A call cannot have had its result in this state."""


def check(operations: Sequence[Operation], states_max: int = STATES_MAX) -> Judged:
    """Judge the calls of one key, in any order."""
    search = _Search(operations, states_max)
    if search.run():
        return Judged(Verdict.LINEARIZABLE, search.states)
    if search.is_given_up:
        return Judged(Verdict.UNDECIDED, search.states)
    return Judged(Verdict.VIOLATED, search.states, _witness(operations, states_max))


def _witness(operations: Sequence[Operation], states_max: int) -> Witness | None:
    """By bisection: histories that end earlier are linearizable, those that end later are not. None if one of
    them could not be decided."""
    ends = sorted(operation.ended_ns for operation in operations if operation.outcome is Outcome.OK)
    good, bad = -1, len(ends) - 1  # indexes of the last end that is seen
    explained: list[Operation] = []
    while bad - good > 1:
        middle = (good + bad) // 2
        search = _Search(_until(operations, ends[middle]), states_max)
        if search.run():
            good = middle
        elif search.is_given_up:
            return None
        else:
            bad = middle
    if good >= 0:
        search = _Search(_until(operations, ends[good]), states_max)
        search.run()
        explained = search.order
    culprit = next(o for o in operations if o.outcome is Outcome.OK and o.ended_ns == ends[bad])
    state: State = None
    for operation in explained:
        state = _after(state, operation)
    beside = [
        o
        for o in operations
        if o is not culprit and o.started_ns <= culprit.ended_ns and _last_moment(o) >= culprit.started_ns
    ]
    return Witness(culprit, tuple(explained), state, tuple(sorted(beside, key=lambda o: o.started_ns)))


def _until(operations: Sequence[Operation], moment_ns: int) -> list[Operation]:
    """What was known at a moment: calls that had not ended then are of unknown outcome."""
    return [
        operation
        if operation.ended_ns <= moment_ns or operation.outcome is not Outcome.OK
        else replace(operation, outcome=Outcome.UNKNOWN, result=None)
        for operation in operations
        if operation.started_ns <= moment_ns
    ]


def _last_moment(operation: Operation) -> float:
    return operation.ended_ns if operation.outcome is not Outcome.UNKNOWN else float("inf")


def _after(state: State, operation: Operation) -> State:
    """The state after a call. Raises `_Impossible` if it cannot have had its result."""
    is_known, result = operation.outcome is Outcome.OK, operation.result
    told: Value
    match operation.kind:
        case Kind.READ:
            new, told = state, state
        case Kind.WRITE:
            return str(operation.arguments[0])
        case Kind.DELETE:
            new, told = None, state is not None
        case Kind.CAS:
            told = state == operation.arguments[0]
            new = str(operation.arguments[1]) if told else state
        case Kind.INCREMENT:
            if state is not None and not state.lstrip("-").isdigit():
                raise _Impossible
            told = int(state or 0) + int(operation.arguments[0] or 0)
            new = str(told)
        case Kind.APPEND:
            new = (state or "") + str(operation.arguments[0])
            told = len(new.encode())
    if is_known and told != result:
        raise _Impossible
    return new


def _that_matter(operations: Sequence[Operation]) -> list[Operation]:
    """Without calls that change no verdict.

    A call of unknown outcome that leaves a value nobody was ever told of can be taken out of any order that
    explains the others, as long as no call tells what the value is not: in between it and the next change
    there is no read, and no compare-and-set that found its value.
    """
    calls = [
        operation
        for operation in operations
        if operation.outcome is Outcome.OK
        or (operation.outcome is Outcome.UNKNOWN and operation.kind is not Kind.READ)
    ]
    told: set[Value] = set()
    for call in calls:
        is_ok = call.outcome is Outcome.OK
        if call.kind in (Kind.INCREMENT, Kind.APPEND):
            return calls  # their results depend on the whole value
        if is_ok and (
            (call.kind is Kind.DELETE and call.result) or (call.kind is Kind.CAS and not call.result)
        ):
            return calls  # they tell that a value was there, or was another
        if is_ok and call.kind is Kind.READ:
            told.add(call.result)
        elif call.kind is Kind.CAS:
            told.add(call.arguments[0])
    return [
        call
        for call in calls
        if call.outcome is Outcome.OK or call.kind not in (Kind.WRITE, Kind.CAS) or call.arguments[-1] in told
    ]


class _Position(NamedTuple):
    """How far an order has come: all known calls before `low` and those of `mask` above it are placed, and the
    unknown ones of `used`."""

    low: int
    mask: int
    used: int
    state: State


class _Search:
    """Depth first, without recursion."""

    def __init__(self, operations: Sequence[Operation], states_max: int) -> None:
        calls = sorted(_that_matter(operations), key=lambda call: (call.started_ns, call.ended_ns))
        self._known = [call for call in calls if call.outcome is Outcome.OK]
        self._unknown = [call for call in calls if call.outcome is Outcome.UNKNOWN]
        self._states_max = states_max
        self._seen: dict[tuple[int, int, State], list[int]] = {}
        kinds = {call.kind for call in calls}
        # A call that is possible at once is as good now as after unknown ones: the state that it leaves is
        # the same, or it leaves the state alone. Not so for appends, which tell a length, among others.
        self._may_wait = Kind.APPEND not in kinds or kinds <= {Kind.APPEND, Kind.READ}
        self.states = 0
        self.is_given_up = False
        self.order: list[Operation] = []

    def run(self) -> bool:
        """Whether there is an order; it is in `order` then."""
        start = _Position(0, 0, 0, None)
        path: list[tuple[Iterator[tuple[Operation, _Position]], Operation | None]] = []
        path.append((self._next(start), None))
        if start.low == len(self._known):
            return True
        while path:
            found = next(path[-1][0], None)
            if found is None:
                path.pop()
                continue
            call, position = found
            if position.low == len(self._known):
                self.order = [placed for _, placed in path if placed is not None] + [call]
                return True
            if self._is_new(position):
                self.states += 1
                if self.states > self._states_max:
                    self.is_given_up = True
                    return False
                path.append((self._next(position), call))
        return False

    def _is_new(self, position: _Position) -> bool:
        """Not if it was met, or one like it that had used fewer of the unknown calls."""
        met = self._seen.setdefault((position.low, position.mask, position.state), [])
        if any(used & position.used == used for used in met):
            return False
        met[:] = [used for used in met if used & position.used != position.used]
        met.append(position.used)
        return True

    def _next(self, position: _Position) -> Iterator[tuple[Operation, _Position]]:
        """Calls that may come next, with the position after them; unknown ones last."""
        candidates, moment_ns = self._candidates(position)
        is_stuck = not self._may_wait
        for index in candidates:
            call = self._known[index]
            try:
                state = _after(position.state, call)
            except _Impossible:
                is_stuck = True
                continue
            low, mask = position.low, position.mask | 1 << (index - position.low)
            while mask & 1:
                low, mask = low + 1, mask >> 1
            yield call, _Position(low, mask, position.used, state)
        if not is_stuck:
            return
        for index, call in enumerate(self._unknown):
            if call.started_ns > moment_ns:
                break
            if position.used >> index & 1:
                continue
            try:
                state = _after(position.state, call)
            except _Impossible:
                continue
            if state != position.state:
                yield call, position._replace(used=position.used | 1 << index, state=state)

    def _candidates(self, position: _Position) -> tuple[list[int], int]:
        """Known calls that began before any other that is to be placed had ended, the first to end first; and
        the moment of that end."""
        known, moment_ns = self._known, self._known[position.low].ended_ns
        found: list[int] = []
        for index in range(position.low, len(known)):
            call = known[index]
            if call.started_ns > moment_ns:
                break
            if not position.mask >> (index - position.low) & 1:
                found.append(index)
                moment_ns = min(moment_ns, call.ended_ns)
        found = [index for index in found if known[index].started_ns <= moment_ns]
        found.sort(key=lambda index: known[index].ended_ns)
        return found, moment_ns
