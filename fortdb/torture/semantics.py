"""What a call does to a key: the one definition that judges, simulations and tests share."""

from __future__ import annotations

from fortdb.torture.history import Kind, Operation, Outcome, Value

State = str | None
"""A key's value; None if it is absent."""


class Impossible(Exception):
    """A call cannot have had its result in this state."""


def after(state: State, operation: Operation) -> State:
    """The state after a call. Raises `Impossible` if it cannot have had its result."""
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
            if state is not None and not state.removeprefix("-").isdecimal():
                raise Impossible
            told = int(state or 0) + int(operation.arguments[0] or 0)
            new = str(told)
        case Kind.APPEND:
            new = (state or "") + str(operation.arguments[0])
            told = len(new.encode())
        case _:
            raise Impossible  # of keys that are no registers: `records.py`, `versions.py`, `worm.py` judge them
    if operation.outcome is Outcome.OK and (
        told != operation.result or type(told) is not type(operation.result)
    ):
        raise Impossible  # the types too: True is no 1
    return new
