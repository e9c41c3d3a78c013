"""All who ask a ring while it is tortured: clients of single calls, clients of transactions, a reader of the feed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fortdb.errors import FortError, PermissionDenied
from fortdb.torture.caller import Door
from fortdb.torture.feed import FeedReader
from fortdb.torture.findings import Findings
from fortdb.torture.history import History
from fortdb.torture.transactions import TransactionClients
from fortdb.torture.workload import Workload

_TRANSACTION_CLIENTS = 3


class Crowd:
    """`doors` are for single calls; all else is asked of routers. `prefix` begins the names of all keys; with it the
    feed is read of those alone."""

    def __init__(
        self,
        doors: Sequence[Door],
        routers: Sequence[Door],
        history: History,
        *,
        clients: int,
        seed: int,
        keyspace: str,
        prefix: str = "",
    ) -> None:
        self._router = routers[0]
        self.workload = Workload(doors, history, clients=clients, seed=seed, prefix=prefix, keyspace=keyspace)
        self.transactions = TransactionClients(
            routers, clients=_TRANSACTION_CLIENTS, seed=seed, prefix=prefix
        )
        self._feed: FeedReader | None = FeedReader(routers[0], keyspace if prefix else "")

    @property
    def calls(self) -> dict[str, int]:
        """How many there were, by outcome."""
        return {outcome.value: count for outcome, count in self.workload.outcomes.items()}

    def prepare(self) -> dict[str, str]:
        """Make what they need, and begin the feed; what is left out since the user may not do it, and why. Raises
        `FortError`."""
        left_out = self.workload.prepare(self._router)
        self.transactions.open_accounts(self._router)
        assert self._feed is not None
        try:
            self._feed.start()
        except PermissionDenied as error:
            self._feed = None
            left_out["change feed"] = str(error)
        return left_out

    def start(self) -> None:
        """Let them begin."""
        self.transactions.start()
        self.workload.start()

    def stop(self, findings: Findings) -> None:
        """Let each finish what it is doing; the feed is read on."""
        self.workload.stop()
        self.transactions.stop()
        findings.clients_until_ns = time.monotonic_ns()
        findings.calls = self.calls

    def last_words(self, door: Door, directory: Path, findings: Findings) -> None:
        """What receipts say, the feed to its end, and everything once more. What fails is noted as not judged."""
        self._verify_receipts(door, findings)
        if self._feed is not None:
            self._feed.finish()
        try:
            self.workload.read_all(door)
            findings.violations += self.transactions.last_words(door, directory)
            findings.transactions = len(self.transactions.deeds) + self.transactions.transfers
        except FortError as error:
            findings.unjudged.append(f"the last reads failed: {error}")

    def _verify_receipts(self, door: Door, findings: Findings) -> None:
        try:
            findings.receipts, wrong = self.workload.verify_receipts(door)
            findings.violations += wrong
        except PermissionDenied as error:
            findings.left_out["receipts"] = str(error)
        except FortError as error:
            findings.unjudged.append(f"receipts could not be verified: {error}")

    def close(self) -> None:
        """Nobody asks anything any more."""
        if self._feed is not None:
            self._feed.close()

    def judge_feed(self, directory: Path, findings: Findings) -> None:
        """Hold the feed beside the history; nothing more is written there."""
        if self._feed is not None:
            self._feed.judge(directory, findings)

    def remove_all(self, within_s: float, meanwhile: Callable[[], None]) -> list[str]:
        """Every key and keyspace, WORM records when their retention has passed; what is left, in sentences."""
        left = []
        try:
            kept = self.workload.remove_protected(self._router, within_s, meanwhile, with_held=True)
            if kept:
                left.append(
                    f"{kept} WORM records, which go by themselves when their retention has passed; then their "
                    "keyspaces can be dropped with KEYSPACE DROP"
                )
            self.transactions.remove_all(self._router)
        except FortError as error:
            left.append(f"some keys, since their removal failed: {error}")
        return left + self.workload.remove_all(self._router)
