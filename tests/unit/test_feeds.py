"""What of a log is a change, positions, and what a node and a router do with those who ask; both ways, in C and not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hiredis import Reader
from hypothesis import given
from hypothesis import strategies as st

from fortdb.access.rights import refusal
from fortdb.access.users import Right, User
from fortdb.errors import BadRequest
from fortdb.limits import CLEAN_COUNT, FEED_WAIT_MS, OUTPUT_SOFT_BYTES
from fortdb.model import Keyspace, Policy, RecordId
from fortdb.node.changes import Change, changes_of
from fortdb.protocol.commands import TABLE
from fortdb.protocol.feeds import ChangeKind, Scope, Selection, decode_position, encode_position, parse_feed
from fortdb.protocol.resp import pack
from fortdb.protocol.transactions import Bundle, check_queued
from fortdb.replication.entries import PUT, Operation, decode_entry
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import data_key_at, record_key
from fortdb.storage.values import RecordsHead, WormRecord, encode_records, encode_worm
from tests.support.partitions import OnePartition
from tests.support.ways import PARTITION, needs_c, received
from tests.unit.test_native_clients import Node


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OnePartition]:
    made = OnePartition(
        tmp_path, Keyspace("log", policy=Policy.RECORDS), Keyspace("doc", policy=Policy.VERSIONS, keep=2)
    )
    yield made
    made.close()


def told(one: OnePartition) -> list[tuple[str, bytes, bytes | None]]:
    one.write()
    last = one.engine.last_offset(1) or 0
    entries = one.engine.entries(1, 1, last, 1 << 30)
    return [
        (change.kind.value, change.key, change.value)
        for offset, entry in enumerate(entries, 1)
        for change in changes_of(decode_entry(entry, offset).operations)
    ]


def test_only_what_users_know_of_is_a_change(one: OnePartition) -> None:
    one.run("SET", "doc/a", "1")
    one.run("SET", "doc/a", "2")
    one.run("PURGE", "doc/a")
    first = one.run("ADD", "log/a", "r", "PX", 10)
    one.run("ADD", "log/a", "s")
    one.now_ms += 20
    while one.sweep():
        pass
    assert told(one) == [
        ("put", b"doc/a", b"1"),
        ("put", b"doc/a", b"2"),
        ("delete", b"doc/a", None),
        ("add", b"log/a", b"r"),
        ("add", b"log/a", b"s"),
        ("remove", b"log/a", None),
    ]
    assert first


@pytest.mark.parametrize("count", [1, 2, CLEAN_COUNT + 2])
def test_what_a_deleted_key_left_is_no_change(one: OnePartition, count: int) -> None:
    for _ in range(count):
        one.run("ADD", "log/a", "r")
    one.run("DEL", "log/a")
    one.run("ADD", "log/a", "new")
    for _ in range(3):
        one.sweep()
    changes = told(one)
    assert changes == [("add", b"log/a", b"r")] * count + [
        ("delete", b"log/a", None),
        ("add", b"log/a", b"new"),
    ]


@given(st.dictionaries(st.from_regex(r"\Ap-[0-9]{3}\Z"), st.integers(0, 1 << 60), min_size=1, max_size=20))
def test_positions_are_read_as_they_are_written(offsets: dict[str, int]) -> None:
    assert decode_position(encode_position(offsets)) == offsets


@given(st.binary(max_size=30))
def test_a_position_that_is_none_is_refused(text: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert all(offset >= 0 for offset in decode_position(text).values())


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("KEYSPACE orders", [b"orders/1", b"orders/"]),
        ("KEYSPACE default", [b"or", b"1", b"default/1"]),
        ("PREFIX or", [b"orders/1", b"orders/", b"or"]),
        ("KEY or", [b"or"]),
        ("ALL", [b"orders/1", b"orders/", b"or", b"1", b"default/1"]),
    ],
)
def test_keys_are_chosen(words: str, keys: list[bytes]) -> None:
    selection = parse_feed([b"FEED", b"SUBSCRIBE", *words.encode().split()]).selection
    every = [b"orders/1", b"orders/", b"or", b"1", b"default/1"]
    assert [key for key in every if selection.matches(key)] == sorted(keys, key=every.index)
    assert all(selection.may_be_in(b"..." + key) for key in keys)


def test_a_user_sees_changes_of_its_keyspaces_only() -> None:
    user = User("app", (), frozenset({Right.READ}), frozenset({b"orders"}))

    def is_refused(*words: bytes) -> bool:
        return refusal(user, TABLE[words[0].decode()], list(words)) is not None

    for action in (b"SUBSCRIBE", b"POSITION", b"subscribe"):
        for allowed in ((b"KEYSPACE", b"orders"), (b"PREFIX", b"orders/"), (b"KEY", b"orders/1")):
            assert not is_refused(b"FEED", action, *allowed)
        for forbidden in (
            (b"ALL",),
            (b"all",),
            (b"PARTITION", b"p-000"),
            (b"KEYSPACE", b"other"),
            (b"PREFIX", b"orders"),
            (b"prefix", b""),
            (b"PREFIX", b"other/"),
            (b"KEY", b"other/1"),
            (b"KEY", b"1"),
        ):
            assert is_refused(b"FEED", action, *forbidden), forbidden
    assert is_refused(b"WATCHKEY", b"other/1") and not is_refused(b"WATCHKEY", b"orders/1")
    writer = User("app", (), frozenset({Right.WRITE}), None)
    assert refusal(writer, TABLE["FEED"], [b"FEED", b"SUBSCRIBE", b"ALL"]) is not None


@pytest.mark.parametrize("name", ["FEED", "WATCHKEY"])
def test_it_is_no_part_of_a_transaction(name: str) -> None:
    with pytest.raises(BadRequest, match="outside of MULTI"):
        check_queued(TABLE[name], [name.encode(), b"x"])


# --- on a node ------------------------------------------------------------------------------------------


class Asker:
    """Asks a node as a router does."""

    def __init__(self, made: Node, after: int, selection: Selection | None = None) -> None:
        self.reply = b""
        chosen = selection or Selection(Scope.ALL)
        words = [PARTITION, after, 2, 1]
        name = [chosen.name] if chosen.name else []
        args = [b"CHANGES", *(b"%d" % word for word in words), chosen.scope.value.encode(), *name]
        made.service.changes.ask(self, args)

    def complete(self, reply: bytes) -> None:
        assert not self.reply
        self.reply = reply

    @property
    def answer(self) -> tuple[int, list[list[bytes]]]:
        """How far was looked, and what came."""
        reader = Reader()
        reader.feed(self.reply)
        _, after, pushes = reader.gets()
        reader.feed(pushes)
        found = []
        while push := reader.gets():
            found.append(push)
        return after, found


@pytest.fixture(params=[pytest.param(True, id="c", marks=needs_c), pytest.param(False, id="python")])
def made(request: pytest.FixtureRequest) -> Iterator[Node]:
    with Node(request.param) as node:
        yield node


def say(made: Node, *lines: str) -> bytes:
    return made.say(b"".join(pack(line.encode().split()) for line in lines))


def test_whoever_waits_hears_of_a_commit_in_that_tick(made: Node) -> None:
    start = Asker(made, -1)
    after, _ = start.answer
    waiting, other = Asker(made, after), Asker(made, after, Selection(Scope.KEY, b"other"))
    assert not waiting.reply
    say(made, "SET a 1", "SET b 2")
    last, changes = waiting.answer
    assert [change[3:5] for change in changes] == [[b"a", b"1"], [b"b", b"2"]]
    assert changes[-1][1] == b"p-003:%d" % last
    assert not other.reply and len(made.service.changes.waiting) == 1
    made.loop.now_ms += FEED_WAIT_MS + 1
    made.service.changes.time_out()
    assert other.answer == (made.replica.log.commit, []) and not made.service.changes.waiting


def test_all_of_an_entry_comes_again_unless_its_last_change_was_seen(made: Node) -> None:
    after, _ = Asker(made, -1).answer
    say(made, "MULTI", "SET a 1", "SET b 2", "DEL a", "EXEC")
    last, changes = Asker(made, after).answer
    assert [change[1] for change in changes] == [b"p-003:%d" % at for at in (last - 1, last - 1, last)]
    assert Asker(made, last - 1).answer[1] == changes
    assert not Asker(made, last).reply


def test_what_is_prepared_is_no_change_before_it_is_decided(made: Node) -> None:
    from tests.unit.test_transactions import ask

    after, _ = Asker(made, -1).answer
    asker = Asker(made, after)
    ask(made, "PREPARE", b"t", b"5", b"9", *Bundle([[b"SET", b"n", b"1"]]).encode())
    ask(made, "PREPARE", b"u", b"5", b"9", *Bundle([[b"SET", b"m", b"1"]]).encode())
    assert not asker.reply
    ask(made, "FINISH", b"u", b"ABORT")
    ask(made, "FINISH", b"t", b"COMMIT")
    assert [change[3] for change in asker.answer[1]] == [b"n"]


def test_whoever_waits_hears_that_this_node_leads_no_more(made: Node) -> None:
    after, _ = Asker(made, -1).answer
    asker = Asker(made, after)
    made.service.give_up(made.hosted)
    made.turn()
    assert asker.reply.startswith(b"-NOTLEADER")
    made.service.host(made.hosted)


def test_positions_outside_of_the_log(made: Node) -> None:
    say(made, "SET a 1", "SET b 1")
    commit = made.replica.log.commit
    assert Asker(made, commit + 1).reply.startswith(b"-FEEDLOST position p-003:")
    made.turn(2)
    made.replica.log.trim(commit - 1)
    lost = Asker(made, 0).reply
    assert lost.startswith(b"-FEEDLOST") and b"p-003:%d, the oldest position" % (commit - 1) in lost


def test_a_client_that_does_not_read_is_not_read_for(made: Node) -> None:
    """A connection of the node itself; what comes when it is full is thrown away and asked for again."""
    assert say(made, "SET z 1") == b"+OK\r\n"
    made.client.send(pack([b"FEED", b"SUBSCRIBE", b"PREFIX", b"a"]))
    told = b""
    while not told:
        made.turn()
        told = received(made.client)
    assert b"p-003:" in told
    (feeding,) = [one for one in made.front.connections if one.feed is not None]
    from tests.unit.test_transactions import another

    value = "x" * 100_000
    with another(made):
        for number in range(200):
            say(made, f"SET a{number} {value}")
            assert feeding.queued_bytes < OUTPUT_SOFT_BYTES + (1 << 20)
    reader, seen = Reader(), list[bytes]()
    while len(seen) < 200:
        made.turn()
        reader.feed(received(made.client))
        while push := reader.gets():
            seen += [push[3]] if push[0] == b"change" else []
    assert seen == [b"a%d" % number for number in range(200)]


def test_a_worm_record_is_told_once() -> None:
    """It is written twice in its entry: the second time with its place in the chain."""
    at = data_key_at(hash_of(b"ledger/7"), b"ledger/7")
    record = RecordId(5, 0)
    unlinked = WormRecord(9_000, False, b"paid", 0, bytes(32))
    head = encode_records(RecordsHead(0, 1, record, record, True))
    operations = [
        Operation(PUT, record_key(at, record), encode_worm(unlinked)),
        Operation(PUT, at, head),
        Operation(PUT, record_key(at, record), encode_worm(unlinked._replace(ordinal=1))),
    ]
    assert list(changes_of(operations)) == [Change(ChangeKind.ADD, b"ledger/7", b"paid", b"5-0", 0)]
