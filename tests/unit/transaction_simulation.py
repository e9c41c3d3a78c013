"""Routers and a node that leads three partitions and finishes what routers left in them, in one thread: every frame between them is delivered, delayed
or lost as a test says, and each of them can die at any moment.

Router, node, engine and log are the real ones; only wires and time are simulated. A node that dies loses what it
had not written, and comes back in another epoch, as the next leader of its partitions would be.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from hiredis import Reader

from fortdb.limits import FINISH_AGE_MS, TRACE_AGE_MS
from fortdb.model import ClusterView, Layout, NodeSpec, Partition, PartitionRecord
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting
from fortdb.net.stream import Outbox
from fortdb.node.calls import Calls
from fortdb.node.core import Settings
from fortdb.node.disk import open_replica
from fortdb.node.finisher import Finisher
from fortdb.node.hosted import Hosted
from fortdb.node.locks import Prepared
from fortdb.node.service import NodeService
from fortdb.protocol.commands import lookup
from fortdb.protocol.resp import pack
from fortdb.protocol.transactions import Bundle
from fortdb.replication.messages import FrameReader
from fortdb.ring.tokens import TokenMap, even_tokens, token_of
from fortdb.router.service import RouterService
from fortdb.storage.rocks import RocksEngine

PARTITIONS = 3
FOREVER_MS = 1 << 50
DEADLINE_MS = 12_000
SETTINGS = Settings(3_000, 100, 1_000, 10_000, 1_000, 1)
LAYOUT = Layout(
    1,
    1,
    1,
    {"node": NodeSpec("zone")},
    tuple(Partition(n, f"p-{n:03}", token, ("node",)) for n, token in enumerate(even_tokens(PARTITIONS))),
)
TOKENS = TokenMap(LAYOUT)


def keys_in(partition: int, count: int) -> list[str]:
    """Keys of a partition."""
    names = (f"key-{number}" for number in itertools.count())
    held = (name for name in names if TOKENS.partition_of(token_of(name.encode())).id == partition)
    return list(itertools.islice(held, count))


class Answer:
    """A client's slot."""

    def __init__(self) -> None:
        self.reply: bytes | None = None

    def complete(self, reply: bytes) -> None:
        assert self.reply is None, "answered twice"
        self.reply = reply

    @property
    def value(self) -> Any:
        """The reply, parsed."""
        reader = Reader()
        reader.feed(self.reply or b"")
        return reader.gets()


@dataclass
class Wire:
    """A connection between a router and the node: frames on their way, both directions in order. It is the router's
    link (`write` goes to the node), and `far` is the node's peer."""

    router: SimulatedRouter
    name: str = "node"
    is_up: bool = True
    to_node: deque[bytes] = field(default_factory=deque)
    to_router: deque[bytes] = field(default_factory=deque)

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __post_init__(self) -> None:
        self.far = Far(self)

    def write(self, data: bytes) -> None:
        if self.is_up:
            self.to_node.append(data)


class Far:
    """The node's side of a wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.other = Greeting("c", "router", session=wire.router.session)

    @property
    def is_open(self) -> bool:
        return self.wire.is_up

    def write(self, data: bytes) -> None:
        if self.wire.is_up:
            self.wire.to_router.append(data)


class SimulatedRouter:
    """A real router on a simulated wire."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.service = RouterService(Loop(), "c", "router", DEADLINE_MS, dict, dict)
        self.session = self.service._own.session
        self.service.loop.now_ms = world.now_ms
        self.service.see(world.view())
        self.wire = Wire(self)
        self.reconnect()

    def reconnect(self) -> None:
        """On a new connection; what was on the old one is lost."""
        self.wire.is_up = False
        self.service._link_down(self.wire)  # type: ignore[arg-type]
        self.wire = Wire(self)
        self.service.links = {"node": self.wire}  # type: ignore[dict-item]
        for channel in self.service.channels.values():
            channel.route("node", self.world.epoch, self.wire)

    def transact(self, *commands: str, watched: dict[bytes, bytes] | None = None) -> Answer:
        """EXEC of these."""
        answer = Answer()
        bundle = Bundle([command.encode().split() for command in commands], watched or {})
        self.service.transact(answer, bundle)  # type: ignore[arg-type]
        return answer

    def watch(self, *keys: str) -> Answer:
        """The versions of keys."""
        answer = Answer()
        self.service.watch(answer, [key.encode() for key in keys])
        return answer

    def say(self, line: str) -> Answer:
        """A command outside of transactions, on one key."""
        answer, args = Answer(), line.encode().split()
        command = lookup(args[0])
        assert command is not None
        partition = TOKENS.partition_of(token_of(args[1])).id
        self.service._request(partition, pack(args), command, answer)
        return answer

    def heard(self, data: bytes) -> None:
        for kind, body in FrameReader().feed(data):
            self.service._heard(self.wire, kind, body)  # type: ignore[arg-type]


class World:
    """The node, its disk, the routers and the time."""

    def __init__(self, directory: Path, routers: int = 2) -> None:
        self.directory = directory
        self.now_ms = 1_000_000
        self.epoch = 0
        self.dead: list[Wire] = []  # of routers that are gone; what they sent may arrive yet
        self.start()
        self.routers = [SimulatedRouter(self) for _ in range(routers)]

    def view(self) -> ClusterView:
        return ClusterView(layout=LAYOUT)

    def start(self) -> None:
        """The node starts, and leads in the next epoch."""
        self.epoch += 1
        self.loop, self.outbox = Loop(), Outbox()
        self.loop.now_ms = self.now_ms
        self.engine = RocksEngine(
            self.directory / "engine", cache_bytes=1 << 20, memtable_bytes=1 << 20, sync=False
        )
        self.node = NodeService(self.loop, self.outbox, self.engine, Greeting("c", "node", "life"), SETTINGS)
        self.node.links.call = Calls(self.node, None)  # type: ignore[arg-type]
        self.finisher = Finisher(self.node, lambda partition: "node", lambda nodes: None)
        self.node.tokens = TOKENS
        states = self.engine.states()
        for partition in LAYOUT.partitions:
            replica = open_replica(
                self.engine, partition.id, partition.name, "node", "life", states.get(partition.id)
            )
            hosted = Hosted(replica, TOKENS.ranges(partition))
            self.node.host(hosted)
            isr = {"node": "life"}
            record = PartitionRecord(partition.name, "node", self.epoch, isr, ("node",), handover=True)
            replica.adopt(record, 1, self.now_ms, 1)
            self.node.touch(hosted)
        for _ in range(3):
            self.node.tick()
        self.node.lease_renewed(FOREVER_MS)

    def crash(self) -> None:
        """The node dies and comes back; routers find it in its next epoch."""
        self.close()
        for router in self.routers:
            router.wire.is_up = False
        self.dead.clear()
        self.start()
        for router in self.routers:
            router.reconnect()

    def kill_router(self, number: int, for_good: bool = False) -> None:
        """A router dies, and another one comes in its place, or none. What it had sent may arrive."""
        gone = self.routers[number]
        gone.wire.to_router.clear()
        gone.wire.is_up = bool(gone.wire.to_node)
        self.dead.append(gone.wire)
        gone.service.loop.close()
        self.routers[number : number + 1] = [] if for_good else [SimulatedRouter(self)]

    def step(self, chance: Random) -> bool:
        """Deliver one frame, or let the node write; whether there was anything to do."""
        wires = [router.wire for router in self.routers]
        moves: list[tuple[str, Wire | None]] = [
            ("node", wire) for wire in [*wires, *self.dead] if wire.to_node
        ]
        moves += [("router", wire) for wire in wires if wire.to_router]
        if self.node.touched or self.node._to_answer:
            moves += [("tick", None)]
        if self.loop._calls:
            moves += [("call", None)]
        if not moves:
            return False
        where, wire = chance.choice(moves)
        if where == "call":
            self.loop._calls.popleft()()
        elif wire is None:
            self.node.tick()
        elif where == "node":
            self.hear(wire, wire.to_node.popleft())
            if wire in self.dead and not wire.to_node:
                wire.is_up = False
        else:
            wire.router.heard(wire.to_router.popleft())
        return True

    def hear(self, wire: Wire, data: bytes) -> None:
        """The node hears frames of a router."""
        for kind, body in FrameReader().feed(data):
            self.node.links._heard_peer(wire.far, kind, body)  # type: ignore[arg-type]

    def deliver(self, wire: Wire) -> None:
        """What a router has sent to the node, and then what has come back; the node writes nothing meanwhile."""
        while wire.to_node:
            self.hear(wire, wire.to_node.popleft())
        while wire.to_router:
            wire.router.heard(wire.to_router.popleft())

    def settle(self, chance: Random) -> None:
        """Deliver everything."""
        while self.step(chance):
            pass

    def pass_time(self, delay_ms: int) -> None:
        """Let time pass for everybody, who look at their clocks."""
        self.now_ms += delay_ms
        self.loop.now_ms = self.now_ms
        self.node.upkeep.sweep()
        self.finisher.look()
        for router in self.routers:
            router.service.loop.now_ms = self.now_ms
            router.service._sweep()
            router.service.coordinator._ask_for_traces()

    def heal(self, chance: Random) -> None:
        """Nobody dies any more: what is left is finished by whoever lives."""
        self.settle(chance)
        for _ in range(40):
            self.pass_time(max(TRACE_AGE_MS, FINISH_AGE_MS) + 1)
            self.settle(chance)
            if not self.locked() and all(router.service.is_idle for router in self.routers):
                return
        raise AssertionError(f"locks are left: {self.locked()}")

    def locked(self) -> list[bytes]:
        """Keys that a transaction holds, as the engine has it and as the leader believes."""
        found = [key for hosted in self.node.hosted.values() for key in hosted.locks.locked]
        for partition in self.node.hosted:
            fresh = Hosted(self.node.hosted[partition].replica, ())
            fresh.locks.leader = object()
            self.node.requests.read_locks(fresh, fresh.replica.leading)  # type: ignore[arg-type]
            found += [
                key
                for record in fresh.locks.prepared.values()
                if isinstance(record, Prepared)
                for key in record.keys
            ]
        return found

    def remembered(self) -> int:
        """Decisions that are kept."""
        return sum(len(hosted.locks.decisions) for hosted in self.node.hosted.values())

    def close(self) -> None:
        self.node._jobs.shutdown()
        self.engine.close()
        self.loop.close()
