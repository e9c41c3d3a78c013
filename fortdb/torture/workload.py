"""Clients that write, read and change values all the time, and note each call and its outcome.

What an outcome is (the judgement rests on it): *ok* has an answer; *failed* certainly had no effect and
never will; *unknown* may have had one, now or later. An error that FortDB calls retry, refuse or crash
says that the command was not executed, and is believed: if it was executed all the same, the checkers
find a value that nobody can have written. Only a broken connection, a time-out, and what says so itself
are unknown. A read that fails changes nothing, whatever the error.

Keys are of two sorts. *Hot* keys are few, and everybody works on them; each is left for a fresh one after
`HOT_CALLS_MAX` calls, so that a history of one key stays short enough to be judged. *Cold* keys are many;
they find what is lost or comes back long after it was written. Keys of one *place* carry one tag, so
they lie in one partition, and a client of a node soon knows which places that node leads.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fortdb.client import OPEN, Access, Client, records
from fortdb.client.failures import ConnectionFailed
from fortdb.errors import Answer, FortError, NotLeader, ProtocolError
from fortdb.model import Policy
from fortdb.torture.history import History, Kind, Operation, Outcome, Value

HOT_CALLS_MAX = 300
_COLD_KEYS = 25  # of each cold place
_ELSEWHERE_S = 1.0  # a place that a node does not lead is not asked of it again for so long
_DRAWS_MAX = 20  # of a place that is not elsewhere
_BREATH_S = 0.01  # after an error, so that nobody counts refusals at full speed

_COLD, _RECORDS = "k", "e"
_PLACES = {"r": (6, 0.45), "c": (3, 0.11), "l": (3, 0.12), _RECORDS: (3, 0.1), _COLD: (16, 0.22)}
"""Registers, counters, lists, records, and cold registers: how many places of each sort, and their share of
calls."""


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
    if kind is Kind.READ:
        return Outcome.FAILED
    if error.answer is Answer.UNKNOWN or isinstance(error, ProtocolError):
        return Outcome.UNKNOWN
    return Outcome.FAILED


class Keys:
    """Which keys there are, and what their values were a moment ago (to compare and set)."""

    def __init__(self, prefix: str, keyspace: str) -> None:
        self._prefix = prefix
        self._keyspace = keyspace  # where records are
        self._calls: dict[str, itertools.count[int]] = {}
        self.used: dict[str, None] = {}
        self.recent: dict[str, str] = {}

    def hot(self, place: str) -> str:
        """The present key of a hot place."""
        calls = self._calls.setdefault(place, itertools.count())
        return self._key(place, next(calls) // HOT_CALLS_MAX)

    def cold(self, place: str, number: int) -> str:
        """One of the many keys of a cold place."""
        return self._key(place, number)

    def has_records(self, key: str) -> bool:
        """Whether it is one of the keys with records."""
        return key.startswith(f"{self._keyspace}/")

    def _key(self, place: str, number: int) -> str:
        key = f"{self._prefix}{{{place}}}.{number}"
        if place.startswith(_RECORDS):
            key = f"{self._keyspace}/{key}"
        self.used[key] = None
        return key


class Workload:
    """`clients` threads, each with one connection, spread over the doors, until `stop`."""

    def __init__(
        self,
        doors: Sequence[Door],
        history: History,
        *,
        clients: int,
        seed: int,
        prefix: str,
        keyspace: str,
    ) -> None:
        self.keys = Keys(prefix, keyspace)
        self._keyspace = keyspace
        self.outcomes = dict.fromkeys(Outcome, 0)
        self._history = history
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(number, doors[number % len(doors)], random.Random(seed * 1000 + number)),  # nosec B311 # drawn again by the same seed
                name=f"client-{number}",
                daemon=True,
            )
            for number in range(clients)
        ]

    def prepare(self, door: Door) -> None:
        """Make the keyspace of the keys with records."""
        with Client(door.host, door.port, connections_max=1, timeout_s=door.timeout_s) as client:
            client.create_keyspace(self._keyspace, policy=Policy.RECORDS)

    def start(self) -> None:
        """Let them begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each finish what it is doing."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def read_all(self, door: Door) -> None:
        """The last word: every key that was ever touched, read once. Raises what a read raises."""
        with door.client() as client:
            caller = Caller(self, len(self._threads), door, client, random.Random(0))  # nosec B311 # draws nothing
            for key in self.keys.used:
                caller.read(key)

    def remove_all(self, door: Door) -> None:
        """Delete every key that was touched, and the keyspace."""
        keys = list(self.keys.used)
        with door.client() as client:
            for start in range(0, len(keys), 500):
                client.delete(*keys[start : start + 500])
            client.drop_keyspace(self._keyspace)

    def _run(self, number: int, door: Door, chance: random.Random) -> None:
        with door.client() as client:
            caller = Caller(self, number, door, client, chance)
            while not self._stopping.is_set():
                caller.turn()

    def note(self, operation: Operation) -> None:
        """One call is over."""
        self.outcomes[operation.outcome] += 1
        self._history.record(operation)


class Caller:
    """One client: draws what to do next, does it, notes it."""

    def __init__(
        self, workload: Workload, number: int, door: Door, client: Client, chance: random.Random
    ) -> None:
        self._workload = workload
        self._keys = workload.keys
        self._number = number
        self._door = door
        self._client = client
        self._chance = chance
        self._writes = itertools.count()
        self._elsewhere: dict[str, float] = {}  # place -> until when this node is not asked for it

    def turn(self) -> None:
        """One call."""
        for _ in range(_DRAWS_MAX):
            sort, place = self._place()
            if self._elsewhere.get(place, 0.0) <= time.monotonic():
                break
        else:
            time.sleep(_BREATH_S)
            return
        if sort == _COLD:
            key = self._keys.cold(place, self._chance.randrange(_COLD_KEYS))
        else:
            key = self._keys.hot(place)
        error = self._act(sort, key)
        if isinstance(error, NotLeader):
            self._elsewhere[place] = time.monotonic() + _ELSEWHERE_S
        elif error is not None:
            time.sleep(_BREATH_S * (10 if isinstance(error, ConnectionFailed) else 1))

    def _place(self) -> tuple[str, str]:
        sort = self._chance.choices(list(_PLACES), [share for _, share in _PLACES.values()])[0]
        return sort, f"{sort}{self._chance.randrange(_PLACES[sort][0])}"

    def _act(self, sort: str, key: str) -> FortError | None:
        if sort == "c":
            return self._counter(key)
        if sort == _RECORDS:
            return self._records(key)
        return self._list(key) if sort == "l" else self._register(key)

    def read(self, key: str) -> FortError | None:
        """Read a value."""

        def get() -> Value:
            value = self._client.get(key)
            return None if value is None else value.decode()

        return self._call(Kind.READ, key, (), self._all_records(key) if self._keys.has_records(key) else get)

    def _all_records(self, key: str) -> Callable[[], Value]:
        """Reads them at one moment: there are never more than one answer holds."""

        def read() -> Value:
            found = self._client.run(records.records(key, None, 10 * HOT_CALLS_MAX, False))
            return ",".join(f"{record.id} {record.value.decode()}" for record in found) or None

        return read

    def _records(self, key: str) -> FortError | None:
        if self._chance.random() < 0.4:
            return self.read(key)
        value = self._unique()
        return self._call(Kind.ADD, key, (value,), lambda: str(self._client.add(key, value)))

    def _register(self, key: str) -> FortError | None:
        draw = self._chance.random()
        if draw < 0.45:
            return self.read(key)
        if draw < 0.75:
            value = self._unique()
            return self._call(Kind.WRITE, key, (value,), lambda: self._put(key, value))
        if draw < 0.92:
            value, held = self._unique(), self._keys.recent.get(key, "nothing")
            return self._call(Kind.CAS, key, (held, value), lambda: self._compare_and_set(key, held, value))
        return self._call(Kind.DELETE, key, (), lambda: bool(self._client.delete(key)))

    def _counter(self, key: str) -> FortError | None:
        if self._chance.random() < 0.4:
            return self.read(key)
        amount = self._chance.randrange(1, 10)
        return self._call(Kind.INCREMENT, key, (amount,), lambda: self._client.increment(key, amount))

    def _list(self, key: str) -> FortError | None:
        if self._chance.random() < 0.4:
            return self.read(key)
        element = self._unique() + ","
        return self._call(Kind.APPEND, key, (element,), lambda: self._client.append(key, element))

    def _put(self, key: str, value: str) -> Value:
        done = self._client.put(key, value)
        self._keys.recent[key] = value
        return done

    def _compare_and_set(self, key: str, held: str, value: str) -> Value:
        done = self._client.put(key, value, only_if_equal=held)
        if done:
            self._keys.recent[key] = value
        return done

    def _unique(self) -> str:
        return f"{self._number}.{next(self._writes)}"

    def _call(
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
        if kind is Kind.READ and isinstance(result, str) and not self._keys.has_records(key):
            self._keys.recent[key] = result
        self._workload.note(
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
