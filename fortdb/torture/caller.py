"""One client's calls, each noted with its outcome.

What an outcome is (the judgement rests on it): *ok* has an answer; *failed* certainly had no effect and
never will; *unknown* may have had one, now or later. An error that FortDB calls retry, refuse or crash
says that the command was not executed, and is believed: if it was executed all the same, the checkers
find a value that nobody can have written. Only a broken connection, a time-out, and what says so itself
are unknown. A read that fails changes nothing, whatever the error.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fortdb.client import OPEN, Access, Client, Receipt
from fortdb.errors import Answer, FortError, ProtocolError
from fortdb.torture.history import READS, History, Kind, Operation, Outcome, Value
from fortdb.torture.places import Keys

_RECEIPTS_MAX = 300  # the last ones


@dataclass(frozen=True, slots=True)
class Door:
    """Where a client connects, a router or a node itself, and how long it waits for an answer."""

    name: str
    host: str
    port: int
    timeout_s: float
    access: Access = OPEN

    def client(self) -> Client:
        """A client that comes in there, with one connection."""
        return Client(self.host, self.port, access=self.access, connections_max=1, timeout_s=self.timeout_s)


def outcome_of(kind: Kind, error: FortError) -> Outcome:
    """What an error says of the call's effect."""
    if kind in READS:
        return Outcome.FAILED
    if error.answer is Answer.UNKNOWN or isinstance(error, ProtocolError):
        return Outcome.UNKNOWN
    return Outcome.FAILED


@dataclass(slots=True)
class Notes:
    """What all callers have in common. `holds`: that were asked for and not released, as key, id and name; `may_govern`:
    whether they may hold records and remove them by `BYPASS`."""

    keys: Keys
    history: History
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    receipts: deque[Receipt] = field(default_factory=lambda: deque(maxlen=_RECEIPTS_MAX))
    holds: dict[tuple[str, str, str], None] = field(default_factory=dict)
    may_govern: bool = True

    def add(self, operation: Operation) -> None:
        """One call is over."""
        self.outcomes[operation.outcome] += 1
        self.history.record(operation)


class Caller:
    """One client: does what it is told, and notes it."""

    def __init__(self, notes: Notes, number: int, door: Door, client: Client, chance: random.Random) -> None:
        self.notes = notes
        self.keys = notes.keys
        self.client = client
        self.chance = chance
        self._number = number
        self._door = door
        self._writes = itertools.count()

    def unique(self) -> str:
        """A value that nobody else writes."""
        return f"{self._number}.{next(self._writes)}"

    def call(
        self, kind: Kind, key: str, arguments: tuple[Value, ...], call: Callable[[], Value]
    ) -> FortError | None:
        """Do it and note what came of it; the error, if there was one."""
        result: Value = None
        error: FortError | None = None
        started_ns = time.monotonic_ns()
        try:
            result = call()
        except FortError as caught:
            error = caught
        ended_ns = time.monotonic_ns()
        self.notes.add(
            Operation(
                client=self._number,
                kind=kind,
                key=key,
                arguments=arguments,
                started_ns=started_ns,
                ended_ns=ended_ns,
                outcome=Outcome.OK if error is None else outcome_of(kind, error),
                result=result,
                via=self._door.name,
                error=None if error is None else f"{error.code} {error}",
            )
        )
        return error
