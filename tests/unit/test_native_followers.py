"""The short way of entries into a follower's log, in C, does what the long way does.

Each story is played twice, with the functions in C and without, on a node that follows in one partition, and
what its log holds, what it remembers and what the leader hears is compared.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb.net.peer import Greeting
from fortdb.replication.entries import DELETE, PUT, Operation, RequestId, encode_entry, encode_operation
from fortdb.replication.epochs import LogShape
from fortdb.replication.messages import FRAME, Ack, Align, Append, FrameReader, Query, Type, decode, encode
from tests.support import ways
from tests.support.ways import EPOCH, PARTITION, NodeProcess, needs_c, pieces, received

pytestmark = needs_c


class Follower(NodeProcess):
    """A node that follows, and the leader that dialled it."""

    def __init__(self, in_c: bool) -> None:
        super().__init__(in_c)
        self.peer, self.leader = self.dialled(Greeting("c", "leader", "life"))
        self._reader = FrameReader()
        self.say(b"")

    def say(self, data: bytes, size: int = 1 << 20) -> list[Any]:
        """What the follower answers to frames that come in pieces of `size` bytes."""
        for piece in pieces(data, [size]):
            with contextlib.suppress(OSError):  # it hung up
                self.leader.send(piece)
            self.turn()
        self.turn(2)
        frames = self._reader.feed(received(self.leader))
        return [decode(kind, body) for kind, body in frames if kind != Type.HELLO]

    def state(self) -> Any:
        """Everything that entries leave behind."""
        log = self.replica.log
        pending = [(one.offset, one.entry, one.operations) for one in log.pending]
        data = self.engine.scan(b"", b"\xff", 1000)
        facts = (log.shape, log.commit, log.applied, log.synced_offset, log.timestamp_ms)
        role = (self.replica.epoch, self.replica.leader_name, self.replica.aligned, self.peer.is_open)
        return facts, role, self.entries(), pending, data, self.memory()

    def close(self) -> None:
        self.peer.close("done")
        self.leader.close()
        super().close()


def same(frames: list[bytes], size: int = 1 << 20) -> tuple[list[Any], Any]:
    """What is answered and left behind, which must not depend on the way."""
    return ways.same(Follower, lambda made: ([made.say(frame, size) for frame in frames], made.state()))


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
    with Follower(in_c=True) as made:
        made.say(aligned())
        monkeypatch.setattr(made.service.links, "_heard_leader", None)
        made.say(append(0, 0, 0, ONE) + append(1, EPOCH, 1, TWO, THREE), 11)
        assert made.replica.log.last_offset == 3
