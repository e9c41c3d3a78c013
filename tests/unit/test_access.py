"""Users, rights and pace, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fortdb.access.pace import Bucket, Guesses
from fortdb.access.passwords import check_hash, hash_password, stand_in, which
from fortdb.access.rights import keyspace_of, needs, refusal
from fortdb.access.users import Right, User, parse_users
from fortdb.errors import BadRequest, Busy, ConfigError, PermissionDenied
from fortdb.limits import GUESSES_ADDRESSES_MAX, GUESSES_FREE, GUESSES_WAIT_MS_MAX, LOGINS_OF_ADDRESS_MAX
from fortdb.net.logins import Logins
from fortdb.net.loop import Loop
from fortdb.protocol.commands import TABLE, CommandKind, lookup
from tests.support.guarded import hashed, user


def somebody(*rights: Right, spaces: set[bytes] | None = None, **limits: int) -> User:
    return User("u", ("h",), frozenset(rights), None if spaces is None else frozenset(spaces), **limits)


def refused(who: User, *words: str) -> str:
    """The error's code, empty if it is allowed."""
    args = [word.encode() for word in words]
    command = lookup(args[0])
    assert command is not None
    found = refusal(who, command, args)
    return "" if found is None else found.error.code


# --- the file ------------------------------------------------------------------------------------


def test_a_file_of_users() -> None:
    users = parse_users(
        user(
            "app",
            "one",
            "two",
            commands=("read", "write"),
            keyspaces=("orders", "default"),
            value_bytes_max=9,
        )
        + user("operator", "three"),
        "users.toml",
    )
    app, operator = users.get("app"), users.get("operator")
    assert app is not None
    assert operator is not None
    assert app.rights == {Right.READ, Right.WRITE}
    assert app.keyspaces == frozenset((b"orders", b"default"))
    assert (app.value_bytes_max, app.commands_per_second, app.is_unrestricted) == (9, 0, False)
    assert operator.is_unrestricted
    assert users.efforts == 2
    assert users.get("nobody") is None
    assert hashed("one") not in repr(app)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no user in it"),
        ("= 1", "is no TOML"),
        ("app = 1", "stands outside of a table"),
        ("[app]\ncommands = ['read']\nkeyspaces = ['*']", "app.passwords: must be given"),
        (user("app", "x").replace("argon2id", "argon2i"), "number 1 is not argon2id"),
        (user("app", "x").replace("$argon2id", "argon2id"), "number 1 is no argon2 hash"),
        (user("app", "x").replace("m=19456", "m=9999999"), "has memory in KiB (m) 9999999"),
        (user("app", "x", commands=("reed",)), "app.commands: no class 'reed'; there are read, write"),
        (user("app", "x", keyspaces=("a/",)), "write names without '/'"),
        (user("app", "x", keyspaces=("*", "a")), "leave the others out"),
        (user("app", "x", commands_per_second=0), "app.commands_per_second: must be a whole number from 1"),
        (user("app", "x") + "passwrods = 1", "app.passwrods: no such setting; there are passwords"),
        (user("app", *(5 * ["x"])), "at most 4"),
    ],
)
def test_what_is_wrong_in_it_is_named(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_users(text, "users.toml")
    assert problem in str(caught.value)
    assert "$argon2" not in str(caught.value)


# --- passwords -----------------------------------------------------------------------------------


def test_a_password_is_found_among_several_hashes() -> None:
    lines = [hash_password("old"), hash_password("new")]
    fake = stand_in(lines[0])
    check_hash(fake)
    assert which(b"new", lines, 2, fake) == lines[1]
    assert which(b"old", lines, 3, fake) == lines[0]
    assert which(b"other", lines, 2, fake) is None
    assert which(b"other", [], 2, fake) is None


# --- rights --------------------------------------------------------------------------------------

READ_COMMANDS = ["GET a", "MGET a b", "EXISTS a", "STRLEN a", "TTL a", "TYPE a", "GET a STALE"]
WRITE_COMMANDS = [
    "SET a 1",
    "PUT a 1",
    "DEL a",
    "MSET a 1 b 2",
    "EXPIRE a 1",
    "APPEND a 1",
    "PERSIST a",
    "SETNX a 1",
]
BOTH = [
    "GETDEL a",
    "GETSET a 1",
    "GETEX a",
    "INCR a",
    "DECRBY a 1",
    "SET a 1 GET",
    "SET a 1 IFEQ 0",
    "SET a 1 xx get",
]
SCAN_COMMANDS = ["SCAN 0", "DBSIZE"]
VIEW_COMMANDS = ["RING", "WHY a", "LAYOUT SHOW", "LAYOUT plan", "KEYSPACE list"]
ADMIN_COMMANDS = [
    *("LEADER MOVE p n", "LEADER SEIZE p n ACCEPT-DATA-LOSS", "LAYOUT APPLY {}", "LAYOUT SHOWN"),
    *("KEYSPACE CREATE a", "KEYSPACE DROP a"),
]


@pytest.mark.parametrize(
    ("commands", "wanted"),
    [
        (READ_COMMANDS, {Right.READ}),
        (WRITE_COMMANDS, {Right.WRITE}),
        (BOTH, {Right.READ, Right.WRITE}),
        (SCAN_COMMANDS, {Right.SCAN}),
        (VIEW_COMMANDS, {Right.VIEW}),
        (ADMIN_COMMANDS, {Right.ADMIN}),
    ],
)
def test_each_class_is_needed_and_enough(commands: list[str], wanted: set[Right]) -> None:
    for line in commands:
        assert refused(somebody(*wanted), *line.split()) == "", line
        for missing in wanted:
            others = somebody(*(set(Right) - {missing}))
            assert refused(others, *line.split()) == "NOPERM", line


def test_whoever_has_no_right_may_do_nothing_but_what_concerns_the_connection() -> None:
    nobody = somebody()
    for command in TABLE.values():
        args = [command.name.encode(), *([b"a"] * max(1, abs(command.arity) - 1))]
        is_own = command.kind is CommandKind.SESSION and not command.first_key
        assert (refusal(nobody, command, args) is None) == is_own, command.name


def test_keyspaces() -> None:
    assert keyspace_of(b"orders/17/x") == b"orders"
    assert keyspace_of(b"plain") == b"default"
    assert keyspace_of(b"/x") == b""
    assert keyspace_of(b"{orders/1}x") == b"{orders"
    shop = somebody(*Right, spaces={b"orders"})
    assert refused(shop, "GET", "orders/1") == ""
    for line in (
        "GET plain",
        "GET other/1",
        "GET order",
        "GET /orders/1",
        "MGET orders/1 plain",
        "DEL orders/1 x/1",
    ):
        assert refused(shop, *line.split()) == "NOPERM", line
    assert refused(shop, "MSET", "orders/1", "plain", "orders/2", "other/x") == ""
    assert refused(shop, "MSET", "orders/1", "a", "other/2", "b") == "NOPERM"
    assert refused(shop, "SCAN", "0") == "NOPERM"
    assert refused(shop, "SCAN", "0", "MATCH", "orders/*") == "NOPERM"
    assert refused(shop, "DBSIZE") == "NOPERM"
    assert refused(shop, "RING") == ""
    assert refused(shop, "WHY", "orders/1") == ""
    assert refused(shop, "WHY", "plain") == "NOPERM"
    everyday = somebody(*Right, spaces={b"default"})
    assert refused(everyday, "GET", "plain") == ""
    assert refused(everyday, "GET", "orders/1") == "NOPERM"


def test_the_size_of_values() -> None:
    small = somebody(*Right, value_bytes_max=3)
    assert refused(small, "SET", "longer-than-that", "abc") == ""
    assert refused(small, "SET", "a", "abcd") == "ERR"
    assert refused(small, "MSET", "key-1", "abc", "key-2", "abc") == ""
    assert refused(small, "MSET", "a", "abc", "b", "abcd") == "ERR"
    assert refused(small, "APPEND", "a", "abcd") == "ERR"
    assert refused(small, "DEL", "longer-than-that", "other-key") == ""
    assert refused(small, "GET", "longer-than-that") == ""
    error = refusal(small, TABLE["SET"], [b"SET", b"a", b"secret"])
    assert error is not None
    assert isinstance(error.error, BadRequest)
    assert "secret" not in str(error.error)


def test_words_of_redis() -> None:
    found = refusal(somebody(), TABLE["SET"], [b"SET", b"a", b"1"])
    assert found is not None
    assert isinstance(found.error, PermissionDenied)
    assert found.error.wire().startswith(b"-NOPERM User u has no permissions to run the 'set' command")
    other = refusal(somebody(*Right, spaces={b"x"}), TABLE["GET"], [b"GET", b"a"])
    assert other is not None
    assert other.error.wire() == b"-NOPERM No permissions to access a key\r\n"


@pytest.mark.parametrize("name", sorted(TABLE))
def test_rights_are_told_for_commands_that_lack_arguments(name: str) -> None:
    for count in range(4):
        args = [name.encode(), *count * [b"x"]]
        assert refusal(somebody(*Right), TABLE[name], args) is None
        refusal(somebody(*Right, spaces={b"a"}, value_bytes_max=1), TABLE[name], args)


@given(st.sampled_from(sorted(TABLE)), st.lists(st.binary(max_size=20), max_size=6))
def test_rights_are_told_for_whatever_arguments(name: str, rest: list[bytes]) -> None:
    args = [name.encode(), *rest]
    assert set(needs(TABLE[name], args)) <= set(Right)
    assert refusal(somebody(*Right), TABLE[name], args) is None
    refusal(somebody(*Right, spaces={b"a"}, value_bytes_max=4), TABLE[name], args)


# --- pace ----------------------------------------------------------------------------------------


def test_a_bucket_allows_so_many_a_second() -> None:
    bucket = Bucket(10, 1_000)
    assert [bucket.take(1_000) for _ in range(11)] == [True] * 10 + [False]
    assert [bucket.take(1_200) for _ in range(3)] == [True, True, False]
    assert sum(bucket.take(60_000) for _ in range(20)) == 10


def test_guessing_takes_longer_and_longer() -> None:
    guesses, now_ms, waits = Guesses(), 10, []
    for _ in range(GUESSES_FREE + 12):
        waits.append(guesses.wait_ms("10.0.0.1", now_ms))
        now_ms += waits[-1]
        guesses.wrong("10.0.0.1", now_ms)
    assert waits[:GUESSES_FREE] == [0] * GUESSES_FREE
    assert waits[GUESSES_FREE:] == sorted(waits[GUESSES_FREE:])
    assert waits[GUESSES_FREE] == 500
    assert waits[-1] == GUESSES_WAIT_MS_MAX
    assert guesses.wait_ms("10.0.0.2", now_ms) == 0
    assert guesses.wait_ms("10.0.0.1", now_ms + GUESSES_WAIT_MS_MAX) == 0
    later_ms = now_ms + 3_600_000
    guesses.wrong("10.0.0.1", later_ms)
    assert guesses.wait_ms("10.0.0.1", later_ms) == 0  # long forgotten


def test_one_host_of_many_addresses_is_one() -> None:
    guesses = Guesses()
    for number in range(GUESSES_FREE):
        guesses.wrong(f"2001:db8::{number:x}", 10)
    assert guesses.wait_ms("2001:db8::ffff", 10) > 0
    assert guesses.wait_ms("2001:db9::1", 10) == 0
    for number in range(GUESSES_ADDRESSES_MAX + 5):
        guesses.wrong(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 10)
    assert len(guesses._guessers) == GUESSES_ADDRESSES_MAX


def test_one_host_of_many_addresses_fills_only_its_own_places() -> None:
    loop = Loop()
    logins = Logins(loop)
    users = parse_users(user("app", "one"), "users.toml")
    try:
        for number in range(LOGINS_OF_ADDRESS_MAX):
            logins.verify(users, "app", b"%d" % number, f"2001:db8::{number:x}", lambda line: None)
        with pytest.raises(Busy):
            logins.verify(users, "app", b"more", "2001:db8::ffff", lambda line: None)
        logins.verify(users, "app", b"more", "2001:db8:1::1", lambda line: None)
    finally:
        logins.close()
        assert logins._thread is not None
        logins._thread.join()
        loop.close()
