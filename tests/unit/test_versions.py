"""What a key of a keyspace that keeps versions remembers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fortdb.limits import CLEAN_COUNT, PAGE_BYTES_MAX, TRIM_COUNT
from fortdb.model import Keyspace, Policy
from fortdb.node.keyspaces import keyspace_members
from fortdb.storage.keys import user_key
from tests.support.partitions import WHOLE_RING, OnePartition

DOC = Keyspace("doc", policy=Policy.VERSIONS)
FEW = Keyspace("few", policy=Policy.VERSIONS, keep=3)
BRIEF = Keyspace("brief", policy=Policy.VERSIONS, retention_ms=1_000)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OnePartition]:
    made = OnePartition(tmp_path, DOC, FEW, BRIEF)
    yield made
    made.close()


def step(one: OnePartition, *words: object, ms: int = 10) -> Any:
    one.now_ms += ms
    return one.run(*words)


def held(one: OnePartition, key: str, *words: object) -> list[bytes | None]:
    return [value for _, _, value, _ in one.run("HISTORY", key, *words)]


@pytest.mark.parametrize("written", [True, False])
def test_every_change_is_kept(one: OnePartition, written: bool) -> None:
    for words in [
        ("SET", "doc/a", "1"),
        ("INCR", "doc/a"),
        ("APPEND", "doc/a", "0"),
        ("GETSET", "doc/a", "x"),
        ("DEL", "doc/a"),
        ("SETNX", "doc/a", "again"),
        ("MSET", "doc/a", "m", "other", "o"),
        ("GETDEL", "doc/a"),
    ]:
        step(one, *words)
    if written:
        one.write()
    everything = [b"1", b"2", b"20", b"x", None, b"again", b"m", None]
    assert held(one, "doc/a") == everything
    assert held(one, "doc/a", "REV") == everything[::-1]
    assert held(one, "doc/a", "COUNT", 2) == everything[:2]
    history = one.run("HISTORY", "doc/a")
    for index, (version, ms, _, ends_ms) in enumerate(history):
        assert ms == int(version.split(b"-")[0]) and ends_ms == 0
        assert held(one, "doc/a", "FROM", version) == everything[index:]
        assert held(one, "doc/a", "FROM", b"(" + version) == everything[index + 1 :]
        assert held(one, "doc/a", "FROM", version, "REV") == everything[index::-1]
        assert one.run("GET", "doc/a", "AT", version) == everything[index]
        assert one.run("GET", "doc/a", "AT", ms) == everything[index]
        assert one.run("GET", "doc/a", "AT", ms + 9) == everything[index]
    assert one.run("GET", "doc/a", "AT", history[0][1] - 1) is None
    assert one.run("EXISTS", "doc/a") == 0
    assert one.run("HISTORY", "other") == []
    assert one.run("GET", "other", "AT", 1).startswith("WRONGTYPE")
    assert one.run("GET", "doc/never", "AT", 1) is None


def test_a_value_from_before_the_policy_is_the_first_version(one: OnePartition) -> None:
    del one.policies[b"doc"]
    one.run("SET", "doc/a", "old", "PX", 10_000)
    one.run("SET", "doc/b", "old")
    one.policies[b"doc"] = DOC
    assert one.run("GET", "doc/a") == b"old"
    assert one.run("HISTORY", "doc/a") == []
    step(one, "SET", "doc/a", "new")
    step(one, "DEL", "doc/b")
    assert held(one, "doc/a") == [b"old", b"new"]
    assert held(one, "doc/b") == [b"old", None]


def test_keep_bounds_the_number(one: OnePartition) -> None:
    for number in range(10):
        step(one, "SET", "few/a", number)
    assert held(one, "few/a") == [b"7", b"8", b"9"]
    assert len(one.contents()) == 1 + 1 + 3
    one.policies[b"few"] = Keyspace("few", policy=Policy.VERSIONS, keep=1)
    step(one, "SET", "few/a", "last")
    assert held(one, "few/a") == [b"last"]


def test_a_smaller_keep_takes_hold_by_and_by(one: OnePartition) -> None:
    for number in range(30):
        step(one, "SET", "doc/a", number)
    one.policies[b"doc"] = Keyspace("doc", policy=Policy.VERSIONS, keep=2)
    step(one, "SET", "doc/a", 30)
    assert len(held(one, "doc/a")) == 31 - TRIM_COUNT
    for number in range(31, 36):
        step(one, "SET", "doc/a", number)
    assert held(one, "doc/a") == [b"34", b"35"]


def test_retention_counts_from_when_a_version_was_replaced(one: OnePartition) -> None:
    step(one, "SET", "brief/a", "1")
    step(one, "SET", "brief/a", "2", ms=5_000)
    step(one, "SET", "brief/a", "3", ms=500)
    assert held(one, "brief/a") == [b"1", b"2", b"3"]
    one.now_ms += 499
    one.sweep()
    assert held(one, "brief/a") == [b"1", b"2", b"3"]
    one.now_ms += 1
    while one.sweep():
        pass
    assert held(one, "brief/a") == [b"2", b"3"]
    step(one, "SET", "brief/a", "4", ms=500)  # trims by itself
    assert held(one, "brief/a") == [b"3", b"4"]
    one.now_ms += 10_000
    while one.sweep():
        pass
    assert held(one, "brief/a") == [b"4"]
    assert one.run("GET", "brief/a") == b"4"


def test_of_a_deleted_key_nothing_is_left_after_the_retention(one: OnePartition) -> None:
    step(one, "SET", "brief/a", "1")
    step(one, "DEL", "brief/a")
    one.now_ms += 1_000
    while one.sweep():
        pass
    assert one.contents() == {}


def test_a_ttl_is_part_of_the_history(one: OnePartition) -> None:
    step(one, "SET", "doc/a", "1", "PX", 1_000)
    began_ms = one.now_ms
    one.now_ms += 2_000
    one.write()
    while one.sweep():
        pass
    ((_, _, value, ends_ms), (_, gone_ms, nothing, _)) = one.run("HISTORY", "doc/a")
    assert (value, ends_ms, nothing) == (b"1", began_ms + 1_000, None)
    assert one.run("GET", "doc/a", "AT", ends_ms - 1) == b"1"
    assert one.run("GET", "doc/a", "AT", ends_ms) is None
    assert gone_ms >= ends_ms
    step(one, "SET", "doc/b", "1", "PX", 1_000)
    step(one, "PERSIST", "doc/b")
    assert [ends_ms > 0 for _, _, _, ends_ms in one.run("HISTORY", "doc/b")] == [True, False]


def test_purge_leaves_nothing(one: OnePartition) -> None:
    for number in range(CLEAN_COUNT + 5):
        one.run("SET", "doc/a", number)
    one.run("SET", "plain", "x")
    assert one.run("PURGE", "doc/a", "plain", "nothing") == 2
    assert one.run("GET", "doc/a") is None and one.run("HISTORY", "doc/a") == []
    step(one, "SET", "doc/a", "new")  # before the former ones are cleaned away
    assert held(one, "doc/a") == [b"new"]
    while one.sweep():
        pass
    assert held(one, "doc/a") == [b"new"]
    assert len(one.contents()) == 3
    assert one.run("PURGE", "doc/a") == 1
    one.now_ms += 1
    while one.sweep():
        pass
    assert one.contents() == {}


def test_one_answer_is_bounded_and_the_next_goes_on(one: OnePartition) -> None:
    for number in range(7):
        one.run("SET", "doc/a", str(number) * (PAGE_BYTES_MAX // 3))
    got: list[bytes] = []
    while page := one.run("HISTORY", "doc/a", *(("FROM", b"(" + got[-1]) if got else ())):
        assert len(page) < 4
        got += [version for version, *_ in page]
    assert len(got) == 7


def test_a_keyspace_has_its_keys_and_those_that_only_have_a_history(one: OnePartition) -> None:
    for key in ("doc/a", "doc/b", "docs/c", "doc", "few/a"):
        one.run("SET", key, "x")
    one.run("DEL", "doc/b")
    one.write()
    members = [user_key(at) for at in keyspace_members(one.engine, WHOLE_RING, b"doc")]
    assert sorted(members) == [b"doc/a", b"doc/b"]
