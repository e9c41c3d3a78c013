"""`fortdb why KEY` on a real ring: well, without a follower, without its leader, with too few in sync."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fortdb.cli.main import main
from fortdb.client import Client, Explanation
from fortdb.errors import BadRequest, NotEnoughReplicas
from fortdb.local.ring import LocalRing
from fortdb.ring.tokens import token_of
from tests.support.rings import LONG_LEASE, partition_of, running_ring, wait_healthy
from tests.support.waiting import eventually

KEY = "orders/{user:1}"


def fortdb(ring: LocalRing, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--port", str(ring.shape.port), *arguments], env={"COLUMNS": "200"})


def why(ring: LocalRing, key: str = KEY) -> Explanation:
    with ring.client() as client:
        return client.why(key)


def blocked(found: Explanation) -> list[str]:
    return [finding.text for finding in found.findings if finding.level == "blocked"]


def followers_of(found: Explanation) -> list[str]:
    return [replica.node for replica in found.replicas if not replica.is_leader]


def test_a_healthy_partition_and_one_whose_follower_is_down(tmp_path: Path) -> None:
    with running_ring(tmp_path) as ring, ring.client() as client:
        client.create_keyspace("orders")
        client.put(KEY, "1")
        eventually("the router knows the keyspace", lambda: why(ring).keyspace == "orders")
        eventually("its followers are level", lambda: all(one.lag == 0 for one in why(ring).replicas))
        _check_healthy(ring, client)

        follower = followers_of(why(ring))[0]
        ring.process(follower).kill()
        eventually("the leader misses it", lambda: blocked(why(ring)), within_s=2)
        found = why(ring)
        assert found.verdict == "blocked"
        assert any(
            f"{follower} is gone and in sync by the record: writes wait" in one for one in blocked(found)
        )
        assert {finding.blocks for finding in found.findings if finding.level == "blocked"} == {"writes"}

        eventually("it is let go", lambda: why(ring).verdict == "degraded", within_s=20)
        shown = fortdb(ring, "why", KEY)
        assert shown.exit_code == 2
        assert f"2 of 3 in sync, without {follower} (" in shown.output
        assert "degraded: reads and writes are served" in shown.output
        client.put(KEY, "2")
        eventually("its lease has ended", lambda: f"without {follower} (down)" in _texts(ring), within_s=20)
        ring.process(follower).start()
        wait_healthy(ring)
        assert fortdb(ring, "why", KEY).exit_code == 0


def _check_healthy(ring: LocalRing, client: Client) -> None:
    shown = fortdb(ring, "why", KEY)
    assert shown.exit_code == 0, shown.output
    assert "served: nothing stands in the way of a read or a write" in shown.output
    answer = json.loads(fortdb(ring, "why", KEY, "--json").output)
    token = f"{token_of(KEY.encode()):016x}"
    assert (answer["hashed"], answer["token"], answer["hash"][:16]) == ("user:1", token, token)
    assert answer["keyspace"] == {"name": "orders", "ack": "sync"}
    status = partition_of(ring, answer["partition"]["name"])
    assert any(first <= token <= last for first, last in answer["partition"]["ranges"])
    assert (answer["route"]["leader"], answer["route"]["epoch"]) == (status.leader, status.epoch)
    assert (answer["record"]["leader"], answer["record"]["epoch"]) == (status.leader, status.epoch)
    assert answer["route"]["is_up"]
    assert answer["route"]["address"] == next(
        node.peer_address for node in client.ring().nodes if node.name == status.leader
    )
    assert sorted(answer["layout"]["replicas"]) == ["node-1", "node-2", "node-3"]
    for replica in answer["replicas"]:
        assert (replica["state"], replica["in_sync"], replica["lag"]) == ("serving", True, 0)
        assert replica["lag_ms"] < 5_000
        assert replica["last_offset"] == answer["replicas"][0]["last_offset"]
    for text in (token, answer["hash"], status.name, "keyspace orders"):
        assert text in shown.output
    assert why(ring, "elsewhere/1").keyspace is None
    with pytest.raises(BadRequest, match="longer than"):
        client.why("x" * 20_000)


@pytest.mark.chaos
def test_a_leader_that_died_a_moment_ago_and_one_that_stands_still(tmp_path: Path) -> None:
    """Before its lease has ended nobody else leads, and that is what it says."""
    with running_ring(tmp_path, node=LONG_LEASE) as ring, ring.client() as client:
        client.put(KEY, "1")
        leader, epoch = why(ring).route.leader, why(ring).route.epoch
        assert leader is not None
        ring.process(leader).kill()
        eventually("the router misses it", lambda: why(ring).verdict == "blocked", within_s=2)
        shown = fortdb(ring, "why", KEY)
        assert shown.exit_code == 3
        assert f"reads and writes blocked: this router has no connection to {leader}" in shown.output
        found = why(ring)
        assert found.record is not None
        assert (found.record.leader, found.record.epoch) == (leader, epoch)
        eventually("another one leads and serves", lambda: why(ring).verdict == "degraded", within_s=40)
        found = why(ring)
        assert found.record is not None
        assert found.route.leader == found.record.leader != leader
        assert found.record.epoch == found.route.epoch > epoch
        ring.process(leader).start()
        wait_healthy(ring)

        leader = why(ring).route.leader
        assert leader is not None
        ring.process(leader).pause()
        try:
            assert any(f"{leader} does not answer" in text for text in blocked(why(ring)))
        finally:
            ring.process(leader).resume()
        wait_healthy(ring)


def test_too_few_in_sync(tmp_path: Path) -> None:
    """Reads go on, writes are refused; and with nobody left, an operator is told what may be done."""
    with running_ring(tmp_path) as ring, ring.client() as client:
        client.put(KEY, "1")
        found = why(ring)
        others = followers_of(found)
        for name in others:
            ring.process(name).kill()

        def is_told() -> bool:
            return any("1 in sync, and a write needs 2: start" in text for text in blocked(why(ring)))

        eventually("both are let go", is_told, within_s=30)
        found = why(ring)
        assert all(name in " ".join(blocked(found)) for name in others)
        eventually("only writes are blocked", lambda: _blocked_parts(ring) == {"writes"}, within_s=20)
        assert fortdb(ring, "why", KEY).exit_code == 3
        assert client.get(KEY) == b"1"
        with pytest.raises(NotEnoughReplicas):
            client.put(KEY, "2")
        leader = why(ring).route.leader
        assert leader is not None
        ring.process(leader).kill()
        eventually("nobody is left", lambda: any("leader seize" in text for text in blocked(why(ring))), 30)
        for process in ring.nodes.values():
            process.start()
        wait_healthy(ring)  # the router may still be dialling
        eventually("nothing is blocked", lambda: fortdb(ring, "why", KEY).exit_code == 0, within_s=20)


def _texts(ring: LocalRing) -> str:
    return "\n".join(finding.text for finding in why(ring).findings)


def _blocked_parts(ring: LocalRing) -> set[str]:
    return {finding.blocks for finding in why(ring).findings if finding.blocks}
