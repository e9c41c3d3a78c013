"""Whatever arrives at a socket: an error that says what is wrong, or patience; never a crash, never a hang.

The parsers alone, and then processes of which the ports hear garbage, by the functions in C and without them.
What the parsers make of requests is compared in test_protocol_parser.py, of frames in test_native_*.py.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fortdb.client import Client, parse_ring
from fortdb.errors import BadRequest, FortError, ProtocolError
from fortdb.limits import FRAME_BYTES_MAX
from fortdb.net.peer import Greeting
from fortdb.protocol.resp import RequestParser, pack
from fortdb.replication.entries import decode_entry
from fortdb.replication.messages import (
    EPOCH_MAX,
    FRAME,
    Claim,
    FrameReader,
    Heartbeat,
    Query,
    Type,
    decode,
    decode_call,
    decode_json,
    decode_reply,
    decode_request,
    encode,
    encode_request,
)
from tests.support.guarded import GuardedNode, Talk, guarded_node, user
from tests.unit.client_servers import scripted_server

PIECES = st.lists(st.integers(1, 40), min_size=1, max_size=8)
REQUESTS = [
    pack([b"GET", b"a"]),
    pack([b"SET", b"a", b"1" * 40]),
    pack([b"MGET", b"a", b"b"]),
    pack([b"HELLO", b"3", b"AUTH", b"default", b"sesame"]),
    pack([b"AUTH", b"default", b"sesame"]),
    b"*1\r\n$4\r\nPING\r\n",
    b"PUT a 'x y'\r\n",
]
FRAMES = [
    Greeting("c", "router-1", session=7).encode(),
    encode_request(0, 5, 1, 0, REQUESTS[0]),
    encode_request(0, 5, 2, 0, REQUESTS[1]),
    encode(Query(0, 5, 1)),
    encode(Heartbeat(1, 3000, [])),
]


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """Something like what ought to arrive: cut, with bytes changed, put in or left out."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(whole), min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["cut", "change", "put", "drop"])):
            case "cut":
                del data[at:]
            case "change" if data:
                data[at] = draw(st.integers(0, 255))
            case "put":
                data[at:at] = draw(
                    st.binary(max_size=8) | st.sampled_from([b"\r\n", b"$-1", b"*99999", b"\x16\x03"])
                )
            case "drop":
                del data[at : at + draw(st.integers(1, 5))]
    return bytes(data)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at, turn = 0, 0
    while at < len(data):
        yield data[at : at + sizes[turn % len(sizes)]]
        at += sizes[turn % len(sizes)]
        turn += 1


# --- parsers -------------------------------------------------------------------------------------


@given(st.binary(max_size=200) | damaged(REQUESTS), PIECES)
def test_requests(data: bytes, sizes: list[int]) -> None:
    parser = RequestParser()
    for piece in cut(data, sizes):
        for request in parser.feed(piece):
            assert isinstance(request, BadRequest | ProtocolError | list)
            if isinstance(request, ProtocolError):
                return
        assert 0 <= parser.unfinished_bytes <= len(data)


@given(st.binary(max_size=200) | damaged(FRAMES), PIECES)
def test_frames(data: bytes, sizes: list[int]) -> None:
    reader = FrameReader()
    try:
        for piece in cut(data, sizes):
            for kind, body in reader.feed(piece):
                assert 0 <= kind <= 255
                assert len(body) <= FRAME_BYTES_MAX
    except BadRequest as error:
        assert "larger than" in str(error)


@given(st.integers(0, 30), st.binary(max_size=120))
def test_messages(kind: int, body: bytes) -> None:
    for read in (lambda: decode(kind, body), lambda: decode_request(body), lambda: decode_reply(body)):
        with contextlib.suppress(BadRequest):
            read()
    for other in (lambda: decode_call(body), lambda: decode_json(body), lambda: Greeting.decode(body, "c")):
        with contextlib.suppress(BadRequest):
            other()


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["protocol", "cluster", "name", "incarnation", "session"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_greetings(fields: Any) -> None:
    import json

    with contextlib.suppress(BadRequest):
        Greeting.decode(json.dumps(fields).encode(), "c")


def test_a_greeting_nested_without_end_is_refused() -> None:
    with pytest.raises(BadRequest, match="no JSON"):
        Greeting.decode(b"[" * 100_000, "c")


@given(st.binary(max_size=120))
def test_entries(data: bytes) -> None:
    with contextlib.suppress(FortError):
        decode_entry(data, 1)


@given(st.binary(max_size=200))
def test_documents(data: bytes) -> None:
    with contextlib.suppress(FortError):
        parse_ring(data)


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[True, False], ids=["c", "python"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedNode]:
    with guarded_node(tmp_path_factory.mktemp("node"), in_c=request.param) as made:
        yield made


def shout(port: int, data: bytes, sizes: list[int]) -> None:
    """Say it, and hear what is answered until the other side has no more to say."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            for piece in cut(data, sizes):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass


def lives(node: GuardedNode) -> None:
    with Talk(node.port) as talk:
        assert talk.say(["SET", "alive", "1"], ["GET", "alive"])[0] == b"+OK"


@settings(max_examples=60, deadline=None)
@given(
    prefix=st.sampled_from([b"", REQUESTS[0]]),
    data=st.binary(max_size=200) | damaged(REQUESTS),
    sizes=PIECES,
)
def test_garbage_at_a_port_for_clients(
    node: GuardedNode, prefix: bytes, data: bytes, sizes: list[int]
) -> None:
    shout(node.port, prefix + data, sizes)
    lives(node)


@settings(max_examples=60, deadline=None)
@given(greets=st.booleans(), data=st.binary(max_size=200) | damaged(FRAMES[1:3]), sizes=PIECES)
def test_garbage_at_a_port_for_peers(node: GuardedNode, greets: bool, data: bytes, sizes: list[int]) -> None:
    frames = frames_in(data)
    assume(not any(kind in _OF_LEADERS or asks_for_later(kind, body) for kind, body in frames))
    shout(node.peers.port, (FRAMES[0] if greets else b"") + data, sizes)
    lives(node)


_OF_LEADERS = range(Type.QUERY, Type.SNAPSHOT_ACK + 1)
"""Frames that change a replica: what can be read of these is believed, since only members of the ring send them."""


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    try:
        return FrameReader().feed(data)
    except BadRequest:
        return []


def asks_for_later(kind: int, body: bytes) -> bool:
    """Whether a request is for an epoch that is still to come: it is held, and so is what comes behind it."""
    if kind != Type.REQUEST:
        return False
    with contextlib.suppress(BadRequest):
        return decode_request(body).epoch > _EPOCH
    return False


_EPOCH = 5  # of the node's partition


def test_a_request_that_is_none_is_refused_and_the_next_one_is_not_mistaken(node: GuardedNode) -> None:
    wrong = (
        b"\n",
        b"*1\r\n:1\r\n",
        b"*2\r\n$3\r\nGET\r\n",
        REQUESTS[0] + REQUESTS[1],
        b"%1\r\n$1\r\na\r\n$1\r\na\r\n",
    )
    frames = [
        encode_request(0, 5, number, 0, command) for number, command in enumerate([*wrong, REQUESTS[0]], 1)
    ]
    with socket.create_connection(("127.0.0.1", node.peers.port), 10) as connection:
        connection.sendall(FRAMES[0] + b"".join(frames))
        reader, replies = FrameReader(), list[bytes]()
        while len(replies) < len(frames):
            found = reader.feed(connection.recv(1 << 16))
            replies += [decode_reply(body)[4] for kind, body in found if kind == Type.REPLY]
    assert all(reply.startswith(b"-ERR frame without a whole command") for reply in replies[:-1])
    assert replies[-1].startswith(b"$")


@pytest.mark.parametrize("in_c", [True, False], ids=["c", "python"])
def test_garbage_at_ports_with_tls(tmp_path: Path, in_c: bool) -> None:
    chance = random.Random(7)
    with guarded_node(tmp_path, user("default", "sesame"), tls=True, in_c=in_c) as node:
        for port in (node.port, node.peers.port):
            for head in (
                b"",
                b"\x16",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"\x15\x03\x01\x00\x02",
            ):
                for _ in range(15):
                    shout(port, head + chance.randbytes(chance.randrange(300)), [chance.randrange(1, 60)])
        assert node.authority is not None
        import ssl

        context = ssl.create_default_context(cafile=str(node.authority.ca))
        with Talk(node.port, context) as talk:
            assert talk.say(["AUTH", "sesame"], ["SET", "a", "1"]) == [b"+OK", b"+OK"]


# --- replies -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(min_size=1, max_size=60)
    | damaged(
        [
            b"+OK\r\n",
            b"$1\r\na\r\n",
            b":1\r\n",
            b"-ERR x\r\n",
            b"*2\r\n$1\r\na\r\n$-1\r\n",
            b"%1\r\n+a\r\n+b\r\n",
        ]
    )
)
def test_replies(data: bytes) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(1 << 16)
        connection.sendall(data)
        connection.close()

    with scripted_server(serve) as port, Client(port=port, timeout_s=5) as client:
        for ask in (
            lambda: client.get("a"),
            lambda: client.increment("a"),
            lambda: client.get_many(["a", "b"]),
        ):
            with contextlib.suppress(FortError):
                ask()


@pytest.mark.parametrize(
    "message", [Query(1, EPOCH_MAX + 1, 1), Heartbeat(1, 1, [Claim(1, EPOCH_MAX + 1, 0)])]
)
def test_an_epoch_that_cannot_be_counted_is_refused(message: Query | Heartbeat) -> None:
    frame = encode(message)
    with pytest.raises(BadRequest, match="nobody counts beyond"):
        decode(frame[4], frame[FRAME.size :])
