"""Stories that are played the short way, in C, and the long way, in Python, on a process that is turned by hand.

There is no ring: a loop goes round when the story says so, and real sockets lead to whoever the story plays.
`same` compares what a story tells and what it leaves behind; neither may depend on the way.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest
from hypothesis import strategies as st

from fortdb.model import PartitionRecord
from fortdb.native import lane
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting, Peer
from fortdb.net.stream import Outbox
from fortdb.node import service as node_service
from fortdb.node.core import Settings
from fortdb.node.disk import open_replica
from fortdb.node.hosted import Hosted
from fortdb.node.service import NodeService
from fortdb.router import service as router_service
from fortdb.router.service import RouterService
from fortdb.storage.rocks import RocksEngine

Made = TypeVar("Made", bound="Process")
Told = TypeVar("Told")

needs_c = pytest.mark.skipif(lane is None, reason="the functions in C were not built")

PARTITION, EPOCH, FOREVER_MS = 3, 5, 1 << 50

KEYS = st.sampled_from([b"a", b"b", b"k{a}", b"", b"x" * 300, b"\r\n$3\r\n"])
VALUES = st.sampled_from([b"", b"v", b"w" * 2000, b"\r\n$3"])
PLAIN = st.one_of(
    st.tuples(st.sampled_from([b"GET", b"get", b"gEt"]), KEYS),
    st.tuples(st.sampled_from([b"SET", b"put", b"PUT"]), KEYS, VALUES),
)
"""Commands that go the short way."""


def sizes_of_pieces(largest_min: int) -> st.SearchStrategy[list[int]]:
    """Sizes of the pieces that bytes arrive in; one of them is larger than `largest_min`, for the time it takes."""
    sizes = st.lists(st.sampled_from([1, 7, 40, 300, 5000, 100_000]), min_size=1, max_size=4)
    return sizes.filter(lambda chosen: max(chosen) > largest_min)


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """`data` cut into pieces of these sizes, over and over."""
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        yield data[at : at + size]
        at += size
        turn += 1


def tick_shortly(service: NodeService | RouterService) -> bool:
    """Do a tick in C, if it is one for that; whether it was."""
    way = service.tick_way
    return way is not None and way[0](way[1])


class Sent:
    """Something that is to be sent: it tells when it is, and what it brings up then is to be sent, too."""

    def __init__(self, told: list[str], name: str, outbox: Outbox, then: Sent | None = None) -> None:
        self._told, self._name, self._outbox, self._then = told, name, outbox, then

    def write(self) -> None:
        """At the end of this tick."""
        self._outbox.dirty.append(self)  # type: ignore[arg-type]

    def flush(self) -> None:
        """Called by the outbox."""
        self._told.append(self._name)
        if self._then is not None:
            self._then.write()


def received(connection: socket.socket) -> bytes:
    """What has arrived since, up to the end if the other side hung up."""
    data = b""
    with contextlib.suppress(OSError):
        while more := connection.recv(1 << 20):
            data += more
    return data


class Process(ABC):
    """A process with its loop; as a context it is closed at the end."""

    service: NodeService | RouterService

    def __init__(self, in_c: bool) -> None:
        self.in_c = in_c
        self.loop = Loop()

    def turn(self, count: int = 1) -> None:
        """Let the loop go round."""

        def tick() -> None:
            self.tick()
            self.loop.stop()

        for _ in range(count):
            self.loop.tick_again()
            with pytest.MonkeyPatch.context() as patch:
                for module in () if self.in_c else (node_service, router_service):
                    patch.setattr(module, "lane", None)
                self.loop.run(tick)

    def tick(self) -> None:
        """What the process does at the end of each turn."""
        if not tick_shortly(self.service):
            self.service.tick()

    @abstractmethod
    def plain_count(self) -> int:
        """How many requests went the short way."""

    def left_behind(self) -> Any:
        """What must not depend on the way, apart from what the story tells."""
        return None

    def close(self) -> None:
        """Let everything go."""
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NodeProcess(Process):
    """A node that holds one replica of the only partition."""

    service: NodeService
    own = Greeting("c", "node", "life")

    def __init__(self, in_c: bool) -> None:
        super().__init__(in_c)
        self._directory = tempfile.TemporaryDirectory()
        self.engine = RocksEngine(
            Path(self._directory.name) / "engine", cache_bytes=1 << 20, memtable_bytes=1 << 20, sync=False
        )
        settings = Settings(3_000, 100, 1_000, 3_000, 1_000, 1)
        self.outbox = Outbox()
        self.service = NodeService(self.loop, self.outbox, self.engine, self.own, settings)
        self.replica = open_replica(self.engine, PARTITION, "p-003", "node", "life", None)
        self.hosted = Hosted(self.replica, ((0, 1 << 64),))
        self.service.host(self.hosted)

    def lead(self) -> None:
        """Lead the partition from now on, alone."""
        record = PartitionRecord("p-003", "node", EPOCH, {"node": "life"}, ("node",), handover=True)
        self.replica.adopt(record, 1, self.loop.now_ms, 1)
        self.service.touch(self.hosted)
        self.turn(3)
        self.service.lease_renewed(FOREVER_MS)
        assert self.hosted.serve_until_ms > self.loop.now_ms

    def dialled(self, who: Greeting) -> tuple[Peer, socket.socket]:
        """The link of a router or a leader that has dialled, and that one's end of it."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        links = self.service.links
        way = (lane.hear_requests, self.service, links.plain_counts) if self.in_c and lane else None
        peer = Peer(self.loop, self.outbox, ours, self.own, links._heard_peer, links._peer_closed, way)
        theirs.send(who.encode())
        return peer, theirs

    def plain_count(self) -> int:
        return sum(self.service.links.plain_counts)

    def entries(self) -> list[bytes]:
        """The log on the disk."""
        last = self.engine.last_offset(PARTITION) or 0
        return self.engine.entries(PARTITION, 1, last, 1 << 30)

    def memory(self) -> dict[int, Any]:
        """What is remembered of requests."""
        sessions = self.replica.log.memory.sessions
        return {key: (dict(one.known), one.watermark) for key, one in sessions.items()}

    def close(self) -> None:
        self.service._jobs.shutdown()
        self.engine.close()
        super().close()
        self._directory.cleanup()


def same(make: Callable[[bool], Made], story: Callable[[Made], Told]) -> Told:
    """What a story tells, played on a process made to go by C and on one made (`False`) not to."""
    told = []
    for in_c in (True, False):
        with make(in_c) as made:
            told.append((story(made), made.left_behind()))
            assert in_c or not made.plain_count()
    assert told[0] == told[1]
    return told[0][0]
