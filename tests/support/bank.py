"""Clients that move money between accounts by transactions, and clients that count it: the total never changes."""

from __future__ import annotations

import threading
import time

from fortdb.client import Client, Conflict
from fortdb.errors import Answer, FortError, OutcomeUnknown

TOGETHER = [f"{{bank}}{number}" for number in range(8)]
APART = [f"bank-{number}" for number in range(8)]  # in several partitions
TOTAL = 800


class Bank:
    """Clients that move money between accounts, and clients that count it."""

    def __init__(self, ports: list[int], accounts: list[str]) -> None:
        self.ports = ports
        self.accounts = accounts
        self.failures: list[str] = []
        self.transfers = self.counts = self.conflicts = self.unknown = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(5)
        ]
        with Client(port=ports[0]) as client:
            client.put_many(dict.fromkeys(accounts, "100"))

    def __enter__(self) -> Bank:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
        if failure == (None, None, None):
            with Client(port=self.ports[0]) as client:
                self._count(client)

    def wait(self, more: int, within_s: float = 60) -> None:
        """Until so many more transfers are done."""
        goal, until_s = self.transfers + more, time.monotonic() + within_s
        while self.transfers < goal:
            assert time.monotonic() < until_s, f"no progress: {self.transfers} transfers"
            time.sleep(0.02)

    def _run(self, number: int) -> None:
        with Client(port=self.ports[number % len(self.ports)], connections_max=1) as client:
            accounts, turn = self.accounts, number
            while not self._stopping.is_set():
                turn += 7
                try:
                    if number == 0:
                        self._count(client)
                    else:
                        source, target = accounts[turn % 8], accounts[turn // 8 % 8]
                        self._transfer(client, source, target, blindly=number % 2 == 1)
                except Conflict:
                    self.conflicts += 1
                except OutcomeUnknown:
                    self.unknown += 1
                except FortError as error:
                    if error.answer is not Answer.RETRY:
                        self.failures.append(repr(error))
                    time.sleep(0.05)

    def _transfer(self, client: Client, source: str, target: str, blindly: bool) -> None:
        with client.transaction(*(() if blindly else (source, target))) as tx:
            if blindly:
                tx.increment(source, -3)
                tx.increment(target, 3)
            elif source != target:
                held, other = (int(value or 0) for value in tx.read_many([source, target]))
                tx.put(source, str(held - 2))
                tx.put(target, str(other + 2))
        with self._lock:
            self.transfers += 1

    def _count(self, client: Client) -> None:
        with client.transaction() as tx:
            values = [tx.get(key) for key in self.accounts]
        total = sum(int(one.value or 0) for one in values)
        if total != TOTAL:
            self.failures.append(f"{total} instead of {TOTAL}")
        self.counts += 1
