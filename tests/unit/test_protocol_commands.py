"""Commands: their table, their options, how they are split and joined, and a connection's own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb.errors import BadRequest, FortError
from fortdb.protocol.arguments import (
    ends_with_acknowledgement,
    parse_cursor,
    parse_integer,
    parse_set,
)
from fortdb.protocol.commands import TABLE, Command, check_arity, keys_of, lookup, unknown_command
from fortdb.protocol.glob import compile_glob
from fortdb.protocol.resp import array, bulk, integer
from fortdb.protocol.scatter import split
from fortdb.protocol.session import Session, answer


def command(name: bytes) -> Command:
    found = lookup(name)
    assert found is not None
    return found


@pytest.mark.parametrize(("alias", "name"), [(b"PUT", "SET"), (b"delete", "DEL"), (b"Exit", "QUIT")])
def test_the_words_of_the_text_protocol_are_redis_commands(alias: bytes, name: str) -> None:
    assert command(alias).name == name


def test_every_command_says_how_it_is_used() -> None:
    for each in TABLE.values():
        assert each.usage.split()[0] == each.name
        assert each.summary


@pytest.mark.parametrize("args", [[b"GET"], [b"SET", b"k"], [b"MSET", b"k"], [b"MSET", b"k", b"v", b"l"]])
def test_a_wrong_number_of_arguments_is_told_with_the_usage(args: list[bytes]) -> None:
    wrong = check_arity(command(args[0]), args)
    assert wrong is not None
    assert wrong.wire().startswith(b"-ERR wrong number of arguments")


def test_an_unknown_command_cannot_forge_a_reply() -> None:
    reply = unknown_command([b"BAD\r\n+OK", b"arg\r\n-X"]).wire()
    assert reply.startswith(b"-ERR unknown command")
    assert reply.count(b"\r\n") == 1


def test_keys_are_where_the_table_says() -> None:
    assert keys_of(command(b"MSET"), [b"MSET", b"a", b"1", b"b", b"2"]) == [b"a", b"b"]
    assert keys_of(command(b"DEL"), [b"DEL", b"a", b"b"]) == [b"a", b"b"]
    assert keys_of(command(b"SET"), [b"SET", b"a", b"1", b"EX", b"5"]) == [b"a"]


# --- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        b"NX XX",
        b"NX IFEQ a",
        b"IFEQ a XX",
        b"IFEQ a IFEQ b",
        b"IFEQ",
        b"EX",
        b"EX 0",
        b"EX -5",
        b"EX 1 PX 1",
        b"EX 1 KEEPTTL",
        b"FOO",
        b"EX one",
        b"PX 99999999999999999999",
    ],
)
def test_options_that_contradict_each_other_are_refused(options: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_set([b"SET", b"k", b"v", *options.split()], 1_000)


def test_a_time_to_live_becomes_a_moment() -> None:
    assert parse_set([b"SET", b"k", b"v", b"EX", b"5"], 1_000).expiry_ms == 6_000
    assert parse_set([b"SET", b"k", b"v", b"PXAT", b"5"], 1_000).expiry_ms == 5


def test_compare_and_set_stores_over_the_same_value_only() -> None:
    options = parse_set([b"SET", b"k", b"v", b"ifeq", b"NX", b"GET", b"EX", b"5"], 1_000)
    assert (options.only_if_equal, options.get, options.expiry_ms) == (b"NX", True, 6_000)
    held = [None, b"", b"nx", b"NX"]
    assert [options.may_replace(value) for value in held] == [False, False, False, True]
    assert parse_set([b"SET", b"k", b"v", b"IFEQ", b""], 0).may_replace(b"")


@pytest.mark.parametrize(
    ("options", "has_one"),
    [
        (b"ACK ASYNC", True),
        (b"IFEQ x GET ack sync", True),
        (b"IFEQ ACK GET", False),
        (b"IFEQ ACK ACK SYNC", True),
        (b"EX ACK SYNC", False),
        (b"GET", False),
    ],
)
def test_the_word_ack_may_also_be_compared_with(options: bytes, has_one: bool) -> None:
    assert ends_with_acknowledgement([b"SET", b"k", b"ACK", *options.split()]) is has_one


@given(st.integers())
def test_integers_are_those_of_64_bits(number: int) -> None:
    text = b"%d" % number
    if -(1 << 63) <= number < 1 << 63:
        assert parse_integer(text) == number
    else:
        with pytest.raises(BadRequest):
            parse_integer(text)


@pytest.mark.parametrize("text", [b"", b" 1", b"+1", b"01", b"1.0", b"-", b"\xd9\xa1", b"1" * 10_000])
def test_what_is_no_integer_is_none(text: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_integer(text)


@pytest.mark.parametrize("text", [b"", b"-1", b"x", b"18446744073709551616", b"9" * 10_000])
def test_a_cursor_is_a_token(text: bytes) -> None:
    assert parse_cursor(b"18446744073709551615") == (1 << 64) - 1
    with pytest.raises(BadRequest, match="cursor"):
        parse_cursor(text)


# --- patterns ---------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.lists(st.sampled_from(list("ab*?")), max_size=8).map("".join), st.text("abc", max_size=8))
def test_patterns_match_as_regular_expressions_do(pattern: str, text: str) -> None:
    expression = "".join({"*": ".*", "?": "."}.get(letter, letter) for letter in pattern)
    expected = re.fullmatch(expression, text) is not None
    assert compile_glob(pattern.encode())(text.encode()) is expected


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [(b"[a-c]x", b"bx", b"dx"), (b"[^a-c]x", b"dx", b"bx"), (b"\\*", b"*", b"x"), (b"[\\]]", b"]", b"x")],
)
def test_classes_and_escapes(pattern: bytes, matching: bytes, other: bytes) -> None:
    assert compile_glob(pattern)(matching)
    assert not compile_glob(pattern)(other)


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_any_pattern_is_one(pattern: bytes, text: bytes) -> None:
    assert compile_glob(pattern)(text) in (True, False)


def test_a_pattern_made_to_be_slow_is_not() -> None:
    assert not compile_glob(b"*a" * 50 + b"b")(b"a" * 10_000)


# --- several partitions -------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), min_size=2, max_size=12))
def test_mget_is_joined_in_the_order_of_its_keys(keys: list[bytes]) -> None:
    values = {b"a": b"1", b"b": b"2", b"c": None, b"d": b"", b"e": b"\r\n"}

    def reply(key: bytes) -> bytes:
        value = values[key]
        return b"$-1\r\n" if value is None else bulk(value)

    scattered = split(command(b"MGET"), [b"MGET", *keys], lambda key: key[0] % 3)
    replies = [array([reply(key) for key in part[1:]]) for part in scattered.commands]
    assert scattered.join(replies) == array([reply(key) for key in keys])


def test_counts_are_added_and_the_first_error_wins() -> None:
    scattered = split(command(b"DEL"), [b"DEL", b"a", b"b", b"c"], lambda key: key[0])
    assert scattered.join([integer(1), integer(0), integer(1)]) == integer(2)
    assert scattered.join([integer(1), b"-X\r\n", b"-Y\r\n"]) == b"-X\r\n"


def test_mset_keeps_pairs_together() -> None:
    scattered = split(command(b"MSET"), [b"MSET", b"a", b"1", b"b", b"2", b"a", b"3"], lambda key: key[0])
    assert scattered.commands == [[b"MSET", b"a", b"1", b"a", b"3"], [b"MSET", b"b", b"2"]]
    assert scattered.join([b"+OK\r\n", b"+OK\r\n"]) == b"+OK\r\n"


# --- a connection's own commands ------------------------------------------------------------------------


def said(session: Session, *args: bytes) -> bytes:
    return answer(session, list(args), lambda: {"Server": {"x": 1}}, lambda: {"port": "5000", "save": ""})


def test_a_conversation() -> None:
    session = Session(7, "127.0.0.1:1")
    assert said(session, b"PING") == b"+PONG\r\n"
    assert said(session, b"PING", b"hi") == b"$2\r\nhi\r\n"
    assert said(session, b"ECHO", b"hi") == b"$2\r\nhi\r\n"
    assert said(session, b"SELECT", b"0") == b"+OK\r\n"
    assert said(session, b"SELECT", b"1").startswith(b"-ERR")
    assert said(session, b"CLIENT", b"SETNAME", b"me") == b"+OK\r\n"
    assert said(session, b"CLIENT", b"GETNAME") == b"$2\r\nme\r\n"
    assert said(session, b"CLIENT", b"SETINFO", b"LIB-NAME", b"x") == b"+OK\r\n"
    assert said(session, b"CLIENT", b"ID") == b":7\r\n"
    assert b"x:1" in said(session, b"INFO")
    assert said(session, b"CONFIG", b"GET", b"por*") == b"*2\r\n$4\r\nport\r\n$4\r\n5000\r\n"
    assert said(session, b"COMMAND", b"COUNT").startswith(b":")
    assert said(session, b"CLIENT", b"NONSENSE").startswith(b"-ERR")
    assert said(session, b"QUIT") == b"+OK\r\n"
    assert session.quitting


def test_help() -> None:
    session = Session(1, "127.0.0.1:1")
    assert b"GET key [STALE | AT id]" in said(session, b"HELP")
    assert b"WATCH" in said(session, b"HELP", b"watch")
    assert said(session, b"HELP", b"nonsense").startswith(b"-ERR unknown command")


def test_hello_changes_the_protocol() -> None:
    session = Session(1, "127.0.0.1:1")
    assert said(session, b"HELLO", b"2").startswith(b"*14\r\n")
    assert said(session, b"HELLO", b"3").startswith(b"%7\r\n")
    assert said(session, b"HELLO", b"9").startswith(b"-NOPROTO")


def test_errors_stay_on_their_line() -> None:
    assert FortError("a\r\nb\n+OK").wire().count(b"\n") == 1
