"""Who talks to whom: links to followers, connections from leaders and routers, and what they say.

A leader's link to a follower carries all partitions that the one leads and the other follows. What
arrives is handed to the replica it concerns; what replicas want to say is collected by them and sent
here, at the two moments of the tick that the rules allow (before and after the fsync).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from hiredis import ProtocolError as HiredisError
from hiredis import Reader

from fortdb.errors import BadRequest, StorageFailed
from fortdb.native import bind, lane
from fortdb.net.calls import PendingCalls
from fortdb.net.gather import Completes
from fortdb.net.peer import Greeting, Link, Peer
from fortdb.net.tls import Context, Transport
from fortdb.node.core import NodeCore
from fortdb.node.hosted import Hosted
from fortdb.node.requests import Requests
from fortdb.node.runner import RUN_HERE
from fortdb.node.slots import CallSlot, RequestSlot
from fortdb.node.snapshots import SnapshotInstall
from fortdb.protocol.commands import INTERNAL, TABLE, Command, check_arity, lookup, unknown_command
from fortdb.replication.entries import RequestId
from fortdb.replication.messages import (
    Ack,
    Align,
    Append,
    Claim,
    Heartbeat,
    HeartbeatAck,
    Message,
    Position,
    Query,
    Refuse,
    Request,
    SnapshotAck,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotEnd,
    Type,
    decode,
    decode_call,
    decode_request,
    encode,
)
from fortdb.replication.replica import Replica
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import data_key_at

log = structlog.get_logger(__name__)

_GET = TABLE["GET"]
_INTERNAL = {name.encode(): command for name, command in INTERNAL.items()}


class Links:
    """All connections of a node but its clients'."""

    __slots__ = ("__dict__", "_followers", "leaders")

    def __init__(self, node: NodeCore, requests: Requests) -> None:
        self._node = node
        self._requests = requests
        self.call: Callable[[CallSlot, list[bytes]], None] = lambda slot, args: None
        self._followers: dict[str, Link] = {}
        self._calls = PendingCalls(node.loop)
        self._incarnations: dict[str, str] = {}  # of followers whose link is up
        self._callers: set[Peer] = set()  # everybody who dialled us
        self.leaders: dict[str, Peer] = {}  # the nodes among them
        self.secure: Context | None = None  # TLS to followers, if set
        self._reader = Reader()
        self.plain_counts = [0, 0]  # GETs and SETs of routers that went the short way

    # --- connections ------------------------------------------------------------------------

    def accept(self, connection: Transport, address: str) -> None:
        """A node or a router dialled."""
        node = self._node
        caller = Peer(
            node.loop,
            node.outbox,
            connection,
            node.own,
            self._heard_peer,
            self._peer_closed,
            None if lane is None else (lane.hear_requests, node, self.plain_counts),
        )
        self._callers.add(caller)

    def connect(self, addresses: dict[str, str]) -> None:
        """Keep a link to each of these nodes (name -> peer address), and to no other."""
        node = self._node
        for name in [name for name in self._followers if name not in addresses]:
            self._followers.pop(name).close()
        for name, address in addresses.items():
            link = self._followers.get(name)
            if link is None:
                self._followers[name] = Link(
                    node.loop,
                    node.outbox,
                    node.own,
                    name,
                    address,
                    up=self._link_up,
                    down=self._link_down,
                    heard=self._heard_follower,
                    way=None if lane is None else (lane.hear_follower, node, None),
                    secure=self.secure,
                )
            else:
                link.readdress(address)

    def greet_followers(self, hosted: Hosted) -> None:
        """This node begins to lead a partition: ask every connected follower where its log ends."""
        leader = hosted.replica.leading
        if leader is not None:
            for name, incarnation in self._incarnations.items():
                if name not in leader.progress:
                    leader.follower_up(name, incarnation, self._node.loop.now_ms)
            self._node.touch(hosted)

    def close(self) -> None:
        """Hang up on everybody."""
        for link in self._followers.values():
            link.close()
        self._followers.clear()
        for caller in list(self._callers):
            caller.close("shutting down")

    def _link_up(self, link: Link, other: Greeting) -> None:
        self._incarnations[link.name] = other.incarnation
        for hosted in self._node.hosted.values():
            leader = hosted.replica.leading
            if leader is not None:
                leader.follower_up(link.name, other.incarnation, self._node.loop.now_ms)
                self._node.touch(hosted)

    def _link_down(self, link: Link) -> None:
        self._calls.link_down(link.name)
        self._incarnations.pop(link.name, None)
        for hosted in self._node.hosted.values():
            if hosted.replica.leading is not None:
                hosted.replica.leading.follower_down(link.name)

    def _peer_closed(self, peer: Peer) -> None:
        self._callers.discard(peer)
        if peer.other is not None and self.leaders.get(peer.other.name) is peer:
            del self.leaders[peer.other.name]

    # --- sending -----------------------------------------------------------------------------

    def send_all(self, outbox: list[tuple[str, Message]]) -> None:
        """Messages of a leader to its followers; dropped where the link is down."""
        encoded, frame = None, b""
        for node, message in outbox:
            if message is not encoded:  # followers mostly get the same one
                encoded, frame = message, encode(message)
            link = self._followers.get(node)
            if link is not None:
                link.write(frame)
        outbox.clear()

    def answer_all(self, outbox: list[tuple[str, Message]]) -> None:
        """Messages of a follower to leaders, on the connections that these dialled."""
        for node, message in outbox:
            peer = self.leaders.get(node)
            if peer is not None and peer.is_open:
                peer.write(encode(message))
        outbox.clear()

    def ask(self, other: str, args: list[bytes], slot: Completes) -> None:
        """A command to another node itself; `slot` gets its answer, or an error if there is none in time."""
        self._calls.call(other, self._followers.get(other), args, slot, self._node.settings.write_ms_max)

    def heartbeat(self, now_ms: int, lease_ms: int) -> None:
        """Renew the followers' promises and tell them what is committed."""
        claims: dict[str, list[Claim]] = {name: [] for name in self._incarnations}
        for hosted in self._node.hosted.values():
            leader = hosted.replica.leading
            if leader is not None:
                claim = Claim(leader.partition, leader.epoch, leader.log.commit)
                for name in leader.progress:
                    if name in claims:
                        claims[name].append(claim)
        for name, lines in claims.items():
            if lines:
                self._followers[name].write(encode(Heartbeat(now_ms, lease_ms, lines)))

    def snapshot_taken_in(self, replica: Replica, install: SnapshotInstall) -> None:
        """Tell the leader how many chunks are in."""
        self.answer_all(
            [
                (
                    install.sender,
                    SnapshotAck(replica.partition, install.epoch, install.chunks),
                )
            ]
        )

    # --- from followers ------------------------------------------------------------------------

    def _heard_follower(self, link: Link, kind: int, body: bytes) -> None:
        node = self._node
        if kind == Type.RETURN:
            self._calls.returned(body)
            return
        message = decode(kind, body)
        if isinstance(message, HeartbeatAck):
            until_ms = message.sent_ms + node.settings.lease_ttl_ms
            for partition, epoch in message.accepted:
                hosted = node.hosted.get(partition)
                if hosted is not None and (leader := hosted.replica.leading) and leader.epoch == epoch:
                    leader.heard_promise(link.name, until_ms, node.loop.now_ms)
                    self._requests.refresh(hosted)
            return
        if isinstance(message, Ack):
            self.heard_ack(link.name, *message)
            return
        if not isinstance(message, (Position, Refuse, SnapshotAck)):
            raise BadRequest(f"a follower does not send {type(message).__name__}")
        hosted = node.hosted.get(message.partition)
        if hosted is None:
            return
        leader = hosted.replica.leading
        node.touch(hosted)
        if isinstance(message, Refuse):
            if hosted.replica.refused(message.epoch):
                log.warning(
                    "deposed",
                    partition=hosted.replica.name,
                    epoch=message.epoch,
                    by=link.name,
                )
        elif leader is None or leader.epoch != message.epoch:
            return
        elif isinstance(message, Position):
            leader.heard_position(link.name, message, node.loop.now_ms)
        elif link.name in hosted.senders:
            hosted.senders[link.name].acknowledged(message.chunks)

    def heard_ack(self, follower: str, partition: int, epoch: int, offset: int) -> None:
        """A follower has everything up to an offset on disk."""
        node = self._node
        hosted = node.hosted.get(partition)
        leader = None if hosted is None else hosted.replica.leading
        if hosted is not None and leader is not None and leader.epoch == epoch:
            leader.heard_ack(follower, offset, node.loop.now_ms)
            node.acknowledged(hosted, leader)

    # --- from leaders and routers -----------------------------------------------------------------

    def _heard_peer(self, peer: Peer, kind: int, body: bytes) -> None:
        if kind == Type.REQUEST:
            self._heard_request(peer, decode_request(body))
        elif kind == Type.CALL:
            number, payload = decode_call(body)
            self.call(CallSlot(peer, number), self._parse(payload))
        else:
            self._heard_leader(peer, decode(kind, body))

    def _heard_leader(self, peer: Peer, message: Message) -> None:
        node = self._node
        assert peer.other is not None
        sender = peer.other.name
        self.leaders[sender] = peer
        if isinstance(message, Heartbeat):
            self._heard_heartbeat(peer, sender, message)
            return
        if isinstance(message, (HeartbeatAck, Ack, Position, Refuse, SnapshotAck)):
            raise BadRequest(f"a leader does not send {type(message).__name__}")
        hosted = node.hosted.get(message.partition)
        if hosted is None:
            return  # this node has not seen the record yet; the leader asks again
        node.touch(hosted)
        replica = hosted.replica
        try:
            if isinstance(message, Append):
                replica.heard_append(sender, message)
            elif isinstance(message, Query):
                if replica.heard_query(sender, message):
                    hosted.install = None
            elif isinstance(message, Align):
                replica.heard_align(sender, message)
            else:
                self._heard_snapshot(hosted, sender, message)
        except StorageFailed as error:
            # Damaged on the way: the end-to-end checksum caught it before it reached the disk.
            peer.close(str(error))

    def _heard_heartbeat(self, peer: Peer, sender: str, message: Heartbeat) -> None:
        node = self._node
        until_ms = node.loop.now_ms + message.lease_ms
        accepted: list[tuple[int, int]] = []
        for partition, epoch, commit in message.claims:
            hosted = node.hosted.get(partition)
            if hosted is None:
                continue
            behind = hosted.replica.log.commit
            if hosted.replica.promise(sender, epoch, commit, until_ms):
                accepted.append((partition, epoch))
            replica = hosted.replica
            if replica.log.commit > behind or replica.replies or replica.abandoned:
                node.touch(hosted)
        peer.write(encode(HeartbeatAck(message.sent_ms, accepted)))

    def _heard_snapshot(
        self,
        hosted: Hosted,
        sender: str,
        message: SnapshotBegin | SnapshotChunk | SnapshotEnd,
    ) -> None:
        install = hosted.install
        if isinstance(message, SnapshotBegin):
            if hosted.replica.begin_snapshot(sender, message):
                log.info("snapshot_installing", partition=hosted.replica.name, sender=sender)
                hosted.install = SnapshotInstall(sender, message.epoch, message.shape)
        elif install is None or (install.sender, install.epoch) != (
            sender,
            message.epoch,
        ):
            return  # of an earlier attempt
        elif isinstance(message, SnapshotChunk):
            install.add(message)
        else:
            install.end(message)

    def _heard_request(self, peer: Peer, request: Request) -> None:
        node = self._node
        assert peer.other is not None
        slot = RequestSlot(peer, request.partition, request.epoch, request.sequence)
        try:
            args = self._parse(request.command)
            command = _command(args)
        except BadRequest as error:
            slot.complete(error.wire())
            return
        identity = RequestId(peer.other.session, request.sequence, request.watermark)
        hosted = node.hosted.get(request.partition)
        if hosted is not None:
            if command is _GET and len(args) == 2 and request.epoch == hosted.replica.epoch:
                reply = self._requests.read_plain(hosted, data_key_at(hash_of(args[1]), args[1]))
                if reply is not None:
                    slot.complete(reply)
                    return
            self._requests.submit(hosted, slot, command, args, identity, request.epoch)
        else:
            self._requests.submit_early(request.partition, slot, command, args, identity, request.epoch)

    def _parse(self, payload: bytes) -> list[bytes]:
        try:
            self._reader.feed(payload)
            args = self._reader.gets()
            b"".join(args)  # a TypeError unless all of them are strings
        except (HiredisError, TypeError):
            args = None
        if type(args) is not list or not args or self._reader.has_data():
            self._reader = Reader()  # what is left of this one is no part of the next
            raise BadRequest("frame without a whole command, or with more than one")
        return args


bind(Links)


def _command(args: list[bytes]) -> Command:
    command = _INTERNAL.get(args[0])
    if command is None:
        command = lookup(args[0])
        if command is None or command.name not in RUN_HERE:
            raise unknown_command(args)
    wrong = check_arity(command, args)
    if wrong is not None:
        raise wrong
    return command
