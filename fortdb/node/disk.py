"""Between the replicas' state machines and the engine: opening, and the batch of a tick.

Everything that the replicas of a node want written in one tick goes into one batch, in the order
that makes it right: what is wiped, what is truncated, new entries, committed operations, state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from fortdb.limits import (
    DEDUPE_ENTRIES_MAX,
    DEDUPE_WINDOW_MS,
    LOG_SEGMENT_BYTES,
    LOG_SEGMENTS_KEPT,
    LOG_SEGMENTS_MAX,
)
from fortdb.native import bind
from fortdb.replication.entries import DELETE, PUT, decode_entry, entry_timestamp
from fortdb.replication.epochs import LogShape
from fortdb.replication.log import Pending, ReplicaLog
from fortdb.replication.replica import Replica
from fortdb.storage.engine import Batch, Engine, ReplicaState
from fortdb.storage.keys import KINDS, chain_range, data_bound, memory_key, transaction_range

DataRange = tuple[bytes, bytes]
"""Data keys with start <= key < end."""

_ALL_OFFSETS = (1 << 64) - 1


def key_ranges(token_ranges: tuple[tuple[int, int], ...]) -> tuple[DataRange, ...]:
    """Where the keys of a partition's token ranges lie, without their records and versions."""
    return tuple((data_bound(start), data_bound(end)) for start, end in token_ranges)


def data_ranges(token_ranges: tuple[tuple[int, int], ...]) -> tuple[DataRange, ...]:
    """Where everything lies that belongs to a partition's token ranges."""
    return tuple(
        (data_bound(start, kind), data_bound(end, kind)) for kind in KINDS for start, end in token_ranges
    )


def replica_ranges(partition: int, token_ranges: tuple[tuple[int, int], ...]) -> tuple[DataRange, ...]:
    """Everything that a replica of a partition keeps among the data, but its memory of requests."""
    return (*data_ranges(token_ranges), transaction_range(partition), chain_range(partition))


class Segments:
    """How much log a replica has written since which offset, to decide where to trim its head."""

    __slots__ = ("_bytes", "_ends")

    def __init__(self) -> None:
        self._bytes = 0
        self._ends: deque[int] = deque()

    def wrote(self, last_offset: int, size: int) -> None:
        """Entries of `size` bytes up to `last_offset` were written."""
        self._bytes += size
        if self._bytes >= LOG_SEGMENT_BYTES:
            self._bytes = 0
            self._ends.append(last_offset)

    def trim_to(self, needed_after: int) -> int | None:
        """The offset up to which the log may go, if any: old enough, and nobody needs it.

        `needed_after` is the offset after which a live follower still needs the log.
        """
        target = None
        while len(self._ends) > LOG_SEGMENTS_KEPT and (
            self._ends[0] <= needed_after or len(self._ends) > LOG_SEGMENTS_MAX
        ):
            target = self._ends.popleft()
        return target


bind(Segments)


def open_replica(
    engine: Engine,
    partition: int,
    name: str,
    node: str,
    incarnation: str,
    state: ReplicaState | None,
) -> Replica:
    """A replica as the disk has it; a new, empty one when it has nothing (or only half a snapshot)."""
    state = state or ReplicaState()
    if state.installing:
        log = ReplicaLog(LogShape(), 0)
        log.reset(LogShape())
        return Replica(partition, name, node, incarnation, state.epoch, log)
    last_offset = engine.last_offset(partition)
    shape = LogShape(
        state.base_offset,
        state.base_epoch,
        state.epochs,
        state.base_offset if last_offset is None else max(last_offset, state.base_offset),
    )
    log = ReplicaLog(shape, state.applied)
    first = state.applied + 1
    while first <= shape.last_offset:
        for entry in engine.entries(partition, first, shape.last_offset, LOG_SEGMENT_BYTES):
            log.restore(first, entry)
            first += 1
    read_memory(engine, partition, log)
    return Replica(partition, name, node, incarnation, state.epoch, log)


def read_memory(engine: Engine, partition: int, log: ReplicaLog) -> None:
    """Remember the request ids in the tail of the log on disk, as far back as a retry can come."""
    log.memory.clear()
    log.memory_is_stale = False
    kept = engine.get(memory_key(partition))
    if kept is not None:
        log.memory.restore(kept)
        log.timestamp_ms = max(log.timestamp_ms, entry_timestamp(kept))
    tail = list(recent_entries(engine, partition))
    if tail:
        log.timestamp_ms = max(log.timestamp_ms, entry_timestamp(tail[0][1]))
    for offset, entry in reversed(tail):
        for request, reply in decode_entry(entry, offset).requests:
            log.memory.remember(request, offset, reply)


def recent_entries(engine: Engine, partition: int) -> Iterator[tuple[int, bytes]]:
    """(offset, entry), the newest first, as far back as a router may ask again.

    A leader's clock may jump, and the next leader's differ from it, so a step between two entries counts for
    half a window at most: the entries of the last `ROUTER_DEADLINE_MS_MAX` survive one jump.
    """
    age_ms, later_ms = 0, None
    for count, (offset, entry) in enumerate(engine.entries_backward(partition)):
        made_ms = entry_timestamp(entry)
        age_ms += min(DEDUPE_WINDOW_MS // 2, 0 if later_ms is None else later_ms - made_ms)
        later_ms = made_ms
        if count >= DEDUPE_ENTRIES_MAX or age_ms > DEDUPE_WINDOW_MS:
            return
        yield offset, entry


def state_of(replica: Replica) -> ReplicaState:
    """What the engine keeps of a replica."""
    shape = replica.log.shape
    return ReplicaState(
        epoch=replica.epoch,
        applied=replica.log.applied,
        base_offset=shape.base_offset,
        base_epoch=shape.base_epoch,
        epochs=shape.epochs,
        installing=replica.installing,
    )


def write_replica(
    batch: Batch, replica: Replica, ranges: tuple[DataRange, ...], segments: Segments
) -> tuple[bool, list[Pending]]:
    """Put a replica's writes of this tick into the batch.

    Returns whether they must be on disk before anybody hears of them, and the entries applied.
    """
    partition = replica.partition
    wipe, truncate, trimmed, entries, changed = replica.log.take_writes()
    taken = replica.take_committed()
    if wipe:
        wipe_replica(batch, partition, ranges)
    if truncate is not None:
        batch.delete_log(partition, *truncate)
    if trimmed is not None:
        batch.delete_log(partition, *trimmed)
        batch.put_data(memory_key(partition), replica.log.encode_memory(trimmed[1] - 1))
    put_log = batch.put_log
    size = 0
    for offset, entry in entries:
        put_log(partition, offset, entry)
        size += len(entry)
    if entries:
        segments.wrote(entries[-1][0], size)
    for pending in taken:
        _apply(batch, partition, pending)
    if changed or taken:
        batch.put_state(partition, state_of(replica))
    return changed, taken


def wipe_replica(batch: Batch, partition: int, ranges: tuple[DataRange, ...]) -> None:
    """Delete everything a replica holds but its state."""
    for start, end in ranges:
        batch.delete_data_range(start, end)
    batch.delete_expiries(partition)
    batch.delete_log(partition, 0, _ALL_OFFSETS)
    batch.delete_data(memory_key(partition))


def _apply(batch: Batch, partition: int, pending: Pending) -> None:
    put_data = batch.put_data
    for kind, key, value, expiry_ms in pending.operations:
        if kind == PUT:
            put_data(key, value)
            if expiry_ms:
                batch.put_expiry(partition, expiry_ms, key)
        elif kind == DELETE:
            batch.delete_data(key)
        else:
            batch.delete_expiry(partition, expiry_ms, key)
