"""The short way of a router's requests through a node, in C, does what the long way does.

Each test plays the same story twice, with the functions in C and without, on a node that leads the only
replica of a partition, and compares what the router is told, what is in the log and what is remembered.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb import limits
from fortdb.model import PartitionRecord
from fortdb.native import lane
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting, Peer
from fortdb.net.stream import Outbox
from fortdb.node import service as service_module
from fortdb.node.disk import open_replica
from fortdb.node.service import Hosted, NodeService, Settings
from fortdb.protocol.resp import pack
from fortdb.replication.entries import RequestId, decode_entry
from fortdb.replication.messages import (
    FrameReader,
    Status,
    Type,
    decode_reply,
    encode_call,
    encode_request,
    frame,
)
from fortdb.storage.rocks import RocksEngine

pytestmark = pytest.mark.skipif(lane is None, reason="the functions in C were not built")

PARTITION, EPOCH, SESSION = 3, 5, (1 << 64) - 1
FOREVER_MS = 1 << 50
SETTINGS = Settings(3_000, 100, 1_000, 3_000, 1_000, 1)


def test_bounds_in_c_are_those_of_python() -> None:
    for name in ("FRAME_BYTES_MAX", "PEER_OUTPUT_BYTES", "CHANNEL_REQUESTS_MAX"):
        assert getattr(lane, name) == getattr(limits, name)


class Node:
    """A node that leads a partition alone, and the router that dialled it."""

    def __init__(self, directory: str, in_c: bool) -> None:
        self.in_c = in_c
        self.loop, self.outbox = Loop(), Outbox()
        self.engine = RocksEngine(
            Path(directory) / "engine", cache_bytes=1 << 20, memtable_bytes=1 << 20, sync=False
        )
        own = Greeting("c", "node", "life")
        self.service = NodeService(self.loop, self.outbox, self.engine, own, SETTINGS)
        replica = open_replica(self.engine, PARTITION, "p-003", "node", "life", None)
        self.hosted = Hosted(replica, ((0, 1 << 64),))
        self.service.host(self.hosted)
        record = PartitionRecord("p-003", "node", EPOCH, {"node": "life"}, ("node",), handover=True)
        replica.adopt(record, 1, self.loop.now_ms, 1)
        self.service.touch(self.hosted)
        ours, self.router = socket.socketpair()
        self.router.setblocking(False)
        links = self.service.links
        self.peer = Peer(
            self.loop,
            self.outbox,
            ours,
            own,
            links._heard_peer,
            links._peer_closed,
            (lane.hear_requests, self.service, links.plain_counts) if in_c and lane else None,
        )
        self.router.send(Greeting("c", "router", session=SESSION).encode())
        self._reader = FrameReader()
        self.turn(3)
        self.service.lease_renewed(FOREVER_MS)
        assert replica.leading is not None
        self.leader = replica.leading
        assert self.hosted.serve_until_ms > self.loop.now_ms
        assert not self.replies()

    def turn(self, count: int = 1) -> None:
        """Let the loop go round."""
        for _ in range(count):
            self.loop.tick_again()
            with pytest.MonkeyPatch.context() as patch:
                if not self.in_c:
                    patch.setattr(service_module, "lane", None)
                self.loop.run(self._tick)

    def _tick(self) -> None:
        self.service.tick()
        self.loop.stop()

    def replies(self) -> list[tuple[int, int, int, int, bytes]]:
        """What the router has been told since."""
        frames: list[tuple[int, bytes]] = []
        with contextlib.suppress(BlockingIOError):
            while data := self.router.recv(1 << 20):
                frames += self._reader.feed(data)
        return [decode_reply(body) for kind, body in frames if kind == Type.REPLY]

    def log(self) -> list[Any]:
        """What was appended, times apart."""
        entries = self.engine.entries(PARTITION, 1, 1 << 40, 1 << 30)
        decoded = [decode_entry(entry, at) for at, entry in enumerate(entries, 1)]
        return [(entry.epoch, entry.operations, entry.requests) for entry in decoded]

    def memory(self) -> dict[int, Any]:
        """What is remembered."""
        sessions = self.leader.log.memory.sessions
        return {key: (dict(session.known), session.watermark) for key, session in sessions.items()}

    def close(self) -> None:
        """Let everything go."""
        self.peer.close("over")
        self.router.close()
        self.service._jobs.shutdown()
        self.engine.close()
        self.loop.close()


@contextlib.contextmanager
def node(in_c: bool) -> Iterator[Node]:
    with tempfile.TemporaryDirectory() as directory:
        made = Node(directory, in_c)
        try:
            yield made
        finally:
            made.close()


def same(story: Callable[[Node], Any]) -> Any:
    """What a story tells, and leaves behind, which must not depend on the way."""
    told = []
    for in_c in (True, False):
        with node(in_c) as made:
            told.append((story(made), made.log(), made.memory(), made.peer.is_open))
            assert in_c or not sum(made.service.links.plain_counts)
    assert told[0] == told[1]
    return told[0][0]


def request(
    sequence: int, *args: bytes, epoch: int = EPOCH, watermark: int = 1, partition: int = PARTITION
) -> bytes:
    return encode_request(partition, epoch, sequence, watermark, pack(args))


def say(made: Node, data: bytes, sizes: list[int]) -> list[tuple[int, int, int, int, bytes]]:
    """The replies to frames that come in pieces."""
    replies = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        made.router.send(data[at : at + size])
        made.turn()
        replies += made.replies()
        at += size
        turn += 1
    made.turn(4)
    return replies + made.replies()


KEYS = st.sampled_from([b"a", b"b", b"k{a}", b"", b"x" * 300])
COMMANDS = st.one_of(
    st.tuples(st.sampled_from([b"GET", b"get"]), KEYS),
    st.tuples(st.sampled_from([b"SET", b"put"]), KEYS, st.sampled_from([b"", b"v", b"w" * 2000])),
    st.sampled_from(
        [
            (b"INCR", b"n"),
            (b"SET", b"a", b"1", b"PXAT", b"99999999999999"),
            (b"DEL", b"a"),
            (b"GET",),
            (b"nonsense",),
            (b"SET", b"y" * (limits.KEY_BYTES_MAX + 1), b"1"),
            (b"MGET", b"a", b"b"),
        ]
    ),
)
NUMBERS = st.tuples(st.integers(1, 12), st.integers(1, 12))
EPOCHS = st.sampled_from([EPOCH] * 8 + [EPOCH - 1])
FRAMES = st.lists(st.tuples(COMMANDS, NUMBERS, EPOCHS), min_size=1, max_size=25)
SIZES = st.lists(st.sampled_from([1, 7, 40, 300, 5000, 100_000]), min_size=1, max_size=4).filter(
    lambda sizes: max(sizes) > 5
)


@settings(max_examples=25, deadline=None)
@given(FRAMES, SIZES)
def test_replies_log_and_memory_are_the_same(
    frames: list[tuple[tuple[bytes, ...], tuple[int, int], int]], sizes: list[int]
) -> None:
    """Sequences and watermarks as they come: repeated, out of order, stale."""
    data = b"".join(
        request(max(numbers), *command, epoch=epoch, watermark=min(numbers))
        for command, numbers, epoch in frames
    )
    same(lambda made: say(made, data, sizes))


def test_plain_requests_go_the_short_way() -> None:
    with node(in_c=True) as made:
        first = say(made, request(1, b"SET", b"a", b"1"), [1000])  # the first of a session is the long way's
        rest = say(made, request(2, b"put", b"a", b"2", watermark=2) + request(3, b"get", b"b"), [1000])
        rest += say(made, request(4, b"GET", b"a"), [1000])
        assert [reply for *_, reply in first + rest] == [b"+OK\r\n", b"$-1\r\n", b"+OK\r\n", b"$1\r\n2\r\n"]
        assert made.service.links.plain_counts == [2, 1]
        assert made.memory() == {SESSION: ({2: (3, b"+OK\r\n")}, 2)}


def test_frames_may_be_torn_anywhere() -> None:
    def story(made: Node) -> Any:
        replies = say(made, request(1, b"SET", b"a", b"1"), [1000])
        for at in range(1, 170):
            first = 3 * at
            data = request(first, b"SET", b"a", b"%03d" % at) + request(first + 1, b"SET", b"b", b"2")
            replies += say(made, data + request(first + 2, b"GET", b"z"), [at, len(data)])
            replies += say(made, request(first + 2, b"GET", b"a", watermark=first), [1000])
        return replies

    replies = same(story)
    assert [reply for *_, reply in replies if reply[:1] == b"$" and reply != b"$-1\r\n"] == [
        b"$3\r\n%03d\r\n" % at for at in range(1, 170)
    ]


def test_a_request_that_is_known_gets_its_answer_and_changes_nothing() -> None:
    def story(made: Node) -> Any:
        once = say(made, request(1, b"SET", b"z", b"0") + request(2, b"SET", b"a", b"1"), [1000])
        between = say(made, request(3, b"SET", b"a", b"2", watermark=2), [1000])
        again = say(made, request(2, b"SET", b"a", b"1", watermark=2), [1000])
        late = say(made, request(1, b"SET", b"z", b"1", watermark=1), [1000])
        return once[1:], between, again, late, say(made, request(4, b"GET", b"a"), [1000])

    once, _, again, late, read = same(story)
    assert again == once
    assert late == []
    assert read[0][-1] == b"$1\r\n2\r\n"


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
def test_another_epoch_is_not_served(epoch: int) -> None:
    def story(made: Node) -> Any:
        data = request(1, b"SET", b"a", b"1") + request(2, b"SET", b"a", b"2", epoch=epoch)
        return say(made, data + request(3, b"GET", b"a", epoch=epoch), [1000]), made.service.held_count

    replies, held = same(story)
    if epoch < EPOCH:
        assert [status for *_, status, _ in replies[-3:]].count(Status.NOT_LEADER) == 2
    else:
        assert held == 2


def test_nothing_is_served_without_a_lease() -> None:
    def story(made: Node) -> Any:
        say(made, request(1, b"SET", b"a", b"1"), [1000])
        made.service.lease_renewed(0)
        replies = say(made, request(2, b"GET", b"a") + request(3, b"SET", b"a", b"2"), [1000])
        made.service.lease_renewed(FOREVER_MS)
        made.turn(2)
        return replies, made.replies()

    before, after = same(story)
    assert before == []
    assert [sequence for _, _, sequence, *_ in after] == [2, 3]


def test_the_clock_is_read_after_the_socket() -> None:
    """A node that was paused meets requests that came meanwhile with the moment of its waking (rule 14)."""
    with node(in_c=True) as made:
        say(made, request(1, b"SET", b"a", b"1"), [1000])
        made.hosted.serve_until_ms = made.loop.now_ms = made.loop.now_ms - 1
        made.loop.now_ms -= 10_000
        made.router.send(request(2, b"GET", b"a"))
        assert lane is not None
        assert lane.hear_requests(made.peer, made.service, made.service.links.plain_counts)
        assert made.service.links.plain_counts[0] == 0
        assert made.service.held_count == 1


def test_other_frames_keep_their_place() -> None:
    def story(made: Node) -> Any:
        heard: list[bytes] = []
        made.service.call = lambda slot, args: heard.append(b"%d %s" % (len(made.leader.proposal), args[0]))
        data = request(1, b"SET", b"z", b"0") + request(2, b"SET", b"a", b"1")
        data += (
            encode_call(1, pack([b"ONE"])) + request(3, b"SET", b"b", b"1") + encode_call(2, pack([b"TWO"]))
        )
        return say(made, data, [1000]), heard

    replies, heard = same(story)
    assert [sequence for _, _, sequence, *_ in replies] == [1, 2, 3]
    assert heard == [b"2 ONE", b"3 TWO"]


@pytest.mark.parametrize(
    "bad",
    [
        frame(99, b"?"),
        frame(Type.REQUEST, b"short"),
        frame(Type.CALL, b"short"),
        encode_request(PARTITION, EPOCH, 2, 1, b""),
        encode_request(PARTITION, EPOCH, 2, 1, b"*0\r\n"),
        encode_request(PARTITION, EPOCH, 2, 1, b"*2\r\n$3\r\nGET\r\n$1\r\n"),
        encode_request(PARTITION, EPOCH, 2, 3, pack([b"GET", b"a"])),
        encode_request(99, EPOCH, 2, 1, pack([b"GET", b"a"])),
    ],
)
def test_nonsense_is_told_apart_alike(bad: bytes) -> None:
    data = request(1, b"SET", b"z", b"0") + bad + request(3, b"GET", b"z")
    same(lambda made: say(made, data, [len(data)]))


def test_a_frame_that_is_too_large_ends_the_connection() -> None:
    def story(made: Node) -> Any:
        return say(made, request(1, b"SET", b"z", b"0"), [1000]), say(made, b"\xff\xff\xff\xff\x14", [1000])

    assert same(story)[1] == []


def test_a_router_that_does_not_read_is_not_listened_to() -> None:
    """Above PEER_OUTPUT_BYTES unsent nothing more is taken, until it reads."""

    def story(made: Node) -> Any:
        large = b"v" * (1 << 20)
        assert say(made, request(1, b"SET", b"a", large), [100_000])
        count = limits.PEER_OUTPUT_BYTES // len(large) + 10
        made.router.send(b"".join(request(2 + at, b"GET", b"a") for at in range(count)))
        made.turn(2)
        paused = made.peer.is_paused
        got = []
        for _ in range(2000):
            got += made.replies()
            if len(got) == count:
                break
            made.turn()
        return paused, [sequence for _, _, sequence, *_ in got], {len(reply) for *_, reply in got}

    paused, sequences, sizes = same(story)
    assert paused
    assert sequences == list(range(2, 2 + len(sequences)))
    assert len(sizes) == 1


def test_what_a_memory_forgets() -> None:
    """By the watermark, in whatever order, and however far it jumps."""
    with node(in_c=False) as made:
        memory = made.leader.log.memory
        for sequence in (3, 1, 2, 9):
            memory.remember(RequestId(1, sequence, 1), sequence, b"r")
        memory.remember(RequestId(1, 10, 3), 10, b"r")
        assert sorted(memory.sessions[1].known) == [3, 9, 10]
        assert memory.is_stale(RequestId(1, 2, 1))
        memory.remember(RequestId(1, 1 << 62, 1 << 61), 11, b"r")
        assert list(memory.sessions[1].known) == [1 << 62]
        for session in range(limits.SESSIONS_MAX + 5):
            memory.remember(RequestId(1, (1 << 62) + session, 1), 12, b"r")
            memory.remember(RequestId(2 + session, 1, 1), 12, b"r")
        assert len(memory.sessions) == limits.SESSIONS_MAX
        assert 1 in memory.sessions
        assert 2 not in memory.sessions
