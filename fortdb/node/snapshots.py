"""Handing a partition's data to a follower whose log is too far behind, while serving.

The leader walks its data as it stood at one applied offset (the engine's cursor), a chunk a tick and
only as fast as the follower takes them in. With the last chunk goes the tail of the log, and what is
remembered of requests before it, so that the follower knows every request id that the leader knows. The follower forgets what it had with the first frame;
until the last one is on disk its state says `installing`, and a restart in between finds it empty.
"""

from __future__ import annotations

from fortdb.errors import BadRequest
from fortdb.limits import (
    SNAPSHOT_CHUNK_BYTES,
    SNAPSHOT_FLIGHT_BYTES,
    SNAPSHOT_HISTORY_BYTES,
)
from fortdb.node.disk import DataRange, recent_entries
from fortdb.replication.epochs import LogShape
from fortdb.replication.leader import Leader
from fortdb.replication.messages import (
    Message,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotEnd,
)
from fortdb.replication.progress import Phase
from fortdb.storage.engine import Batch, Engine
from fortdb.storage.keys import memory_key
from fortdb.storage.values import expiry_of

_CHUNKS_IN_FLIGHT = SNAPSHOT_FLIGHT_BYTES // SNAPSHOT_CHUNK_BYTES


class SnapshotSender:
    """One partition's data on its way to one follower, in one epoch."""

    def __init__(self, engine: Engine, leader: Leader, node: str, ranges: tuple[DataRange, ...]) -> None:
        self._leader = leader
        self._node = node
        self._cursors = [engine.cursor(start, end) for start, end in ranges]
        self._sent = 0
        self._acknowledged = 0
        shape = leader.log.shape.truncated(leader.log.applied)
        self._history = _history(engine, leader.partition, shape)
        self._shape = shape.trimmed(shape.last_offset - len(self._history))
        self._memory = leader.log.encode_memory(self._shape.base_offset)
        leader.outbox.append((node, SnapshotBegin(leader.partition, leader.epoch, self._shape)))

    def is_for(self, leader: Leader) -> bool:
        """Whether this was begun in the leader's present epoch."""
        return leader is self._leader

    def acknowledged(self, chunks: int) -> None:
        """The follower has taken in so many chunks."""
        self._acknowledged = max(self._acknowledged, chunks)

    def step(self) -> bool:
        """Send what fits into the flight window. False once there is nothing left to do."""
        leader = self._leader
        progress = leader.progress.get(self._node)
        if progress is None or progress.phase is not Phase.SNAPSHOT:
            return False
        while self._sent - self._acknowledged < _CHUNKS_IN_FLIGHT:
            pairs = self._cursors[0].read(SNAPSHOT_CHUNK_BYTES) if self._cursors else []
            if pairs:
                self._send(SnapshotChunk(leader.partition, leader.epoch, self._sent, pairs))
                self._sent += 1
                return True  # one chunk a tick: clients are served in between
            if self._cursors:
                self._cursors.pop(0).close()
                continue
            self._send(SnapshotEnd(leader.partition, leader.epoch, self._sent, self._memory, self._history))
            progress.has_all_data(self._shape.last_offset)
            return False
        return True

    @property
    def wants_to_send(self) -> bool:
        """Whether the window has room."""
        return self._sent - self._acknowledged < _CHUNKS_IN_FLIGHT

    def close(self) -> None:
        """Release the cursors."""
        for cursor in self._cursors:
            cursor.close()
        self._cursors = []

    def _send(self, message: Message) -> None:
        self._leader.outbox.append((self._node, message))


class SnapshotInstall:
    """The follower's side: what has arrived since the last batch, and what is still to come."""

    def __init__(self, sender: str, epoch: int, shape: LogShape) -> None:
        self.sender = sender
        self.epoch = epoch
        self.shape = shape
        self.chunks = 0
        self.is_complete = False
        self._pairs: list[tuple[bytes, bytes]] = []
        self._memory: bytes | None = None
        self._history: list[bytes] = []

    def add(self, message: SnapshotChunk) -> None:
        """Take in a chunk. Raises `BadRequest` when one is missing."""
        if message.number != self.chunks:
            raise BadRequest(f"snapshot chunk {message.number} came instead of {self.chunks}")
        self.chunks += 1
        self._pairs += message.pairs

    def end(self, message: SnapshotEnd) -> None:
        """All chunks are here. Raises `BadRequest` when they are not."""
        if message.chunks != self.chunks:
            raise BadRequest(f"snapshot of {message.chunks} chunks ended after {self.chunks}")
        self._memory = message.memory
        self._history = message.history
        self.is_complete = True

    def write(self, batch: Batch, partition: int) -> None:
        """Put what has arrived into the batch."""
        for key, value in self._pairs:
            batch.put_data(key, value)
            expiry_ms = expiry_of(value)
            if expiry_ms:
                batch.put_expiry(partition, expiry_ms, key)
        self._pairs = []
        if self._memory is not None:
            batch.put_data(memory_key(partition), self._memory)
            self._memory = None
        for index, entry in enumerate(self._history):
            batch.put_log(partition, self.shape.base_offset + 1 + index, entry)
        self._history = []


def _history(engine: Engine, partition: int, shape: LogShape) -> list[bytes]:
    """The last entries up to the shape's end, as far back as request ids matter."""
    entries: list[bytes] = []
    size = 0
    for offset, entry in recent_entries(engine, partition):
        if offset > shape.last_offset:
            continue
        size += len(entry)
        if offset <= shape.base_offset or size > SNAPSHOT_HISTORY_BYTES:
            break
        entries.append(entry)
    entries.reverse()
    return entries
