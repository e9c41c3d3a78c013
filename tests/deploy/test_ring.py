"""The ring as a whole: the layout that was rendered is the one that lives, and a write is where it ought to be."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from functools import partial
from typing import Any

import pytest

from fortdb.model import Layout, NodeSpec, Partition
from fortdb.ring.tokens import TokenMap
from tests.deploy.deployment import FORTDB, NODE_PORT, Deployment, Machine
from tests.support.waiting import eventually


def test_all_is_well(deployment: Deployment) -> None:
    for router in deployment.of("fortdb_routers"):
        status = router.host.run(f"{FORTDB} status")
        assert status.rc == 0, status.stdout


def test_every_node_of_the_inventory_serves(deployment: Deployment, ring: Any) -> None:
    states = {node["name"]: (node["state"], node["zone"]) for node in ring["nodes"]}
    expected = {
        machine.name: ("serving", machine.zone)
        for machine in deployment.everyone
        if "fortdb_nodes" in machine.groups
    }
    assert states == expected


def test_every_partition_is_led_and_in_sync_over_distinct_zones(ring: Any) -> None:
    zones = {node["name"]: node["zone"] for node in ring["nodes"]}
    replication = ring["layout"]["replication"]
    for partition in ring["partitions"]:
        name = partition["name"]
        assert partition["leader"] is not None, f"{name} has no leader"
        assert set(partition["isr"]) == set(partition["replicas"]), f"{name} is not wholly in sync"
        spread = {zones[node] for node in partition["replicas"]}
        assert len(spread) == min(replication, len(set(zones.values()))), f"{name} is in {spread}"


def test_the_rendered_layout_is_the_live_one(node: Machine, deployment: Deployment) -> None:
    live = deployment.of("fortdb_routers")[0].run_json(f"{FORTDB} layout show")
    rendered = json.loads(node.host.file("/etc/fortdb/layout.json").content_string)
    assert rendered["version"] == live["version"]
    assert rendered["partitions"] == live["partitions"]
    held = [partition["name"] for partition in live["partitions"] if node.name in partition["replicas"]]
    assert rendered["held"][node.name] == held


def test_each_nodes_disk_holds_what_the_layout_says(node: Machine) -> None:
    """As the node's own process tells it, asked on its client port."""
    rendered = json.loads(node.host.file("/etc/fortdb/layout.json").content_string)
    answer = node.ask(NODE_PORT, "RING")
    replicas = json.loads(answer[answer.index("{") : answer.rindex("}") + 1])["replicas"]
    assert sorted(replicas) == sorted(rendered["held"][node.name])


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, deployment: Deployment) -> tuple[str, str]:
    """Where clients connect: the Elastic IP, or else the first router."""
    given = request.config.getoption("--endpoint") or f"{deployment.of('fortdb_routers')[0].address}:5000"
    host, _, port = given.partition(":")
    return host, port or "5000"


def test_a_write_is_on_the_disks_of_the_right_nodes(
    deployment: Deployment, endpoint: tuple[str, str], ring: Any
) -> None:
    host, port = endpoint
    key = f"deploy-check-{uuid.uuid4()}"

    def fortdb(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "fortdb", "--host", host, "--port", port, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    fortdb("put", key, "written from afar")
    assert fortdb("get", key) == "written from afar"
    partition = _partition_of(ring, key)
    for node in deployment.of("fortdb_nodes"):
        if node.name in partition["replicas"]:  # a follower shows a write when it hears that it is committed
            eventually(f"{node.name} has it", partial(_says, node, key, "written from afar"))
        else:
            assert _says(node, key, "does not hold"), f"{node.name} has it"
    fortdb("delete", key)


def _says(node: Machine, key: str, words: str) -> bool:
    return words in node.ask(NODE_PORT, f"GET {key} STALE")


def _partition_of(ring: Any, key: str) -> Any:
    partitions = tuple(
        Partition(p["id"], p["name"], int(p["token"], 16), tuple(p["replicas"])) for p in ring["partitions"]
    )
    tokens = TokenMap(Layout(1, 1, 1, {"-": NodeSpec("-")}, partitions))
    _, found = tokens.locate(key.encode())
    return next(p for p in ring["partitions"] if p["name"] == found.name)
