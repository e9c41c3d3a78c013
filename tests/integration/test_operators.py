"""What an operator sets and does: bounds on clients, TTLs on every replica, a partition that was lost."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from fortdb.errors import BadRequest, FortError
from fortdb.local.ring import LocalRing
from fortdb.torture.replicas import contents_of
from tests.support.rings import (
    keys_of_partition,
    partition_of,
    running_ring,
    status_of,
    wait_healthy,
)
from tests.support.waiting import eventually


def ask(connection: socket.socket, request: bytes = b"PING\r\n") -> bytes:
    connection.sendall(request)
    return connection.recv(4096)


def test_the_connection_limit_and_the_idle_time_out(tmp_path: Path) -> None:
    bounds = {"client": {"connections_max": 3, "idle_ms_max": 1_000}}
    with running_ring(tmp_path, nodes=1, router=bounds) as ring:
        address = ("127.0.0.1", ring.shape.port)
        eventually("the connections of the start are closed", lambda: ask_once(address) == b"+PONG\r\n")
        held = [socket.create_connection(address, timeout=20) for _ in range(3)]
        assert [ask(connection) for connection in held] == [b"+PONG\r\n"] * 3
        with socket.create_connection(address, timeout=20) as refused:
            assert refused.recv(4096) == b"-ERR max number of clients reached\r\n"
            assert refused.recv(4096) == b""
        for connection in held:
            assert connection.recv(4096) == b"", "closed, having been idle for too long"
            connection.close()
        assert ask_once(address) == b"+PONG\r\n"


def ask_once(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=20) as connection:
        return ask(connection)


def test_what_has_expired_is_gone_on_every_replica(tmp_path: Path) -> None:
    """The leader decides and the log says so; nobody's clock is asked."""
    with running_ring(tmp_path) as ring, ring.client() as client:
        for number in range(50):
            client.put(f"short-{number}", "x", expire_ms=300)
            client.put(f"long-{number}", "x", expire_ms=600_000)
        eventually("only the others are left", lambda: client.count() == 50)
        leader = partition_of(ring).leader
        assert leader is not None
        ring.process(leader).kill()  # who led it decides no more: the next leader agrees
        eventually("the count is the same", lambda: _count(ring) == 50, within_s=20)
        left = client.time_to_live_ms("long-1")
        assert left is not None
        assert 500_000 < left <= 600_000
        ring.process(leader).start()
        wait_healthy(ring)
        ring.down()
        assert [len(contents) for contents in contents_of(ring).values()] == [50, 50, 50]


def _count(ring: LocalRing) -> int | None:
    try:
        with ring.client() as client:
            return client.count()
    except FortError:
        return None


@pytest.mark.chaos
def test_a_partition_nobody_in_sync_is_left_of_waits_for_the_operators_word(tmp_path: Path) -> None:
    """Rule 6: node-1 alone has the last writes and loses its disk; the others may not lead by themselves."""
    with running_ring(tmp_path, partitions=1) as ring, ring.client(timeout_s=30) as client:
        client.move_leader("p-000", "node-1")
        key = keys_of_partition(ring, "p-000", 1)[0]
        client.put(key, "seen by all")
        with pytest.raises(BadRequest, match="nothing to seize"):
            client.seize_leader("p-000", "node-2")
        for name in ("node-2", "node-3"):
            ring.process(name).kill()
        eventually("node-1 is alone in sync", lambda: partition_of(ring).isr == ("node-1",), within_s=30)
        node = ring.process("node-1")
        node.kill()
        shutil.rmtree(node.directory / "data")
        for process in ring.nodes.values():
            process.start()
        eventually("all are back", lambda: _serving(ring) == 3, within_s=30)
        assert partition_of(ring).leader != "node-2"
        with pytest.raises(FortError):
            client.get(key)
        client.seize_leader("p-000", "node-2")
        eventually("the ring takes writes again", lambda: _put(ring, key), within_s=30)
        wait_healthy(ring)
        assert client.get(key) == b"after"


def _serving(ring: LocalRing) -> int:
    return sum(node.state == "serving" for node in status_of(ring).nodes)


def _put(ring: LocalRing, key: str) -> bool:
    try:
        with ring.client() as client:
            assert client.get(key) in (b"seen by all", b"after")
            return client.put(key, "after")
    except FortError:
        return False
