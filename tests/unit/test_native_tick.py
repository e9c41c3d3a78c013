"""A tick in C does what a tick in Python does, on a node that leads, with two followers, and follows.

Random stories are played twice: with the functions in C and without. Each step is one tick, and after each
everything that left or stayed is noted: the batches (as they were when they were written, and what had left by
then), frames to followers and to a leader byte for byte, answers, logs, and what is known of the followers. The
wall clock counts steps; of the steady one, which C reads by itself, it is noted in which step it was read.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import sys
import tempfile
import termios
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fortdb.clock import steady_ms
from fortdb.limits import FLIGHT_BYTES_MAX
from fortdb.model import PartitionRecord
from fortdb.native import lane
from fortdb.net import loop as loop_module
from fortdb.net import stream as stream_module
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting, Peer
from fortdb.net.stream import Outbox
from fortdb.node import core as core_module
from fortdb.node import links as links_module
from fortdb.node import service as service_module
from fortdb.node import upkeep as upkeep_module
from fortdb.node.core import Settings
from fortdb.node.disk import open_replica
from fortdb.node.hosted import Hosted
from fortdb.node.service import NodeService
from fortdb.node.slots import RequestSlot
from fortdb.protocol.commands import TABLE
from fortdb.protocol.resp import bulk, pack
from fortdb.replication.entries import DELETE, PUT, Operation, RequestId, encode_entry, encode_operation
from fortdb.replication.epochs import LogShape
from fortdb.replication.leader import Leader
from fortdb.replication.messages import (
    Ack,
    Align,
    Append,
    FrameReader,
    HeartbeatAck,
    Position,
    Query,
    Refuse,
    Status,
    Type,
    decode_reply,
    encode,
    encode_request,
)
from fortdb.replication.progress import Phase
from fortdb.ring.tokens import token_of
from fortdb.storage import batch as batch_module
from fortdb.storage.batch import RocksBatch
from fortdb.storage.engine import nothing_meanwhile
from fortdb.storage.rocks import RocksEngine
from tests.support.ways import EPOCH, FOREVER_MS, Sent, needs_c, received, tick_shortly

pytestmark = needs_c

LED, FOLLOWED = (3, 4), 5
FOLLOWERS = ("a", "b")
SETTINGS = Settings(3_000, 1 << 40, 1_000, 1 << 40, 1_000, 1)  # no heartbeats, no time-outs
MODULES = (service_module, links_module, stream_module, loop_module, batch_module)


class Node:
    """A node that leads two partitions with two followers, and follows in a third."""

    def __init__(self, directory: str, in_c: bool, steps: list[int]) -> None:
        self.in_c = in_c
        self.loop, self.outbox = Loop(), Outbox()
        self.engine = RocksEngine(
            Path(directory) / "engine", cache_bytes=1 << 20, memtable_bytes=1 << 22, sync=False
        )
        own = Greeting("c", "node", "life")
        self.service = NodeService(self.loop, self.outbox, self.engine, own, SETTINGS)
        self.loop._timers.clear()  # sweeps are steps of the story
        self.service.lease_renewed(FOREVER_MS)
        self.steps = steps  # when each began
        self.ticks_in_c = 0  # in which nothing was to be written
        self.told: list[Any] = []
        self.received: dict[str, bytearray] = defaultdict(bytearray)
        self.sockets: dict[str, socket.socket] = {}
        self.peers: dict[str, Peer] = {}
        self.unread: dict[str, int] = defaultdict(int)
        self.revision = 0
        self.sequence = 0
        self.offset, self.promised = 0, 0  # of the log of the leader that this node follows
        write = self.engine.write

        def note(batch: Any, sync: bool, meanwhile: Callable[[], None] = nothing_meanwhile) -> None:
            self.told.append(("write", sync, self.queued(), self.answered(), *self.batch(batch)))
            write(batch, sync, meanwhile)

        self.engine.write = note  # type: ignore[method-assign]
        self.service.requests.ready_to_hand_over = lambda hosted, leader: self.told.append(_partition(hosted))
        for partition in (*LED, FOLLOWED):
            replica = open_replica(self.engine, partition, f"p-{partition:03}", "node", "life", None)
            start = partition << 60
            self.service.host(Hosted(replica, ((start, start + (1 << 60)),)))
        self.step(*[partial(self.lead, partition, EPOCH) for partition in LED])
        self.listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in FOLLOWERS}
        addresses = {
            name: f"127.0.0.1:{listener.getsockname()[1]}" for name, listener in self.listeners.items()
        }
        self.service.links.connect(addresses)
        self.dialled("router", Greeting("c", "router", session=9))
        self.dialled("leader", Greeting("c", "leader", "life"))
        self.step(lambda: self.send("leader", self.aligned(0)))
        self.heal()
        assert all(self.hosted(partition).serve_until_ms > 0 for partition in LED)

    # --- connections ---------------------------------------------------------------------------------

    def dialled(self, name: str, greeting: Greeting) -> None:
        """A router or a leader connects."""
        ours, self.sockets[name] = socket.socketpair()
        self.sockets[name].setblocking(False)
        service, links = self.service, self.service.links
        way = (lane.hear_requests, service, [0, 0]) if self.in_c and lane is not None else None
        peer = Peer(self.loop, self.outbox, ours, service.own, links._heard_peer, links._peer_closed, way)
        self.peers[name] = peer
        self.step(lambda: self.send(name, greeting.encode()))

    def up(self, name: str) -> None:
        """A follower's link, once it is down, comes up again."""
        if self.service.links._followers[name].is_up:
            return
        listener = self.listeners[name]
        while not select.select([listener], [], [], 0)[0]:
            self.turn()
        self.sockets[name], _ = listener.accept()
        self.sockets[name].setblocking(False)
        self.send(name, Greeting("c", name, "life").encode())
        while not self.service.links._followers[name].is_up:
            self.turn()
        self.step(lambda: None)

    def down(self, name: str) -> None:
        """It goes down."""
        if self.service.links._followers[name].is_up:
            self.drain()
            self.sockets.pop(name).close()
            while self.service.links._followers[name].is_up:
                self.turn()
            self.step(lambda: None)

    def heal(self) -> None:
        """Every follower is there, and tells where its log ends; no handover is under way."""
        for name in FOLLOWERS:
            self.up(name)
        for partition in LED:
            self.step(partial(self.transfer, partition, None))
            for name in FOLLOWERS:
                self.step(partial(self.position, name, partition, 1))
                self.step(partial(self.ack, name, partition, 0))

    def send(self, name: str, data: bytes) -> None:
        """Bytes to the node, which are there when this returns."""
        if name not in self.sockets:
            return
        links = self.service.links._followers
        stream = links[name].stream if name in links else self.peers[name]
        self.sockets[name].sendall(data)
        self.unread[name] += len(data)
        while stream is not None and stream.is_open and _readable(stream.descriptor) < self.unread[name]:
            pass

    def drain(self) -> None:
        """Take everything that the node sends."""
        for _ in range(1000):
            for name, ours in self.sockets.items():
                self.received[name] += received(ours)
            if not any(self.queued()):
                return
            self.turn()
        raise AssertionError(self.queued())

    def queued(self) -> list[int]:
        """How much every follower has not been sent yet."""
        links = self.service.links._followers.values()
        return [link.stream.queued_bytes if link.stream is not None and link.is_up else 0 for link in links]

    # --- what happens ----------------------------------------------------------------------------------

    def hosted(self, partition: int) -> Hosted:
        return self.service.hosted[partition]

    def leader(self, partition: int) -> Leader:
        leader = self.hosted(partition).replica.leading
        assert leader is not None
        return leader

    def lead(self, partition: int, epoch: int) -> None:
        """This node is elected."""
        self.revision += 1
        isr = dict.fromkeys(("node", *FOLLOWERS), "life")
        name = f"p-{partition:03}"
        record = PartitionRecord(name, "node", epoch, isr, tuple(isr), handover=True, revision=self.revision)
        hosted = self.hosted(partition)
        assert hosted.replica.adopt(record, 2, self.loop.now_ms, len(self.steps))
        self.service.links.greet_followers(hosted)
        self.service.touch(hosted)
        self.service.requests.refresh(hosted)

    def elect(self, partition: int) -> None:
        """This node is elected again."""
        self.lead(partition, self.hosted(partition).replica.epoch + 1)

    def position(self, name: str, partition: int, behind: int) -> None:
        """A follower promises, and tells that it lacks the newest entries."""
        leader = self.leader(partition)
        progress, shape = leader.progress.get(name), leader.log.shape
        if progress is not None:
            least = max(progress.match, leader.log.commit, shape.base_offset)
            theirs = shape.truncated(max(min(least, shape.last_offset), shape.last_offset - behind))
            promise = encode(HeartbeatAck(FOREVER_MS, [(partition, leader.epoch)]))
            told = encode(Position(partition, leader.epoch, progress.attempt, theirs))
            self.send(name, promise + told)

    def ack(self, name: str, partition: int, behind: int) -> None:
        """A follower has what was sent, but for the newest entries."""
        leader = self.leader(partition)
        if (progress := leader.progress.get(name)) is not None:
            offset = max(progress.match, progress.next - 1 - behind)
            self.send(name, encode(Ack(partition, leader.epoch, offset)))

    def forgot(self, name: str, partition: int) -> None:
        """A follower comes back with an empty log, which takes a snapshot if the leader's was trimmed."""
        leader = self.leader(partition)
        if (progress := leader.progress.get(name)) is not None:
            progress.ask(0)
            self.send(name, encode(Position(partition, leader.epoch, progress.attempt, LogShape())))

    def trim(self, partition: int) -> None:
        """The log goes, as far as it is in the data."""
        log = self.hosted(partition).replica.log
        if log.shape.base_offset < log.applied:
            log.trim(log.applied)
            self.service.touch(self.hosted(partition))

    def ask(self, partition: int, *args: bytes) -> None:
        """A router asks."""
        self.sequence += 1
        epoch = self.hosted(partition).replica.epoch
        self.send("router", encode_request(partition, epoch, self.sequence, 1, pack(args)))

    def put(self, partition: int, size: int) -> None:
        """A large value."""
        self.sequence += 1
        hosted = self.hosted(partition)
        slot = RequestSlot(self.peers["router"], partition, hosted.replica.epoch, self.sequence)
        args = [b"SET", _key_in(partition), b"x" * size]
        self.service.requests.submit(hosted, slot, TABLE["SET"], args, RequestId(9, self.sequence, 1))

    def propose(self, partition: int, members: tuple[str, ...]) -> None:
        """The ISR is to be another."""
        leader = self.leader(partition)
        if leader.in_sync.proposed is None and leader.transfer_to is None:
            leader.in_sync.propose_isr(dict.fromkeys(("node", *members), "life"), is_alone=True)
            self.service.touch(self.hosted(partition))

    def accept(self, partition: int) -> None:
        """It is."""
        leader = self.leader(partition)
        if (proposed := leader.in_sync.proposed) is not None:
            self.revision += 1
            leader.accept_record(replace(proposed, revision=self.revision))
            self.service.requests.refresh(self.hosted(partition))
            self.service.touch(self.hosted(partition))

    def transfer(self, partition: int, target: str | None) -> None:
        """A handover begins, or is given up."""
        self.leader(partition).transfer_to = target
        self.service.requests.refresh(self.hosted(partition))
        self.service.touch(self.hosted(partition))

    def aligned(self, offset: int) -> bytes:
        """The leader of the third partition asks where the log ends, and begins behind an offset."""
        self.offset, self.promised = offset, self.promised + 1
        query = encode(Query(FOLLOWED, EPOCH, self.promised))
        return query + encode(Align(FOLLOWED, EPOCH, offset, EPOCH if offset else 0))

    def align(self, behind: int) -> None:
        """It has not what this node has of the newest entries."""
        applied = self.hosted(FOLLOWED).replica.log.applied
        self.send("leader", self.aligned(max(applied, self.offset - behind)))

    def deposed_leader(self) -> None:
        """A leader of an epoch that is over asks."""
        self.send("leader", encode(Query(FOLLOWED, EPOCH - 1, 1)))

    def append(self, operations: list[bytes], uncommitted: int) -> None:
        """It sends an entry."""
        entry = encode_entry(EPOCH, self.offset + 1, len(self.steps), operations)
        commit = max(0, self.offset + 1 - uncommitted)
        before = EPOCH if self.offset else 0
        self.send("leader", encode(Append(FOLLOWED, EPOCH, self.offset, before, commit, [entry])))
        self.offset += 1

    # --- time -------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Let the loop go round once."""

        def tick() -> None:
            if tick_shortly(self.service):
                self.ticks_in_c += 1
                self.service._wall_ms = 1000 + len(self.steps)  # C reads another clock than the story
            else:
                self.service.tick()
            self.loop.stop()

        self.loop.tick_again()
        self.loop.run(tick)
        self.unread.clear()

    def step(self, *actions: Callable[[], Any]) -> None:
        """What happens in one tick, and what that leaves."""
        before = steady_ms()
        while steady_ms() == before:
            pass
        self.steps.append(steady_ms())
        for action in actions:
            action()
        self.turn()
        self.told.append(self.state())
        for _ in range(10):
            if self.service.touched:
                self.turn()
                self.told.append(self.state())
        self.drain()

    def when(self, moment_ms: int) -> int:
        """In which step that was."""
        return bisect_right(self.steps, moment_ms)

    # --- what is told -------------------------------------------------------------------------------------

    def batch(self, batch: RocksBatch) -> tuple[Any, ...]:
        changes = (list(batch.data.items()), list(batch.operations), list(batch.states.items()))
        return *changes, list(batch.ranges), batch._deletes, batch.earliest_note_ms, batch.encode()

    def answered(self) -> list[Any]:
        led = [hosted.replica.leading for hosted in self.service.hosted.values()]
        waiting = [(len(one.waiting), len(one.waiting_synced), one.log.commit) for one in led if one]
        return [*waiting, [len(hosted.replica.acknowledgements) for hosted in self.service.hosted.values()]]

    def progress(self, leader: Leader) -> list[Any]:
        return [
            (
                (name, one.phase, one.match, one.next, one.flight_bytes, list(one._flight), one.attempt),
                self.when(one.caught_up_ms),
                one._mark and (one._mark[0], self.when(one._mark[1])),
            )
            for name, one in leader.progress.items()
        ]

    def state(self) -> list[Any]:
        """Everything that is held of the replicas."""
        service = self.service
        collected = [
            [*map(_partition, held)] for held in (service.touched, service._to_answer, service._to_apply)
        ]
        told: list[Any] = [
            collected,
            service.requests.held_count,
            service.commit_latency.counts and self.noted(),
        ]
        for hosted in service.hosted.values():
            replica, log, leader = hosted.replica, hosted.replica.log, hosted.replica.leading
            offsets = (log.shape, log.commit, log.applied, log.synced_offset, log.timestamp_ms)
            flags = (log.state_changed, log._wipe, log._truncate, log._trimmed, log.memory_is_stale)
            told += [
                offsets,
                flags,
                [*map(tuple, log.pending)],
                list(log.writes),
                replica.acknowledgements[:],
            ]
            told += [hosted.serve_until_ms > 0, hosted.segments._bytes, list(hosted.segments._ends)]
            told += [[one.offset for one in hosted.proposed], replica.replies[:], len(replica.abandoned)]
            told += [list(hosted.senders), sorted(hosted.members)]
            if leader is not None:
                told += [dict(leader.overlay), leader.uncommitted_bytes, leader.next_offset]
                told += [leader.proposal[:], leader.operations[:], leader.outbox[:]]
                waiting = (leader.waiting, leader.waiting_synced)
                told += [[(at, slot.sequence, reply) for at, slot, reply in one] for one in waiting]
                told.append(self.progress(leader))
        return told

    def noted(self) -> int:
        """How many writes the histogram has."""
        return sum(self.service.commit_latency.counts)

    def left(self) -> dict[str, Any]:
        """What everybody was sent. The router gets the answers of one partition in their order."""
        self.drain()
        replies = [
            decode_reply(body)
            for kind, body in FrameReader().feed(bytes(self.received.pop("router")))
            if kind == Type.REPLY
        ]
        told: dict[str, Any] = {name: bytes(data) for name, data in self.received.items()}
        return told | {"router": sorted(replies, key=lambda reply: reply[0])}

    def close(self) -> None:
        """Let everything go."""
        for ours in (*self.sockets.values(), *self.listeners.values()):
            ours.close()
        self.service.links.close()
        for peer in self.peers.values():
            peer.close("over")
        self.service._jobs.shutdown()
        self.engine.close()
        self.loop.close()


def _readable(descriptor: int) -> int:
    """How many bytes have arrived there."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def _key_in(partition: int) -> bytes:
    """A key that belongs there."""
    return next(key for key in map(b"%d".__mod__, count()) if token_of(key) >> 60 == partition)


def _partition(hosted: Hosted) -> int:
    return hosted.replica.partition


Story = Callable[[Node], None]


@contextlib.contextmanager
def node(in_c: bool) -> Iterator[Node]:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        steps: list[int] = []
        for module in (core_module, service_module, upkeep_module):
            patch.setattr(module, "wall_ms", lambda: 1000 + len(steps))
        for module in () if in_c else MODULES:
            patch.setattr(module, "lane", None)
        made = Node(directory, in_c, steps)
        try:
            yield made
        finally:
            made.close()


def same(story: Story) -> tuple[list[Any], dict[str, Any]]:
    """What a story tells, which must not depend on the way."""
    told = []
    for in_c in (True, False):
        with node(in_c) as made:
            story(made)
            told.append((made.told, made.left()))
    (short, short_left), (long, long_left) = told
    for number, (one, other) in enumerate(zip(short, long, strict=False)):
        assert one == other, number
    assert len(short) == len(long)
    assert short_left == long_left
    return told[0]


# --- stories -----------------------------------------------------------------------------------------------


def put(key: bytes, value: bytes, expiry_ms: int = 0) -> bytes:
    return encode_operation(Operation(PUT, key, value, expiry_ms))


PARTITIONS, NAMES, BEHIND = st.sampled_from(LED), st.sampled_from(FOLLOWERS), st.integers(0, 4)
COMMANDS = st.sampled_from(
    [
        *[(b"SET", b"a", b"1"), (b"SET", b"b", b"x" * 300)] * 4,
        (b"SET", b"a", b"2", b"PX", b"4"),
        (b"SET", b"a", b"3", b"ACK", b"ASYNC"),
        (b"SET", b"c", b"4", b"ACK", b"ASYNC"),
        (b"DEL", b"a"),
        (b"DEL", b"b"),
        (b"INCR", b"n"),
        (b"GET", b"a"),
        (b"GET", b"c"),
        (b"MSET", b"a", b"5", b"b", b"6"),
    ]
)
OPERATIONS = st.lists(
    st.sampled_from(
        [
            *[put(b"\1\x50k", b"\0v"), put(b"\1\x50l", b"\0" * 200)] * 3,
            put(b"\1\x50k", b"\1" + bytes(7) + b"\5e", 5),
            encode_operation(Operation(DELETE, b"\1\x50k")),
        ]
    ),
    max_size=3,
)
ASKS = st.tuples(st.just("ask"), PARTITIONS, COMMANDS)
ACKS = st.tuples(st.just("ack"), NAMES, PARTITIONS, BEHIND)
APPENDS = st.tuples(st.just("append"), OPERATIONS, st.integers(0, 2))
OTHERS = st.tuples(st.just("align"), BEHIND) | st.tuples(st.just("deposed_leader"))
ROUNDS = st.lists(st.one_of(ASKS, ASKS, ACKS, ACKS, ACKS, APPENDS, APPENDS, OTHERS), min_size=1, max_size=8)
ALL = [("ack", name, partition, 0) for name in FOLLOWERS for partition in LED]
EVENTS = st.one_of(
    st.tuples(st.just("down"), NAMES),
    st.tuples(st.just("heal")),
    st.tuples(st.just("position"), NAMES, PARTITIONS, BEHIND),
    st.tuples(st.just("propose"), PARTITIONS, st.sampled_from([("a",), ("b",), ("a", "b"), ()])),
    st.tuples(st.just("accept"), PARTITIONS),
    st.tuples(st.just("transfer"), PARTITIONS, st.sampled_from(["a", None])),
    st.tuples(st.just("elect"), PARTITIONS),
    st.tuples(st.just("trim"), st.sampled_from((*LED, FOLLOWED))),
    st.tuples(st.just("forgot"), NAMES, PARTITIONS),
    st.tuples(st.just("align"), BEHIND),
    st.tuples(st.just("sweep")),
)
STEPS = st.lists(
    st.one_of(ROUNDS, ROUNDS, ROUNDS, st.just(ALL), st.just(ALL), EVENTS), min_size=15, max_size=40
)


def happen(made: Node, what: Any) -> None:
    """One action."""
    name, *details = what
    if name == "ask":
        partition, (command, key, *rest) = details
        keys = [b"%d-%b" % (partition, word) if at % 2 == 0 else word for at, word in enumerate(rest, 1)]
        made.ask(partition, command, b"%d-%b" % (partition, key), *(keys if command == b"MSET" else rest))
    elif name == "sweep":
        made.service.upkeep.sweep()
    else:
        getattr(made, name)(*details)


def play(steps: list[Any]) -> Story:
    def story(made: Node) -> None:
        for step in steps:
            if isinstance(step, list):
                made.step(*[partial(happen, made, what) for what in step])
            elif step[0] in ("down", "up", "heal"):
                happen(made, step)
            else:
                made.step(partial(happen, made, step))

    return story


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(STEPS)
def test_whatever_happens(steps: list[Any]) -> None:
    same(play(steps))


def sets(made: Node, times: int, size: int = 10) -> None:
    for _ in range(times):
        made.step(lambda: made.put(3, size))


def acks(made: Node, name: str, behind: int = 0) -> None:
    made.step(lambda: made.ack(name, 3, behind))


def test_a_follower_falls_behind_its_flight_window_and_catches_up() -> None:
    def story(made: Node) -> None:
        sets(made, 12, FLIGHT_BYTES_MAX // 9)
        slow = made.leader(3).progress["b"]
        assert slow.flight_bytes >= FLIGHT_BYTES_MAX
        assert slow.next <= made.leader(3).log.last_offset
        for behind in (5, 2, 0, 0):
            acks(made, "a", behind)
            acks(made, "b", behind)
            sets(made, 1)
        acks(made, "a")
        acks(made, "b")
        assert made.leader(3).log.commit == made.leader(3).log.last_offset
        assert list(made.hosted(3).segments._ends)

    same(story)


def test_how_late_a_follower_is_does_not_depend_on_the_way() -> None:
    """A follower that is always one entry behind is caught up as of when the log ended there."""

    def story(made: Node) -> None:
        for _ in range(3):
            sets(made, 2)
            acks(made, "a", 1)
            acks(made, "b", 2)
            sets(made, 1)
            acks(made, "a", 1)
            acks(made, "b", 1)

    same(story)


def test_a_snapshot_between_entries() -> None:
    def story(made: Node) -> None:
        sets(made, 3, 1000)
        acks(made, "a")
        acks(made, "b")
        made.step(lambda: made.trim(3))
        sets(made, 1)
        made.step(lambda: made.forgot("b", 3), lambda: made.put(3, 7))
        assert made.leader(3).progress["b"].phase is Phase.INSTALL
        sets(made, 1)
        acks(made, "a")
        acks(made, "b")
        assert made.leader(3).progress["b"].phase is Phase.STREAM
        acks(made, "b")
        sets(made, 1)
        acks(made, "a")
        acks(made, "b")
        assert made.leader(3).log.commit == made.leader(3).log.last_offset

    same(story)


def test_a_follower_goes_away_in_the_middle_of_a_snapshot() -> None:
    def story(made: Node) -> None:
        sets(made, 3, 1000)
        acks(made, "a")
        acks(made, "b")
        made.step(partial(made.trim, 3))
        made.forgot("b", 3)
        made.turn()
        assert list(made.hosted(3).senders) == ["b"]
        made.down("b")
        assert not made.hosted(3).senders
        sets(made, 2)

    same(story)


def test_alone_in_the_isr_a_leader_commits_and_answers_nobody() -> None:
    """What all members have is committed, but they are fewer than `min_in_sync` (rule 3)."""

    def story(made: Node) -> None:
        leader = made.leader(3)
        made.step(partial(made.propose, 3, ()), lambda: made.ask(3, b"SET", b"a", b"1"))
        assert leader.log.commit < leader.log.last_offset
        made.loop.call_next(partial(made.accept, 3))  # between the request and the tick
        made.step(lambda: made.ask(3, b"SET", b"b", b"1"))
        assert leader.log.commit == leader.log.applied == leader.log.last_offset
        made.step(lambda: made.ask(3, b"SET", b"c", b"1"))
        assert [len(leader.waiting), made.service.requests.held_count] == [2, 1]
        made.step(partial(made.propose, 3, FOLLOWERS))
        acks(made, "a")
        acks(made, "b")
        made.step(partial(made.accept, 3))
        acks(made, "a")  # of what was held until now
        acks(made, "b")
        assert not leader.waiting

    same(story)


def test_a_walk_sees_what_is_committed_and_not_in_the_data() -> None:
    def story(made: Node) -> None:
        made.step(lambda: made.ask(3, b"SET", _key_in(3), b"1"))
        made.step(partial(made.ack, "a", 3, 0), partial(made.ack, "b", 3, 0))
        log = made.leader(3).log
        assert log.applied < log.commit == log.last_offset
        made.step(lambda: made.ask(3, b"SCAN", b"%d" % (3 << 60)))
        assert not made.service.requests.held_count

    _, left = same(story)
    assert bulk(_key_in(3)) in left["router"][-1][-1]


def test_the_whole_log_is_trimmed() -> None:
    def story(made: Node) -> None:
        sets(made, 2)
        acks(made, "a")
        acks(made, "b")
        sets(made, 1)
        acks(made, "a")
        acks(made, "b")
        sets(made, 1)
        made.step(lambda: made.put(3, 1), lambda: made.ack("a", 3, 0), lambda: made.ack("b", 3, 0))
        acks(made, "a")
        acks(made, "b")
        made.step(lambda: made.service.touch(made.hosted(3)))
        made.step(lambda: made.trim(3))
        assert made.leader(3).log.shape.epochs == ()
        sets(made, 2)

    same(story)


def test_what_waits_is_given_up_when_the_leader_is_deposed() -> None:
    def story(made: Node) -> None:
        sets(made, 2)
        made.step(lambda: made.put(3, 1), lambda: made.send("a", encode(Refuse(3, EPOCH + 1))))
        assert made.hosted(3).replica.leading is None

    _, left = same(story)
    assert [status for _, _, _, status, _ in left["router"]] == [Status.NOT_LEADER] * 3


def test_an_acknowledgement_of_an_earlier_epoch_counts_for_nothing() -> None:
    """It speaks of another log."""

    def story(made: Node) -> None:
        made.step(partial(made.elect, 3))
        made.heal()
        sets(made, 2)
        leader = made.leader(3)
        late = encode(Ack(3, leader.epoch - 1, leader.log.last_offset))
        made.step(partial(made.send, "a", late), partial(made.send, "b", late))
        assert leader.log.commit < leader.log.last_offset

    same(story)


def test_acknowledgements_and_positions_of_one_tick_all_leave() -> None:
    def story(made: Node) -> None:
        made.step(partial(made.append, [put(b"\1\x50k", b"\0v")], 0))
        made.step(
            partial(made.append, [put(b"\1\x50k", b"\0w")], 0), partial(made.align, 0), made.deposed_leader
        )
        assert not made.hosted(FOLLOWED).replica.acknowledgements

    same(story)


def test_a_leader_that_hung_up_is_told_nothing() -> None:
    def story(made: Node) -> None:
        made.step(lambda: made.append([put(b"\1\x50k", b"\0v")], 0))
        made.loop.call_next(lambda: made.peers["leader"].close("gone"))
        made.step(lambda: made.append([put(b"\1\x50k", b"\0w")], 0))
        assert made.hosted(FOLLOWED).replica.log.last_offset == 2
        assert not made.hosted(FOLLOWED).replica.acknowledgements

    same(story)


def test_ticks_go_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with node(in_c=True) as made:
        for method in ("_send_entries", "_write_replica", "_go_on", "_give_answers", "_answer"):
            monkeypatch.setattr(NodeService, method, None)
        for method in ("_heard_follower", "_heard_leader", "send_all", "answer_all"):
            monkeypatch.setattr(links_module.Links, method, None)
        for _ in range(3):
            made.step(lambda: made.ask(3, b"SET", b"3-a", b"1"), lambda: made.ask(4, b"SET", b"4-a", b"1"))
            before = made.ticks_in_c
            made.step(*[partial(happen, made, what) for what in ALL])
            assert made.ticks_in_c > before  # answers are given, and nothing is written
            made.step(lambda: made.append([put(b"\1\x50k", b"\0v")], 1))
        assert made.leader(3).log.commit == made.leader(3).log.last_offset


@pytest.mark.parametrize("in_c", [True, False], ids=["c", "python"])
def test_clients_hear_of_a_link_that_breaks_while_it_is_sent_to(in_c: bool) -> None:
    with node(in_c) as made:
        told: list[str] = []
        Sent(told, "member", made.service.outbox, Sent(told, "client", made.service.answers)).write()
        made.turn()
        assert told == ["member", "client"]
