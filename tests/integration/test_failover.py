"""What the ring promises when something dies, held against what clients were told meanwhile."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fortdb.cli.layout import arrived
from fortdb.client import Client, LayoutPlan
from fortdb.errors import FortError
from fortdb.local.etcd import EtcdCluster
from fortdb.local.ring import LocalRing
from tests.support.load import Load
from tests.support.rings import (
    LEASE_MS,
    keys_of_partition,
    partition_of,
    running_ring,
    status_of,
    wait_healthy,
)
from tests.support.waiting import eventually


def led_by(ring: LocalRing, node: str) -> list[str]:
    return [partition.name for partition in status_of(ring).partitions if partition.leader == node]


def tags_led_by(ring: LocalRing, node: str, count: int = 3) -> list[str]:
    """Tags whose keys fall into partitions that a node leads."""
    return [keys_of_partition(ring, name, 1, "tag")[0] for name in led_by(ring, node)[:count]]


def some_progress(load: Load, writes: int = 200) -> None:
    so_far = load.acknowledged_total
    eventually(f"{writes} more writes", lambda: load.acknowledged_total >= so_far + writes, within_s=60)


def test_a_killed_leader_loses_nothing_and_writes_resume(tmp_path: Path, etcd_cluster: EtcdCluster) -> None:
    with running_ring(tmp_path, etcd=tuple(etcd_cluster.endpoints)) as ring:
        tags = tags_led_by(ring, "node-2")
        with Load([ring.shape.port], tags) as load:
            some_progress(load)
            killed_at_s = time.monotonic()
            ring.process("node-2").kill()
            some_progress(load)
            resumed_after_s = load.first_acknowledged_after_s(killed_at_s + 0.1) + 0.1
            ring.process("node-2").start()
            some_progress(load)
        assert load.failures == []
        assert resumed_after_s <= LEASE_MS / 1000 + 2, f"writes resumed after {resumed_after_s:.2f} s"
        wait_healthy(ring)
        with ring.client() as client:
            load.check(client)


def test_a_planned_switchover_fails_no_request(tmp_path: Path, etcd_cluster: EtcdCluster) -> None:
    with running_ring(tmp_path, etcd=tuple(etcd_cluster.endpoints)) as ring:
        partition = partition_of(ring)
        tag = keys_of_partition(ring, partition.name, 1, "tag")[0]
        with Load([ring.shape.port], [tag]) as load, ring.client() as client:
            for target in (*partition.followers, partition.leader):
                assert target is not None
                some_progress(load)
                client.move_leader(partition.name, target)
                eventually("the move shows", partial(_leads, ring, target))
            some_progress(load)
        assert load.failures == []
        with ring.client() as client:
            load.check(client)


def test_a_node_that_is_told_to_stop_fails_no_request(tmp_path: Path, etcd_cluster: EtcdCluster) -> None:
    with running_ring(tmp_path, etcd=tuple(etcd_cluster.endpoints)) as ring:
        tags = tags_led_by(ring, "node-1")
        with Load([ring.shape.port], tags) as load:
            some_progress(load)
            ring.process("node-1").stop()
            assert ring.process("node-1").pid is None
            some_progress(load)
            ring.process("node-1").start()
            some_progress(load)
        assert load.failures == []
        log = ring.process("node-1").log_path
        eventually("the node sees that it was stopped cleanly", lambda: "was_clean=true" in log.read_text())
        wait_healthy(ring)
        with ring.client() as client:
            load.check(client)


def test_a_paused_leader_serves_nothing_stale_when_it_wakes(
    tmp_path: Path, etcd_cluster: EtcdCluster
) -> None:
    """Rule 14: a client that talks to the paused node itself, with a request in its socket already."""
    with running_ring(tmp_path, etcd=tuple(etcd_cluster.endpoints)) as ring:
        key = keys_of_partition(ring, "p-000", 1)[0]
        leader = partition_of(ring).leader
        assert leader is not None
        address = next(node.client_address for node in status_of(ring).nodes if node.name == leader)
        port = int(address.rpartition(":")[2])
        with ring.client() as client, Client("127.0.0.1", port, timeout_s=5) as direct:
            client.put(key, "before")
            assert direct.get(key) == b"before"
            ring.process(leader).pause()
            eventually("another leads", lambda: partition_of(ring).leader not in (None, leader), within_s=20)
            eventually("a write is taken", lambda: client.put(key, "after"), within_s=20)
            ring.process(leader).resume()
            answers = [client.get(key)]
            with contextlib.suppress(FortError):  # it says that it does not lead, or has hung up
                answers.append(direct.get(key))
            assert answers.count(b"before") == 0, answers
        wait_healthy(ring)


@pytest.mark.chaos
def test_a_node_with_an_emptied_disk_comes_back_by_snapshot(tmp_path: Path) -> None:
    with running_ring(tmp_path) as ring, ring.client() as client:
        for start in range(0, 3000, 500):
            client.put_many({f"key-{number}": "x" * 200 for number in range(start, start + 500)})
        process = ring.process("node-3")
        process.kill()
        shutil.rmtree(process.directory / "data")
        with Load([ring.shape.port], ["a", "b", "c"], writers=2) as load:
            some_progress(load)
            process.start()
            wait_healthy(ring)
        assert load.failures == []
        load.check(client)
        for name in ("node-1", "node-2"):
            ring.process(name).stop()
        # Too few for writes, but the one that was empty has everything.
        stale = {f"key-{number}": client.get(f"key-{number}", stale=True) for number in range(0, 3000, 100)}
        assert set(stale.values()) == {b"x" * 200}


@pytest.mark.chaos
def test_all_nodes_lose_power_at_once(tmp_path: Path) -> None:
    # As long as three nodes may take to start on two processors.
    patient = {"routing": {"deadline_ms": 25_000}}
    with running_ring(tmp_path, router=patient) as ring, ring.client() as client:
        with Load([ring.shape.port], ["a", "b", "c", "d"]) as load:
            some_progress(load, 500)
            for process in ring.nodes.values():
                process.kill()
            for process in ring.nodes.values():
                process.start()
            some_progress(load)
        assert load.failures == []
        wait_healthy(ring)
        load.check(client)


@pytest.mark.chaos
def test_etcd_out_of_reach_and_back(tmp_path: Path, etcd: EtcdCluster) -> None:
    """Rule 13: nobody is elected, what cannot be known to be safe is not served, all heals by itself."""
    with running_ring(tmp_path, etcd=tuple(etcd.endpoints)) as ring, ring.client() as client:
        epochs = {partition.name: partition.epoch for partition in status_of(ring).partitions}
        with Load([ring.shape.port], ["a", "b", "c"]) as load:
            some_progress(load)
            for member in range(etcd.size):
                etcd.pause(member)
            time.sleep(LEASE_MS / 1000)  # not a race: the outage is to outlast the lease
            for member in range(etcd.size):
                etcd.resume(member)
            some_progress(load)
        wait_healthy(ring)
        load.check(client)
        assert all(partition.epoch >= epochs[partition.name] for partition in status_of(ring).partitions)


@pytest.mark.chaos
@pytest.mark.parametrize("store", ["sqlite", "etcd"])
def test_the_ring_grows_and_shrinks_under_load(
    tmp_path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    etcd = tuple(request.getfixturevalue("etcd_cluster").endpoints) if store == "etcd" else ()
    with running_ring(tmp_path, etcd=etcd) as ring:
        with Load([ring.shape.port], ["a", "b", "c", "d", "e"]) as load:
            some_progress(load)
            grown = LocalRing(ring.directory, replace(ring.shape, nodes=4))
            try:
                grown.up()
                with grown.client() as client:
                    plan = client.plan_layout()
                    assert any("node-4" in move.add for move in plan.moves)
                    client.apply_layout(plan)
                    eventually("the new replicas are in place", partial(_is_done, grown, plan), within_s=60)
                    some_progress(load)
                    plan = client.plan_layout(remove=["node-1"])
                    client.apply_layout(plan)
                    eventually("node-1 holds nothing", partial(_is_done, grown, plan), within_s=60)
                    held = [p.name for p in client.ring().partitions if "node-1" in (*p.replicas, *p.isr)]
                    assert held == []
                    some_progress(load)
                    load.stop()
                    load.check(client)
            finally:
                grown.process("node-4").kill()
        assert load.failures == []


def _is_done(ring: LocalRing, plan: LayoutPlan) -> bool:
    status = status_of(ring)  # which may be of a moment before the router knew of the plan
    return all(arrived(move, status) for move in plan.moves)


def _leads(ring: LocalRing, node: str) -> bool:
    return partition_of(ring).leader == node
