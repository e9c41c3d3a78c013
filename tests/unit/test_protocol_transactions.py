"""What is said between MULTI and EXEC, and how it crosses the ring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fortdb.errors import BadRequest, Discarded
from fortdb.limits import (
    KEY_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_COMMANDS_MAX,
    WATCHED_KEYS_MAX,
)
from fortdb.protocol.commands import lookup
from fortdb.protocol.resp import NIL, NIL_ARRAY, OK, array, bulk, integer
from fortdb.protocol.transactions import (
    Bundle,
    Queue,
    Queued,
    Watched,
    distribute,
    elements,
    interleave,
    known,
)

WORDS = st.binary(max_size=40)
COMMANDS = st.lists(st.lists(WORDS, min_size=1, max_size=5), max_size=6)
REPLIES = st.recursive(
    st.sampled_from([OK, NIL, NIL_ARRAY, integer(-7), b"-ERR no\r\n"]) | WORDS.map(bulk),
    lambda inner: st.lists(inner, max_size=4).map(array),
    max_leaves=10,
)


def add(queue: Queue, *args: bytes) -> None:
    command = lookup(args[0])
    assert command is not None
    queue.add(command, list(args))


@given(COMMANDS, st.dictionaries(WORDS, WORDS, max_size=4))
def test_what_is_encoded_is_decoded(commands: list[list[bytes]], watched: dict[bytes, bytes]) -> None:
    bundle = Bundle(commands, watched)
    assert Bundle.decode(bundle.encode()) == bundle


@given(st.lists(WORDS | st.integers(-1, 9).map(lambda number: b"%d" % number), max_size=9))
def test_nonsense_is_refused_by_name(words: list[bytes]) -> None:
    try:
        Bundle.decode(words or [b""])
    except BadRequest:
        return


@given(st.lists(REPLIES, max_size=6))
def test_replies_are_taken_apart(replies: list[bytes]) -> None:
    assert elements(array(replies)) == replies


@given(st.lists(st.booleans(), max_size=9))
def test_answers_of_the_connection_stand_in_their_places(are_local: list[bool]) -> None:
    ping, get = lookup(b"PING"), lookup(b"GET")
    assert ping is not None and get is not None
    queued = [Queued(ping if local else get, [b"%d" % at]) for at, local in enumerate(are_local)]
    far = array([integer(at) for at, local in enumerate(are_local) if not local])
    near = [integer(at) for at, local in enumerate(are_local) if local]
    assert interleave(far, queued, near) == array([integer(at) for at in range(len(are_local))])


def test_a_bundle_knows_its_keys() -> None:
    bundle = Bundle([[b"MSET", b"a", b"1", b"b", b"2"], [b"get", b"c"]], {b"w": b"1:1", b"a": b"1:1"})
    assert bundle.keys == [b"w", b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((b"SCAN", b"0"), "outside of MULTI"),
        ((b"KEYSPACE", b"LIST"), "outside of MULTI"),
        ((b"GET", b"k", b"STALE"), "no stale"),
        ((b"SET", b"k", b"v", b"ACK", b"ASYNC"), "without ACK"),
        ((b"SET", b"k" * (KEY_BYTES_MAX + 1), b"v"), "longer than"),
        ((b"SET", b"k", b"v" * TRANSACTION_BYTES_MAX), "make several"),
    ],
)
def test_what_cannot_be_part_of_a_transaction_spoils_it(args: tuple[bytes, ...], message: str) -> None:
    queue = Queue()
    add(queue, b"GET", b"k")
    with pytest.raises(BadRequest, match=message):
        add(queue, *args)
    assert queue.is_spoiled
    add(queue, b"GET", b"k")
    assert not queue.commands, "what nobody will execute takes no memory"


def test_a_transaction_is_bounded_in_commands() -> None:
    queue = Queue()
    for _ in range(TRANSACTION_COMMANDS_MAX):
        add(queue, b"GET", b"k")
    with pytest.raises(BadRequest, match="make several"):
        add(queue, b"GET", b"k")


def test_the_first_version_of_a_watched_key_counts() -> None:
    watched = Watched()
    assert watched.add([b"a", b"b", b"a"]) == [b"a", b"b"]
    watched.versions[b"a"] = b"1:1"
    assert watched.add([b"a", b"b"]) == [b"b"], "asked for again: nobody answered"
    with pytest.raises(Discarded, match="WATCH before it failed"):
        known(watched.clear())
    assert not watched.versions


def test_watched_keys_are_bounded() -> None:
    watched = Watched()
    watched.add([b"%d" % number for number in range(WATCHED_KEYS_MAX)])
    with pytest.raises(BadRequest, match="at most"):
        watched.add([b"one more"])
    with pytest.raises(BadRequest, match="at most"):
        Watched().add([b"%d" % number + b"k" * 16_000 for number in range(70)])
    with pytest.raises(BadRequest, match="longer than"):
        watched.add([b"k" * (KEY_BYTES_MAX + 1)])


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4), max_size=6))
def test_what_is_distributed_is_joined(commands: list[list[str]]) -> None:
    """Each command reads keys; each key's group answers for itself."""
    bundle = Bundle(
        [[b"MGET", *(key.encode() for key in keys)] for keys in commands], {b"a": b"1:1", b"b": b"2:2"}
    )
    made = distribute(bundle, lambda key: key[0] % 3)
    for group, part in made.parts.items():
        assert all(key[0] % 3 == group for key in part.keys)
    replies = {
        group: array([array([bulk(key) for key in args[1:]]) for args in part.commands])
        for group, part in made.parts.items()
    }
    assert made.join(replies) == array([array([bulk(key.encode()) for key in keys]) for keys in commands])
    assert {key: part.watched[key] for part in made.parts.values() for key in part.watched} == bundle.watched
