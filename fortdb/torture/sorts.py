"""What sort of violation it is: the name that a person would give it.

The search (`linear.py`) says that no order explains the calls of a key, and which call is the first that
cannot be. From that call and the others follows what went wrong, with two sums for keys that only grow:
what is acknowledged before a call began is the least that it must see, what was begun before it ended the
most. For registers it is the last acknowledged change that the call contradicts. If the last read of the key
fits to all its changes, the call was stale, else the change is lost; a deleted value that is told again has
come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from fortdb.torture.history import Kind, Operation, Outcome, Value
from fortdb.torture.linear import Verdict, Witness, check


class Sort(Enum):
    """The value is what a person reads."""

    LOST = "lost write"
    BACK = "resurrected write"
    STALE = "stale read"
    TWICE = "write applied twice"
    REFUSED = "refused write that took effect"
    PROTECTED = "protected record changed or gone"
    ORDER = "no order explains it"


_GROWING = {Kind.INCREMENT, Kind.APPEND}


def sort_of(calls: Sequence[Operation], witness: Witness | None) -> Sort:
    """The name of what a witness shows; `calls` are all of the key."""
    if witness is None:
        return Sort.ORDER
    changes = {call.kind for call in calls if call.kind is not Kind.READ}
    if changes == {Kind.INCREMENT}:
        return _of_counter(calls, witness.culprit)
    if changes == {Kind.APPEND}:
        return _of_list(calls, witness.culprit)
    return Sort.ORDER if changes & _GROWING else _of_register(calls, witness)


def _before(calls: Iterable[Operation], culprit: Operation) -> list[Operation]:
    """Acknowledged changes that had ended when it began."""
    return [
        call
        for call in calls
        if call.kind is not Kind.READ and call.outcome is Outcome.OK and call.ended_ns < culprit.started_ns
    ]


def _possible(calls: Iterable[Operation], culprit: Operation) -> list[Operation]:
    """Changes that it may have seen."""
    return [
        call
        for call in calls
        if call.kind is not Kind.READ
        and call.outcome is not Outcome.FAILED
        and call.started_ns <= culprit.ended_ns
    ]


def _of_counter(calls: Sequence[Operation], culprit: Operation) -> Sort:
    count = int(culprit.result or 0)
    if count > sum(int(call.arguments[0] or 0) for call in _possible(calls, culprit)):
        refused = sum(int(call.arguments[0] or 0) for call in calls if call.outcome is Outcome.FAILED)
        return Sort.REFUSED if refused else Sort.TWICE
    own = int(culprit.arguments[0] or 0) if culprit.kind is Kind.INCREMENT else 0
    if count < own + sum(int(call.arguments[0] or 0) for call in _before(calls, culprit)):
        return _lost_or_stale(calls)
    return Sort.ORDER


def _of_list(calls: Sequence[Operation], culprit: Operation) -> Sort:
    if culprit.kind is not Kind.READ:
        return Sort.ORDER
    elements = str(culprit.result or "").split(",")[:-1]
    if len(set(elements)) < len(elements):
        return Sort.TWICE
    if set(elements) - {_element(call) for call in _possible(calls, culprit)}:
        return Sort.REFUSED
    if {_element(call) for call in _before(calls, culprit)} - set(elements):
        return _lost_or_stale(calls)
    return Sort.ORDER


def _element(call: Operation) -> str:
    return str(call.arguments[0]).removesuffix(",")


def _lost_or_stale(calls: Sequence[Operation]) -> Sort:
    """Whether the last read of the key fits to its changes: then nothing is lost."""
    changes = [call for call in calls if call.kind is not Kind.READ]
    reads = [call for call in calls if call.kind is Kind.READ and call.outcome is Outcome.OK]
    last = sorted(reads, key=lambda call: call.started_ns)[-1:]
    is_whole = check([*changes, *last]).verdict is Verdict.LINEARIZABLE
    return Sort.STALE if is_whole else Sort.LOST


def _of_register(calls: Sequence[Operation], witness: Witness) -> Sort:
    culprit = witness.culprit
    if culprit.kind is not Kind.READ:
        return Sort.ORDER
    writers = [call for call in calls if _gives(call) == culprit.result and culprit.result is not None]
    if culprit.result is not None and not any(call.outcome is not Outcome.FAILED for call in writers):
        return Sort.REFUSED
    changes = [
        call
        for call in witness.before
        if call.outcome is Outcome.OK
        and call.kind is not Kind.READ
        and call.result is not False
        and call.ended_ns < culprit.started_ns
    ]
    if not changes:
        return Sort.ORDER
    sort = _lost_or_stale(calls)
    return Sort.BACK if sort is Sort.LOST and _gives(changes[-1]) is None else sort


def _gives(call: Operation) -> Value:
    """What a register holds after a change of it."""
    return str(call.arguments[-1]) if call.kind in (Kind.WRITE, Kind.CAS) else None
