"""Change feeds on rings of real processes: order, failover, resuming, trimmed logs, and readers that do not read."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import redis
from hiredis import Reader

from fortdb.client import Change, Client, Feed
from fortdb.client.failures import ConnectionFailed
from fortdb.errors import BadRequest, FeedLost, NotLeader
from fortdb.limits import LOG_SEGMENT_BYTES, LOG_SEGMENTS_KEPT
from fortdb.local.ring import LocalRing
from fortdb.model import Policy
from fortdb.protocol.feeds import ChangeKind
from fortdb.protocol.resp import pack
from tests.support.rings import (
    keys_of_partition,
    module_ring,
    partition_of,
    running_ring,
    status_of,
    wait_healthy,
)
from tests.support.waiting import eventually

ring = module_ring(routers=2)


def take(feed: Feed, count: int, within_s: float = 30.0) -> list[Change]:
    found: list[Change] = []
    for _ in range(count):
        change = feed.next(within_s)
        assert change is not None, f"{len(found)} of {count} came: {found[-3:]}"
        found.append(change)
    return found


def short(change: Change) -> tuple[str, bytes, bytes | None]:
    return change.kind.value, change.key, change.value


def test_what_happens_to_a_key_comes_in_order(ring: LocalRing) -> None:
    with ring.client() as client, client.feed(key="one") as feed:
        client.put("one", "a")
        client.put("other", "x")
        client.append("one", "b")
        client.expire("one", 60_000)
        client.delete("one")
        client.delete("one")
        client.put("one", "c", expire_ms=1)
        changes = take(feed, 6)
        assert [short(change) for change in changes] == [
            ("put", b"one", b"a"),
            ("put", b"one", b"ab"),
            ("put", b"one", b"ab"),
            ("delete", b"one", None),
            ("put", b"one", b"c"),
            ("delete", b"one", None),
        ]
        assert changes[2].ends_ms > 0 == changes[1].ends_ms
        with client.feed(key="one", since=changes[1].position, values=False) as again:
            assert [change.kind.value for change in take(again, 4)] == ["put", "delete", "put", "delete"]
            assert again.position == feed.position


def test_records_and_transactions(ring: LocalRing) -> None:
    with ring.client() as client:
        client.create_keyspace("fed", policy=Policy.RECORDS)
        with client.feed(keyspace="fed") as feed, client.feed(prefix="tx") as transactions:
            added = client.add("fed/{a}", "r")
            other = client.add("fed/{a}", "s")
            assert added is not None and other is not None
            client.remove("fed/{a}", added)
            client.delete("fed/{a}")
            client.put("fedora", "no")
            changes = take(feed, 4)
            assert [(change.kind, change.record, change.value) for change in changes] == [
                (ChangeKind.ADD, added, b"r"),
                (ChangeKind.ADD, other, b"s"),
                (ChangeKind.REMOVE, added, None),
                (ChangeKind.DELETE, None, None),
            ]
            assert feed.next(1.5) is None, "what is cleaned away later is no change"
            keys = [keys_of_partition(ring, name, 1, "tx")[0] for name in ("p-000", "p-001", "p-002")]
            with client.transaction() as tx:
                for key in keys:
                    tx.put(key, "1")
                    tx.put(key, "2")
            found = defaultdict(list)
            for change in take(transactions, 6):
                found[change.key.decode()].append(change.value)
            assert found == {key: [b"1", b"2"] for key in keys}
            assert transactions.next(0.5) is None


@pytest.mark.chaos
def test_a_feed_goes_on_over_failovers_moves_and_routers(tmp_path: Path) -> None:
    """Each value is there at least once, and those of a key in order, whatever was killed meanwhile."""
    with running_ring(tmp_path, nodes=3, routers=2) as ring:
        stop, written = threading.Event(), defaultdict[bytes, list[bytes]](list)

        def write() -> None:
            with ring.client(1, timeout_s=30.0) as client:
                number = 0
                while not stop.is_set():
                    key, value = b"k%d" % (number % 20), b"%d" % number
                    client.put(key, value)
                    written[key].append(value)
                    number += 1

        seen = defaultdict[bytes, list[bytes]](list)
        with ring.client() as client:
            feed = client.feed(prefix="k")
            writer = threading.Thread(target=write)
            writer.start()
            try:
                for turn in range(4):
                    until_s = time.monotonic() + 5
                    if turn == 1:
                        ring.process("node-2").kill()
                    elif turn == 2:
                        ring.process("router-1").kill()
                        ring.process("node-2").start()
                        ring.process("router-1").start()
                    elif turn == 3:
                        partition = partition_of_other(ring)
                        with ring.client(1) as other:
                            other.move_leader(*partition)
                    while time.monotonic() < until_s:
                        change = feed.next(0.2)
                        if change is not None and change.value is not None:
                            seen[change.key].append(change.value)
            finally:
                stop.set()
                writer.join()
            wait_for_all(feed, seen, written)
            assert sum(map(len, written.values())) > 200
            for key, values in written.items():
                firsts = list(dict.fromkeys(seen[key]))
                assert firsts == values, key
            feed.close()


def partition_of_other(ring: LocalRing) -> tuple[str, str]:
    """A partition and a follower that can take it over."""
    wait_healthy(ring)
    partition = status_of(ring).partitions[0]
    return partition.name, next(node for node in partition.isr if node != partition.leader)


def wait_for_all(feed: Feed, seen: dict[bytes, list[bytes]], written: dict[bytes, list[bytes]]) -> None:
    until_s = time.monotonic() + 30
    while any(seen[key][-1:] != values[-1:] for key, values in written.items()):
        assert time.monotonic() < until_s, "the last values did not come"
        change = feed.next(0.5)
        if change is not None and change.value is not None:
            seen[change.key].append(change.value)


def test_a_position_that_is_trimmed_away_names_the_oldest(ring: LocalRing) -> None:
    keys = keys_of_partition(ring, "p-001", 1, "big")
    with ring.client() as client:
        position = client.feed_position(partition="p-001")
        chunk = b"x" * (1 << 20)
        for number in range((LOG_SEGMENTS_KEPT + 3) * (LOG_SEGMENT_BYTES >> 20)):
            client.put(keys[0], chunk + b"%d" % number)

        def is_lost() -> bool:
            try:
                client.feed(partition="p-001", since=position).close()
            except FeedLost as error:
                assert "p-001:" in str(error) and "the oldest position that is left" in str(error)
                return True
            return False

        eventually("the log is trimmed", is_lost)
        with pytest.raises(FeedLost, match="ahead of the log"):
            client.feed(partition="p-001", since="p-001:999999999")
        # The advice of the error: a position, a scan, a feed from there.
        start = client.feed_position(partition="p-001")
        client.put(keys[0], "small")
        with client.feed(partition="p-001", since=start) as feed:
            assert short(take(feed, 1)[0]) == ("put", keys[0].encode(), b"small")


def raw(ring: LocalRing, *commands: tuple[str, ...]) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", ring.shape.port))
    connection.settimeout(20)
    connection.sendall(b"".join(pack([word.encode() for word in words]) for words in commands))
    return connection


def test_a_reader_that_does_not_read_holds_nothing_up_and_misses_nothing(ring: LocalRing) -> None:
    keys = keys_of_partition(ring, "p-002", 3, "slow")
    connection = raw(ring, ("FEED", "SUBSCRIBE", "PREFIX", "slow"))
    reader = Reader()
    assert connection.recv(1 << 16).startswith(b"$")
    with ring.client() as client:
        for number in range(160):  # 20 MiB; the sockets and the router hold far less
            client.put(keys[number % 3], b"%d-" % number + b"x" * (128 << 10))
    seen: list[int] = []
    while len(seen) < 160:
        reader.feed(connection.recv(1 << 20))
        while push := reader.gets():
            if push[0] == b"change":
                seen.append(int(push[4].partition(b"-")[0]))
    assert seen == list(range(160))
    connection.close()


def test_what_a_connection_with_a_feed_may_say(ring: LocalRing) -> None:
    with raw(
        ring,
        ("HELLO", "3"),
        ("WATCHKEY", "said"),
        ("GET", "said"),
        ("PING",),
        ("FEED", "SUBSCRIBE", "ALL"),
        ("FEED", "UNSUBSCRIBE"),
        ("FEED", "UNSUBSCRIBE"),
        ("GET", "said"),
        ("FEED", "SUBSCRIBE", "KEY", "said"),
        ("PING",),
    ) as connection:
        told = b""
        while told.count(b"+PONG") < 2:
            told += connection.recv(1 << 16)
        assert told.count(b"only FEED UNSUBSCRIBE, PING and QUIT are allowed") == 1
        assert b"FEED UNSUBSCRIBE first" in told and b"there is no feed" in told and b"+OK\r\n" in told
        with ring.client() as client:
            client.put("said", "1")
        push = connection.recv(1 << 16)
        assert push.startswith(b">7\r\n$6\r\nchange\r\n") and push.endswith(b"$1\r\n1\r\n$-1\r\n:0\r\n")
        connection.sendall(pack([b"QUIT"]))
        assert connection.recv(100) == b"+OK\r\n" and connection.recv(100) == b""


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("SUBSCRIBE",), "syntax error"),
        (("SUBSCRIBE", "KEY"), "syntax error"),
        (("SUBSCRIBE", "ALL", "FROM"), "syntax error"),
        (("SUBSCRIBE", "SOME", "x"), "syntax error"),
        (("SUBSCRIBE", "ALL", "FROM", "7"), "is no position"),
        (("SUBSCRIBE", "ALL", "FROM", "p-000:1"), "says nothing of partition"),
        (("SUBSCRIBE", "ALL", "FROM", "p-999:1"), "there is no partition p-999"),
        (("SUBSCRIBE", "PARTITION", "p-999"), "there is no partition p-999"),
        (("POSITION", "ALL", "NOVALUES"), "syntax error"),
    ],
)
def test_what_makes_no_sense_is_refused(ring: LocalRing, words: tuple[str, ...], reason: str) -> None:
    with ring.client() as client, pytest.raises(BadRequest, match=reason):
        client.command("FEED", *words)


def test_a_node_feeds_what_it_leads(ring: LocalRing) -> None:
    partition = partition_of(ring, "p-003")
    assert partition.leader is not None
    port = ring.ports(partition.leader)["client"]
    key = keys_of_partition(ring, "p-003", 1, "direct")[0]
    with Client("127.0.0.1", port) as node, node.feed(key=key) as feed:
        for number in range(3):
            node.put(key, f"{number}")
        assert [change.value for change in take(feed, 3)] == [b"0", b"1", b"2"]
        with pytest.raises(NotLeader):
            node.feed()


def command(ring: LocalRing, *arguments: str, typed: str = "") -> str:
    line = [sys.executable, "-m", "fortdb", "--port", str(ring.shape.port), *arguments]
    return subprocess.run(line, input=typed, capture_output=True, text=True, timeout=60, check=False).stdout


def test_the_command_line_writes_lines_or_json(ring: LocalRing) -> None:
    position = command(ring, "feed", "--key", "typed", "--position").strip()
    with ring.client() as client:
        client.put("typed", "1")
        client.delete("typed")
    chosen = ("feed", "--key", "typed", "--from", position, "--count", "2")
    put, delete = command(ring, *chosen).splitlines()
    assert put.endswith('  put  "typed"  "1"') and delete.endswith('  delete  "typed"')
    first, _ = map(json.loads, command(ring, "--json", *chosen).splitlines())
    assert first == {"position": put.split()[0], "kind": "put", "key": "typed", "value": "1"}
    assert "fortdb feed" in command(ring, typed="WATCHKEY typed\n")


def test_redis_py_asks_for_positions(ring: LocalRing) -> None:
    with redis.Redis(port=ring.shape.port) as plain:
        assert plain.execute_command("FEED", "POSITION", "KEY", "x").startswith(b"p-")


def test_a_stopping_router_says_so_and_the_feed_goes_on(ring: LocalRing) -> None:
    with ring.client(1) as client, client.feed(key="stops") as feed:
        ring.process("router-2").stop()
        with ring.client() as other:
            other.put("stops", "1")
        assert feed.next(1) is None
        ring.process("router-2").start()
        assert take(feed, 1)[0].value == b"1"


def test_the_first_connection_is_not_repeated() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: Any = listener.getsockname()[1]
    with Client("127.0.0.1", port) as client, pytest.raises(ConnectionFailed):
        client.feed()
