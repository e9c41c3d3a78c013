"""A replica's log as its state machine sees it: the outline, and what the next batch must hold.

Entries are in one of three places: on disk and in the data (up to `applied`), in the log and not
yet in the data (`pending`), or lost with the node. `commit` is how far this replica knows the log
to be committed; `synced_offset` is how far it is on this node's disk. What was appended since the
node last took the writes is in the outline already and will be on disk with the next fsync.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from fortdb.native import bind
from fortdb.replication.dedupe import RequestMemory
from fortdb.replication.entries import Entry, Operation, decode_entry
from fortdb.replication.epochs import LogShape


class Pending(NamedTuple):
    """An entry that is in the log and not yet in the data."""

    offset: int
    entry: bytes
    operations: list[Operation]


class Writes(NamedTuple):
    """What the next batch must hold for one replica, in this order."""

    wipe: bool  # delete all data, expiry notes and log entries of the partition
    truncate: tuple[int, int] | None  # delete log entries in [start, end)
    trimmed: tuple[int, int] | None  # delete these too, and keep the requests before `end` beside the log
    entries: list[tuple[int, bytes]]  # (offset, entry) to put
    state_changed: bool  # put the replica's state


class ReplicaLog:
    """The log of one replica, without its bytes on disk."""

    __slots__ = (
        *(
            "shape",
            "commit",
            "applied",
            "synced_offset",
            "timestamp_ms",
            "pending",
            "memory",
            "memory_is_stale",
        ),
        *("state_changed", "_wipe", "_truncate", "_trimmed", "writes"),
    )

    def __init__(self, shape: LogShape, applied: int) -> None:
        self.shape = shape
        self.commit = applied
        self.applied = applied
        self.synced_offset = shape.last_offset
        self.timestamp_ms = 0  # no entry is above it; time never runs backwards along a log
        self.pending: deque[Pending] = deque()
        self.memory = RequestMemory()
        self.memory_is_stale = False  # the node must read it again from the log
        self.state_changed = False
        self._wipe = False
        self._truncate: tuple[int, int] | None = None
        self._trimmed: tuple[int, int] | None = None
        self.writes: list[tuple[int, bytes]] = []

    @property
    def last_offset(self) -> int:
        """The newest entry's offset, on disk or about to be."""
        return self.shape.last_offset

    def restore(self, offset: int, entry: bytes) -> None:
        """At start: an entry that is on disk and was not applied before the process ended."""
        decoded = decode_entry(entry, offset)
        self.timestamp_ms = decoded.timestamp_ms
        self.pending.append(Pending(offset, entry, decoded.operations))

    def append(self, epoch: int, entry: bytes, operations: list[Operation]) -> int:
        """Add an entry that this node made as leader; returns its offset."""
        self.shape = self.shape.appended(epoch, 1)
        offset = self.shape.last_offset
        self.writes.append((offset, entry))
        self.pending.append(Pending(offset, entry, operations))
        return offset

    def append_received(self, entry: bytes) -> None:
        """Add an entry that a leader sent. Raises `StorageFailed` if it was damaged on the way."""
        decoded: Entry = decode_entry(entry, self.shape.last_offset + 1)
        offset = self.append(decoded.epoch, entry, decoded.operations)
        self.timestamp_ms = decoded.timestamp_ms
        for request, reply in decoded.requests:
            self.memory.remember(request, offset, reply)

    def truncate_after(self, offset: int) -> None:
        """Drop the entries after `offset`. They were never committed, so never applied."""
        assert offset >= self.applied, "an applied entry is never truncated"
        start, end = offset + 1, self.shape.last_offset + 1
        if self._truncate is not None:
            start, end = min(start, self._truncate[0]), max(end, self._truncate[1])
        self._truncate = (start, end)
        self.writes = [pair for pair in self.writes if pair[0] <= offset]
        self.shape = self.shape.truncated(offset)
        self.commit = min(self.commit, offset)
        self.synced_offset = min(self.synced_offset, offset)
        while self.pending and self.pending[-1].offset > offset:
            self.pending.pop()
        self.memory_is_stale = True
        self.state_changed = True

    def encode_memory(self, until: int) -> bytes:
        """What must stay known of entries up to an offset once the log no longer holds them: their requests,
        and a time that none of them is above."""
        return self.memory.encode(until, self.timestamp_ms)

    def reset(self, shape: LogShape) -> None:
        """Forget everything; go on as if the log began after `shape`'s base."""
        self.shape = shape
        self.commit = self.applied = self.synced_offset = shape.last_offset
        self.pending.clear()
        self.memory = RequestMemory()
        self.memory_is_stale = False
        self.state_changed = True
        self._wipe = True
        self._truncate = self._trimmed = None
        self.writes = []

    def take_writes(self) -> Writes:
        """What the next batch must hold; the node writes it and, once it is on disk, says so."""
        writes = Writes(
            self._wipe,
            self._truncate,
            self._trimmed,
            self.writes,
            self.state_changed or bool(self.writes),
        )
        self._wipe, self._truncate, self._trimmed, self.writes, self.state_changed = (
            False,
            None,
            None,
            [],
            False,
        )
        return writes

    def take_committed(self, commit: int) -> list[Pending]:
        """Entries up to `commit` that are not in the data yet, for the same batch."""
        taken: list[Pending] = []
        pending = self.pending
        while pending and pending[0].offset <= commit:
            taken.append(pending.popleft())
        if taken:
            self.applied = taken[-1].offset
        return taken

    def trim(self, offset: int) -> None:
        """Forget the log up to and including `offset`. Its entries go in the batch that holds the new outline:
        a node that dies in between finds the one or the other."""
        assert self.shape.base_offset < offset <= self.applied
        start = self._trimmed[0] if self._trimmed is not None else self.shape.base_offset + 1
        self._trimmed = (start, offset + 1)
        self.shape = self.shape.trimmed(offset)
        self.state_changed = True


bind(Pending)
bind(ReplicaLog)
