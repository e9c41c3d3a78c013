"""Clients that write, read and change values all the time, and note each call and its outcome.

What an outcome is (the judgement rests on it): *ok* has an answer; *failed* certainly had no effect and
never will; *unknown* may have had one, now or later. An error that FortDB calls retry, refuse or crash
says that the command was not executed, and is believed: if it was executed all the same, the checkers
find a value that nobody can have written. Only a broken connection, a time-out, and what says so itself
are unknown. A read that fails changes nothing, whatever the error.

Keys are of two sorts. *Hot* keys are few, and everybody works on them; each is left for a fresh one after
`HOT_CALLS_MAX` calls, so that a history of one key stays short enough to be judged. *Cold* keys are many;
they find what is lost or comes back long after it was written.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fortdb.client import Client
from fortdb.client.failures import ConnectionFailed
from fortdb.errors import Answer, FortError, NotLeader, ProtocolError
from fortdb.torture.history import History, Kind, Operation, Outcome

HOT_CALLS_MAX = 300
_HOT_REGISTERS, _HOT_COUNTERS, _HOT_LISTS, _COLD = 6, 3, 3, 400
_ELSEWHERE_S = 2.0  # a key that a node refused is not asked of it again for so long
_BREATH_S = 0.01  # after an error, so that nobody counts refusals at full speed

Value = str | int | bool | None


@dataclass(frozen=True, slots=True)
class Door:
    """Where a client connects, a router or a node itself, and how long it waits for an answer."""

    name: str
    host: str
    port: int
    timeout_s: float


def outcome_of(kind: Kind, error: FortError) -> Outcome:
    """What an error says of the call's effect."""
    if kind is Kind.READ:
        return Outcome.FAILED
    if error.answer is Answer.UNKNOWN or isinstance(error, ProtocolError):
        return Outcome.UNKNOWN
    return Outcome.FAILED


class Keys:
    """Which keys there are, and what their values were a moment ago (to compare and set)."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._calls: dict[str, itertools.count[int]] = {}
        self.used: dict[str, None] = {}
        self.recent: dict[str, str] = {}

    def hot(self, stem: str) -> str:
        """The present key of a hot place."""
        calls = self._calls.setdefault(stem, itertools.count())
        return self.cold(f"{stem}.{next(calls) // HOT_CALLS_MAX}")

    def cold(self, name: str) -> str:
        """A key by its name."""
        key = self._prefix + name
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
    ) -> None:
        self.keys = Keys(prefix)
        self.outcomes = dict.fromkeys(Outcome, 0)
        self._history = history
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(number, doors[number % len(doors)], random.Random(seed * 1000 + number)),
                name=f"client-{number}",
                daemon=True,
            )
            for number in range(clients)
        ]

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
        with Client(door.host, door.port, connections_max=1, timeout_s=door.timeout_s) as client:
            caller = Caller(self, len(self._threads), door, client, random.Random(0))
            for key in self.keys.used:
                caller.read(key)

    def remove_all(self, door: Door) -> None:
        """Delete every key that was touched."""
        keys = list(self.keys.used)
        with Client(door.host, door.port, connections_max=1, timeout_s=door.timeout_s) as client:
            for start in range(0, len(keys), 500):
                client.delete(*keys[start : start + 500])

    def _run(self, number: int, door: Door, chance: random.Random) -> None:
        with Client(door.host, door.port, connections_max=1, timeout_s=door.timeout_s) as client:
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
        self._elsewhere: dict[str, float] = {}  # key -> until when this node is not asked for it

    def turn(self) -> None:
        """One call."""
        chance = self._chance
        sort = chance.random()
        if sort < 0.5:
            self._register(self._hot("r", _HOT_REGISTERS))
        elif sort < 0.62:
            self._counter(self._hot("c", _HOT_COUNTERS))
        elif sort < 0.75:
            self._list(self._hot("l", _HOT_LISTS))
        else:
            self._register(self._keys.cold(f"k{chance.randrange(_COLD)}"))

    def read(self, key: str) -> None:
        """Read a value."""

        def get() -> Value:
            value = self._client.get(key)
            return None if value is None else value.decode()

        self._call(Kind.READ, key, (), get)

    def _hot(self, sort: str, count: int) -> str:
        return self._keys.hot(f"{sort}{self._chance.randrange(count)}")

    def _register(self, key: str) -> None:
        draw = self._chance.random()
        if draw < 0.45:
            self.read(key)
        elif draw < 0.75:
            value = self._unique()
            self._call(Kind.WRITE, key, (value,), lambda: self._put(key, value))
        elif draw < 0.92:
            value, held = self._unique(), self._keys.recent.get(key, "nothing")
            self._call(Kind.CAS, key, (held, value), lambda: self._compare_and_set(key, held, value))
        else:
            self._call(Kind.DELETE, key, (), lambda: bool(self._client.delete(key)))

    def _counter(self, key: str) -> None:
        if self._chance.random() < 0.4:
            self.read(key)
        else:
            amount = self._chance.randrange(1, 10)
            self._call(Kind.INCREMENT, key, (amount,), lambda: self._client.increment(key, amount))

    def _list(self, key: str) -> None:
        if self._chance.random() < 0.4:
            self.read(key)
        else:
            element = self._unique() + ","
            self._call(Kind.APPEND, key, (element,), lambda: self._client.append(key, element))

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

    def _call(self, kind: Kind, key: str, arguments: tuple[Value, ...], call: Callable[[], Value]) -> None:
        if self._elsewhere.get(key, 0.0) > time.monotonic():
            time.sleep(_BREATH_S / 10)
            return
        result: Value = None
        error: FortError | None = None
        started_ns = time.monotonic_ns()
        try:
            result = call()
        except FortError as caught:
            error = caught
        ended_ns = time.monotonic_ns()
        if isinstance(error, NotLeader):
            self._elsewhere[key] = time.monotonic() + _ELSEWHERE_S
        if kind is Kind.READ and error is None and isinstance(result, str):
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
        if error is not None and not isinstance(error, NotLeader):
            time.sleep(_BREATH_S * (10 if isinstance(error, ConnectionFailed) else 1))
