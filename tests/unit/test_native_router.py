"""The short way through a router, in C, does what the long way does: the same bytes on every wire.

Each test plays the same story twice, with the functions in C and without, on real sockets.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb.limits import CHANNEL_REQUESTS_MAX
from fortdb.model import Layout, NodeSpec, Partition
from fortdb.native import lane
from fortdb.net.front import ClientConnection, Front
from fortdb.net.peer import Greeting, Link
from fortdb.protocol.resp import pack
from fortdb.replication.messages import (
    FrameReader,
    Request,
    Status,
    Type,
    decode_request,
    encode_reply,
    frame,
)
from fortdb.ring.tokens import TokenMap, even_tokens
from fortdb.router.channels import Channel, Unanswered
from fortdb.router.service import RouterService
from tests.support.waiting import eventually
from tests.support.ways import PLAIN, Process, Sent, needs_c, pieces, received, same, tick_shortly

pytestmark = needs_c

NODES = ("a", "b")
PARTITIONS = 4


class FakeNode:
    """The other end of a router's link."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._reader = FrameReader()

    def accept(self) -> None:
        """The router dials."""
        self.connection, _ = self._listener.accept()
        self.connection.setblocking(False)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.send(Greeting("c", self.name, "life").encode())

    def requests(self, count: int = 0) -> list[Request]:
        """What has arrived since, and at least so many."""
        found: list[Request] = []

        def all_heard() -> bool:
            frames = self._reader.feed(received(self.connection))
            found.extend(decode_request(body) for kind, body in frames if kind == Type.REQUEST)
            return len(found) >= count

        eventually(f"{count} requests to {self.name}", all_heard)
        return found

    def close(self) -> None:
        """Hang up."""
        self.connection.close()
        self._listener.close()


class Router(Process):
    """A router with a client and two nodes, turned by hand."""

    service: RouterService

    def __init__(self, in_c: bool) -> None:
        super().__init__(in_c)
        self.service = RouterService(self.loop, "c", "router", 5_000, dict, dict)
        self.front = Front(
            self.loop,
            self.service.answers,
            self.service,
            host="127.0.0.1",
            port=0,
            connections_max=10,
            idle_ms_max=0,
            way=self.service.way if in_c else lambda counts: None,
        )
        self.nodes = {name: FakeNode(name) for name in NODES}
        partitions = tuple(
            Partition(number, f"p-{number:03d}", token, NODES)
            for number, token in enumerate(even_tokens(PARTITIONS))
        )
        specs = {name: NodeSpec("zone") for name in NODES}
        self.tokens = self.service.tokens = TokenMap(Layout(1, 2, 1, specs, partitions))
        own = Greeting("c", "router", session=7)
        for node in self.nodes.values():
            self.service.links[node.name] = Link(
                self.loop,
                self.service.outbox,
                own,
                node.name,
                node.address,
                up=self.service._link_up,
                down=self.service._link_down,
                heard=self.service._heard,
                way=(lane.hear_replies, self.service, None) if in_c and lane else None,
            )
            node.accept()
        for known in partitions:
            channel = self.service.channels[known.id] = Channel(known.id, known.name)
            leader = NODES[known.id % 2]
            channel.route(leader, 1, self.service.links[leader])
        ours, self.client = socket.socketpair()
        self.client.setblocking(False)
        self.connection = ClientConnection(self.front, ours, "client")
        self.turn_until(lambda: all(link.is_up for link in self.service.links.values()))

    def turn_until(self, is_so: Callable[[], bool]) -> None:
        """Let the loop go round until something is so."""

        def turned() -> bool:
            self.turn(2)
            return is_so()

        eventually("as the story goes on", turned)

    def unanswered(self, node: FakeNode) -> int:
        """Requests that the node is asked and has not answered."""
        link = self.service.links[node.name]
        return sum(len(channel) for channel in self.service.channels.values() if channel.wire is link)

    def answers(self) -> bytes:
        """What the client has got since."""
        return received(self.client)

    def plain_count(self) -> int:
        return sum(self.front.plain_counts)

    def close(self) -> None:
        self.connection.close("over")
        self.client.close()
        self.front.close()
        for link in self.service.links.values():
            link.close()
        for node in self.nodes.values():
            node.close()
        super().close()


def talk(made: Router, data: bytes, sizes: list[int], reply_sizes: list[int]) -> Any:
    """A client that sends `data` in pieces, nodes that answer in pieces, and what was said."""
    heard: list[tuple[str, Request]] = []
    for piece in pieces(data, sizes):
        made.client.send(piece)
        made.turn()
    made.turn(2)
    for node in made.nodes.values():
        requests = node.requests(made.unanswered(node))
        heard += [(node.name, request) for request in requests]
        replies = [
            encode_reply(
                request.partition, request.epoch, request.sequence, Status.DONE, b":%d\r\n" % (100 + at)
            )
            for at, request in enumerate(requests)
        ]
        for piece in pieces(b"".join(replies), reply_sizes):
            node.connection.send(piece)
            made.turn()
        made.turn_until(lambda node=node: not made.unanswered(node))  # type: ignore[misc]
    left = [len(channel) for channel in made.service.channels.values()]
    return heard, made.answers(), left, made.connection.is_open


SPECIAL = st.sampled_from(
    [
        (b"PING",),
        (b"DEL", b"a", b"b"),
        (b"GET",),
        (b"SET", b"a", b"1", b"EX", b"9"),
        (b"nonsense",),
        (b"DEL", b"a"),
    ]
)
SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(PLAIN, PLAIN, PLAIN, SPECIAL), min_size=1, max_size=20), SIZES, SIZES)
def test_what_is_sent_on_and_answered_is_the_same(
    commands: list[tuple[bytes, ...]], sizes: list[int], reply_sizes: list[int]
) -> None:
    data = b"".join(pack(command) for command in commands)
    same(Router, lambda made: talk(made, data, sizes, reply_sizes))


def test_plain_requests_go_the_short_way() -> None:
    with Router(in_c=True) as made:
        made.client.send(pack([b"PING"]))
        made.turn(2)
        data = pack([b"SET", b"a", b"1"]) + pack([b"get", b"a"]) + pack([b"PUT", b"b", b"2"])
        heard, answers, left, _ = talk(made, data, [len(data)], [1000])
        assert made.front.plain_counts == [1, 2]
        assert made.front.commands_total == 1
        assert [request.command for _, request in heard if request.partition == heard[0][1].partition]
        assert answers.startswith(b"+PONG\r\n:10")
        assert left == [0] * PARTITIONS
        assert sum(made.service.latency.counts) == 3


def test_a_request_and_a_reply_may_be_torn_anywhere() -> None:
    data = pack([b"SET", b"a", b"1"]) + pack([b"GET", b"a"])

    def story(made: Router) -> Any:
        told = [talk(made, pack([b"PING"]), [100], [100])]
        return told + [talk(made, data, [at, len(data)], [at, 100]) for at in range(1, len(data))]

    for heard, answers, left, _ in same(Router, story)[1:]:
        assert [request.command for _, request in heard] == [data[:27], data[27:]]
        assert answers == b":100\r\n:101\r\n"
        assert not any(left)


def test_a_full_channel_says_busy() -> None:
    class Nobody:
        def complete(self, reply: bytes) -> None: ...

    def story(made: Router) -> Any:
        for channel in made.service.channels.values():
            for _ in range(CHANNEL_REQUESTS_MAX):
                channel.unanswered[channel.next] = Unanswered(b"", Nobody(), True, 1 << 40)
                channel.next += 1
        made.client.send(pack([b"PING"]))
        made.turn(2)
        made.client.send(pack([b"GET", b"a"]))
        made.turn(2)
        return made.answers()

    assert b"BUSY" in same(Router, story)


def test_watermarks_follow_the_oldest_request_without_an_answer() -> None:
    def story(made: Router) -> Any:
        made.client.send(pack([b"PING"]))
        made.turn(2)
        node = made.nodes[NODES[made.tokens.partition_of(0).id % 2]]
        seen = []
        key = next(b"%d" % n for n in range(99) if made.tokens.locate(b"%d" % n)[1].id == 0)
        for answer in ([], [2], [3], [], [1], [4, 5, 6]):
            made.client.send(pack([b"SET", key, b"1"]))
            made.turn(2)
            seen += [(request.sequence, request.watermark) for request in node.requests(1)]
            left = made.unanswered(node) - len(answer)
            for sequence in answer:
                node.connection.send(encode_reply(0, 1, sequence, Status.DONE, b"+OK\r\n"))
            made.turn_until(lambda left=left: made.unanswered(node) == left)  # type: ignore[misc]
        return seen, made.answers(), made.service.channels[0].watermark()

    seen, _, oldest = same(Router, story)
    assert seen == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 4)]
    assert oldest == 7


@pytest.mark.parametrize("status", [Status.NOT_LEADER, Status.DROPPED])
def test_a_refusal_leaves_the_request_unanswered(status: Status) -> None:
    def story(made: Router) -> Any:
        made.client.send(pack([b"PING"]) + pack([b"GET", b"a"]))
        made.turn(2)
        for node in made.nodes.values():
            for request in node.requests():
                node.connection.send(
                    encode_reply(request.partition, request.epoch, request.sequence, status, b"1 a")
                )
        made.turn(2)
        return made.answers(), sum(len(channel) for channel in made.service.channels.values())

    assert same(Router, story) == (b"+PONG\r\n", 1)


def test_only_the_present_leader_is_believed() -> None:
    """What another node says of a request is ignored; what was sent twice and not begun is unknown."""

    def story(made: Router) -> Any:
        made.client.send(pack([b"PING"]))
        made.turn(2)
        made.client.send(pack([b"SET", b"a", b"1"]))
        made.turn(2)
        (former,) = [node for node in made.nodes.values() if (got := node.requests()) and (request := got[0])]
        (other,) = [node for node in made.nodes.values() if node is not former]
        made.service._route(made.service.channels[request.partition], other.name, 2)
        made.turn(2)
        assert [again.epoch for again in other.requests()] == [2]
        former.connection.send(
            encode_reply(request.partition, request.epoch, request.sequence, Status.DONE, b"+OK\r\n")
        )
        made.turn(2)
        before = made.answers()
        unready = b"-UNAVAILABLE not ready\r\n"
        other.connection.send(encode_reply(request.partition, 2, request.sequence, Status.DONE, unready))
        made.turn(2)
        return before, made.answers()

    before, after = same(Router, story)
    assert before == b"+PONG\r\n"
    assert after.startswith(b"-TIMEOUT ")


@pytest.mark.parametrize("bad", [frame(99, b"?"), b"\xff\xff\xff\xff\x15", frame(Type.REQUEST, b"")])
def test_a_node_that_talks_nonsense_is_hung_up_on(bad: bytes) -> None:
    def story(made: Router) -> Any:
        made.nodes["a"].connection.send(bad)
        made.turn(2)
        return made.service.links["a"].is_up, made.service.links["b"].is_up

    assert same(Router, story) == (False, True)


@pytest.mark.parametrize("in_c", [True, False], ids=["c", "python"])
def test_nodes_are_sent_to_before_clients(in_c: bool) -> None:
    """They work meanwhile; and a link that breaks then is told to clients in the same tick."""
    with Router(in_c) as made:
        told: list[str] = []
        answers = made.service.answers
        Sent(told, "client", answers).write()
        Sent(told, "node", made.service.outbox, Sent(told, "client of that node", answers)).write()
        made.turn()
        assert told == ["node", "client", "client of that node"]


def test_a_router_that_has_more_to_send_says_so() -> None:
    with Router(in_c=True) as made:
        told: list[str] = []
        Sent(told, "client", made.service.answers, Sent(told, "node", made.service.outbox)).write()
        assert not tick_shortly(made.service)
        assert tick_shortly(made.service)
        assert told == ["client", "node"]
