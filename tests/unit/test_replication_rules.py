"""The rules of the replication essay, one readable script each, on the real state machines."""

from __future__ import annotations

import random

import pytest

from fortdb.model import PartitionRecord
from fortdb.replication.entries import Kind, Operation, encode_entry, encode_operation
from fortdb.replication.epochs import LogShape
from fortdb.replication.leader import Leader
from fortdb.replication.log import ReplicaLog
from fortdb.replication.progress import Phase
from tests.unit.replication_simulation import LAG_MS, LEASE_MS, Cluster, Node


def ready() -> tuple[Cluster, Node, Node, Node]:
    """A cluster in which one node leads with everybody in sync: (cluster, leader, follower, follower)."""
    cluster = Cluster()
    cluster.settle()
    assert cluster.record is not None and cluster.record.leader is not None
    leader = cluster.nodes[cluster.record.leader]
    followers = [node for node in cluster.nodes.values() if node is not leader]
    return cluster, leader, followers[0], followers[1]


def exchange(cluster: Cluster, rounds: int = 6) -> None:
    """Let messages flow and ticks happen, while neither time passes nor records change."""
    for _ in range(rounds):
        for pair in list(cluster.wires):
            while cluster.deliver(*pair):
                pass
        for node in list(cluster.nodes.values()):
            node.tick()


def test_rule_2_a_replica_refuses_a_lower_epoch_than_it_has_seen() -> None:
    cluster, old, new, other = ready()
    for follower in (new, other):
        cluster.cut(old.name, follower.name)
    cluster.revoke(old.name)
    cluster.control()
    assert cluster.record is not None and cluster.record.leader in (
        new.name,
        other.name,
    )
    cluster.watch(new.name)
    cluster.watch(other.name)
    exchange(cluster)
    cluster.mend()
    old.write(b"k", b"late")
    exchange(cluster)
    assert old.replica.leading is None, "it was told of the higher epoch"
    assert not cluster.acknowledged


def test_rule_3_an_answer_waits_for_every_member_of_the_isr() -> None:
    cluster, leader, quick, _slow = ready()
    ask = leader.write(b"k", b"v")
    assert ask is not None
    leader.tick()
    cluster.deliver(leader.name, quick.name)
    quick.tick()
    cluster.deliver(quick.name, leader.name)
    leader.tick()
    assert not ask.answered, "one of two followers is not enough"
    exchange(cluster)
    assert ask.answered


def test_rule_3_too_few_in_sync_refuse_a_write_before_it_begins() -> None:
    cluster, leader, one, other = ready()
    cluster.crash(one.name)
    cluster.crash(other.name)
    cluster.now_ms += LEASE_MS + 1
    cluster.keep_alive(leader.name)
    cluster.tend(leader.name)
    last = leader.replica.log.last_offset
    assert leader.replica.leading is not None and not leader.replica.leading.enough_in_sync()
    assert leader.write(b"k", b"v") is None
    leader.tick()
    assert leader.replica.log.last_offset == last


def test_rule_4_a_removed_replica_is_waited_for_until_the_store_agrees() -> None:
    cluster, leader, alive, dead = ready()
    cluster.crash(dead.name)
    ask = leader.write(b"k", b"v")
    exchange(cluster)
    cluster.now_ms += LAG_MS + 1
    leading = leader.replica.leading
    assert leading is not None
    leading.progress[alive.name].caught_up_ms = cluster.now_ms
    change = cluster._change(leading)
    assert change is not None and dead.name not in change.isr
    exchange(cluster)
    assert ask is not None and not ask.answered, "proposed is not accepted"
    cluster.tend(leader.name)
    exchange(cluster)
    assert ask.answered


def test_rule_4_a_lost_answer_of_the_store_keeps_the_larger_set() -> None:
    cluster, leader, alive, dead = ready()
    cluster.crash(dead.name)
    cluster.now_ms += LAG_MS + 1
    leading = leader.replica.leading
    assert leading is not None
    leading.progress[alive.name].caught_up_ms = cluster.now_ms
    cluster.tend(leader.name, lose_answer=True)
    assert cluster.record is not None and dead.name not in cluster.record.isr
    ask = leader.write(b"k", b"v")
    exchange(cluster)
    assert ask is None or not ask.answered
    assert (dead.name, dead.incarnation) in leading.in_sync.members()
    cluster.tend(leader.name)  # asked again: the store shows the newer record
    exchange(cluster)
    assert (dead.name, dead.incarnation) not in leading.in_sync.members()


def test_rule_5_and_9_a_restarted_replica_is_out_of_the_isr_until_it_has_caught_up() -> None:
    cluster, leader, follower, _ = ready()
    cluster.crash(follower.name)
    cluster.start(follower.name)
    restarted = cluster.nodes[follower.name]
    cluster.tend(leader.name)
    assert cluster.record is not None and follower.name not in cluster.record.isr
    exchange(cluster)
    leader.beat()  # whoever is in sync has promised to serve nothing beside the leader
    cluster.tend(leader.name)
    assert cluster.record.isr[follower.name] == restarted.incarnation


def test_rule_6_nobody_outside_the_isr_is_elected() -> None:
    cluster, leader, one, other = ready()
    for follower in (one, other):
        cluster.crash(follower.name)
    cluster.now_ms += LEASE_MS + 1
    cluster.keep_alive(leader.name)
    cluster.tend(leader.name)
    assert cluster.record is not None and set(cluster.record.isr) == {leader.name}
    cluster.crash(leader.name)
    cluster.start(one.name)
    cluster.start(other.name)
    cluster.now_ms += LEASE_MS + 1
    for name in (one.name, other.name):
        cluster.keep_alive(name)
    epoch = cluster.record.epoch
    cluster.control()
    assert cluster.record.epoch == epoch and cluster.record.leader == leader.name


def test_rule_7_a_log_is_truncated_by_epochs_not_by_its_own_commit_offset() -> None:
    cluster, old, new, other = ready()
    kept = old.write(b"k", b"kept")
    exchange(cluster)
    assert kept is not None and kept.answered
    for follower in (new, other):
        cluster.cut(old.name, follower.name)
    old.write(b"k", b"lost")
    old.tick()
    assert old.replica.log.last_offset == new.replica.log.last_offset + 1
    cluster.revoke(old.name)
    cluster.control()
    cluster.settle()
    cluster.check()
    assert cluster.nodes[old.name].disk.data[b"k"] == b"kept"


def test_rule_8_a_new_leader_serves_only_after_its_no_op_is_committed() -> None:
    cluster, old, new, other = ready()
    cluster.crash(old.name)
    cluster.now_ms += LEASE_MS + 1
    for follower in (new, other):
        cluster.keep_alive(follower.name)
    cluster.control()
    assert cluster.record is not None
    elected = cluster.nodes[cluster.record.leader or ""]
    cluster.watch(elected.name)
    assert elected.replica.leading is not None
    elected.beat()
    assert not elected.serves()
    for node in (new, other):
        cluster.watch(node.name)
    exchange(cluster)
    elected.beat()
    assert elected.serves()


def test_rule_9_an_emptied_disk_never_leads() -> None:
    cluster, leader, _, _ = ready()
    for name in list(cluster.nodes):
        cluster.crash(name)
    cluster.empty_disk(leader.name)
    cluster.start(leader.name)
    cluster.now_ms += LEASE_MS + 1
    cluster.keep_alive(leader.name)
    assert cluster.record is not None
    epoch = cluster.record.epoch
    cluster.control()
    assert cluster.record.epoch == epoch, "only the emptied node is there: nobody is elected"
    cluster.settle()
    cluster.check()


def test_rule_10_a_follower_acknowledges_only_what_it_has_written() -> None:
    cluster, leader, follower, _ = ready()
    leader.write(b"k", b"v")
    leader.tick()
    cluster.deliver(leader.name, follower.name)
    assert not cluster.wires.get((follower.name, leader.name)), "received is not written"
    follower.tick()
    assert cluster.wires[(follower.name, leader.name)]


def test_rules_11_and_14_a_leader_whose_lease_was_revoked_serves_no_read_beside_the_next_one() -> None:
    cluster, old, new, other = ready()
    old.beat()
    cluster.revoke(old.name)  # old does not know, and believes in its lease
    cluster.control()
    for node in (new, other):
        cluster.watch(node.name)
    exchange(cluster, rounds=1)
    for _ in range(30):
        for node in (new, other):
            cluster.keep_alive(node.name)
            node.beat()
            node.tick()
        for pair in ((new.name, other.name), (other.name, new.name)):
            while cluster.deliver(*pair):
                pass
        serving = [node.name for node in (old, new, other) if node.serves()]
        assert len(serving) <= 1, serving
        cluster.now_ms += LEASE_MS // 10
    assert serving and serving != [old.name]


@pytest.mark.parametrize("hands_over", [False, True])
def test_rules_11_and_14_nor_beside_the_one_after_that(hands_over: bool) -> None:
    """The second leader is gone, or hands over, before it was its turn to serve: that it is over says nothing of
    the first, whose promises still hold."""
    cluster, first, *followers = ready()
    first.beat()
    for follower in followers:
        cluster.cut(first.name, follower.name)
    cluster.revoke(first.name)
    cluster.control()
    assert cluster.record is not None
    second = cluster.nodes[cluster.record.leader or ""]
    third = next(node for node in followers if node is not second)
    for node in (second, third):
        cluster.watch(node.name)
    exchange(cluster)
    if hands_over:
        assert second.replica.leading is not None
        second.replica.leading.transfer_to = third.name
        for _ in range(3):
            exchange(cluster)
            cluster.tend(second.name)
    else:
        cluster.crash(second.name)
        cluster.start(second.name)
        cluster.control()
    assert cluster.record.leader == third.name
    cluster.watch(third.name)
    for _ in range(30):
        third.beat()
        exchange(cluster)
        cluster.tend(third.name)
        assert not (first.serves() and third.serves())
        cluster.now_ms += LEASE_MS // 10
        cluster.keep_alive(third.name)
    assert third.serves()


def test_rule_14_a_paused_leader_does_not_serve_when_it_wakes() -> None:
    cluster, leader, _one, _other = ready()
    leader.beat()
    assert leader.serves()
    cluster.now_ms += LEASE_MS + 1  # nothing happened in between: it was stopped
    assert not leader.serves()


def test_rule_16_a_retried_request_is_applied_once_by_the_next_leader() -> None:
    from fortdb.replication.entries import Kind, Operation, RequestId

    cluster, old, new, other = ready()
    leading = old.replica.leading
    assert leading is not None
    request = RequestId(session=7, sequence=1, watermark=1)
    leading.propose([Operation(Kind.PUT, b"n", b"1")], request, b":1\r\n", cluster.now_ms)
    exchange(cluster)
    cluster.crash(old.name)
    cluster.now_ms += LEASE_MS + 1
    for node in (new, other):
        cluster.keep_alive(node.name)
    cluster.settle()
    assert cluster.record is not None
    elected = cluster.nodes[cluster.record.leader or ""]
    found = elected.replica.log.memory.find(request)
    assert found is not None and found[1] == b":1\r\n"


def test_a_planned_handover_loses_nothing_and_needs_no_wait() -> None:
    cluster, old, new, _ = ready()
    leading = old.replica.leading
    assert leading is not None
    ask = old.write(b"k", b"v")
    leading.transfer_to = new.name
    assert old.write(b"k", b"w") is None, "held while it is handed over"
    exchange(cluster)
    assert ask is not None and ask.answered
    cluster.tend(old.name)
    assert cluster.record is not None and cluster.record.leader == new.name
    for name in cluster.nodes:
        cluster.watch(name)
    exchange(cluster)
    new.beat()
    assert new.serves()


def test_a_follower_that_was_away_catches_up_from_the_log() -> None:
    cluster, leader, away, _ = ready()
    cluster.crash(away.name)
    cluster.tend(leader.name)
    for count in range(5):
        leader.beat()
        leader.write(b"k", b"%d" % count)
        exchange(cluster)
    cluster.start(away.name)
    cluster.settle()
    current = cluster.nodes[cluster.record.leader or ""] if cluster.record else leader
    assert current.replica.leading is not None
    assert all(p.phase is Phase.STREAM for p in current.replica.leading.progress.values())
    cluster.check()


@pytest.mark.chaos
def test_nothing_is_lost_in_many_more_schedules() -> None:
    for seed in range(1000, 6000):
        try:
            run_schedule(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("seed", range(150))
def test_nothing_acknowledged_is_lost_whatever_happens(seed: int) -> None:
    run_schedule(seed)


def run_schedule(seed: int) -> None:
    """Random schedules of crashes, cuts, lost answers, revoked leases and an emptied disk (never
    the last one in sync), then healing: every acknowledged write is there, all replicas agree,
    no epoch had two leaders, no two nodes serve at once, a read never goes back behind an acknowledged
    write, and ids grow along the log whatever the clocks of the nodes say."""
    choose = random.Random(seed)
    cluster = Cluster(min_in_sync=choose.choice([1, 2, 2]))
    counter = 0
    emptied = 0
    latest: dict[bytes, int] = {}
    for _ in range(400):
        cluster.now_ms += choose.choice([0, 1, 10, 60, 300])
        name = choose.choice(sorted(cluster.disks))
        node = cluster.nodes.get(name)
        other = choose.choice(sorted(cluster.disks))
        action = choose.random()
        for alive in list(cluster.nodes):
            if choose.random() < 0.7:
                cluster.keep_alive(alive)
        if node is None:
            if action < 0.3:
                isr = cluster.record.isr if cluster.record is not None else {}
                if emptied == 0 and action < 0.03 and set(isr) - {name}:
                    cluster.empty_disk(name)
                    emptied += 1
                cluster.start(name)
        elif action < 0.02:
            cluster.crash(name)
        elif action < 0.04:
            node.tick(choose.choice(["before", "after"]))
        elif action < 0.06 and name != other:
            cluster.cut(name, other)
        elif action < 0.10:
            cluster.mend()
        elif action < 0.12:
            cluster.revoke(name)
        elif action < 0.30:
            counter += 1
            node.write(b"k%d" % (counter % 3), b"%d" % counter)
        elif action < 0.36:
            cluster.tend(name, lose_answer=choose.random() < 0.3)
        elif action < 0.42:
            cluster.control()
        elif action < 0.55:
            cluster.watch(name)
        elif action < 0.65:
            node.beat()
        elif action < 0.80:
            node.tick()
        elif action < 0.82:
            node.trim(choose.random())
        elif action < 0.84:
            node.skew_ms = choose.choice([-100_000, -1_000, 0, 1_000, 50_000])
        serving = [one.name for one in cluster.nodes.values() if one.serves()]
        assert len(serving) <= 1, f"{serving} serve at once"
        if node is not None and name in cluster.nodes:
            for ask in cluster.acknowledged:
                latest[ask.key] = max(latest.get(ask.key, 0), int(ask.value))
            seen = node.read(b"k1")
            if seen is not None and seen[1]:
                assert int(seen[0] or 0) >= latest.get(b"k1", 0), "a stale read"
        for pair in list(cluster.wires):
            for _ in range(choose.randrange(3)):
                cluster.deliver(*pair)
    cluster.settle()
    cluster.check()


def test_a_new_leader_counts_what_it_inherited() -> None:
    """Else the bound on what waits for followers would be looser by that for the whole epoch."""
    operation = Operation(Kind.PUT, b"key", bytes(1000))
    log = ReplicaLog(LogShape(), 0)
    log.append(1, encode_entry(1, 1, 1, [encode_operation(operation)]), [operation])
    inherited = len(log.pending[0].entry)
    record = PartitionRecord("p-000", "node", 2, {"node": "life"}, ("node",))
    leader = Leader("node", 0, record, log, 1, 0, 0, 1)
    assert leader.uncommitted_bytes > inherited
    leader.applied(list(log.pending))
    assert leader.uncommitted_bytes == 0
