"""Walks over keys on a ring of real processes, while nodes die, routers change and partitions move."""

from __future__ import annotations

from pathlib import Path

from fortdb.local.ring import LocalRing
from tests.support.rings import running_ring, status_of, wait_healthy
from tests.support.waiting import eventually

KEYS = {f"scanned-{number}".encode() for number in range(600)}
TAGGED = {f"{{tag}}{number:03}".encode(): b"%d" % number for number in range(150)}


def step(ring: LocalRing, router: int, cursor: bytes) -> tuple[bytes, list[bytes]]:
    """One page by one of the routers."""
    with ring.client(router) as client:
        reply = client.command("SCAN", cursor, "MATCH", "scanned-*", "COUNT", 40)
    assert isinstance(reply, list) and isinstance(reply[0], bytes) and isinstance(reply[1], list)
    return reply[0], [key for key in reply[1] if isinstance(key, bytes)]


def is_empty(ring: LocalRing, node: str) -> bool:
    return not any(node in partition.replicas for partition in status_of(ring).partitions)


def test_a_walk_misses_no_key_whatever_happens_to_the_ring(tmp_path: Path) -> None:
    """A leader is killed, the router is another each time, and a node's partitions move to others."""
    with running_ring(tmp_path, nodes=4, routers=2) as ring:
        with ring.client() as client:
            client.put_many(dict.fromkeys(KEYS, "v"))
            client.put_many(TAGGED)
        seen: set[bytes] = set()
        cursor, pages = b"0", 0
        while True:
            cursor, keys = step(ring, pages % 2, cursor)
            seen.update(keys)
            pages += 1
            if cursor == b"0":
                break
            with ring.client() as client:
                client.put(f"scanned-new-{pages}", "v")  # may be seen or not
                if pages == 3:
                    ring.process("node-2").kill()
                elif pages == 6:
                    ring.process("node-2").start()
                    wait_healthy(ring)
                    plan = client.plan_layout(remove=("node-4",))
                    client.apply_layout(plan)
                elif pages == 8:
                    eventually("node-4 is empty", lambda: is_empty(ring, "node-4"), within_s=60)
        assert pages > 10
        assert seen >= KEYS
        with ring.client(1) as client:
            walk = client.range("{tag}", page=10)
            found = dict(next(walk) for _ in range(40))
            ring.process("node-1").kill()
            assert found | dict(walk) == TAGGED
            assert [key for key, _ in client.range("{tag}", first="{tag}010", last="({tag}013")] == [
                b"{tag}010",
                b"{tag}011",
                b"{tag}012",
            ]
            assert next(client.range("{tag}", reverse=True)) == (b"{tag}149", b"149")
