"""`RANGE`: order, bounds, pages, what is under way, and what it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fortdb.access.rights import refusal
from fortdb.access.users import Right, User
from fortdb.errors import BadRequest
from fortdb.limits import LOOK_BYTES, PAGE_BYTES_MAX, READ_BYTES
from fortdb.model import Keyspace, Policy
from fortdb.node.locks import Prefix, Queue, apart
from fortdb.node.scan import scan_page
from fortdb.protocol.commands import TABLE
from fortdb.protocol.ranges import after_all, has_tag
from fortdb.protocol.transactions import check_queued
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import after_token, data_key_at, user_key
from tests.support.partitions import RANGES, WHOLE_RING, OnePartition


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OnePartition]:
    made = OnePartition(tmp_path, Keyspace("log", policy=Policy.RECORDS))
    yield made
    made.close()


def fill(one: OnePartition, *names: str) -> None:
    for name in names:
        one.run("SET", "{t}" + name, "v" + name)


def keys(answer: Any) -> list[str]:
    return [key.decode().removeprefix("{t}") for key in answer[1]]


def test_keys_come_in_their_order_from_the_data_and_from_what_is_under_way(one: OnePartition) -> None:
    fill(one, "b", "d")
    one.write()
    fill(one, "a", "c", "e")
    one.run("DEL", "{t}d")
    for other in ("{u}a", "t", "{t", "x{t}a"):
        one.run("SET", other, "no")
    answer = one.run("RANGE", "{t}")
    assert answer[0] is None and keys(answer) == ["a", "b", "c", "e"]
    assert keys(one.run("RANGE", "{t}", "REV")) == ["e", "c", "b", "a"]
    assert one.run("RANGE", "x{t}", "VALUES") == [None, [[b"x{t}a", b"no"]]]


def test_bounds_are_keys_and_may_be_left_out(one: OnePartition) -> None:
    fill(one, "a", "b", "b1", "c", "d")
    assert keys(one.run("RANGE", "{t}", "FROM", "{t}b", "TO", "{t}c")) == ["b", "b1", "c"]
    assert keys(one.run("RANGE", "{t}", "FROM", "({t}b", "TO", "({t}c")) == ["b1"]
    assert keys(one.run("RANGE", "{t}", "REV", "FROM", "{t}c", "TO", "({t}b")) == ["c", "b1"]
    assert keys(one.run("RANGE", "{t}b")) == ["b", "b1"]
    assert keys(one.run("RANGE", "{t}", "FROM", "{t}c", "TO", "{t}a")) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.sets(st.text(alphabet="ab\xff", max_size=4), max_size=12),
    count=st.integers(1, 5),
    backward=st.booleans(),
)
def test_a_walk_by_pages_gives_every_key_once(
    one: OnePartition, names: set[str], count: int, backward: bool
) -> None:
    for key in one.run("RANGE", "{t}")[1]:
        one.run("DEL", key)
    wanted = sorted(("{t}" + name).encode("latin-1") for name in names)
    for key in wanted:
        one.run("SET", key, "v")
    found: list[bytes] = []
    go_on: tuple[object, ...] = ()
    while True:
        last, page = one.run("RANGE", "{t}", "COUNT", count, *go_on, *(["REV"] if backward else []))
        found += page
        if last is None:
            break
        assert len(page) <= count
        go_on = ("FROM", last)
    assert found == (wanted[::-1] if backward else wanted)


def test_a_page_is_bounded_and_shows_nothing_that_has_ended(one: OnePartition) -> None:
    for name in "abc":
        one.run("SET", "{t}" + name, "x" * (PAGE_BYTES_MAX // 2))
    last, page = one.run("RANGE", "{t}", "VALUES")
    assert [key for key, _ in page] == [b"{t}a"] and last == b"({t}a"
    one.run("SET", "{t}b", "x", "PX", 10)
    one.now_ms += 20
    assert keys(one.run("RANGE", "{t}")) == ["a", "c"]
    assert one.leader.log.timestamp_ms >= one.now_ms  # no later leader shows it again


@pytest.mark.parametrize("proposed", [True, False])
def test_a_walk_pays_for_what_is_under_way_elsewhere(one: OnePartition, proposed: bool) -> None:
    for number in range(100 if proposed else 0):
        one.run("SET", f"{{other}}{number}", "")
    execution = one.execution().bound()
    for number in range(0 if proposed else 100):
        execution.put(b"{other}%d" % number, b"")
    execution.left_bytes = 1_000 * LOOK_BYTES
    range_of_t = data_key_at(hash_of(b"{t}"), b"{t}"), after_token(hash_of(b"{t}"))
    walks = 0
    with pytest.raises(BadRequest, match="looks at values of more than"):
        while walks < 100:
            assert list(execution.walk(*range_of_t)) == []
            walks += 1
    assert walks == 11


def test_a_walk_pays_for_what_it_finds_deleted(one: OnePartition) -> None:
    fill(one, *"abcdefgh")
    one.write()
    execution = one.execution().bound()
    for at, stored in list(execution.walk(*RANGES[0])):
        execution.delete(user_key(at), stored)
    left_bytes = execution.left_bytes
    assert list(execution.walk(*RANGES[0])) == []
    assert left_bytes - execution.left_bytes > 8 * READ_BYTES


def test_scan_ends_with_an_error_where_too_many_keys_have_one_tag(one: OnePartition) -> None:
    def scan(cursor: int) -> bytes:
        execution = one.execution().bound()
        execution.left_bytes = 100 * READ_BYTES
        words = (b"SCAN", b"%d" % cursor, b"COUNT", b"10", b"MATCH", b"nothing")
        return scan_page(execution, WHOLE_RING, list(words))

    for number in range(200):
        one.run("SET", f"key-{number}", "")
    one.write()
    cursor, pages = 0, 0
    while pages == 0 or cursor:
        page = scan(cursor)
        cursor, pages = int(page.split(b"\r\n")[2]), pages + 1
    assert pages >= 20, "keys with tokens of their own are no burden"
    fill(one, *map(str, range(200)))
    one.write()
    with pytest.raises(BadRequest, match=r"too many keys have the tag \{t\} for SCAN; RANGE walks these"):
        scan(int.from_bytes(hash_of(b"{t}")))


def test_keys_with_records_show_the_newest(one: OnePartition) -> None:
    one.run("ADD", "log/{t}a", "old")
    one.run("ADD", "log/{t}a", "new")
    assert one.run("RANGE", "log/{t}", "VALUES") == [None, [[b"log/{t}a", b"new"]]]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("cart",), "has no {tag}"),
        (("{}a",), "has no {tag}"),
        (("{t",), "has no {tag}"),
        (("{t}", "FROM"), "syntax error"),
        (("{t}", "FROM", "{u}a"), "FROM takes a key that begins with the prefix, and '{u}a' does not"),
        (("{t}", "TO", "({u}a"), "TO takes a key"),
        (("{t}", "FROM", "{t}a", "FROM", "{t}b"), "syntax error"),
        (("{t}", "COUNT", "0"), "at least 1"),
        (("{t}", "COUNT", "x"), "integer"),
        (("{t}", "WHY", "x"), "syntax error"),
        (("{t}", "FROM", "{t}" + "x" * 17000), "longer than"),
    ],
)
def test_what_makes_no_sense_is_refused(one: OnePartition, words: tuple[str, ...], reason: str) -> None:
    assert reason in one.run("RANGE", *words)


@given(st.binary(max_size=5), st.binary(max_size=3))
def test_what_follows_a_tag_changes_no_token(prefix: bytes, rest: bytes) -> None:
    if has_tag(prefix):
        assert hash_of(prefix) == hash_of(prefix + rest)
    end = after_all(prefix)
    assert end is None or prefix + rest < end


def test_a_range_is_apart_from_other_keys_only() -> None:
    wanted = Prefix(b"{t}a")
    assert apart(wanted, frozenset((b"{t}b",))) and not apart(frozenset((b"{t}a1",)), wanted)
    assert apart(wanted, Prefix(b"{t}"))  # two reads


def test_those_who_wait_are_not_overtaken_on_their_keys() -> None:
    queue: Queue[str] = Queue()
    queue.add("range", Prefix(b"{t}a"))
    assert not queue.lets_pass(frozenset((b"{t}a",))) and queue.lets_pass(frozenset((b"{t}",)))
    queue.add("one", frozenset((b"{t}z", b"{t}y")))
    queue.add("other", frozenset((b"{t}z",)))
    assert queue.lets_pass(Prefix(b"{t}b")) and not queue.lets_pass(Prefix(b"{t}"))
    assert queue.pop() == ("range", Prefix(b"{t}a")) and queue.lets_pass(frozenset((b"{t}a",)))
    assert queue.pop()[0] == "one" and queue.lets_pass(frozenset((b"{t}y",)))
    assert queue.first == "other" and not queue.lets_pass(frozenset((b"{t}z",)))
    assert queue.pop()[0] == "other" and queue.lets_pass(Prefix(b"{t}")) and queue.first is None


def test_it_is_no_part_of_a_transaction() -> None:
    with pytest.raises(Exception, match="outside of MULTI"):
        check_queued(TABLE["RANGE"], [b"RANGE", b"{t}"])


def test_a_user_of_some_keyspaces_names_one() -> None:
    user = User("app", (), frozenset({Right.READ}), frozenset({b"orders", b"default"}))
    assert refusal(user, TABLE["RANGE"], [b"RANGE", b"orders/{1}"]) is None
    for prefix in (b"{1}", b"other/{1}", b"orders{1}"):
        assert refusal(user, TABLE["RANGE"], [b"RANGE", prefix]) is not None
