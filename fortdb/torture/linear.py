"""Whether what clients were told of one key can have happened one call after the other.

Linearizability is local: a history is linearizable if that of each key is (Herlihy and Wing 1990). For one
key we search for an order of the calls in which each gives the result that it gave and none comes before one
that had ended when it began (`search/base.py`). The search is exponential in what runs at the same time, and
only in that; what it may leave out depends on what was called on the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from fortdb.torture.history import Kind, Operation, Outcome
from fortdb.torture.search.base import Search
from fortdb.torture.search.growing import GrowingSearch, is_growing
from fortdb.torture.search.plain import PlainSearch
from fortdb.torture.search.register import RegisterSearch
from fortdb.torture.semantics import State, after

STATES_MAX = 300_000
"""Positions that are searched before a key is given up; some seconds."""

_REGISTER = {Kind.READ, Kind.WRITE, Kind.DELETE, Kind.CAS}


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


def check(operations: Sequence[Operation], states_max: int = STATES_MAX) -> Judged:
    """Judge the calls of one key, in any order."""
    calls = [
        call
        for call in operations
        if call.outcome is Outcome.OK or (call.outcome is Outcome.UNKNOWN and call.kind is not Kind.READ)
    ]
    search = _search(calls, states_max)
    if search.run():
        return Judged(Verdict.LINEARIZABLE, search.states)
    if search.is_given_up:
        return Judged(Verdict.UNDECIDED, search.states)
    return Judged(Verdict.VIOLATED, search.states, _witness(calls, states_max))


def _search(calls: Sequence[Operation], states_max: int) -> Search[Any]:
    """The search that knows most about these calls."""
    if is_growing(calls):
        return GrowingSearch(calls, states_max)
    if all(call.kind in _REGISTER for call in calls):
        return RegisterSearch(calls, states_max)
    return PlainSearch(calls, states_max)


def _witness(operations: Sequence[Operation], states_max: int) -> Witness | None:
    """By bisection: histories that end earlier are linearizable, those that end later are not. None if one of
    them could not be decided."""
    ends = sorted(operation.ended_ns for operation in operations if operation.outcome is Outcome.OK)
    good, bad = -1, len(ends) - 1  # indexes of the last end that is seen
    explained: list[Operation] = []
    while bad - good > 1:
        middle = (good + bad) // 2
        search = _search(until(operations, ends[middle]), states_max)
        if search.run():
            good, explained = middle, search.order
        elif search.is_given_up:
            return None
        else:
            bad = middle
    culprit = next(o for o in operations if o.outcome is Outcome.OK and o.ended_ns == ends[bad])
    state: State = None
    for operation in explained:
        state = after(state, operation)
    beside = [
        o
        for o in operations
        if o is not culprit and o.started_ns <= culprit.ended_ns and _last_moment(o) >= culprit.started_ns
    ]
    return Witness(culprit, tuple(explained), state, tuple(sorted(beside, key=lambda o: o.started_ns)))


def until(operations: Sequence[Operation], moment_ns: int) -> list[Operation]:
    """What was known at a moment: calls that had not ended then are of unknown outcome. Right only if all that
    had begun by then are among them."""
    return [
        operation
        if operation.ended_ns <= moment_ns or operation.outcome is not Outcome.OK
        else replace(operation, outcome=Outcome.UNKNOWN, result=None)
        for operation in operations
        if operation.started_ns <= moment_ns
    ]


def _last_moment(operation: Operation) -> float:
    return operation.ended_ns if operation.outcome is not Outcome.UNKNOWN else float("inf")
