"""A replica that is given the data instead of the log: what ends half-way, and what goes along."""

from __future__ import annotations

from fortdb.model import PartitionRecord
from fortdb.replication.epochs import LogShape, common_offset
from fortdb.replication.leader import Leader
from fortdb.replication.log import ReplicaLog
from fortdb.replication.messages import Align, Append, Position, Query, SnapshotBegin
from fortdb.replication.replica import Replica

LEADER, NEXT_LEADER = "a", "b"
TRIMMED = LogShape().appended(1, 20).trimmed(10)
WHOLE = LogShape().appended(1, 20)


def installing() -> Replica:
    """A follower to which the leader of epoch 1 has begun to send a snapshot."""
    replica = Replica(1, "p-001", "c", "disk-c.1", 0, ReplicaLog(LogShape(), 0))
    assert replica.begin_snapshot(LEADER, SnapshotBegin(1, 1, TRIMMED))
    replica.log.take_writes()
    return replica


def position(replica: Replica) -> Position:
    """What the replica told last of its log."""
    told = replica.acknowledgements[-1][1]
    assert isinstance(told, Position)
    return told


def test_a_leader_with_a_whole_log_feeds_a_follower_whose_snapshot_was_cut_off() -> None:
    """The next leader need not send a snapshot, if its own log was not trimmed yet: then nothing but the
    end of the installation lets the follower go on."""
    replica = installing()
    assert replica.heard_query(NEXT_LEADER, Query(1, 2, 1))
    assert common_offset(WHOLE, position(replica).shape) == 0
    replica.heard_align(NEXT_LEADER, Align(1, 2, 0, 0))
    assert replica.aligned
    writes = replica.log.take_writes()
    assert writes.wipe, "what the snapshot had brought is gone in the batch that says so"
    assert not replica.installing


def test_a_deposed_leader_does_not_end_a_snapshot() -> None:
    replica = installing()
    replica.begin_snapshot(NEXT_LEADER, SnapshotBegin(1, 2, TRIMMED))
    assert not replica.heard_query(LEADER, Query(1, 1, 9))
    assert replica.installing


def test_entries_follow_a_snapshot_when_it_is_in_its_place() -> None:
    """One that came with the end of it would be dropped, and if it was the last, missed for ever."""
    record = PartitionRecord("p-001", LEADER, 2, {LEADER: "disk-a.1"}, (LEADER, "c"), handover=True)
    leader = Leader(LEADER, 1, record, ReplicaLog(WHOLE, 20), 1, 0, 0, 0)
    leader.follower_up("c", "disk-c.1", 0)
    leader.outbox.clear()
    leader.progress["c"].has_all_data(20)
    leader.pump(lambda first, last, bytes_max: [])
    leader.heard_ack("c", 9, 0)  # of what it had before
    leader.pump(lambda first, last, bytes_max: [])
    assert leader.outbox == []
    leader.heard_ack("c", 20, 0)
    leader.pump(lambda first, last, bytes_max: [])
    (message,) = (message for _, message in leader.outbox)
    assert isinstance(message, Append)
    assert message.previous_offset == 20
