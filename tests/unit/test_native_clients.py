"""The short way of clients through a node, in C, does what the long way does.

Each story is played twice, with the functions in C and without, on a node that leads the only replica of the
only partition, and compares what the client is told and what the log holds.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb import limits
from fortdb.errors import DiskFull, StorageFailed
from fortdb.model import Ack, Keyspace, Layout, NodeSpec, Partition, Policy
from fortdb.native import lane
from fortdb.net.front import Front
from fortdb.node.clients import NodeClients
from fortdb.protocol.resp import pack
from fortdb.replication.entries import decode_entry
from fortdb.ring.tokens import TokenMap, _hash_of
from fortdb.storage.engine import nothing_meanwhile
from tests.support.ways import (
    FOREVER_MS,
    PARTITION,
    PLAIN,
    NodeProcess,
    needs_c,
    received,
    same,
    sizes_of_pieces,
)

pytestmark = needs_c


class Node(NodeProcess):
    """A node that leads all keys, and a client of its."""

    def __init__(self, in_c: bool) -> None:
        super().__init__(in_c)
        partition = Partition(PARTITION, "p-003", 0, ("node",))
        self.service.tokens = TokenMap(Layout(1, 1, 1, {"node": NodeSpec("zone")}, (partition,)))
        clients = NodeClients(self.service, dict, dict)
        self.front = Front(
            self.loop,
            self.service.answers,
            clients,
            host="127.0.0.1",
            port=0,
            connections_max=10,
            idle_ms_max=0,
            way=clients.way if in_c else lambda counts: None,
        )
        self.client = socket.create_connection(("127.0.0.1", self.front.listener.port))
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client.setblocking(False)
        self.lead()
        assert self.say(pack([b"PING"])) == b"+PONG\r\n"  # the first of a connection decides how it speaks

    def say(self, data: bytes, sizes: tuple[int, ...] = (1 << 16,)) -> bytes:
        """All answers to what is sent in pieces of these sizes in turn, and to a last word."""
        end = b"$11\r\nthat is all\r\n"
        data += pack([b"ECHO", b"that is all"])
        answers, at, turn, until_s = b"", 0, 0, time.monotonic() + 20
        while not answers.endswith(end):
            assert time.monotonic() < until_s, answers[-200:]
            if at < len(data):
                with contextlib.suppress(BlockingIOError):
                    at += self.client.send(data[at : at + sizes[turn % len(sizes)]])
                turn += 1
            self.turn()
            answers += received(self.client)
        return answers[: -len(end)]

    def plain_count(self) -> int:
        return sum(self.front.plain_counts)

    def left_behind(self) -> Any:
        """What was appended, in one piece: how it is cut into entries is the ticks'."""
        entries = enumerate(self.entries(), 1)
        return [one for at, entry in entries for one in decode_entry(entry, at).operations]

    def close(self) -> None:
        self.client.close()
        self.front.close()
        super().close()


def test_bounds_in_c_are_those_of_python() -> None:
    names = [name for name in dir(lane) if name.isupper()]
    assert len(names) >= 10
    assert {"FRAME_BYTES_MAX", "PEER_OUTPUT_BYTES", "CHANNEL_REQUESTS_MAX"} <= set(names)
    for name in names:
        assert getattr(lane, name) == getattr(limits, name), name


@given(st.binary(max_size=300) | st.from_regex(rb"\A[a-z{}]{0,80}\Z"))
def test_hashes_are_those_of_python(key: bytes) -> None:
    assert lane is not None
    assert lane.hash_of(key) == lane.hash_portably(key) == _hash_of(key)


@given(st.binary(max_size=200), st.integers(0, 70), st.integers(0, 0xFFFFFFFF))
def test_checksums_are_those_of_zlib(data: bytes, times: int, before: int) -> None:
    assert lane is not None
    data *= times  # from nothing to thousands of blocks, and ends of every size
    assert lane.crc32(data, before) == lane.crc32_portably(data, before) == zlib.crc32(data, before)
    assert lane.crc32(memoryview(data)[1:]) == zlib.crc32(data[1:])


COMMANDS = st.one_of(
    PLAIN,
    st.sampled_from(
        [
            (b"INCR", b"n"),
            (b"SET", b"a", b"1", b"PXAT", b"99999999999999"),
            (b"DEL", b"a"),
            (b"GET",),
            (b"GET", b"a", b"STALE"),
            (b"MGET", b"a", b"b"),
            (b"nonsense",),
        ]
    ),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(COMMANDS, min_size=1, max_size=25), sizes_of_pieces(40))
def test_answers_and_log_are_the_same(commands: list[tuple[bytes, ...]], sizes: list[int]) -> None:
    data = b"".join(pack(command) for command in commands)
    same(Node, lambda made: made.say(data, tuple(sizes)))


@pytest.mark.parametrize("in_c", [True, False])
def test_answers_leave_while_the_disk_has_the_next_batch(in_c: bool) -> None:
    with Node(in_c) as made:
        service, write = made.service, made.engine.write
        told: list[tuple[bytes, bytes]] = []

        def note(batch: Any, sync: bool, meanwhile: Callable[[], None] = nothing_meanwhile) -> None:
            def told_meanwhile() -> None:
                before = received(made.client)
                meanwhile()
                told.append((before, received(made.client)))

            write(batch, sync, told_meanwhile)

        service.engine.write = note  # type: ignore[method-assign]
        for value in (b"1", b"2"):
            made.client.sendall(pack([b"SET", b"a", value]))
            while not made.loop._turn(0):
                pass
            service.tick()
        assert told == [(b"", b""), (b"", b"+OK\r\n")]
        assert received(made.client) == b""
        made.loop.call_later(0, made.loop.stop)
        made.loop.run(lambda: None)  # nothing comes, so it says what it has before it waits
        assert received(made.client) == b"+OK\r\n"


def test_what_is_between_multi_and_exec_waits() -> None:
    between = pack([b"SET", b"a", b"1"]) + pack([b"GET", b"a"])
    data = between + pack([b"MULTI"]) + between + pack([b"EXEC"]) + between
    for sizes in ((9,), (1 << 16,)):
        answers = same(Node, partial(Node.say, data=data, sizes=sizes))
        assert answers == (
            b"+OK\r\n$1\r\n1\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$1\r\n1\r\n+OK\r\n$1\r\n1\r\n"
        )


def test_a_key_that_is_too_long_is_refused() -> None:
    long = b"y" * (limits.KEY_BYTES_MAX + 1)
    answers = same(
        Node, lambda made: made.say(pack([b"SET", long, b"1"]) + pack([b"GET", long[1:]]), (5000,))
    )
    assert answers.startswith(b"-ERR key of 16385 bytes") and answers.endswith(b"$-1\r\n")


def test_plain_requests_go_the_short_way() -> None:
    with Node(in_c=True) as made:
        made.say(b"".join(pack([b"SET", b"%d" % n, b"v"]) + pack([b"GET", b"-%d" % n]) for n in range(20)))
        assert made.front.plain_counts == [20, 20]


def test_answers_keep_the_order_of_requests() -> None:
    """Reads that could be answered at once wait for the writes before them."""
    data = b"".join(
        pack([b"GET", b"a"]) + pack([b"SET", b"a", b"%d" % n]) + pack([b"GET", b"b"]) for n in range(5)
    )
    answers = same(Node, lambda made: made.say(data))
    assert answers.startswith(b"$-1\r\n+OK\r\n$-1\r\n$1\r\n0\r\n+OK\r\n")


def test_a_long_pipeline_of_large_values_is_bounded() -> None:
    data = pack([b"SET", b"large", b"v" * 50_000]) + pack([b"GET", b"large"]) * 300
    answers = same(Node, lambda made: made.say(data))
    assert len(answers) == 5 + 300 * len(b"$50000\r\n" + b"v" * 50_000 + b"\r\n")


def test_values_of_every_length_are_said_with_their_length() -> None:
    values = [b"v" * size for size in (0, 1, 9, 10, 11, 99, 100, 999, 1000, 12_345)]
    for value in values:
        data = pack([b"SET", b"a", value]) + pack([b"GET", b"a"])
        assert same(Node, partial(Node.say, data=data)) == b"+OK\r\n$%d\r\n%b\r\n" % (len(value), value)


def test_nothing_is_served_without_a_lease() -> None:
    def story(made: Node) -> Any:
        made.say(pack([b"SET", b"a", b"1"]))
        made.service.lease_renewed(0)
        made.client.send(pack([b"GET", b"a"]) + pack([b"SET", b"a", b"2"]))
        made.turn(3)
        held = made.service.requests.held_count
        made.service.lease_renewed(FOREVER_MS)
        return held, made.say(b"")

    assert same(Node, story) == (2, b"$1\r\n1\r\n+OK\r\n")


def test_the_clock_is_read_after_the_socket() -> None:
    """A node that was paused meets requests that came meanwhile with the moment of its waking (rule 14)."""
    with Node(in_c=True) as made:
        made.say(pack([b"SET", b"a", b"1"]))
        (connection,) = made.front.connections
        made.hosted.serve_until(made.loop.now_ms - 1)
        made.loop.now_ms -= 10_000
        made.client.send(pack([b"GET", b"a"]))
        assert select.select([connection.socket], [], [], 10)[0], "it lies in the socket's buffer"
        assert lane is not None
        assert lane.receive(connection, made.service, made.front.plain_counts)
        assert made.front.plain_counts[0] == 0
        assert made.service.requests.held_count == 1


def test_a_refusal_and_an_async_keyspace_are_for_the_long_way() -> None:
    def story(made: Node) -> Any:
        made.service.refusal = DiskFull("no room")
        refused = made.say(pack([b"SET", b"a", b"1"]) + pack([b"GET", b"a"]))
        made.service.refusal = None
        made.service.policies = {b"orders": Keyspace("orders", Ack.ASYNC)}
        return refused, made.say(pack([b"SET", b"orders/1", b"1"]) + pack([b"GET", b"orders/1"]))

    assert same(Node, story) == (b"-DISKFULL no room\r\n$-1\r\n", b"+OK\r\n$1\r\n1\r\n")


def test_a_policy_concerns_its_own_keys_only() -> None:
    """Others go the short way, and so do reads of values whose former ones are kept."""

    def story(made: Node) -> Any:
        made.service.policies = {
            b"doc": Keyspace("doc", policy=Policy.VERSIONS),
            b"log": Keyspace("log", policy=Policy.RECORDS),
        }
        before = list(made.front.plain_counts)
        said = made.say(
            b"".join(pack([b"SET", key, b"1"]) for key in (b"a", b"docs/1", b"doc", b"/x", b"x/doc/1"))
        )
        said += made.say(
            pack([b"SET", b"doc/1", b"1"]) + pack([b"GET", b"doc/1"]) + pack([b"SET", b"log/1", b"1"])
        )
        short = [after - former for after, former in zip(made.front.plain_counts, before, strict=True)]
        return said, made.in_c and short[1]

    with Node(True) as in_c, Node(False) as in_python:
        told, short_sets = story(in_c)
        assert told == story(in_python)[0]
    assert told.startswith(b"+OK\r\n" * 6 + b"$1\r\n1\r\n-WRONGTYPE ")
    assert short_sets == 5


def test_records_are_read_and_written_the_long_way() -> None:
    def story(made: Node) -> Any:
        made.service.policies = {b"log": Keyspace("log", policy=Policy.RECORDS)}
        made.say(pack([b"ADD", b"log/1", b"first"]) + pack([b"ADD", b"log/1", b"second"]))
        got = made.say(pack([b"GET", b"log/1"]) + pack([b"RECORDCOUNT", b"log/1"]))
        return got, made.say(pack([b"DEL", b"log/1"]) + pack([b"GET", b"log/1"]))

    for in_c in (True, False):
        with Node(in_c) as made:  # the logs differ: ids tell the time
            assert story(made) == (b"$6\r\nsecond\r\n:2\r\n", b":1\r\n$-1\r\n")


def test_worm_records_are_refused_either_way() -> None:
    def story(made: Node) -> Any:
        made.service.policies = {b"log": Keyspace("log", policy=Policy.WORM, retention_ms=1 << 40)}
        made.say(pack([b"ADD", b"log/1", b"first"]))
        told = made.say(pack([b"SET", b"log/1", b"x"]) + pack([b"DEL", b"log/1"]) + pack([b"GET", b"log/1"]))
        made.service.policies = {}
        return told, made.say(pack([b"DEL", b"log/1"]) + pack([b"GET", b"log/1"]))

    for in_c in (True, False):
        with Node(in_c) as made:
            told, without_keyspace = story(made)
            assert told.startswith(b"-WRONGTYPE ") and b"\r\n-IMMUTABLE " in told
            assert without_keyspace.startswith(b"-IMMUTABLE ")
            assert told.endswith(b"$5\r\nfirst\r\n") and without_keyspace.endswith(b"$5\r\nfirst\r\n")


def test_of_a_failed_engine_nobody_is_told_in_an_answer() -> None:
    """The node gives up instead, so that whoever asked asks the next leader."""
    for in_c in (True, False):
        for command in ([b"GET", b"a"], [b"GET", b"a", b"STALE"], [b"SET", b"a", b"2"], [b"SCAN", b"0"]):
            with Node(in_c) as made:
                made.say(pack([b"SET", b"a", b"1"]))
                with pytest.raises(StorageFailed):
                    made.engine.fail(Exception("IO error: while testing"))
                made.client.send(pack(command))
                with pytest.raises(StorageFailed):
                    made.turn(5)
                with pytest.raises(BlockingIOError):
                    made.client.recv(100)
