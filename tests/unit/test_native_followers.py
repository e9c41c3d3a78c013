"""The short way of entries into a follower's log, in C, does what the long way does.

Each story is played twice, with the functions in C and without, on a node that follows in one partition, and
what its log holds, what it remembers and what the leader hears is compared.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb.native import lane
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting, Peer
from fortdb.net.stream import Outbox
from fortdb.node.disk import open_replica
from fortdb.node.service import Hosted, NodeService, Settings
from fortdb.replication.entries import DELETE, PUT, Operation, RequestId, encode_entry, encode_operation
from fortdb.replication.epochs import LogShape
from fortdb.replication.messages import FRAME, Ack, Align, Append, FrameReader, Query, Type, decode, encode
from fortdb.storage.rocks import RocksEngine

pytestmark = pytest.mark.skipif(lane is None, reason="the functions in C were not built")

PARTITION, EPOCH = 3, 5
SETTINGS = Settings(3_000, 100, 1_000, 3_000, 1_000, 1)


class Follower:
    """A node that follows, and the leader that dialled it."""

    def __init__(self, directory: str, in_c: bool) -> None:
        self.loop, self.outbox = Loop(), Outbox()
        self.engine = RocksEngine(
            Path(directory) / "engine", cache_bytes=1 << 20, memtable_bytes=1 << 20, sync=False
        )
        own = Greeting("c", "node", "life")
        self.service = NodeService(self.loop, self.outbox, self.engine, own, SETTINGS)
        self.replica = open_replica(self.engine, PARTITION, "p-003", "node", "life", None)
        self.service.host(Hosted(self.replica, ((0, 1 << 64),)))
        ours, self.leader = socket.socketpair()
        self.leader.setblocking(False)
        links = self.service.links
        way = (lane.hear_requests, self.service, [0, 0]) if in_c and lane is not None else None
        self.peer = Peer(self.loop, self.outbox, ours, own, links._heard_peer, links._peer_closed, way)
        self._reader = FrameReader()
        self.say(Greeting("c", "leader", "life").encode())

    def say(self, data: bytes, size: int = 1 << 20) -> list[Any]:
        """What the follower answers to frames that come in pieces of `size` bytes."""
        for at in range(0, len(data), size):
            with contextlib.suppress(OSError):  # it hung up
                self.leader.send(data[at : at + size])
            self.turn()
        self.turn(2)
        frames: list[tuple[int, bytes]] = []
        with contextlib.suppress(OSError):
            while data := self.leader.recv(1 << 20):
                frames += self._reader.feed(data)
        return [decode(kind, body) for kind, body in frames if kind != Type.HELLO]

    def turn(self, count: int = 1) -> None:
        """Let the loop go round."""

        def tick() -> None:
            self.service.tick()
            self.loop.stop()

        for _ in range(count):
            self.loop.tick_again()
            self.loop.run(tick)

    def state(self) -> Any:
        """Everything that entries leave behind."""
        log, memory = self.replica.log, self.replica.log.memory
        remembered = {key: (dict(one.known), one.watermark) for key, one in memory.sessions.items()}
        entries = self.engine.entries(PARTITION, 1, log.last_offset, 1 << 30)
        pending = [(one.offset, one.entry, one.operations) for one in log.pending]
        data = self.engine.scan(b"", b"\xff", 1000)
        facts = (log.shape, log.commit, log.applied, log.synced_offset, log.timestamp_ms)
        role = (self.replica.epoch, self.replica.leader_name, self.replica.aligned, self.peer.is_open)
        return facts, role, entries, pending, data, remembered

    def close(self) -> None:
        """Let everything go."""
        self.peer.close("done")
        self.leader.close()
        self.service._jobs.shutdown()
        self.engine.close()
        self.loop.close()


@contextlib.contextmanager
def follower(in_c: bool) -> Iterator[Follower]:
    with tempfile.TemporaryDirectory() as directory:
        made = Follower(directory, in_c)
        try:
            yield made
        finally:
            made.close()


def same(frames: list[bytes], size: int = 1 << 20) -> tuple[list[Any], Any]:
    """What is answered and left behind, which must not depend on the way."""
    told = []
    for in_c in (True, False):
        with follower(in_c) as made:
            answers = [made.say(frame, size) for frame in frames]
            told.append((answers, made.state()))
    assert told[0] == told[1]
    return told[0]


def aligned(epoch: int = EPOCH, offset: int = 0, offset_epoch: int = 0) -> bytes:
    """The leader asks where the log ends, and finds that both are the same up to there."""
    query, align = Query(PARTITION, epoch, 1), Align(PARTITION, epoch, offset, offset_epoch)
    return encode(query) + encode(align)


def entry(offset: int, *operations: bytes, epoch: int = EPOCH, time_ms: int = 7) -> bytes:
    return encode_entry(epoch, offset, time_ms, list(operations))


def put(key: bytes, value: bytes, request: RequestId | None = None) -> bytes:
    return encode_operation(Operation(PUT, key, value), request, b"+OK\r\n" if request else b"")


def append(previous: int, previous_epoch: int, commit: int, *entries: bytes, epoch: int = EPOCH) -> bytes:
    return encode(Append(PARTITION, epoch, previous, previous_epoch, commit, list(entries)))


def longer(frame: bytes, more: int) -> bytes:
    """The same frame with so many bytes more in its body."""
    size, kind = FRAME.unpack_from(frame)
    return FRAME.pack(size + more, kind) + frame[FRAME.size :] + bytes(more)


ONE = entry(1)
TWO = entry(2, put(b"\1a", b"\0v"), put(b"\1b", b"\0" * 3000, RequestId(9, 4, 2)), time_ms=9)
THREE = entry(
    3, encode_operation(Operation(DELETE, b"\1a")), put(b"\1c", b"\1" + bytes(8), RequestId(9, 5, 5))
)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_entries_come_into_the_log(size: int) -> None:
    answers, (facts, *_) = same(
        [aligned(), append(0, 0, 0, ONE), append(1, EPOCH, 1, TWO, THREE), append(3, EPOCH, 3)], size
    )
    assert facts[0] == LogShape(0, 0, ((EPOCH, 1),), 3)
    assert facts[1:4] == (3, 3, 3)
    assert [one for one in answers[1] if isinstance(one, Ack)][-1] == Ack(PARTITION, EPOCH, 1)
    assert [one for one in answers[2] if isinstance(one, Ack)][-1] == Ack(PARTITION, EPOCH, 3)


def test_an_epoch_begins_within_an_append() -> None:
    former = entry(1, put(b"\1a", b"\0v"), epoch=EPOCH - 1)
    _, (facts, *_) = same([aligned(), append(0, 0, 0, former, entry(2))])
    assert facts[0].epochs == ((EPOCH - 1, 1), (EPOCH, 2))


@pytest.mark.parametrize(
    "frame",
    [
        append(1, EPOCH, 1, THREE),  # a gap
        append(0, 0, 1, ONE),  # again
        append(1, EPOCH - 1, 1, TWO),  # another log
        append(1, EPOCH, 1, TWO, epoch=EPOCH - 1),  # a deposed leader
        append(1, EPOCH, 1, TWO, epoch=EPOCH + 1),  # a new one, with which nothing is aligned
        append(1, EPOCH, 1, TWO[:-1] + b"x"),  # damaged on the way
        append(1, EPOCH, 1, TWO[:20]),
        append(1, EPOCH, 1, TWO, TWO),  # the second is not where it says
        append(1, EPOCH, 1, TWO, b""),
        append(1, EPOCH, 1, TWO)[:-1] + b"y",
        *(longer(append(1, EPOCH, 1, TWO), more) for more in range(1, 6)),
        encode(Append(PARTITION + 1, EPOCH, 1, EPOCH, 1, [TWO])),  # not held here
    ],
)
def test_what_is_not_as_it_should_be(frame: bytes) -> None:
    same([aligned(), append(0, 0, 0, ONE), frame, append(1, EPOCH, 1, TWO)])


def test_a_damaged_entry_ends_the_connection_and_changes_nothing() -> None:
    _, (facts, role, *_) = same(
        [aligned(), append(0, 0, 0, ONE), append(1, EPOCH, 1, TWO, THREE[:-1] + b"x")]
    )
    assert role[-1] is False
    assert facts[0].last_offset in (1, 2)  # what stood before the damage may be kept


OPERATIONS = st.lists(
    st.builds(
        put,
        st.sampled_from([b"\1a", b"\1b", b"\1" + b"k" * 300]),
        st.sampled_from([b"\0", b"\0value", b"\1" + bytes(8) + b"x"]),
        st.none() | st.builds(RequestId, st.integers(1, 3), st.integers(1, 9), st.integers(1, 4)),
    ),
    max_size=4,
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.lists(OPERATIONS, min_size=1, max_size=3), st.integers(0, 9)), max_size=6),
    st.data(),
)
def test_whatever_is_appended(appends: list[tuple[list[list[bytes]], int]], data: st.DataObject) -> None:
    frames, offset = [aligned()], 0
    for groups, commit in appends:
        entries = [entry(offset + at, *group) for at, group in enumerate(groups, 1)]
        frames.append(append(offset, EPOCH if offset else 0, commit, *entries))
        offset += len(entries)
    size = data.draw(st.sampled_from([3, 64, 1 << 20]))
    _, (facts, *_) = same([b"".join(frames)], size)
    assert facts[0].last_offset == offset


def test_entries_go_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with follower(in_c=True) as made:
        made.say(aligned())
        monkeypatch.setattr(made.service.links, "_heard_leader", None)
        made.say(append(0, 0, 0, ONE) + append(1, EPOCH, 1, TWO, THREE), 11)
        assert made.replica.log.last_offset == 3
