"""The short way of a router's requests through a node, in C, does what the long way does.

Each test plays the same story twice, with the functions in C and without, on a node that leads the only
replica of a partition, and compares what the router is told, what is in the log and what is remembered.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb import limits
from fortdb.native import lane
from fortdb.net.peer import Greeting
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
from tests.support.ways import (
    EPOCH,
    FOREVER_MS,
    PARTITION,
    PLAIN,
    NodeProcess,
    needs_c,
    pieces,
    received,
    same,
    sizes_of_pieces,
)

pytestmark = needs_c

SESSION = (1 << 64) - 1


class Node(NodeProcess):
    """A node that leads a partition alone, and the router that dialled it."""

    def __init__(self, in_c: bool) -> None:
        super().__init__(in_c)
        self.peer, self.router = self.dialled(Greeting("c", "router", session=SESSION))
        self._reader = FrameReader()
        self.lead()
        assert self.replica.leading is not None
        self.leader = self.replica.leading
        assert not self.replies()

    def replies(self) -> list[tuple[int, int, int, int, bytes]]:
        """What the router has been told since."""
        frames = self._reader.feed(received(self.router))
        return [decode_reply(body) for kind, body in frames if kind == Type.REPLY]

    def left_behind(self) -> Any:
        """What was appended, times apart, and what is remembered."""
        decoded = [decode_entry(entry, at) for at, entry in enumerate(self.entries(), 1)]
        log = [(entry.epoch, entry.operations, entry.requests) for entry in decoded]
        return log, self.memory(), self.peer.is_open

    def close(self) -> None:
        self.peer.close("over")
        self.router.close()
        super().close()


def request(
    sequence: int, *args: bytes, epoch: int = EPOCH, watermark: int = 1, partition: int = PARTITION
) -> bytes:
    return encode_request(partition, epoch, sequence, watermark, pack(args))


def say(made: Node, data: bytes, sizes: list[int]) -> list[tuple[int, int, int, int, bytes]]:
    """The replies to frames that come in pieces."""
    replies = []
    for piece in pieces(data, sizes):
        made.router.send(piece)
        made.turn()
        replies += made.replies()
    made.turn(4)
    return replies + made.replies()


COMMANDS = st.one_of(
    PLAIN,
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


@settings(max_examples=25, deadline=None)
@given(FRAMES, sizes_of_pieces(5))
def test_replies_log_and_memory_are_the_same(
    frames: list[tuple[tuple[bytes, ...], tuple[int, int], int]], sizes: list[int]
) -> None:
    """Sequences and watermarks as they come: repeated, out of order, stale."""
    data = b"".join(
        request(max(numbers), *command, epoch=epoch, watermark=min(numbers))
        for command, numbers, epoch in frames
    )
    same(Node, lambda made: say(made, data, sizes))


def test_plain_requests_go_the_short_way() -> None:
    with Node(in_c=True) as made:
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

    replies = same(Node, story)
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

    once, _, again, late, read = same(Node, story)
    assert again == once
    assert late == []
    assert read[0][-1] == b"$1\r\n2\r\n"


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
def test_another_epoch_is_not_served(epoch: int) -> None:
    def story(made: Node) -> Any:
        data = request(1, b"SET", b"a", b"1") + request(2, b"SET", b"a", b"2", epoch=epoch)
        return say(
            made, data + request(3, b"GET", b"a", epoch=epoch), [1000]
        ), made.service.requests.held_count

    replies, held = same(Node, story)
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

    before, after = same(Node, story)
    assert before == []
    assert [sequence for _, _, sequence, *_ in after] == [2, 3]


def test_the_clock_is_read_after_the_socket() -> None:
    """A node that was paused meets requests that came meanwhile with the moment of its waking (rule 14)."""
    with Node(in_c=True) as made:
        say(made, request(1, b"SET", b"a", b"1"), [1000])
        made.loop.now_ms -= 1
        made.hosted.serve_until(made.loop.now_ms)
        made.loop.now_ms -= 10_000
        made.router.send(request(2, b"GET", b"a"))
        assert lane is not None
        assert lane.hear_requests(made.peer, made.service, made.service.links.plain_counts)
        assert made.service.links.plain_counts[0] == 0
        assert made.service.requests.held_count == 1


def test_other_frames_keep_their_place() -> None:
    def story(made: Node) -> Any:
        heard: list[bytes] = []
        made.service.links.call = lambda slot, args: heard.append(
            b"%d %s" % (len(made.leader.operations), args[0])
        )
        data = request(1, b"SET", b"z", b"0") + request(2, b"SET", b"a", b"1")
        data += (
            encode_call(1, pack([b"ONE"])) + request(3, b"SET", b"b", b"1") + encode_call(2, pack([b"TWO"]))
        )
        return say(made, data, [1000]), heard

    replies, heard = same(Node, story)
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
    same(Node, lambda made: say(made, data, [len(data)]))


def test_a_frame_that_is_too_large_ends_the_connection() -> None:
    def story(made: Node) -> Any:
        return say(made, request(1, b"SET", b"z", b"0"), [1000]), say(made, b"\xff\xff\xff\xff\x14", [1000])

    assert same(Node, story)[1] == []


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

    paused, sequences, sizes = same(Node, story)
    assert paused
    assert sequences == list(range(2, 2 + len(sequences)))
    assert len(sizes) == 1


def test_what_a_memory_forgets() -> None:
    """By the watermark, in whatever order, and however far it jumps."""
    with Node(in_c=False) as made:
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
