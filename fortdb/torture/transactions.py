"""Clients that do transactions while the ring is tortured: lists for the judge of `cycles.py`, and a bank.

A transaction appends to some lists and reads others, which lie in several partitions; or it moves money between
two accounts, and now and then one counts what all accounts hold together, which never changes.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fortdb.client import Client, Conflict, Later, Transaction
from fortdb.errors import Answer, FortError
from fortdb.torture.caller import Door
from fortdb.torture.cycles import Deed, judge
from fortdb.torture.history import Outcome

FILE = "transactions.jsonl"
_LISTS = 6
_DEEDS_A_GENERATION = 200  # on the same lists, which are read whole
_ACCOUNTS = 8
_BALANCE = 100
_STEPS_MAX = 4
_BREATH_S = 0.02


class TransactionClients:
    """`clients` threads, each with one connection to a router, until `stop`."""

    def __init__(self, doors: Sequence[Door], *, clients: int, seed: int, prefix: str = "") -> None:
        self.deeds: list[Deed] = []
        self.violations: list[str] = []
        self.transfers = 0
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
            self._count(client)
        with (directory / FILE).open("w") as file:
            for deed in self.deeds:
                file.write(json.dumps({**asdict(deed), "outcome": deed.outcome.value}) + "\n")
        return self.violations + judge(self.deeds)

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
        error: FortError | None = None
        started_ns = time.monotonic_ns()
        try:
            with client.transaction() as tx:
                for key, element in steps:
                    answers.append(tx.append(key, element + ",") if element else tx.get(key))
        except FortError as caught:
            error = caught
        ended_ns = time.monotonic_ns()
        outcome = Outcome.OK
        if error is not None:
            outcome = Outcome.UNKNOWN if error.answer is Answer.UNKNOWN else Outcome.FAILED
        seen = [
            (key, element or _elements(answers[at].value))
            for at, (key, element) in enumerate(steps)
            if element or error is None
        ]
        self.deeds.append(Deed(number, outcome, started_ns, ended_ns, tuple(seen)))
        if error is not None:
            raise error

    # --- the bank ---------------------------------------------------------------------------------------

    def _transfer(self, client: Client, source: str, target: str, amount: int) -> None:
        with client.transaction(source) as tx:
            if int(tx.read(source) or 0) >= amount:
                tx.increment(source, -amount)
                tx.increment(target, amount)
        self.transfers += 1

    def _count(self, client: Client) -> None:
        with client.transaction() as tx:
            held = self._read_all(tx)
        values = [int(one.value or 0) for one in held]
        if sum(values) != _BALANCE * _ACCOUNTS:
            self.violations.append(
                f"the accounts held {values} at one moment, which is not {_BALANCE * _ACCOUNTS}"
            )
        if min(values) < 0:
            self.violations.append(f"the accounts held {values}: somebody spent what was not there")

    def _read_all(self, tx: Transaction) -> list[Later[bytes | None]]:
        return [tx.get(key) for key in self.accounts]


def _elements(value: bytes | int | None) -> tuple[str, ...]:
    return tuple(value.decode().split(",")[:-1]) if isinstance(value, bytes) else ()
