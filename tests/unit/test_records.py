"""What the commands on records answer, and what they leave in the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fortdb.limits import CLEAN_COUNT, PAGE_BYTES_MAX
from fortdb.model import Keyspace, Policy, RecordId
from fortdb.node.disk import wipe_replica
from fortdb.node.scan import scan_page
from fortdb.storage.keys import ID_MIN, data_key, owner_key, record_id, record_key
from tests.support.partitions import RANGES, WHOLE_RING, OnePartition

LOG = Keyspace("log", policy=Policy.RECORDS)
BRIEF = Keyspace("brief", policy=Policy.RECORDS, retention_ms=1_000)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OnePartition]:
    made = OnePartition(tmp_path, LOG, BRIEF)
    yield made
    made.close()


def add(one: OnePartition, *values: str, key: str = "log/a", each_ms: int = 1) -> list[bytes]:
    ids = []
    for value in values:
        one.now_ms += each_ms
        ids.append(one.run("ADD", key, value))
    return ids


def values(one: OnePartition, key: str = "log/a", *words: object) -> list[bytes]:
    return [value for _, value in one.run("RECORDS", key, *words)]


@pytest.mark.parametrize("written", [True, False])
def test_records_are_read_in_the_order_of_their_ids(one: OnePartition, written: bool) -> None:
    ids = add(one, "a", "b", "c", "d")
    if written:
        one.write()
    assert ids == sorted(ids) and len(set(ids)) == 4
    assert one.run("RECORDS", "log/a") == [[i, v] for i, v in zip(ids, [b"a", b"b", b"c", b"d"], strict=True)]
    assert values(one, "log/a", "COUNT", 2) == [b"a", b"b"]
    assert values(one, "log/a", "REV", "COUNT", 2) == [b"d", b"c"]
    assert values(one, "log/a", "FROM", ids[1]) == [b"b", b"c", b"d"]
    assert values(one, "log/a", "FROM", b"(" + ids[1]) == [b"c", b"d"]
    assert values(one, "log/a", "REV", "FROM", ids[1]) == [b"b", b"a"]
    assert values(one, "log/a", "FROM", b"(" + ids[1], "REV") == [b"a"]
    assert values(one, "log/a", "FROM", ids[2].partition(b"-")[0]) == [b"c", b"d"]
    assert values(one, "log/a", "FROM", "+") == values(one, "log/a", "FROM", "-", "REV") == []
    assert values(one, "log/a", "FROM", "-") == [b"a", b"b", b"c", b"d"]
    assert one.run("GET", "log/a") == b"d"
    assert one.run("MGET", "log/a", "log/b") == [b"d", None]
    assert one.run("RECORD", "log/a", ids[1]) == b"b"
    assert one.run("RECORD", "log/a", "1-1") is None
    assert one.run("RECORDCOUNT", "log/a") == 4
    assert one.run("TYPE", "log/a") == b"records"
    assert one.run("EXISTS", "log/a") == 1
    assert one.run("TTL", "log/a") == -1


def test_ids_of_one_millisecond_are_counted(one: OnePartition) -> None:
    first, second = add(one, "a", "b", each_ms=0)
    ms, number = first.split(b"-")
    assert second == b"%b-%d" % (ms, int(number) + 1)


def test_of_no_key_there_are_no_records(one: OnePartition) -> None:
    assert one.run("RECORDS", "log/a") == []
    assert one.run("RECORD", "log/a", "1-1") is None
    assert one.run("RECORDCOUNT", "log/a") == 0
    assert one.run("REMOVE", "log/a", "1-1") == 0
    assert one.run("GET", "log/a") is None


def test_removing_records_one_by_one(one: OnePartition) -> None:
    a, b, c, d = add(one, "a", "b", "c", "d")
    assert one.run("REMOVE", "log/a", d) == 1
    assert one.run("REMOVE", "log/a", d) == 0
    assert one.run("GET", "log/a") == b"c"
    assert one.run("REMOVE", "log/a", a) == 1
    assert one.run("RECORDS", "log/a") == [[b, b"b"], [c, b"c"]]
    assert one.run("REMOVE", "log/a", b) == 1
    assert one.run("RECORDCOUNT", "log/a") == 1
    assert one.run("REMOVE", "log/a", c) == 1
    assert one.run("EXISTS", "log/a") == 0
    assert one.contents() == {}
    (e,) = add(one, "e")
    assert RecordId(*map(int, e.split(b"-"))) > RecordId(*map(int, d.split(b"-")))


def test_compare_and_set_on_ids(one: OnePartition) -> None:
    a = one.run("ADD", "log/a", "a", "IFLAST", "0-0")
    assert a is not None
    assert one.run("ADD", "log/a", "b", "IFLAST", "0-0") is None
    b = one.run("ADD", "log/a", "b", "IFLAST", a)
    assert one.run("ADD", "log/a", "c", "IFLAST", a) is None
    assert one.run("REMOVE", "log/a", a, "IFLAST", a) == 0
    assert one.run("REMOVE", "log/a", a, "iflast", b) == 1
    assert values(one) == [b"b"]


@pytest.mark.parametrize("count", [3, CLEAN_COUNT + 5])
def test_del_hides_all_records_at_once_and_they_are_cleaned_away_later(one: OnePartition, count: int) -> None:
    add(one, *map(str, range(count)))
    one.write()
    assert one.run("DEL", "log/a", "log/b") == 1
    assert (one.run("EXISTS", "log/a"), one.run("RECORDS", "log/a"), one.run("GET", "log/a")) == (0, [], None)
    later = add(one, "new")
    assert one.run("RECORDS", "log/a", "COUNT", 10_000) == [[later[0], b"new"]]
    assert values(one, "log/a", "REV") == [b"new"]
    assert one.run("RECORDCOUNT", "log/a") == 1
    one.now_ms += 1
    while one.sweep():
        pass
    assert values(one) == [b"new"]
    assert len(one.contents()) == 2  # the head and the record


def test_keys_of_any_bytes_do_not_meet(one: OnePartition) -> None:
    keys = [b"log/{t}", b"log/{t}\0", b"log/{t}\0\0", b"log/{t}" + bytes(16), b"log/{t}\xff" * 3]
    for number, key in enumerate(keys):
        one.run("ADD", key, number)
    one.write()
    for number, key in enumerate(keys):
        assert [value for _, value in one.run("RECORDS", key)] == [b"%d" % number]
    assert one.run("DEL", *keys) == len(keys)


def test_the_layout_of_keys_is_unambiguous() -> None:
    at = data_key(7, b"a\0b")
    key = record_key(at, RecordId(5, 6))
    assert key == bytes.fromhex("04 0000000000000007 0003 610062 0000000000000005 0000000000000006")
    assert (owner_key(key), record_id(key)) == (at, RecordId(5, 6))
    assert record_key(at, ID_MIN) < key < record_key(at, RecordId(5, 7)) < record_key(at, RecordId(6, 0))


def test_a_record_ends_by_itself(one: OnePartition) -> None:
    one.run("ADD", "log/a", "stays")
    short = one.run("ADD", "log/a", "goes", "PX", 500)
    one.write()
    assert one.run("GET", "log/a") == b"goes"
    one.now_ms += 500
    assert one.run("GET", "log/a") == b"stays"
    assert one.run("RECORD", "log/a", short) is None
    assert values(one, "log/a", "REV") == [b"stays"]
    assert one.run("REMOVE", "log/a", short) == 0
    assert one.run("ADD", "log/a", "no", "IFLAST", short) is None
    while one.sweep():
        pass
    assert one.run("RECORDCOUNT", "log/a") == 1
    assert len(one.contents()) == 2


def test_who_was_not_shown_what_has_ended_is_not_shown_it_by_the_next_leader(one: OnePartition) -> None:
    one.run("ADD", "log/a", "goes", "PX", 500)
    one.run("ADD", "log/a", "stays")
    one.write()
    one.now_ms += 500
    assert values(one) == [b"stays"]
    one.now_ms -= 400  # the next leader's clock is behind
    one.elect()
    assert values(one) == [b"stays"]


def test_retention_lets_records_end(one: OnePartition) -> None:
    add(one, "a", key="brief/a")
    one.run("ADD", "brief/a", "longer", "EX", 50)  # the retention is the bound
    one.run("ADD", "brief/a", "shorter", "PX", 100)
    assert 999 <= one.run("PTTL", "brief/a") <= 1_000
    one.now_ms += 100
    assert one.run("GET", "brief/a") == b"longer"
    one.now_ms += 900
    assert one.run("EXISTS", "brief/a") == 0
    assert one.run("RECORDS", "brief/a") == []
    one.run("ADD", "brief/a", "next")
    while one.sweep():
        pass
    assert values(one, "brief/a") == [b"next"]
    assert len(one.contents()) == 2


def test_one_answer_is_bounded_and_the_next_goes_on(one: OnePartition) -> None:
    big = "x" * (PAGE_BYTES_MAX // 3)
    ids = add(one, *[big] * 7)
    got: list[bytes] = []
    rounds = 0
    while page := one.run("RECORDS", "log/a", *(("FROM", b"(" + got[-1]) if got else ())):
        got += [record for record, _ in page]
        rounds += 1
    assert got == ids and rounds >= 3


@pytest.mark.parametrize(
    "words",
    [
        ("SET", "log/a", "x"),
        ("SET", "log/new", "x"),
        ("SETNX", "log/new", "x"),
        ("MSET", "log/a", "x"),
        ("SETEX", "log/a", "10", "x"),
        ("GETSET", "log/a", "x"),
        ("GETDEL", "log/a"),
        ("GETEX", "log/a"),
        ("APPEND", "log/a", "x"),
        ("APPEND", "log/new", "x"),
        ("STRLEN", "log/a"),
        ("INCR", "log/a"),
        ("INCR", "log/new"),
        ("EXPIRE", "log/a", "10"),
        ("GET", "log/a", "AT", "5"),
        ("ADD", "other", "x"),
        ("ADD", "log", "x"),
        ("RECORDS", "text"),
        ("RECORD", "text", "1-1"),
        ("REMOVE", "text", "1-1"),
        ("RECORDCOUNT", "text"),
    ],
)
def test_the_wrong_kind_of_key_is_refused_and_nothing_changes(
    one: OnePartition, words: tuple[str, ...]
) -> None:
    one.run("SET", "text", "plain")
    add(one, "a")
    before = one.contents()
    assert str(one.run(*words)).startswith(
        "WRONGTYPE Operation against a key holding the wrong kind of value: "
    )
    assert one.contents() == before


@pytest.mark.parametrize(
    "words",
    [
        ("ADD", "log/a", "x", "EX"),
        ("ADD", "log/a", "x", "EX", "0"),
        ("ADD", "log/a", "x", "NX", "1"),
        ("ADD", "log/a", "x", "EX", "1", "PX", "1"),
        ("ADD", "log/a", "x", "IFLAST", "x"),
        ("ADD", "log/a", "x", "IFLAST", "1-1", "IFLAST", "1-1"),
        ("RECORDS", "log/a", "FROM"),
        ("RECORDS", "log/a", "FROM", "1-"),
        ("RECORDS", "log/a", "FROM", "99999999999999999999"),
        ("RECORDS", "log/a", "COUNT", "0"),
        ("RECORDS", "log/a", "COUNT", "x"),
        ("RECORDS", "log/a", "TO", "5"),
        ("RECORD", "log/a", "-1"),
        ("REMOVE", "log/a", "1-1", "IFLAST"),
        ("REMOVE", "log/a", "1-1", "IF", "1-1"),
        ("GET", "log/a", "AT"),
        ("GET", "log/a", "AT", "x"),
        ("GET", "log/a", "AT", "5", "6"),
    ],
)
def test_bad_options_are_refused_and_nothing_changes(one: OnePartition, words: tuple[str, ...]) -> None:
    add(one, "a")
    before = one.contents()
    assert str(one.run(*words)).startswith("ERR ")
    assert one.contents() == before


def test_a_key_from_before_the_keyspace_stays_what_it_is(one: OnePartition) -> None:
    del one.policies[b"log"]
    one.run("SET", "log/old", "plain", "EX", 100)
    one.policies[b"log"] = LOG
    assert one.run("GET", "log/old") == b"plain"
    assert one.run("TYPE", "log/old") == b"string"
    assert one.run("TTL", "log/old") == 100
    assert one.run("ADD", "log/old", "x").startswith("WRONGTYPE")
    assert one.run("SET", "log/old", "x").startswith("WRONGTYPE")
    assert one.run("RECORDS", "log/old").startswith("WRONGTYPE")
    assert one.run("DEL", "log/old") == 1
    assert one.run("ADD", "log/old", "x") is not None


def test_while_a_policy_changes_nothing_is_written(one: OnePartition) -> None:
    (a,) = add(one, "a")
    one.policies[b"log"] = Keyspace("log", policy=Policy.RECORDS, closed=True)
    for words in [("ADD", "log/a", "x"), ("DEL", "log/a"), ("REMOVE", "log/a", a), ("SET", "log/b", "x")]:
        assert one.run(*words).startswith("BUSY")
    assert values(one) == [b"a"]


def test_a_scan_lists_a_key_once_and_says_its_type(one: OnePartition) -> None:
    add(one, "a", "b", "c")
    one.run("SET", "text", "x")
    one.write()

    def scanned(*words: bytes) -> bytes:
        return scan_page(one.execution(), WHOLE_RING, [b"SCAN", b"0", *words])

    assert scanned().count(b"log/a") == 1
    assert b"text" not in scanned(b"TYPE", b"records") and b"log/a" in scanned(b"TYPE", b"records")
    assert b"text" in scanned(b"TYPE", b"string") and b"log/a" not in scanned(b"TYPE", b"string")


def test_records_survive_a_restart(one: OnePartition) -> None:
    ids = add(one, "a", "b")
    one.restart()
    assert one.run("RECORDS", "log/a") == [[ids[0], b"a"], [ids[1], b"b"]]
    one.now_ms -= 1_000_000  # the clock went back meanwhile
    (c,) = add(one, "c")
    assert RecordId(*map(int, c.split(b"-"))) > RecordId(*map(int, ids[1].split(b"-")))


def test_a_partition_that_is_given_up_takes_everything_along(one: OnePartition) -> None:
    one.policies[b"doc"] = Keyspace("doc", policy=Policy.VERSIONS)
    add(one, "a", "b")
    one.run("SET", "doc/a", "x")
    one.run("SET", "plain", "x", "EX", 10)
    assert {key[0] for key in one.contents()} == {1, 4, 5}
    batch = one.engine.batch()
    wipe_replica(batch, 1, RANGES)
    one.engine.write(batch, False)
    assert one.contents() == {}
