"""A replica that is given the data instead of the log: what ends half-way, and what goes along."""

from __future__ import annotations

from fortdb.replication.epochs import LogShape, common_offset
from fortdb.replication.log import ReplicaLog
from fortdb.replication.messages import Align, Position, Query, SnapshotBegin
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
