"""A partition's replicas, their disks, the network and the coordination store, in one thread.

Everything that can go wrong between them is a method: a crash loses what was not written, a cut loses
what was on its way, a compare-and-set may lose its answer, a lease may end while its node lives. The
replicas are the real state machines; only time, disks and wires are simulated. Every write is given an id.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from fortdb.model import NodeRecord, NodeState, Partition, PartitionRecord
from fortdb.replication.election import elect, first_record
from fortdb.replication.entries import Kind, Operation, decode_entry, entry_timestamp
from fortdb.replication.epochs import LogShape
from fortdb.replication.leader import Leader
from fortdb.replication.log import Pending, ReplicaLog
from fortdb.replication.messages import (
    Ack,
    Align,
    Append,
    Message,
    Position,
    Query,
    Refuse,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotEnd,
)
from fortdb.replication.progress import Phase
from fortdb.replication.replica import Replica

LEASE_MS = 1_000
LAG_MS = 300
IDS = b"ids"  # the newest id, written with each write
PARTITION = Partition(1, "p-001", 0, ("a", "b", "c"))


@dataclass
class Disk:
    """What survives a crash."""

    disk_id: str
    life: int = 0
    epoch: int = 0
    applied: int = 0
    shape: LogShape = field(default_factory=LogShape)
    installing: bool = False
    log: dict[int, bytes] = field(default_factory=dict)
    data: dict[bytes, bytes] = field(default_factory=dict)
    memory: bytes | None = None


@dataclass
class Install:
    """A snapshot that arrives, or one that is being sent: the leader's epoch, and what it holds."""

    peer: str
    epoch: int
    shape: LogShape
    data: dict[bytes, bytes] = field(default_factory=dict)
    memory: bytes = b""
    is_complete: bool = False


class Ask:
    """A client's write, as a slot: `answered` once it was acknowledged."""

    def __init__(self, key: bytes, value: bytes) -> None:
        self.key = key
        self.value = value
        self.answered = False


class Node:
    """A process on a disk."""

    def __init__(self, cluster: Cluster, name: str, disk: Disk) -> None:
        self.cluster = cluster
        self.name = name
        self.disk = disk
        disk.life += 1
        self.incarnation = f"{disk.disk_id}.{disk.life}"
        if disk.installing:
            log = ReplicaLog(LogShape(), 0)
            log.reset(LogShape())
        else:
            log = ReplicaLog(disk.shape, disk.applied)
            for offset in range(disk.applied + 1, disk.shape.last_offset + 1):
                log.restore(offset, disk.log[offset])
        self.replica = Replica(1, "p-001", name, self.incarnation, disk.epoch, log)
        self.replica.promised_until_ms = cluster.now_ms + LEASE_MS
        self.lease_until_ms = cluster.now_ms + LEASE_MS
        self.install: Install | None = None
        self.sending: dict[str, Install] = {}
        self.skew_ms = 0  # of its wall clock
        self._read_memory()

    @property
    def wall_ms(self) -> int:
        return self.cluster.now_ms + self.skew_ms

    def _read_memory(self) -> None:
        """What `read_memory` of the node does about times."""
        log, disk = self.replica.log, self.disk
        log.memory_is_stale = False
        kept = [] if disk.memory is None else [disk.memory]
        if disk.log:
            kept.append(disk.log[max(disk.log)])
        log.timestamp_ms = max([log.timestamp_ms, *map(entry_timestamp, kept)])

    def read_log(self, first: int, last: int, bytes_max: int) -> list[bytes]:
        return [self.disk.log[offset] for offset in range(first, min(last, first + 3) + 1)]

    def tick(self, crash: str = "") -> None:
        """One tick of the node, ending in a crash 'before' or 'after' the write if asked for."""
        cluster, replica, disk = self.cluster, self.replica, self.disk
        if replica.leading is not None:
            replica.leading.seal(self.wall_ms)
            replica.leading.pump(self.read_log)
            self._send_snapshots(replica.leading)
            for to, message in replica.leading.outbox:
                cluster.send(self.name, to, message)
            replica.leading.outbox.clear()
        for to, message in replica.replies:
            cluster.send(self.name, to, message)
        replica.replies.clear()
        replica.abandoned.clear()
        if crash == "before":
            cluster.crash(self.name)
            return
        wipe, truncate, trimmed, entries, _ = replica.log.take_writes()
        taken = replica.take_committed()
        cluster.note_applied(taken)
        if wipe:
            disk.log.clear()
            disk.data.clear()
            disk.memory = None
        for offsets in filter(None, (truncate, trimmed)):
            for offset in range(*offsets):
                disk.log.pop(offset, None)
        if trimmed is not None:
            disk.memory = replica.log.encode_memory(trimmed[1] - 1)
        disk.log.update(entries)
        for pending in taken:
            for operation in pending.operations:
                disk.data[operation.key] = operation.value
        if self.install is not None:
            disk.data.update(self.install.data)
            disk.memory = self.install.memory or disk.memory
        disk.epoch, disk.applied, disk.shape, disk.installing = (
            replica.epoch,
            replica.log.applied,
            replica.log.shape,
            replica.installing,
        )
        if crash == "after":
            cluster.crash(self.name)
            return
        if replica.leading is not None:
            replica.leading.applied(taken)
        replica.synced()
        if replica.leading is not None:
            for _, slot, _ in replica.leading.take_answers():
                slot.answered = True
                cluster.acknowledged.append(slot)
        if self.install is not None and self.install.is_complete:
            replica.end_snapshot(self.install.peer, self.install.shape)
            self.install = None
            self._read_memory()
            return  # its state must be on disk before it is acknowledged
        for to, message in replica.acknowledgements:
            cluster.send(self.name, to, message)
        replica.acknowledgements.clear()

    def trim(self, share: float) -> None:
        """Forget a share of what the log holds and the data has."""
        log = self.replica.log
        offset = log.shape.base_offset + round((log.applied - log.shape.base_offset) * share)
        if not self.replica.installing and log.shape.base_offset < offset <= log.applied:
            log.trim(offset)

    def _send_snapshots(self, leader: Leader) -> None:
        """In two ticks, so that much can happen in between."""
        for name, progress in leader.progress.items():
            under_way = self.sending.pop(name, None)
            if progress.phase is not Phase.SNAPSHOT:
                continue
            if under_way is None or under_way.epoch != leader.epoch:
                shape = leader.log.shape.truncated(leader.log.applied)
                if shape.base_offset < shape.last_offset:
                    shape = shape.trimmed(shape.last_offset)
                memory = leader.log.encode_memory(shape.base_offset)
                self.sending[name] = Install(name, leader.epoch, shape, dict(self.disk.data), memory)
                leader.outbox.append((name, SnapshotBegin(1, leader.epoch, shape)))
                continue
            pairs = list(under_way.data.items())
            leader.outbox.append((name, SnapshotChunk(1, leader.epoch, 0, pairs)))
            leader.outbox.append((name, SnapshotEnd(1, leader.epoch, 1, under_way.memory, [])))
            progress.has_all_data(under_way.shape.last_offset)

    def receive(self, sender: str, message: Message) -> None:
        replica, leader = self.replica, self.replica.leading
        match message:
            case Query():
                if replica.heard_query(sender, message):
                    self.install = None
            case Align():
                replica.heard_align(sender, message)
            case Append():
                replica.heard_append(sender, message)
            case SnapshotBegin():
                if replica.begin_snapshot(sender, message):
                    self.install = Install(sender, message.epoch, message.shape)
            case SnapshotChunk() | SnapshotEnd():
                self._heard_snapshot(sender, message)
            case Refuse():
                replica.refused(message.epoch)
            case Ack() if leader is not None and leader.epoch == message.epoch:
                leader.heard_ack(sender, message.offset, self.cluster.now_ms)
            case Position() if leader is not None and leader.epoch == message.epoch:
                leader.heard_position(sender, message, self.cluster.now_ms)

    def _heard_snapshot(self, sender: str, message: SnapshotChunk | SnapshotEnd) -> None:
        install = self.install
        if install is None or (install.peer, install.epoch) != (sender, message.epoch):
            return
        if isinstance(message, SnapshotChunk):
            install.data = dict(message.pairs)
        else:
            install.memory = message.memory
            install.is_complete = True

    def beat(self) -> None:
        """Renew the followers' promises over links that stand. An answer takes no time here."""
        cluster, leader = self.cluster, self.replica.leading
        if leader is None:
            return
        leader.ask_again(cluster.now_ms)
        for name in list(leader.progress):
            if cluster.is_linked(self.name, name):
                follower = cluster.nodes[name].replica
                until_ms = cluster.now_ms + LEASE_MS
                if follower.promise(self.name, leader.epoch, leader.log.commit, until_ms):
                    leader.heard_promise(name, until_ms, cluster.now_ms)

    def serves(self) -> bool:
        """Whether a client would be answered now."""
        leader, now_ms = self.replica.leading, self.cluster.now_ms
        return (
            leader is not None
            and leader.serves_at(now_ms)
            and leader.lease_until_ms(self.lease_until_ms) > now_ms
        )

    def write(self, key: bytes, value: bytes) -> Ask | None:
        """A client's write; None if it is refused at once."""
        leader = self.replica.leading
        if leader is None or not self.serves() or not leader.enough_in_sync():
            return None
        ask = Ask(key, value)
        given = str(leader.new_id(max(self.wall_ms, leader.log.timestamp_ms))).encode()
        operations = [Operation(Kind.PUT, IDS, given), Operation(Kind.PUT, key, value)]
        offset = leader.propose(operations, None, b"+OK", self.wall_ms)
        leader.wait(offset, ask, b"+OK")
        return ask

    def read(self, key: bytes) -> tuple[bytes | None, bool] | None:
        """(value, whether it is answered at once); None if the node would not answer."""
        if not self.serves():
            return None
        leader = self.replica.leading
        assert leader is not None
        known = leader.overlay.get(key)
        return (known[0].value, False) if known is not None else (self.disk.data.get(key), True)


class Cluster:
    """The replicas of one partition and everything between them."""

    def __init__(self, min_in_sync: int = 2) -> None:
        self.now_ms = 1_000_000
        self.min_in_sync = min_in_sync
        self.record: PartitionRecord | None = None
        self.disks = {name: Disk(f"disk-{name}") for name in PARTITION.replicas}
        self.nodes: dict[str, Node] = {}
        self.registered: dict[str, tuple[str, int]] = {}  # name -> (incarnation, lease ends)
        self.cuts: set[frozenset[str]] = set()
        self.wires: dict[tuple[str, str], deque[Message]] = {}
        self.acknowledged: list[Ask] = []
        self.applied: dict[int, bytes] = {}  # what was ever committed, by offset
        self.seen: dict[str, int] = {}
        self.led: dict[int, str] = {}
        for name in PARTITION.replicas:
            self.start(name)

    # --- processes and wires ----------------------------------------------------------------

    def start(self, name: str) -> None:
        assert name not in self.nodes
        self.nodes[name] = Node(self, name, self.disks[name])
        self.registered[name] = (self.nodes[name].incarnation, self.now_ms + LEASE_MS)
        self._relink(name)

    def crash(self, name: str) -> None:
        del self.nodes[name]
        for other in self.disks:
            self._unlink(name, other)

    def empty_disk(self, name: str) -> None:
        assert name not in self.nodes
        self.disks[name] = Disk(f"{self.disks[name].disk_id}+")

    def cut(self, one: str, other: str) -> None:
        self.cuts.add(frozenset((one, other)))
        self._unlink(one, other)

    def mend(self) -> None:
        self.cuts.clear()
        for name in self.nodes:
            self._relink(name)

    def is_linked(self, one: str, other: str) -> bool:
        return one in self.nodes and other in self.nodes and frozenset((one, other)) not in self.cuts

    def note_applied(self, taken: list[Pending]) -> None:
        for offset, entry, _ in taken:
            assert self.applied.setdefault(offset, entry) == entry, f"two entries committed at {offset}"

    def send(self, sender: str, to: str, message: Message) -> None:
        if self.is_linked(sender, to):
            self.wires.setdefault((sender, to), deque()).append(message)

    def deliver(self, sender: str, to: str) -> bool:
        wire = self.wires.get((sender, to))
        if not wire or to not in self.nodes:
            return False
        self.nodes[to].receive(sender, wire.popleft())
        return True

    def _unlink(self, one: str, other: str) -> None:
        for pair in ((one, other), (other, one)):
            self.wires.pop(pair, None)
            node = self.nodes.get(pair[0])
            if node is not None and node.replica.leading is not None:
                node.replica.leading.follower_down(pair[1])

    def _relink(self, name: str) -> None:
        for other in self.nodes:
            if other != name and self.is_linked(name, other):
                self._greet(name, other)
                self._greet(other, name)

    def _greet(self, leader: str, follower: str) -> None:
        leading = self.nodes[leader].replica.leading
        if leading is not None:
            progress = leading.progress.get(follower)
            incarnation = self.nodes[follower].incarnation
            if progress is None or progress.phase is Phase.DOWN or progress.incarnation != incarnation:
                leading.follower_up(follower, incarnation, self.now_ms)

    # --- the coordination store ------------------------------------------------------------------

    def members(self) -> dict[str, NodeRecord]:
        return {
            name: NodeRecord(name, "z", "", "", "", incarnation, NodeState.SERVING, "1")
            for name, (incarnation, until_ms) in self.registered.items()
            if until_ms > self.now_ms
        }

    def keep_alive(self, name: str) -> None:
        node = self.nodes[name]
        self.registered[name] = (node.incarnation, self.now_ms + LEASE_MS)
        node.lease_until_ms = self.now_ms + LEASE_MS

    def revoke(self, name: str) -> None:
        """The store ends a lease although its node lives and believes in it."""
        self.registered.pop(name, None)

    def compare_and_set(self, change: PartitionRecord) -> bool:
        revision = self.record.revision if self.record is not None else 0
        if change.revision != revision:
            return False
        self.record = replace(change, revision=revision + 1)
        return True

    def control(self) -> None:
        """The controller's step."""
        if self.record is None:
            change = first_record(PARTITION, self.members())
        else:
            change = elect(self.record, PARTITION, self.members())
        if change is not None:
            self.compare_and_set(change)

    def watch(self, name: str) -> None:
        """A node sees the present record."""
        node = self.nodes[name]
        if self.record is not None and node.replica.adopt(
            self.record, self.min_in_sync, self.now_ms, node.wall_ms
        ):
            epoch = node.replica.epoch
            assert self.led.setdefault(epoch, node.incarnation) == node.incarnation, "two leaders, one epoch"
            for other in self.nodes:
                if other != name and self.is_linked(name, other):
                    self._greet(name, other)

    def tend(self, name: str, lose_answer: bool = False) -> None:
        """A leader asks the store for what it wants changed; the answer may be lost."""
        node = self.nodes[name]
        leader = node.replica.leading
        if leader is None:
            return
        change = leader.in_sync.proposed or self._change(leader)
        if change is None:
            return
        accepted = self.compare_and_set(change)
        if not lose_answer and (accepted or self.record is not None):
            self.watch(name)

    def _change(self, leader: Leader) -> PartitionRecord | None:
        if leader.ready_to_hand_over():
            assert leader.transfer_to is not None
            return leader.in_sync.propose_leader(leader.transfer_to, None, leader.is_alone(self.now_ms))
        members = self.members()

        def is_over(name: str, incarnation: str) -> bool:
            return name not in members or members[name].incarnation != incarnation

        return leader.isr_change(self.now_ms, LAG_MS, is_over, lambda name: False)

    # --- looking ----------------------------------------------------------------------------------

    def settle(self, rounds: int = 60) -> Leader:
        """Let a healthy cluster run until somebody leads with a full ISR; returns the leader."""
        self.mend()
        for name in self.disks:
            if name not in self.nodes:
                self.start(name)
        for _ in range(rounds):
            self.now_ms += 50
            for name in self.nodes:
                self.keep_alive(name)
            self.control()
            for name in list(self.nodes):
                self.watch(name)
                self.nodes[name].beat()
                self.nodes[name].tick()
            while any(self.deliver(*pair) for pair in list(self.wires)):
                pass
            for name in list(self.nodes):
                self.nodes[name].tick()
                self.tend(name)
        leaders = [node for node in self.nodes.values() if node.serves()]
        assert len(leaders) == 1, "a healed cluster has one leader that serves"
        leader = leaders[0].replica.leading
        assert leader is not None and set(leader.in_sync.committed) == set(self.disks)
        return leader

    def check(self) -> None:
        """After `settle`: nothing acknowledged is lost, and all replicas hold the same."""
        for node in self.nodes.values():
            assert node.disk.log.items() <= self.applied.items()
            assert not node.disk.installing
        data = [node.disk.data for node in self.nodes.values()]
        assert data[0] == data[1] == data[2]
        written = set()
        newest = (0, 0)
        for offset, entry in sorted(self.applied.items()):
            for operation in decode_entry(entry, offset).operations:
                written.add((operation.key, operation.value))
                if operation.key == IDS:
                    ms, number = map(int, operation.value.split(b"-"))
                    assert newest < (ms, number), f"id {ms}-{number} was given after {newest}"
                    newest = (ms, number)
        for ask in self.acknowledged:
            assert (ask.key, ask.value) in written, f"acknowledged write {ask.key!r}={ask.value!r} is lost"
