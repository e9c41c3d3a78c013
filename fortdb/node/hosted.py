"""A replica on this node, and what the node keeps beside its state machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import perf_counter
from typing import NamedTuple

from fortdb.native import bind
from fortdb.node.disk import DataRange, Segments, key_ranges, replica_ranges
from fortdb.node.ledger import Ledger
from fortdb.node.locks import LockTable, Queue
from fortdb.node.slots import AnySlot
from fortdb.node.snapshots import SnapshotInstall, SnapshotSender
from fortdb.protocol.commands import Command
from fortdb.replication.entries import Operation, RequestId
from fortdb.replication.replica import Replica


class Held:
    """A request that waits for its partition to become ready. It was not executed."""

    __slots__ = ("args", "command", "deadline_ms", "epoch", "request", "slot")

    def __init__(
        self,
        slot: AnySlot,
        command: Command,
        args: list[bytes],
        request: RequestId | None,
        epoch: int,
        deadline_ms: int,
    ) -> None:
        self.slot = slot
        self.command = command
        self.args = args
        self.request = request
        self.epoch = epoch
        self.deadline_ms = deadline_ms


class Proposed(NamedTuple):
    """An entry that waits for its commit."""

    began_s: float
    offset: int


bind(Proposed)


class Hosted:
    """A replica and what this node keeps beside its state machine."""

    __slots__ = (
        *("replica", "token_ranges", "ranges", "key_ranges", "segments", "held", "members", "serve_until_ms"),
        *("plain_until_ms", "locks", "waiting", "senders", "install", "proposed", "change_under_way"),
        *("may_return_ms", "ledger"),
    )

    def __init__(self, replica: Replica, token_ranges: tuple[tuple[int, int], ...]) -> None:
        self.replica = replica
        self.token_ranges = token_ranges
        self.ranges: tuple[DataRange, ...] = replica_ranges(replica.partition, token_ranges)
        self.key_ranges: tuple[DataRange, ...] = key_ranges(token_ranges)
        self.segments = Segments()
        self.held: deque[Held] = deque()
        self.serve_until_ms = 0  # requests are executed before this moment
        self.plain_until_ms = 0  # the same, without a look at locks; 0 while there may be any
        self.locks = LockTable()
        self.waiting: Queue[Held] = Queue()  # for locks on some of their keys
        self.members: tuple[tuple[str, str], ...] = ()  # whose promises that rests upon
        self.senders: dict[str, SnapshotSender] = {}
        self.install: SnapshotInstall | None = None
        self.proposed: deque[Proposed] = deque()  # entries that wait for a commit
        self.change_under_way = False  # of the partition record
        self.may_return_ms = 0  # when the preferred leader may take over again
        self.ledger = Ledger(replica.partition)

    def serve_until(self, until_ms: int) -> None:
        """Requests may be executed before this moment, and not after it."""
        self.serve_until_ms = until_ms
        self.look_at_locks()

    def look_at_locks(self) -> None:
        """The short way knows nothing of locks and of those who wait for them."""
        is_free = not (self.locks.locked or self.waiting)
        self.plain_until_ms = self.serve_until_ms if is_free else 0

    def began(self, offset: int) -> None:
        """A write was proposed; those with one offset count as begun with the first."""
        proposed = self.proposed
        if not proposed or proposed[-1].offset != offset:
            proposed.append(Proposed(perf_counter(), offset))

    def note_locks(self, operations: Iterable[Operation], now_ms: int) -> None:
        """Follow what a transaction proposed."""
        self.locks.note(operations, now_ms)
        self.look_at_locks()


bind(Hosted)
