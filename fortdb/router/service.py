"""A router: takes the commands of clients to the leaders of the partitions they concern.

It keeps no state of its own that matters: the layout and the leaders come by watch, and any number
of routers serve side by side. One thread and one epoll, as in a node; requests to one node travel
on one pipelined connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter

import structlog

from fortdb.errors import BadRequest, Fault, FortError, Unavailable
from fortdb.limits import KEY_BYTES_MAX
from fortdb.model import ClusterView, NodeState
from fortdb.native import bind, lane
from fortdb.net.calls import PendingCalls
from fortdb.net.feeds import Asked, Feeds
from fortdb.net.front import ClientConnection, Slot
from fortdb.net.gather import Completes, Gather, Part, sum_of
from fortdb.net.loop import Loop, TickWay
from fortdb.net.peer import Greeting, Link
from fortdb.net.status import LatencyHistogram
from fortdb.net.stream import Outbox, Way
from fortdb.net.tls import Context
from fortdb.protocol.arguments import parse_cursor, parse_integer
from fortdb.protocol.commands import INTERNAL, TABLE, Command, CommandKind, keys_of
from fortdb.protocol.resp import pack
from fortdb.protocol.scatter import split
from fortdb.protocol.transactions import Bundle, distribute
from fortdb.replication.messages import (
    Status,
    Type,
    decode_reply,
)
from fortdb.ring.tokens import TokenMap, token_of
from fortdb.router.channels import Channel, Unanswered
from fortdb.router.transactions import Coordinator

log = structlog.get_logger(__name__)

_SWEEP_MS = 50

NO_LAYOUT = "the ring has no layout yet; make one: fortdb layout plan, fortdb layout apply"

Administer = Callable[[Slot, Command, list[bytes]], None]


def key_too_long(key: bytes) -> BadRequest:
    """The refusal of a key that no node would take."""
    return BadRequest(f"key of {len(key)} bytes is longer than {KEY_BYTES_MAX}")


class RouterService:
    """Executes clients' commands by sending them on. It keeps nothing that a defect could spoil: whatever goes wrong
    with one is a `Fault` of that command alone."""

    __slots__ = ("__dict__", "channels", "deadline_ms", "latency", "loop", "tokens")

    def __init__(
        self,
        loop: Loop,
        cluster: str,
        name: str,
        deadline_ms: int,
        settings: Callable[[], Mapping[str, str]],
        information: Callable[[], Mapping[str, Mapping[str, object]]],
    ) -> None:
        self.loop = loop
        self.outbox = Outbox()  # of nodes
        self.answers = Outbox()  # to clients, which are sent while nodes work
        self.view = ClusterView()
        self.tokens: TokenMap | None = None
        self.channels: dict[int, Channel] = {}
        self.links: dict[str, Link] = {}
        self.secure: Context | None = None  # TLS to nodes, if set
        self.administer: Administer = lambda slot, command, args: None
        self.requests_total: dict[str, int] = {}
        self.errors_total: dict[str, int] = {}
        self.retries_total = 0
        self.latency = LatencyHistogram()  # the short way reads the clock once for all that one read brought
        self._own = Greeting(cluster, name, session=int.from_bytes(os.urandom(8)) | 1)
        self.deadline_ms = deadline_ms
        self._settings = settings
        self._information = information
        self._calls = PendingCalls(loop)
        self.coordinator = Coordinator(self, self._own.session)
        self.feeds = Feeds(loop, self, deadline_ms, knows_leaders=True)
        loop.call_every(_SWEEP_MS, self._sweep)

    # --- the tick -------------------------------------------------------------------------------

    @property
    def tick_way(self) -> TickWay | None:
        """In C, what `tick` does; it is done once more if something has collected meanwhile."""
        return None if lane is None else (lane.flush, (self.outbox, self.answers))

    def tick(self) -> None:
        """Everything that has arrived is in: send it on, and send what was answered."""
        self.outbox.flush()
        self.answers.flush()

    # --- the map --------------------------------------------------------------------------------

    def see(self, view: ClusterView) -> None:
        """A newer picture of the cluster; on the server's thread."""
        former, self.view = self.view, view
        if view.layout is not None and view.layout is not former.layout:
            self.tokens = TokenMap(view.layout)
            for known in view.layout.partitions:
                if known.id not in self.channels:
                    self.channels[known.id] = Channel(known.id, known.name)
        self._link_nodes(view)
        if self.tokens is None:
            return
        for record in view.records.values():
            if record is not former.records.get(record.partition):
                partition = self.tokens.by_name(record.partition)
                if partition is not None:
                    self._route(self.channels[partition.id], record.leader, record.epoch)

    def _link_nodes(self, view: ClusterView) -> None:
        for node in view.nodes.values():
            link = self.links.get(node.name)
            if link is not None:
                link.readdress(node.peer_address)
            elif node.state is not NodeState.FAILED:
                self.links[node.name] = Link(
                    self.loop,
                    self.outbox,
                    self._own,
                    node.name,
                    node.peer_address,
                    up=self._link_up,
                    down=self._link_down,
                    heard=self._heard,
                    way=None
                    if lane is None
                    else (lane.hear_replies, self, None),  # those that can only mean one thing
                    secure=self.secure,
                )
        known = view.layout.nodes if view.layout is not None else {}
        for name in [name for name in self.links if name not in view.nodes and name not in known]:
            self.links.pop(name).close()

    def _route(self, channel: Channel, leader: str | None, epoch: int) -> None:
        channel.route(leader, epoch, self.links.get(leader or ""))

    def _link_up(self, link: Link, other: Greeting) -> None:
        for channel in self.channels.values():
            channel.link_up(link.name, link)
        self._calls.link_up(link)

    def _link_down(self, link: Link) -> None:
        self._calls.link_down(link.name)

    # --- clients -----------------------------------------------------------------------------------

    def information(self) -> Mapping[str, Mapping[str, object]]:
        """The sections of `INFO`."""
        return self._information()

    def settings(self) -> Mapping[str, str]:
        """What `CONFIG GET` shows."""
        return self._settings()

    def execute(self, connection: ClientConnection, command: Command, args: list[bytes]) -> bytes | Slot:
        """Send a command on; its slot is completed when the answer is here."""
        name = command.name
        self._count_request(name)
        try:
            if command.kind is CommandKind.ADMIN:
                slot = connection.slot()
                self.administer(slot, command, args)
                return slot
            tokens = self._known_tokens()
            if command.kind is CommandKind.FEED:
                return self.feeds.execute(tokens, connection, command, args)
            if name == "SCAN":
                return self._send(connection, tokens, parse_cursor(args[1]), command, args)
            if name == "CHAIN":
                return self._chain(connection, args)
            if name == "DBSIZE":
                return self._count(connection, args)
            if name == "PURGEALL":
                raise BadRequest("PURGEALL is a step of KEYSPACE DROP name DELETE-KEYS; say that")
            keys = keys_of(command, args)
            for key in keys:
                if len(key) > KEY_BYTES_MAX:
                    raise key_too_long(key)
            if len(keys) > 1:
                slot = connection.slot()
                self._scatter(slot, tokens, command, args)
                return slot
            if name == "GET" and len(args) == 3:
                return self._stale(connection, tokens, args)
            return self._send(connection, tokens, token_of(keys[0]), command, args)
        except FortError as error:
            self._failed(error)
            return error.wire()
        except Exception as error:
            raise Fault(error) from error

    def watch(self, slot: Completes, keys: list[bytes]) -> None:
        """Ask the partitions of these keys for their versions."""
        self._count_request("WATCH")
        try:
            self._scatter(slot, self._known_tokens(), INTERNAL["WATCH"], [b"WATCH", *keys])
        except FortError as error:
            self._failed(error)
            slot.complete(error.wire())
        except Exception as error:
            raise Fault(error) from error

    def transact(self, slot: Part, bundle: Bundle) -> None:
        """Send a transaction to the leader of the partition that holds its keys, or lead it through several."""
        self._count_request("EXEC")
        try:
            tokens = self._known_tokens()
            distributed = distribute(bundle, lambda key: tokens.partition_of(token_of(key)).id)
            if len(distributed.parts) > 1:
                self.coordinator.run(slot, distributed)
            else:
                (partition,) = distributed.parts
                self._request(partition, pack([b"EXEC", *bundle.encode()]), INTERNAL["EXEC"], slot)
        except FortError as error:
            self._failed(error)
            slot.complete(error.wire())
        except Exception as error:
            raise Fault(error) from error

    def _count_request(self, name: str) -> None:
        self.requests_total[name] = self.requests_total.get(name, 0) + 1

    def _known_tokens(self) -> TokenMap:
        if self.tokens is None:
            raise Unavailable(NO_LAYOUT)
        return self.tokens

    def _send(
        self,
        connection: ClientConnection,
        tokens: TokenMap,
        token: int,
        command: Command,
        args: list[bytes],
    ) -> Slot:
        slot = connection.slot()
        self._request(tokens.partition_of(token).id, pack(args), command, slot)
        return slot

    def _request(self, partition: int, payload: bytes, command: Command, slot: Completes) -> None:
        deadline_ms = self.loop.now_ms + self.deadline_ms
        is_write = command.kind is CommandKind.WRITE
        self.channels[partition].send(Unanswered(payload, slot, is_write, deadline_ms))

    def _scatter(self, slot: Completes, tokens: TokenMap, command: Command, args: list[bytes]) -> None:
        scattered = split(command, args, lambda key: tokens.partition_of(token_of(key)).id)
        gather = Gather(slot, len(scattered.commands), scattered.join)
        for index, part in enumerate(scattered.commands):
            token = token_of(keys_of(command, part)[0])
            payload = pack(part)
            self._request(tokens.partition_of(token).id, payload, command, gather.part(index))

    def _count(self, connection: ClientConnection, args: list[bytes]) -> Slot:
        if len(args) > 2:
            raise BadRequest("syntax error: DBSIZE [keyspace]")
        slot = connection.slot()
        self.sum(args, slot)
        return slot

    def sum(self, args: list[bytes], slot: Completes, is_write: bool = False) -> None:
        """Ask every partition for a number; `slot` gets the sum."""
        gather = Gather(slot, len(self.channels), sum_of)
        deadline_ms = self.loop.now_ms + self.deadline_ms
        payload = pack(args)
        for index, channel in enumerate(self.channels.values()):
            channel.send(Unanswered(payload, gather.part(index), is_write, deadline_ms))

    def _chain(self, connection: ClientConnection, args: list[bytes]) -> Slot:
        """Ask the leader of a partition for its chain, or one of its other replicas."""
        partition = parse_integer(args[1])
        if partition not in self.channels:
            raise BadRequest(f"no partition {partition}; RING tells their ids")
        slot = connection.slot()
        if len(args) == 3:
            self._request(partition, pack(args), TABLE["CHAIN"], slot)
        elif len(args) == 5 and args[3].upper() == b"REPLICA":
            call = [b"STALE", b"%d" % partition, *args[:3]]
            self.call(args[4].decode("utf-8", "replace"), call, slot, waits=True)
        else:
            raise BadRequest("syntax error: CHAIN partition-id ordinal [REPLICA node]")
        return slot

    def _stale(self, connection: ClientConnection, tokens: TokenMap, args: list[bytes]) -> Slot:
        """Ask any replica that is up, followers first: the answer may be old."""
        if args[2].upper() != b"STALE":
            raise BadRequest("syntax error: GET key [STALE]")
        partition = tokens.partition_of(token_of(args[1]))
        record = self.view.records.get(partition.name)
        replicas = list(record.replicas if record is not None else partition.replicas)
        replicas.sort(key=lambda name: record is not None and name == record.leader)
        up = [name for name in replicas if name in self.links and self.links[name].is_up]
        if not up:
            raise Unavailable(f"no replica of partition {partition.name} can be reached")
        slot = connection.slot()
        self.call(up[0], [b"STALE", b"%d" % partition.id, *args[:2]], slot)
        return slot

    def way(self, counts: list[int]) -> Way | None:
        """The short way of plain requests whose leaders can be reached, where there is one."""
        return None if lane is None else (lane.send_on, self, counts)

    # --- calls to nodes --------------------------------------------------------------------------------

    def call(
        self,
        node: str,
        args: list[bytes],
        slot: Completes,
        within_ms: int | None = None,
        *,
        waits: bool = False,
    ) -> None:
        """A command to a node itself; `slot` gets its answer, or an error if the link is down (with `waits`: and
        stays so), breaks or there is none in time."""
        self._calls.call(node, self.links.get(node), args, slot, within_ms or self.deadline_ms, waits=waits)

    def leader_of(self, partition: int) -> object:
        """Who leads a partition, as far as this router knows, and in which epoch."""
        channel = self.channels[partition]
        return channel.leader, channel.epoch

    def ask_changes(self, partition: int, args: list[bytes], slot: Asked) -> Callable[[], None]:
        """Ask a partition's leader for changes; feeds look after the time themselves."""
        leader = self.channels[partition].leader or "nobody"
        return partial(self._calls.forget, self._calls.ask(leader, self.links.get(leader), args, slot))

    # --- what nodes say ----------------------------------------------------------------------------------

    def _heard(self, link: Link, kind: int, body: bytes) -> None:
        if kind == Type.REPLY:
            partition, epoch, sequence, status, reply = decode_reply(body)
            channel = self.channels.get(partition)
            if channel is None:
                raise BadRequest(f"a reply about partition {partition}, which the layout does not have")
            if status == Status.DONE:
                request = channel.answered(epoch, sequence, reply, link)
                if request is not None:
                    self.latency.observe(perf_counter() - request.began_s)
            elif status == Status.NOT_LEADER:
                self._heard_hint(channel, reply)
        elif kind == Type.RETURN:
            self._calls.returned(body)
        else:
            raise BadRequest(f"a node does not send frames of type {kind} to a router")

    def _heard_hint(self, channel: Channel, hint: bytes) -> None:
        """A node refused a request and named the leader it knows; the watch may be slower."""
        epoch, _, leader = hint.partition(b" ")
        if leader and int(epoch) > channel.epoch:
            self._route(channel, leader.decode(), int(epoch))

    # --- now and then ----------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        now_ms = self.loop.now_ms
        for channel in self.channels.values():
            if channel:
                channel.time_out(now_ms, self._failed)

    def _failed(self, error: FortError) -> None:
        self.errors_total[error.code] = self.errors_total.get(error.code, 0) + 1

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._calls and not any(self.channels.values())


bind(RouterService)
