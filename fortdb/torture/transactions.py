"""Clients that do transactions while the ring is tortured: lists for the judge of `cycles.py`, and the
accounts of a bank for that of `bank.py`.

A transaction appends to some lists and reads others, which lie in several partitions; or it moves money between
two accounts, and now and then one counts what all accounts hold together, which never changes.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fortdb.client import Client, Conflict, Later, Transaction
from fortdb.errors import Answer, FortError
from fortdb.torture import bank, cycles
from fortdb.torture.bank import Posting
from fortdb.torture.caller import Door
from fortdb.torture.cycles import Deed
from fortdb.torture.history import Outcome

FILE = "transactions.jsonl"
_LISTS = 6
_DEEDS_A_GENERATION = 200  # on the same lists, which are read whole
_ACCOUNTS = 8
_BALANCE = 100
_STEPS_MAX = 4
_BREATH_S = 0.02


_Step = tuple[str, int, Later[int] | Later[bytes | None]]
"""(account, what is added, what it holds then)"""


@dataclass(frozen=True, slots=True)
class _Told:
    """How a transaction ended."""

    started_ns: int
    ended_ns: int
    error: FortError | None

    @property
    def outcome(self) -> Outcome:
        if self.error is None:
            return Outcome.OK
        return Outcome.UNKNOWN if self.error.answer is Answer.UNKNOWN else Outcome.FAILED


class TransactionClients:
    """`clients` threads, each with one connection to a router, until `stop`."""

    def __init__(self, doors: Sequence[Door], *, clients: int, seed: int, prefix: str = "") -> None:
        self.deeds: list[Deed] = []
        self.ledger: list[Posting] = []
        self.violations: list[str] = []
        self._prefix = prefix
        self._lock = threading.Lock()
        self._numbers = 0
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(doors[number % len(doors)], random.Random(seed * 2000 + number)),  # nosec B311 # drawn again by the same seed
                name=f"transactions-{number}",
                daemon=True,
            )
            for number in range(clients)
        ]
        self.accounts = [f"{prefix}account-{number}" for number in range(_ACCOUNTS)]

    def open_accounts(self, door: Door) -> None:
        """Put money into the bank. Raises what a write raises."""
        with door.client() as client:
            client.put_many(dict.fromkeys(self.accounts, str(_BALANCE)))

    def start(self) -> None:
        """Let them begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each finish what it is doing."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def last_words(self, door: Door, directory: Path) -> list[str]:
        """Read everything once more, leave the evidence, and judge: what is wrong, in sentences. Raises what a read
        raises."""
        with door.client() as client:
            for generation in range(self._numbers // _DEEDS_A_GENERATION + 1):
                self._deed(client, [(self._list(generation, number), "") for number in range(_LISTS)])
            held = dict(zip(self.accounts, self._count(client), strict=True))
        evidence: list[Deed | Posting] = [*self.deeds, *self.ledger]
        with (directory / FILE).open("w") as file:
            for one in evidence:
                file.write(json.dumps({**asdict(one), "outcome": one.outcome.value}) + "\n")
        opened = dict.fromkeys(self.accounts, _BALANCE)
        return self.violations + bank.judge(self.ledger, opened, held) + cycles.judge(self.deeds)

    def remove_all(self, door: Door) -> None:
        """Delete every key that was touched. Raises what that raises."""
        generations = range(self._numbers // _DEEDS_A_GENERATION + 1)
        lists = [self._list(generation, number) for generation in generations for number in range(_LISTS)]
        with door.client() as client:
            for key in [*self.accounts, *lists]:
                client.delete(key)

    def _run(self, door: Door, chance: random.Random) -> None:
        with door.client() as client:
            while not self._stopping.is_set():
                try:
                    self._turn(client, chance)
                except Conflict:
                    continue
                except FortError:
                    time.sleep(_BREATH_S)

    def _turn(self, client: Client, chance: random.Random) -> None:
        draw = chance.random()
        if draw < 0.6:
            self._deed(client, self._draw(chance))
        elif draw < 0.9:
            source, target = chance.sample(self.accounts, 2)
            self._transfer(client, source, target, chance.randrange(1, 9))
        else:
            self._count(client)

    # --- lists -----------------------------------------------------------------------------------------

    def _list(self, generation: int, number: int) -> str:
        return f"{self._prefix}list-{generation}-{number}"

    def _draw(self, chance: random.Random) -> list[tuple[str, str]]:
        """(key, element to append, or nothing to read)"""
        generation = self._numbers // _DEEDS_A_GENERATION
        keys = [
            self._list(generation, chance.randrange(_LISTS)) for _ in range(chance.randint(1, _STEPS_MAX))
        ]
        return [(key, f"{chance.getrandbits(48):x}" if chance.random() < 0.6 else "") for key in keys]

    def _deed(self, client: Client, steps: list[tuple[str, str]]) -> None:
        with self._lock:
            self._numbers += 1
            number = self._numbers
        answers: list[Later[bytes | None] | Later[int]] = []

        def work(tx: Transaction) -> None:
            for key, element in steps:
                answers.append(tx.append(key, element + ",") if element else tx.get(key))

        told = _told(client, work)
        seen = [
            (key, element or _elements(answers[at].value))
            for at, (key, element) in enumerate(steps)
            if element or told.error is None
        ]
        self.deeds.append(Deed(number, told.outcome, told.started_ns, told.ended_ns, tuple(seen)))
        if told.error is not None:
            raise told.error

    # --- the bank ---------------------------------------------------------------------------------------

    @property
    def transfers(self) -> int:
        """How many are known to have moved something."""
        return sum(
            posting.outcome is Outcome.OK and any(added for _, added, _ in posting.steps)
            for posting in self.ledger
        )

    def _transfer(self, client: Client, source: str, target: str, amount: int) -> None:
        def work(tx: Transaction) -> list[_Step]:
            if int(tx.read(source) or 0) < amount:
                return []
            return [
                (key, added, tx.increment(key, added)) for key, added in ((source, -amount), (target, amount))
            ]

        self._bank(client, work, source)

    def _count(self, client: Client) -> list[int]:
        values = self._bank(client, lambda tx: [(key, 0, tx.get(key)) for key in self.accounts])
        if sum(values) != _BALANCE * _ACCOUNTS:
            self.violations.append(
                f"the accounts held {values} at one moment, which is not {_BALANCE * _ACCOUNTS}"
            )
        if min(values) < 0:
            self.violations.append(f"the accounts held {values}: somebody spent what was not there")
        return values

    def _bank(
        self, client: Client, work: Callable[[Transaction], Sequence[_Step]], *watched: str
    ) -> list[int]:
        """What the accounts held, in the order of the steps. Raises what the transaction raises."""
        steps: list[_Step] = []
        told = _told(client, lambda tx: steps.extend(work(tx)), *watched)
        held = [int(later.value or 0) if told.error is None else None for _, _, later in steps]
        seen = tuple((key, added, now) for (key, added, _), now in zip(steps, held, strict=True))
        if seen:
            self.ledger.append(Posting(told.outcome, told.started_ns, told.ended_ns, seen))
        if told.error is not None:
            raise told.error
        return [now for now in held if now is not None]


def _told(client: Client, work: Callable[[Transaction], object], *watched: str) -> _Told:
    """Have a transaction executed."""
    error: FortError | None = None
    started_ns = time.monotonic_ns()
    try:
        with client.transaction(*watched) as tx:
            work(tx)
    except FortError as caught:
        error = caught
    return _Told(started_ns, time.monotonic_ns(), error)


def _elements(value: bytes | int | None) -> tuple[str, ...]:
    return tuple(value.decode().split(",")[:-1]) if isinstance(value, bytes) else ()
