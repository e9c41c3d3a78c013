"""WORM records: what nobody gets rid of, and how they go in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hiredis import Reader

from fortdb.access.rights import event_of, refusal
from fortdb.access.users import Right, User
from fortdb.client.worm import ChainPage, Verified, disagreement, verify
from fortdb.client.worm import chain as chain_request
from fortdb.errors import FortError, Immutable
from fortdb.limits import CHAIN_COUNT, HOLD_CHECK_MS, RETENTION_CLOCK_MS
from fortdb.model import Keyspace, Mode, Policy
from fortdb.node import versions
from fortdb.node.execute import HANDLERS
from fortdb.node.ledger import Outline
from fortdb.protocol.commands import TABLE, CommandKind
from fortdb.protocol.records import parse_id
from fortdb.ring.tokens import hash_of
from fortdb.router.keyspaces import changed, check_worm
from fortdb.storage.keys import chain_key, data_key_at, record_key
from fortdb.storage.values import encode_value
from tests.support.partitions import CHAIN, OnePartition

DAY_MS = 86_400_000
SOFT = Keyspace("soft", policy=Policy.WORM, retention_ms=DAY_MS)
HARD = Keyspace("hard", policy=Policy.WORM, retention_ms=DAY_MS, mode=Mode.COMPLIANCE)
KEY = "hard/{t}a"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OnePartition]:
    made = OnePartition(tmp_path, SOFT, HARD, Keyspace("log", policy=Policy.RECORDS))
    yield made
    made.close()


def pass_ms(one: OnePartition, ms: int) -> None:
    """Time passes, and the node sweeps until nothing is due."""
    one.now_ms += ms
    while one.sweep():
        pass


# --- each way around it ---------------------------------------------------------------------------------

WAYS: dict[str, list[tuple[object, ...]]] = {
    "SET": [("SET", KEY, "x"), ("SET", KEY, "x", "XX"), ("SET", KEY, "x", "PX", 1), ("SET", KEY, "x", "NX")],
    "DEL": [("DEL", KEY), ("DEL", "other{t}", KEY)],
    "UNLINK": [("UNLINK", KEY)],
    "MSET": [("MSET", "other{t}", "x", KEY, "x")],
    "SETNX": [("SETNX", KEY, "x")],
    "SETEX": [("SETEX", KEY, 1, "x")],
    "PSETEX": [("PSETEX", KEY, 1, "x")],
    "GETSET": [("GETSET", KEY, "x")],
    "GETDEL": [("GETDEL", KEY)],
    "GETEX": [("GETEX", KEY), ("GETEX", KEY, "PX", 1), ("GETEX", KEY, "EXAT", 1), ("GETEX", KEY, "PERSIST")],
    "APPEND": [("APPEND", KEY, "x")],
    "INCR": [("INCR", KEY)],
    "DECR": [("DECR", KEY)],
    "INCRBY": [("INCRBY", KEY, 1)],
    "DECRBY": [("DECRBY", KEY, 1)],
    "EXPIRE": [("EXPIRE", KEY, 1), ("EXPIRE", KEY, -1), ("EXPIRE", KEY, 1, "LT")],
    "PEXPIRE": [("PEXPIRE", KEY, 1), ("PEXPIRE", KEY, -1)],
    "EXPIREAT": [("EXPIREAT", KEY, 1)],
    "PEXPIREAT": [("PEXPIREAT", KEY, 1)],
    "PERSIST": [("PERSIST", KEY)],
    "ADD": [("ADD", KEY, "x", "PX", 1), ("ADD", KEY, "x", "EXAT", 1)],
    "REMOVE": [("REMOVE", KEY, "ID"), ("REMOVE", KEY, "ID", "BYPASS"), ("REMOVE", KEY, "ID", "IFLAST", "ID", "BYPASS")],
    "HOLD": [("HOLD", KEY, "0-0"), ("HOLD", KEY, "ID", "x" * 100)],
    "RELEASE": [("RELEASE", KEY, "ID"), ("RELEASE", KEY, "*")],
    "RETAIN": [("RETAIN", KEY, "ID", 1), ("RETAIN", KEY, "ID", 1, "BYPASS"), ("RETAIN", KEY, "ID", 0)],
    "PURGE": [("PURGE", KEY), ("PURGE", "other{t}", KEY)],
    "PURGEALL": [],  # of the node's service; `test_a_keyspace_is_not_purged`
}  # fmt: skip
"""Of each command that writes."""


def test_no_command_that_writes_is_forgotten_here() -> None:
    assert WAYS.keys() == {name for name, command in TABLE.items() if command.kind is CommandKind.WRITE}


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("policies", [True, False])
def test_no_command_gets_at_a_record(one: OnePartition, policies: bool, written: bool) -> None:
    """Not even when the keyspace is gone, which the store's owner may bring about; keys may be written over then,
    and their records stay."""
    known = dict(one.policies)
    for number, way in enumerate(way for ways in WAYS.values() for way in ways):
        one.policies.update(known)
        key = f"{KEY}{number}"
        record = one.run("ADD", key, "deed")
        before = one.run("RECORDINFO", key, record)
        if written:
            one.write()
        if not policies:
            one.policies.clear()
        told = one.run(*({"ID": record, KEY: key}.get(str(word), word) for word in way))
        if policies:
            assert told in (0, None) or isinstance(told, str), f"{way} was refused, or did nothing"
        pass_ms(one, 10_000)
        assert one.run("RECORDINFO", key, record) == before, way
        if policies:
            assert one.run("RECORDS", key) == [[record, b"deed"]], way
            assert one.run("GET", key) == b"deed"
    assert verified(one) == []


def test_a_keyspace_is_not_purged(one: OnePartition) -> None:
    one.run("ADD", KEY, "deed")
    execution = one.execution()
    with pytest.raises(Immutable):
        versions.forget(execution, data_key_at(hash_of(KEY.encode()), KEY.encode()))
    assert not execution.operations


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["RETENTION", "1h"], "lengthened only"),
        (["RETENTION", "NONE"], "takes a RETENTION"),
        (["MODE", "GOVERNANCE"], "stays in it"),
        (["ACK", "ASYNC"], "takes ACK SYNC"),
        (["MODE", "lax"], "MODE takes"),
        (["POLICY", "PLAIN"], "RETENTION is for"),
    ],
)
def test_a_keyspace_is_not_weakened(options: list[str], complaint: str) -> None:
    with pytest.raises(FortError, match=complaint):
        check_worm(HARD, changed(HARD, options))


def test_a_keyspace_may_keep_for_longer() -> None:
    longer = changed(HARD, ["RETENTION", "2d"])
    check_worm(HARD, longer)
    check_worm(SOFT, changed(SOFT, ["MODE", "COMPLIANCE"]))
    with pytest.raises(FortError, match="MODE is for POLICY WORM"):
        changed(Keyspace("x"), ["MODE", "COMPLIANCE"])


# --- retention ----------------------------------------------------------------------------------------------


def test_a_record_goes_when_its_retention_has_passed(one: OnePartition) -> None:
    first = one.run("ADD", KEY, "a")
    one.now_ms += 1_000
    second = one.run("ADD", KEY, "b", "PX", 2 * DAY_MS)
    assert "IMMUTABLE" in one.run("REMOVE", KEY, first)
    pass_ms(one, DAY_MS - 1_001)
    assert one.run("RECORDS", KEY) == [[first, b"a"], [second, b"b"]]
    pass_ms(one, 1)
    assert one.run("RECORDS", KEY) == [[second, b"b"]]
    pass_ms(one, 2 * DAY_MS)
    assert one.run("EXISTS", KEY) == 0
    assert one.contents() == {}, "its space is free again"
    assert len(one.engine.scan(*CHAIN, 100)) == 2, "the outline, and the last link"
    third = one.run("ADD", KEY, "c")
    assert chain(one)["last"] == 3 and one.run("RECORD", KEY, third) == b"c"


def test_what_is_over_may_be_removed_before_the_sweep(one: OnePartition) -> None:
    record = one.run("ADD", KEY, "a")
    one.now_ms += DAY_MS
    assert one.run("REMOVE", KEY, record) == 1
    pass_ms(one, 1)
    assert one.contents() == {} and verified(one) == []


def test_a_retention_may_be_lengthened_and_not_shortened(one: OnePartition) -> None:
    until = one.now_ms + DAY_MS
    record = one.run("ADD", KEY, "a")
    assert one.run("RETAIN", KEY, record, until + 500) == 1
    assert "in mode compliance" in one.run("RETAIN", KEY, record, until, "BYPASS")
    assert one.run("RETAIN", KEY, "1-1", until) == 0
    pass_ms(one, DAY_MS)
    assert one.run("RECORD", KEY, record) == b"a"
    assert verified(one) == []
    pass_ms(one, 500)
    assert one.run("RECORD", KEY, record) is None and verified(one) == []


def test_governance_gives_way_to_who_says_so(one: OnePartition) -> None:
    a, b = one.run("ADD", "soft/a", "a"), one.run("ADD", "soft/a", "b")
    assert "BYPASS overrides" in one.run("REMOVE", "soft/a", a)
    assert one.run("REMOVE", "soft/a", a, "BYPASS") == 1
    assert "BYPASS overrides" in one.run("RETAIN", "soft/a", b, one.now_ms + 10)
    assert one.run("RETAIN", "soft/a", b, one.now_ms + 10, "BYPASS") == 1
    assert verified(one) == []
    pass_ms(one, 10)
    assert one.run("EXISTS", "soft/a") == 0 and one.contents() == {}


def test_the_mode_is_the_one_that_a_record_was_written_with(one: OnePartition) -> None:
    record = one.run("ADD", KEY, "a")
    one.policies[b"hard"] = Keyspace("hard", policy=Policy.WORM, retention_ms=1)
    assert "in mode compliance" in one.run("REMOVE", KEY, record, "BYPASS")
    pass_ms(one, 10)
    assert one.run("RECORD", KEY, record) == b"a"


@pytest.mark.parametrize("of_all", [True, False])
def test_a_hold_outlives_the_retention(one: OnePartition, of_all: bool) -> None:
    record = one.run("ADD", "soft/a", "a")
    what = "*" if of_all else record
    assert one.run("HOLD", "soft/a", what, "case 1") == one.run("HOLD", "soft/a", what) == 1
    assert one.run("HOLD", "soft/b", what) == 0
    assert "it stays until RELEASE" in one.run("REMOVE", "soft/a", record, "BYPASS")
    assert "before RELEASE" in one.run("RETAIN", "soft/a", record, 1, "BYPASS")
    pass_ms(one, 3 * DAY_MS)
    assert one.run("GET", "soft/a") == b"a"
    star = b"*" if of_all else b""
    assert info(one, "soft/a", record)["holds"] == [star + b"case 1", star + b"legal"]
    assert one.run("RELEASE", "soft/a", what, "case 2") == 0
    assert one.run("RELEASE", "soft/a", what, "case 1") == 1
    pass_ms(one, 2 * HOLD_CHECK_MS)
    assert one.run("GET", "soft/a") == b"a"
    assert one.run("RELEASE", "soft/a", what) == 1
    pass_ms(one, HOLD_CHECK_MS if of_all else 1)
    assert one.run("EXISTS", "soft/a") == 0 and one.contents() == {} and verified(one) == []


# --- the clock ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_over", [True, False])
def test_a_clock_that_jumps_forward_frees_nothing(one: OnePartition, fails_over: bool) -> None:
    record = one.run("ADD", KEY, "a")
    one.now_ms += 365 * DAY_MS
    one.jumped_ms += 365 * DAY_MS
    if fails_over:
        one.elect()
    pass_ms(one, 0)
    assert "IMMUTABLE" in one.run("REMOVE", KEY, record)
    for _ in range(23):
        pass_ms(one, 3_600_000)
    assert one.run("RECORD", KEY, record) == b"a"
    pass_ms(one, 3_601_000)
    assert one.run("RECORD", KEY, record) is None


def test_a_failover_costs_at_most_a_minute_of_the_clock(one: OnePartition) -> None:
    record = one.run("ADD", KEY, "a")
    for _ in range(20):
        pass_ms(one, RETENTION_CLOCK_MS)
    one.elect()
    one.restart()
    pass_ms(one, DAY_MS - 20 * RETENTION_CLOCK_MS - 1)
    assert one.run("RECORD", KEY, record) == b"a"
    pass_ms(one, RETENTION_CLOCK_MS)
    assert one.run("RECORD", KEY, record) is None


# --- the chain --------------------------------------------------------------------------------------------------


def info(one: OnePartition, key: str, record: bytes) -> dict[str, Any]:
    told = one.run("RECORDINFO", key, record)
    return {name.decode(): value for name, value in zip(told[::2], told[1::2], strict=True)}


def chain(one: OnePartition) -> dict[str, Any]:
    told = one.run("CHAIN", 1, 0)
    return dict(zip(("first", "last", "before", "head", "clock", "links"), told, strict=True))


def verified(one: OnePartition) -> list[tuple[int, str]]:
    """What is wrong, by the sums that docs and module promise, done again here."""
    told = chain(one)
    wrong: list[tuple[int, str]] = []
    value, expected = told["before"], told["first"]
    for ordinal, _state, mode, until, _id, content, linked, _key, found in told["links"]:
        step = ordinal.to_bytes(8) + content + until.to_bytes(8) + bytes([mode == b"compliance"])
        value = sha256(value + step).digest()
        if (ordinal, linked) != (expected, value):
            return [*wrong, (ordinal, "chain")]
        if found:
            wrong.append((ordinal, found.decode()))
        expected += 1
    assert told["head"] == value and told["last"] == expected - 1
    return wrong


def test_each_record_is_chained_to_the_one_before(one: OnePartition) -> None:
    first = one.run("ADD", KEY, "a")
    one.run("ADD", "log/a", "not of it")
    second = one.run("ADD", "soft/b", "b")
    told = info(one, KEY, first)
    content = sha256(len(KEY).to_bytes(2) + KEY.encode() + ids(first) + b"a").digest()
    assert told["content"] == content.hex().encode() and told["ordinal"] == 1
    step = (1).to_bytes(8) + content + told["until"].to_bytes(8) + b"\1"
    assert told["chain"] == sha256(bytes(32) + step).hexdigest().encode()
    assert info(one, "soft/b", second)["ordinal"] == 2
    assert verified(one) == []
    one.elect()
    one.restart()
    one.run("ADD", KEY, "c")
    assert [link[0] for link in chain(one)["links"]] == [1, 2, 3] and verified(one) == []


def ids(record: bytes) -> bytes:
    return b"".join(number.to_bytes(8) for number in parse_id(record))


@pytest.mark.parametrize("what", ["value", "retention", "gone", "replaced", "link"])
def test_what_was_altered_is_named(one: OnePartition, what: str) -> None:
    records = [one.run("ADD", KEY, f"value {number}") for number in range(5)]
    one.write()
    at = record_key(data_key_at(hash_of(KEY.encode()), KEY.encode()), parse_id(records[2]))
    stored = one.engine.get(at)
    link = one.engine.get(chain_key(1, 3))
    assert stored is not None and link is not None
    batch = one.engine.batch()
    if what == "value":
        batch.put_data(at, stored[:-1] + b"X")
    elif what == "retention":
        batch.put_data(at, stored[:1] + (1).to_bytes(8) + stored[9:])
    elif what == "gone":
        batch.delete_data(at)
    elif what == "replaced":
        batch.put_data(at, encode_value(b"value 2"))
    else:
        batch.put_data(chain_key(1, 3), link[:50] + bytes([link[50] ^ 1]) + link[51:])
    one.engine.write(batch, False)
    assert verified(one)[0][0] == 3


def test_links_behind_a_record_that_lives_stay(one: OnePartition) -> None:
    kept = one.run("ADD", KEY, "long", "PX", 10 * DAY_MS)
    for number in range(30):
        one.run("ADD", "soft/x", number)
    pass_ms(one, 2 * DAY_MS)
    assert chain(one)["first"] == 1 and len(chain(one)["links"]) == 31 and verified(one) == []
    pass_ms(one, 10 * DAY_MS)
    pass_ms(one, RETENTION_CLOCK_MS)
    assert (chain(one)["first"], chain(one)["last"]) == (31, 31) and verified(one) == []
    assert one.run("RECORD", KEY, kept) is None and one.contents() == {}
    stored = one.engine.get(chain_key(1, 0))
    assert stored is not None and Outline.decode(stored).clock_ms == one.now_ms


def page_of(one: OnePartition, request: Any) -> ChainPage:
    """What the client makes of the answer to a request for links."""
    reader = Reader()
    reader.feed(request.packed)
    page: ChainPage = request.decode(one.run(*reader.gets()[:3]))
    return page


def test_the_client_does_the_sums(one: OnePartition) -> None:
    for number in range(CHAIN_COUNT + 20):
        one.run("ADD", KEY, number)
    removed = one.run("ADD", "soft/a", "early")
    one.run("ADD", "soft/a", "later")
    assert one.run("REMOVE", "soft/a", removed, "BYPASS") == 1
    last = CHAIN_COUNT + 22
    found = verify(lambda request: page_of(one, request), "p-001", 1, None, "hard")
    assert found == Verified("p-001", None, 1, last, CHAIN_COUNT + 20, 1, None)

    spoiled: list[tuple[Callable[[ChainPage], ChainPage], int]] = [
        (lambda page: replace(page, head=bytes(32)), last),
        (lambda page: replace(page, before=b"x" * 32), 1),
        (lambda page: replace(page, last=last + 1), last + 1),
        (lambda page: replace(page, links=page.links[:3] + page.links[4:]), 4),
        (lambda page: replace(page, links=(*page.links[:3], replace(page.links[3], until_ms=1))), 4),
    ]
    for spoil, ordinal in spoiled:
        altered = verify(lambda request: spoil(page_of(one, request)), "p-001", 1, "node-2", None).altered  # noqa: B023
        assert altered is not None and altered.ordinal == ordinal


def test_a_replica_is_compared_with_its_leader(one: OnePartition) -> None:
    for number in range(3):
        one.run("ADD", KEY, number)
    page = page_of(one, chain_request(1, 3, None))
    assert disagreement(page, page) is None
    assert disagreement(page, replace(page, head=bytes(32))) is not None
    assert disagreement(replace(page, last=2), page) is not None


@pytest.mark.parametrize("seed", range(6))
def test_random_stories(one: OnePartition, seed: int) -> None:
    """Whatever is said, with words that mean something and such that do not, a record is there as long as it was
    promised, and the chain is whole."""
    chance = Random(seed)
    promised: dict[bytes, tuple[str, int]] = {}  # record -> its key, and until when nobody may remove it
    for _ in range(300):
        key = chance.choice(("hard/{t}a", "hard/{t}b", "soft/{t}a"))
        record = chance.choice([*promised, b"1-1", b"*", b"x", b""])
        words = chance.choice(
            [
                (
                    "ADD",
                    key,
                    "v" * chance.randrange(50),
                    *chance.choice([(), ("PX", DAY_MS + 5), ("PX", 5), ("x",)]),
                ),
                (
                    "REMOVE",
                    key,
                    record,
                    *chance.choice([(), ("BYPASS",), ("IFLAST", record, "BYPASS"), ("x", "y")]),
                ),
                (
                    chance.choice(("HOLD", "RELEASE")),
                    key,
                    record,
                    *chance.choice([(), ("n",), ("",), ("a", "b")]),
                ),
                (
                    "RETAIN",
                    key,
                    record,
                    one.now_ms + chance.randrange(3 * DAY_MS),
                    *chance.choice([(), ("BYPASS",)]),
                ),
                ("RECORDINFO", key, record),
                (chance.choice(("DEL", "PURGE", "GETDEL", "GET", "PERSIST")), key),
            ]
        )
        answer = one.run(*words)
        if words[0] == "ADD" and isinstance(answer, bytes):
            promised[answer] = (key, one.now_ms + DAY_MS)
        elif words[-1] == "BYPASS" and answer == 1 and key.startswith("soft"):
            promised.pop(record, None)
        if chance.random() < 0.2:
            pass_ms(one, chance.randrange(DAY_MS // 4))
        if chance.random() < 0.05:
            one.elect()
        promised = {found: kept for found, kept in promised.items() if kept[1] > one.now_ms}
        for found, (where, _) in promised.items():
            assert one.run("RECORD", where, found) is not None, words
    assert verified(one) == []


# --- rights --------------------------------------------------------------------------------------------------------


def test_holds_and_bypass_need_a_right_of_their_own_and_are_audited() -> None:
    writer = User("w", (), frozenset({Right.WRITE}), None)
    governor = User("g", (), frozenset({Right.WRITE, Right.GOVERN}), None)
    for line in (
        "HOLD soft/a 1-1",
        "RELEASE soft/a *",
        "REMOVE soft/a 1-1 bypass",
        "RETAIN soft/a 1-1 5 BYPASS",
    ):
        args = line.encode().split()
        command = TABLE[args[0].decode()]
        refused = refusal(writer, command, args)
        assert refused is not None and refused.needs == "govern"
        assert refusal(governor, command, args) is None
        assert event_of(command, args) == "audit_govern"
    for line in ("REMOVE soft/a 1-1", "RETAIN soft/a 1-1 5", "ADD soft/a BYPASS"):
        args = line.encode().split()
        assert refusal(writer, TABLE[args[0].decode()], args) is None
        assert event_of(TABLE[args[0].decode()], args) is None


def test_every_command_has_a_handler() -> None:
    assert {"HOLD", "RELEASE", "RETAIN", "RECORDINFO", "CHAIN"} <= HANDLERS.keys()
