"""A request that was applied is remembered for as long as a router may repeat it: through snapshots, a log
that was trimmed, restarts, and clocks that jump (rule 16)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fortdb.limits import (
    MEMORY_BYTES_MAX,
    ROUTER_DEADLINE_MS_MAX,
    SNAPSHOT_HISTORY_BYTES,
)
from fortdb.model import PartitionRecord
from fortdb.node.disk import DataRange, Segments, open_replica, write_replica
from fortdb.node.snapshots import SnapshotInstall, SnapshotSender
from fortdb.replication.dedupe import RequestMemory
from fortdb.replication.entries import Kind, Operation, RequestId
from fortdb.replication.messages import SnapshotBegin, SnapshotChunk, SnapshotEnd, decode, encode
from fortdb.replication.replica import Replica
from fortdb.storage.keys import data_bound
from fortdb.storage.rocks import RocksEngine
from tests.storage.engines import open_engine

PARTITION = 1
RANGES: tuple[DataRange, ...] = ((data_bound(0), data_bound(1 << 64)),)
OURS = RequestId(session=7, sequence=1, watermark=1)
OTHERS = 8
REPLY = b":1\r\n"
NOW_MS = 1_000_000


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RocksEngine]:
    opened = open_engine(tmp_path / "a")
    yield opened
    opened.close()


def replica_on(engine: RocksEngine, node: str, state: bool = False) -> Replica:
    stored = engine.states().get(PARTITION) if state else None
    return open_replica(engine, PARTITION, "p-001", node, f"disk-{node}.1", stored)


def tick(engine: RocksEngine, replica: Replica, install: SnapshotInstall | None = None) -> None:
    """What a node writes in one."""
    batch = engine.batch()
    _, taken = write_replica(batch, replica, RANGES, Segments())
    if install is not None:
        install.write(batch, PARTITION)
    engine.write(batch, False)
    if replica.leading is not None:
        replica.leading.applied(taken)
    replica.synced()


def leading(engine: RocksEngine) -> Replica:
    """A replica that leads alone."""
    replica = replica_on(engine, "a")
    record = PartitionRecord("p-001", "a", 1, {"a": "disk-a.1"}, ("a", "b"), handover=True)
    assert replica.adopt(record, 1, NOW_MS, NOW_MS)
    tick(engine, replica)
    return replica


def put(
    engine: RocksEngine, replica: Replica, request: RequestId, value: bytes, now_ms: int = NOW_MS
) -> None:
    leader = replica.leading
    assert leader is not None
    leader.propose([Operation(Kind.PUT, data_bound(5) + b"k", value)], request, REPLY, now_ms)
    leader.seal(now_ms)
    tick(engine, replica)


def put_more(engine: RocksEngine, replica: Replica, total_bytes: int) -> None:
    """What other routers write meanwhile."""
    value = bytes(1 << 19)
    for number in range(total_bytes // len(value) + 1):
        put(engine, replica, RequestId(OTHERS, number + 1, number + 1), value)


def remembers(replica: Replica) -> bool:
    found = replica.log.memory.find(OURS)
    return found is not None and found[1] == REPLY


def test_what_is_remembered_comes_back_from_bytes() -> None:
    memory, copy = RequestMemory(), RequestMemory()
    for sequence in range(1, 7):
        memory.remember(RequestId(7, sequence, 3), sequence * 10, b":%d\r\n" % sequence)
    copy.restore(memory.encode(50, 0))
    assert [copy.find(RequestId(7, sequence, 0)) for sequence in (3, 5, 6)] == [
        (0, b":3\r\n"),
        (0, b":5\r\n"),
        None,
    ]
    assert copy.is_stale(RequestId(7, 2, 2))


def test_of_more_than_fits_into_a_frame_the_newest_goes_along() -> None:
    memory, copy = RequestMemory(), RequestMemory()
    for sequence in range(1, 4):
        memory.remember(RequestId(7, sequence, 1), sequence, bytes(MEMORY_BYTES_MAX // 2 - 1000))
    copy.restore(memory.encode(3, 0))
    assert [copy.find(RequestId(7, sequence, 1)) is not None for sequence in (1, 2, 3)] == [False, True, True]


def test_a_leader_made_by_snapshot_knows_what_the_tail_of_the_log_does_not_tell(
    engine: RocksEngine, tmp_path: Path
) -> None:
    leader = leading(engine)
    put(engine, leader, OURS, b"1")
    put_more(engine, leader, 2 * SNAPSHOT_HISTORY_BYTES)
    assert leader.leading is not None
    leader.leading.follower_up("b", "disk-b.1", NOW_MS)
    leader.leading.progress["b"].needs_snapshot()
    sender = SnapshotSender(engine, leader.leading, "b", RANGES)
    while sender.step():
        sender.acknowledged(1 << 30)
    other = open_engine(tmp_path / "b")
    follower, install = replica_on(other, "b"), None
    for _, message in leader.leading.outbox:
        frame = encode(message)
        match decode(frame[4], frame[5:]):
            case SnapshotBegin() as begin:
                follower.begin_snapshot("a", begin)
                install = SnapshotInstall("a", 1, begin.shape)
            case SnapshotChunk() as chunk:
                assert install is not None
                install.add(chunk)
            case SnapshotEnd() as end:
                assert install is not None
                install.end(end)
    assert install is not None and install.is_complete
    tick(other, follower, install)
    follower.end_snapshot("a", install.shape)
    tick(other, follower)
    assert remembers(replica_on(other, "b", state=True))
    other.close()


def test_a_log_that_was_trimmed_leaves_its_requests_behind(engine: RocksEngine) -> None:
    replica = leading(engine)
    put(engine, replica, OURS, b"1")
    put_more(engine, replica, 1 << 20)
    replica.log.trim(replica.log.applied)
    before = replica_on(engine, "a", state=True)
    assert before.log.shape.base_offset == 0, "neither is on disk without the other"
    assert remembers(before)
    tick(engine, replica)
    after = replica_on(engine, "a", state=True)
    assert after.log.shape.base_offset == after.log.shape.last_offset
    assert remembers(after)


@pytest.mark.parametrize("jump_ms", [0, 10_000_000])
def test_a_clock_that_jumps_makes_nobody_forget(engine: RocksEngine, jump_ms: int) -> None:
    replica = leading(engine)
    put(engine, replica, OURS, b"1")
    later_ms = NOW_MS + ROUTER_DEADLINE_MS_MAX + jump_ms
    put(engine, replica, RequestId(OTHERS, 1, 1), b"2", later_ms - 1)
    put(engine, replica, RequestId(OTHERS, 2, 2), b"3", later_ms)
    assert remembers(replica_on(engine, "a", state=True))


def test_a_log_without_entries_knows_what_time_it_was(engine: RocksEngine) -> None:
    """Ids begin above that: a leader whose clock is behind gives none again."""
    replica = leading(engine)
    put(engine, replica, OURS, b"1", NOW_MS + 5_000)
    assert replica.leading is not None
    given = replica.leading.new_id(NOW_MS + 9_000)
    put(engine, replica, RequestId(OTHERS, 1, 1), b"2", NOW_MS)
    replica.log.trim(replica.log.applied)
    tick(engine, replica)
    after = replica_on(engine, "a", state=True)
    record = PartitionRecord("p-001", "a", 2, {"a": "disk-a.1"}, ("a", "b"), handover=True)
    assert after.adopt(record, 1, NOW_MS, NOW_MS - 1_000_000)
    assert after.leading is not None
    assert after.leading.new_id(NOW_MS - 1_000_000) > given


def test_ids_of_an_epoch_grow_whatever_the_clock_says(engine: RocksEngine) -> None:
    leader = leading(engine).leading
    assert leader is not None
    given = [leader.new_id(NOW_MS + ms) for ms in (5, 5, 3, -1_000, 6)]
    assert given == sorted(set(given))
