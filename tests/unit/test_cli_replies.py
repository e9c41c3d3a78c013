"""Replies as text: redis-cli's style, one line, and JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb.cli.replies import json_line, quoted, rendered, rendered_line
from fortdb.client import Reply
from fortdb.errors import BadRequest, NotEnoughReplicas
from fortdb.protocol.text import split_line


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (None, "(nil)"),
        (3, "(integer) 3"),
        (-1, "(integer) -1"),
        (b"abc", '"abc"'),
        (b"", '""'),
        (BadRequest("unknown command 'X'"), "(error) ERR unknown command 'X'"),
        ([], "(empty array)"),
    ],
)
def test_scalars(reply: Reply, text: str) -> None:
    assert rendered(reply) == text
    assert rendered_line(reply) == text


def test_a_status_has_no_quotes() -> None:
    assert rendered(b"OK", is_status=True) == "OK"
    assert rendered_line(b"OK", is_status=True) == "OK"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b'say "hi"\\', r'"say \"hi\"\\"'),
        (b"a\r\n\tb", r'"a\r\n\tb"'),
        ("Grüße 東京".encode(), '"Grüße 東京"'),
        (b"\x00\x7f\xff", r'"\x00\x7f\xff"'),
        ("\u2028".encode(), r'"\xe2\x80\xa8"'),
    ],
)
def test_quoting(value: bytes, text: str) -> None:
    assert quoted(value) == text


def test_arrays_are_numbered_and_indented() -> None:
    reply: Reply = [b"0", [b"a", None], *([1] * 8)]
    assert rendered(reply).splitlines()[:3] == [' 1) "0"', ' 2) 1) "a"', "    2) (nil)"]
    assert rendered(reply).splitlines()[-1] == "10) (integer) 1"
    assert rendered_line(reply).startswith('1) "0" 2) [1) "a" 2) (nil)] 3) (integer) 1')


def test_errors_carry_advice_unless_they_bring_their_own() -> None:
    assert rendered(NotEnoughReplicas("1 of 2")).startswith(
        "(error) NOREPLICAS 1 of 2; the write was refused"
    )
    assert rendered(NotEnoughReplicas("1 of 2; wait")) == "(error) NOREPLICAS 1 of 2; wait"


def test_json() -> None:
    assert json.loads(json_line([b"a", 1, None, BadRequest("no")])) == [
        "a",
        1,
        None,
        {"error": "ERR", "message": "no"},
    ]


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=20), max_size=5))
def test_what_is_printed_can_be_typed_again(words: list[bytes]) -> None:
    line = " ".join(map(quoted, words))
    assert split_line(line.encode()) == words
