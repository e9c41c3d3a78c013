"""Whatever users, strangers and members send: no process ends, nobody waits for it, and no user learns or changes what
it may not.

Commands of the table come with arguments that are valid here and there: keys and keywords, numbers at the borders,
nothing, bytes, much. They come singly, behind MULTI, many at once, cut anywhere. Before, values are planted
that most users may not see, and every answer is searched for them.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fortdb.limits import VALUE_BYTES_MAX
from fortdb.local.ring import LocalRing
from fortdb.net.peer import Greeting
from fortdb.protocol.commands import INTERNAL, TABLE, Command
from fortdb.protocol.resp import pack
from fortdb.replication.messages import (
    FrameReader,
    Type,
    decode_call,
    decode_reply,
    encode_call,
    encode_request,
)
from tests.support.guarded import Talk, user
from tests.support.rings import SMALL, add_users, ca_of, running_ring

QUIT = pack([b"QUIT"])
T = TypeVar("T")
SECRET = b"planted-9c1f5e"  # in values that few may see
_HUNG_UP_S = (
    20.0  # from the last word of an attack until every answer is there: a router asks for 3 s at a time
)
_CUT_OFF_S = 0.2  # for which the rest of a request is not sent
_ALIVE_S = 3.0  # until somebody else is answered

USERS = {
    "full": user("full", "p"),
    "narrow": user("narrow", "p", commands=("read", "write"), keyspaces=("orders", "notes", "default")),
    "reader": user("reader", "p", commands=("read",), keyspaces=("orders",)),
    "viewer": user("viewer", "p", commands=("view", "scan"), keyspaces=("orders",)),
    "small": user("small", "p", commands=("read", "write", "govern"), keyspaces=("kept",), value_bytes_max=8),
}
KEYSPACES = (
    ("orders",),
    ("notes", "POLICY", "RECORDS"),
    ("past", "POLICY", "VERSIONS"),
    ("kept", "POLICY", "WORM", "RETENTION", "1s"),
    ("hidden",),
    ("hidden-notes", "POLICY", "RECORDS"),
)
PLANTED = ((b"hidden/1", b"hidden/{1}:a"), b"hidden-notes/1")


# --- what is said ---------------------------------------------------------------------------------

_SPACES = [b"orders", b"notes", b"past", b"kept", b"default", b"hidden", b"hidden-notes"]
_KEYS = [
    *(space + b"/" + rest for space in _SPACES for rest in (b"1", b"{1}:a", b"{1}", b"")),
    *(b"plain", b"{1}:a", b"{1}", b"", b"/", b"//", b"orders", b"orders\n/1", b"hidden /1", b"\xff/\xff"),
]
_NUMBERS = [
    *(
        str(number).encode()
        for power in (0, 8, 31, 32, 53, 62, 63, 64, 70)
        for number in (2**power, 2**power - 1)
    ),
    *(
        b"-1",
        b"-0",
        b"00",
        b"+1",
        b"1.5",
        b"1e9",
        b" 1",
        b"\xb2",
        "\u0661".encode(),
        b"nan",
        b"-9223372036854775808",
    ),
    *(b"9" * 19, b"9" * 20, b"9" * 400, b"9" * 5000, b"0x10", b"1_000"),
]
_IDS = [
    b"*",
    b"-",
    b"+",
    b"(0",
    b"0-0",
    b"1-1",
    b"(0-0",
    b"(+",
    b"9" * 20 + b"-0",
    b"18446744073709551615-18446744073709551615",
]
_POSITIONS = [
    b"p-000:0",
    b"p-000:9999999999999999999",
    b"p-000:-1",
    b"p-999:0",
    b"p-000:1,",
    b",",
    b"p-000:1,p-000:2",
]
_NAMES = [
    b"p-000",
    b"node-1",
    b"router-1",
    b"node-9",
    b"1d",
    b"1s",
    b"9" * 12 + b"d",
    b"1000000d",
    b"\xd9\xa3d",
]
_DOCUMENTS = [
    *(
        b"{}",
        b"[",
        b"[" * 5000,
        b"null",
        b"NaN",
        b'{"remove":[{}]}',
        b'{"remove":["node-1"]}',
        b'{"weights":[]}',
    ),
    *(
        b'{"weights":{"node-1":%b}}' % number
        for number in (b"1e308", b"1e-320", b"-1", b"NaN", b"9" * 400, b"0", b"2.5")
    ),
    *(
        b'{"%b":%b}' % pair
        for pair in ((b"replication", b"9" * 30), (b"partitions", b"5"), (b"min_in_sync", b"0"))
    ),
    *(b'{"base_version":1,"layout":{}}', b'{"base_version":1,"layout":{"nodes":{"\\ud800":{}}}}'),
]
_JUNK = [
    b"a",
    b"\r\n",
    b"\0",
    b"\xff\xfe",
    b"[^a]" * 3000,
    b"*" * 900,
    b"x" * 20_000,
    b"'",
    b'"',
    b"{",
    b"{}",
    b"\x1b[2J",
]
_WORDS = sorted({word.encode() for one in TABLE.values() for word in re.findall(r"[A-Z][A-Z-]+", one.usage)})
_AVOIDED = {"AUTH", "APPLY", "PURGEALL"}  # guesses make everybody here wait; the rest is in words of its own


def anything() -> st.SearchStrategy[bytes]:
    """One argument."""
    pools = (_KEYS, _KEYS, _NUMBERS, _IDS, _POSITIONS, _NAMES, _DOCUMENTS, _JUNK, _WORDS)
    return st.one_of(*map(st.sampled_from, pools), st.binary(max_size=6)).filter(
        lambda word: word.upper() != b"AUTH"
    )


def words_of(command: Command) -> list[bytes]:
    """The keywords of a command's usage."""
    return [word.encode() for word in re.findall(r"[A-Z][A-Z-]+", command.usage) if word not in _AVOIDED][1:]


@st.composite
def requests(draw: st.DrawFn, keys: list[bytes] = _KEYS) -> list[bytes]:
    """A command with what may be its arguments."""
    command = TABLE[draw(st.sampled_from(sorted(set(TABLE) - _AVOIDED)))]
    name = command.name.encode()
    args = [draw(st.sampled_from([name, name.lower()]))]
    words = words_of(command)
    if command.first_key:
        args.append(draw(st.sampled_from(keys)))
    least = abs(command.arity)
    for _ in range(draw(st.integers(0, 5))):
        if draw(st.booleans()) and words:
            args.append(draw(st.sampled_from(words)))
            if draw(st.booleans()):
                args.append(draw(anything()))
        elif len(args) < least or draw(st.booleans()):
            args.append(draw(anything()))
    return args


def many() -> st.SearchStrategy[list[list[bytes]]]:
    """Cheap to say, and perhaps dear to answer."""
    return st.sampled_from(
        [
            [[b"EXISTS", *[b"orders/big"] * 20_000]],
            [[b"MULTI"], *[[b"STRLEN", b"orders/big"]] * 3_000, [b"EXEC"]],
            [[b"MGET", *[b"orders/big"] * 1_000]],
            [[b"MULTI"], *[[b"PING", b"x" * 500]] * 9_000, [b"EXEC"]],
            [[b"MULTI"], *[[b"COMMAND", b"DOCS"]] * 9_000, [b"EXEC"]],
            [[b"MULTI"], *[[b"INFO"]] * 9_000, [b"EXEC"]],
            [[b"COMMAND", b"DOCS", *[b"GET"] * 50_000]],
            [[b"CONFIG", b"GET", b"[^a]" * 100_000]],
            [[b"CONFIG", b"GET", *[b"*a*b*c"] * 50_000]],
            [[b"SCAN", b"0", b"COUNT", b"9223372036854775807", b"MATCH", b"*" + b"[ab]" * 200 + b"c*"]],
            [
                [b"WATCH", *[b"orders/%d" % n for n in range(9_000)]],
                [b"MULTI"],
                [b"GET", b"orders/1"],
                [b"EXEC"],
            ],
            [[b"FEED", b"SUBSCRIBE", b"KEY", b"orders/1", b"FROM", b",".join([b"p-000:1"] * 60_000)]],
            [[b"LAYOUT", b"PLAN", b"[" * 900_000]],
            [[b"HELLO", *[b"SETNAME", b"a"] * 40_000]],
            [[b"SET", b"orders/1", b"x" * (VALUE_BYTES_MAX + 1)]],
            [[b"HELP", b"GET", *[b"x"] * 90_000]],
            [[b"MSET", *[b"orders/1", b"x"] * 40_000]],
            [[b"PURGE", *[b"past/1"] * 40_000]],
        ]
    )


@st.composite
def attacks(draw: st.DrawFn, keys: list[bytes] = _KEYS) -> bytes:
    """What a connection says: to its end, or cut off."""
    in_transaction: bool = draw(st.booleans())
    said: list[list[bytes]] = draw(st.lists(requests(keys), min_size=1, max_size=6) | many())
    if in_transaction and len(said) < 10:
        said = [[b"MULTI"], *said, [b"EXEC"]]
    data = b"".join(map(pack, said))
    if draw(st.integers(0, 9)) == 0:
        return data[: draw(st.integers(0, min(len(data), 200)))]
    return data + QUIT


def at_least(examples: int) -> Callable[[T], T]:
    """So many examples; many more where they are drawn anew (`make explore`)."""
    is_steady = settings.get_current_profile_name() == "steady"
    return settings(max_examples=examples if is_steady else 20 * examples, deadline=None)


# --- the ring -------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """A ring, and who speaks to each of its processes all the time."""

    ring: LocalRing
    context: ssl.SSLContext
    watchers: dict[str, Talk]
    pids: dict[str, int | None]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        ring = stack.enter_context(
            running_ring(
                tmp_path_factory.mktemp("ring"),
                tls=True,
                node=SMALL,
                router={"routing": {"deadline_ms": 3_000}},
            )
        )
        add_users(ring, "".join(USERS.values()))
        context = ssl.create_default_context(cafile=ca_of(ring))
        talks = {name: stack.enter_context(Talk(port_of(ring, name), context)) for name in ring.processes}
        for talk in talks.values():
            assert talk.say(["AUTH", "full", "p"]) == [b"+OK"]
        say = talks["router-1"].say
        for words in KEYSPACES:
            assert say(["KEYSPACE", "CREATE", *words]) == [b"+OK"]
        plant(talks["router-1"])
        assert say(["SET", "orders/big", b"x" * VALUE_BYTES_MAX]) == [b"+OK"]
        yield Scene(ring, context, talks, {name: process.pid for name, process in ring.processes.items()})


def port_of(ring: LocalRing, name: str) -> int:
    return ring.ports(name)["client"]


def plant(talk: Talk) -> None:
    """Put secrets where few may look."""
    for key in PLANTED[0]:
        assert talk.say(["SET", key, SECRET]) == [b"+OK"]
    talk.send(["ADD", PLANTED[1], SECRET])
    talk.line(), talk.line()


def shout(scene: Scene, name: str, said: bytes, sizes: list[int]) -> bytes:
    """Everything that is answered until the process hangs up, as it must soon after QUIT."""
    is_whole = said.endswith(QUIT)
    with Talk(port_of(scene.ring, name), scene.context) as talk:
        talk.socket.settimeout(_HUNG_UP_S)
        heard = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            for piece in pieces(said, sizes):
                talk.socket.sendall(piece)
        if not is_whole:
            talk.socket.settimeout(_CUT_OFF_S)
        with contextlib.suppress(ConnectionError, ssl.SSLError, *([] if is_whole else [TimeoutError])):
            while data := talk.socket.recv(1 << 20):
                heard += data
        return heard


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Cut at the beginning, where headers are; the rest at once."""
    for size in sizes:
        if data:
            yield data[:size]
            data = data[size:]
    if data:
        yield data


def all_are_well(scene: Scene) -> None:
    """Every process lives, and answers somebody else soon."""
    for name, process in scene.ring.processes.items():
        assert process.pid is not None and process.pid == scene.pids[name], process.last_words()
        began_s = time.monotonic()
        assert scene.watchers[name].say(["PING"]) == [b"+PONG"]
        assert time.monotonic() - began_s < _ALIVE_S, f"{name} answered nobody for a while"


def planted_is_there(scene: Scene) -> None:
    """Nobody changed what he may not."""
    talk = scene.watchers["router-1"]
    talk.send(["MGET", *PLANTED[0]], ["RECORDCOUNT", PLANTED[1]], ["RECORDS", "hidden-notes/1"])
    heard = b"".join(talk.line() + b"\n" for _ in range(1 + 2 * len(PLANTED[0]) + 1 + 6))
    assert heard.count(SECRET) == len(PLANTED[0]) + 1 and b":1\n" in heard, heard


CUTS = st.lists(st.integers(1, 40), max_size=5)
WHERE = st.sampled_from(["router-1", "router-1", "node-1", "node-2", "node-3"])
NOT_HIDDEN = [key for key in _KEYS if not key.startswith(b"hidden")]


@at_least(25)
@given(who=st.sampled_from(sorted(set(USERS) - {"full"})), where=WHERE, said=attacks(), sizes=CUTS)
@example(who="viewer", where="router-1", said=pack([b"LAYOUT", b"PLAN", b'{"remove":[{}]}']) + QUIT, sizes=[])
@example(who="viewer", where="router-1", said=pack([b"LAYOUT", b"PLAN", b"[" * 900_000]) + QUIT, sizes=[])
@example(who="reader", where="node-1", said=pack([b"RANGE"]) + QUIT, sizes=[])
@example(who="reader", where="router-1", said=pack([b"EXISTS", *[b"orders/big"] * 20_000]) + QUIT, sizes=[])
@example(who="reader", where="router-1", said=pack([b"CONFIG", b"GET", b"[^a]" * 1_000_000]) + QUIT, sizes=[])
def test_a_user_with_few_rights(scene: Scene, who: str, where: str, said: bytes, sizes: list[int]) -> None:
    heard = shout(scene, where, pack([b"AUTH", who.encode(), b"p"]) + said, sizes)
    assert SECRET not in heard
    assert b"fault in fortdb" not in heard, heard[-400:]
    all_are_well(scene)
    planted_is_there(scene)


@at_least(12)
@given(where=WHERE, said=attacks(NOT_HIDDEN), sizes=CUTS)
@example(where="router-1", said=pack([b"KEYSPACE", b"CREATE", b"x", b"KEEP", b"9" * 5000]) + QUIT, sizes=[])
@example(
    where="router-1", said=pack([b"KEYSPACE", b"ALTER", b"past", b"RETENTION", b"9" * 12 + b"d"]), sizes=[]
)
def test_a_user_with_all_rights(scene: Scene, where: str, said: bytes, sizes: list[int]) -> None:
    heard = shout(scene, where, pack([b"AUTH", b"full", b"p"]) + said, sizes)
    assert b"fault in fortdb" not in heard, heard[-400:]
    all_are_well(scene)


@at_least(10)
@given(where=WHERE, said=attacks(), sizes=CUTS)
def test_a_stranger(scene: Scene, where: str, said: bytes, sizes: list[int]) -> None:
    heard = shout(scene, where, said, sizes)
    assert all(line.startswith((b"-", b"+OK", b"+RESET")) for line in heard.split(b"\r\n") if line), heard[
        :400
    ]
    assert SECRET not in heard and b"fault in fortdb" not in heard
    all_are_well(scene)


# --- members --------------------------------------------------------------------------------------


_CALLS = (
    b"SETTLE",
    b"REPLICAS",
    b"REPLICA",
    b"TRACES",
    b"CHANGES",
    b"KEYSPACES",
    b"LEADER",
    b"STALE",
    b"MOVE",
)
_LAST = 999


@at_least(25)
@given(
    asked=st.lists(
        requests()
        | st.lists(st.sampled_from([name.encode() for name in INTERNAL]) | anything(), min_size=1, max_size=8)
        | st.builds(
            lambda name, rest: [name, *rest], st.sampled_from(_CALLS), st.lists(anything(), max_size=7)
        ),
        min_size=1,
        max_size=6,
    ),
    is_call=st.booleans(),
    partition=st.integers(0, 6),
)
@example(asked=[[b"REPLICA", "\u00b2".encode()]], is_call=True, partition=0)
@example(asked=[[b"PING"]], is_call=False, partition=0)
@example(asked=[[b"exec"]], is_call=False, partition=0)
def test_a_member_that_asks_for_nonsense(
    scene: Scene, asked: list[list[bytes]], is_call: bool, partition: int
) -> None:
    frames = [
        encode_call(number, pack(args)) if is_call else encode_request(partition, 0, number, 0, pack(args))
        for number, args in enumerate(asked, 1)
    ]
    ring, heard = scene.ring, b""
    context = ssl.create_default_context(cafile=ca_of(ring))
    context.load_cert_chain(ring.tls_directory / "router-1.pem", ring.tls_directory / "router-1.key")
    greeting = Greeting(ring.shape.cluster, "router-1", session=99).encode()
    with Talk(ring.ports("node-1")["peer"], context) as talk:
        talk.socket.sendall(greeting + b"".join(frames) + encode_call(_LAST, pack([b"KEYSPACES"])))
        reader, is_over = FrameReader(), False
        while not is_over:
            for kind, body in reader.feed(talk.socket.recv(1 << 20)):
                if kind == Type.REPLY:
                    heard += decode_reply(body)[4]
                elif kind == Type.RETURN:
                    number, reply = decode_call(body)
                    heard += reply
                    is_over |= number == _LAST
    assert b"fault in fortdb" not in heard, heard[-400:]
    all_are_well(scene)


# --- afterwards -----------------------------------------------------------------------------------


def test_nothing_of_it_was_a_fault(scene: Scene) -> None:
    for process in scene.ring.processes.values():
        log = process.log_path.read_text()
        assert "Traceback" not in log, log[log.index("Traceback") - 400 :][:4_000]
