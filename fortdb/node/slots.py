"""Where answers go: what everything that waits for one has in common, and the slots of other processes."""

from __future__ import annotations

from typing import Protocol

from fortdb.errors import FortError
from fortdb.native import bind
from fortdb.net.gather import PlainSlot
from fortdb.net.peer import Peer
from fortdb.replication.messages import Status, Type, encode_call, encode_reply


class AnySlot(Protocol):
    """A place for the answer to a request of a partition: a client's, a router's, a part of a larger one."""

    def complete(self, reply: bytes) -> None:
        """The answer."""

    def refuse(self, error: FortError, epoch: int, leader: str | None) -> None:
        """Not executed here; `leader` is whom this node takes for the leader in `epoch`."""

    def abandon(self, error: FortError, epoch: int, leader: str | None) -> None:
        """Perhaps executed."""

    def drop(self) -> None:
        """A late copy: nobody waits for the answer."""


class RequestSlot:
    """Where the answer to a router's request goes."""

    __slots__ = ("epoch", "partition", "peer", "sequence")

    def __init__(self, peer: Peer, partition: int, epoch: int, sequence: int) -> None:
        self.peer = peer
        self.partition = partition
        self.epoch = epoch
        self.sequence = sequence

    def complete(self, reply: bytes) -> None:
        """The reply for the client."""
        self._send(Status.DONE, reply)

    def refuse(self, error: FortError, epoch: int, leader: str | None) -> None:
        """Not executed here; the router is told whom this node takes for the leader."""
        self._send(Status.NOT_LEADER, b"%d %s" % (epoch, (leader or "").encode()))

    def abandon(self, error: FortError, epoch: int, leader: str | None) -> None:
        """Perhaps executed. A router's request has an id, so that it may be sent again."""
        self.refuse(error, epoch, leader)

    def drop(self) -> None:
        """A late copy: nobody waits for the answer."""

    def _send(self, status: Status, reply: bytes) -> None:
        if self.peer.is_open:
            self.peer.write(encode_reply(self.partition, self.epoch, self.sequence, status, reply))


bind(RequestSlot)


class CallSlot(PlainSlot):
    """Where the answer to a call goes."""

    __slots__ = ("number", "peer")

    def __init__(self, peer: Peer, number: int) -> None:
        self.peer = peer
        self.number = number

    def complete(self, reply: bytes) -> None:
        """The reply, RESP-encoded."""
        if self.peer.is_open:
            self.peer.write(encode_call(self.number, reply, Type.RETURN))
