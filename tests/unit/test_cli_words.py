"""Typed lines become words, and what the prompt prints can be typed again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb.cli.replies import quoted
from fortdb.cli.words import split_line
from fortdb.errors import BadRequest


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", []),
        (b"  \t ", []),
        (b"GET a", [b"GET", b"a"]),
        (b"  GET\ta  \r\n", [b"GET", b"a"]),
        (b'PUT "a b" ""', [b"PUT", b"a b", b""]),
        (rb'PUT k "x\n\"y\"\\\x00\xff"', [b"PUT", b"k", b'x\n"y"\\\x00\xff']),
        (rb"PUT k 'it\'s \n'", [b"PUT", b"k", rb"it's \n"]),
        (b"""PUT k it's "x" """, [b"PUT", b"k", b"it's", b"x"]),
        ('PUT "Grüße" 東京'.encode(), [b"PUT", "Grüße".encode(), "東京".encode()]),
    ],
)
def test_words(line: bytes, words: list[bytes]) -> None:
    assert split_line(line) == words


@pytest.mark.parametrize("line", [b'GET "a', b"GET 'a", b'GET "a"b', b"GET 'a'b", b'GET "a\\"'])
def test_open_quotes(line: bytes) -> None:
    with pytest.raises(BadRequest, match="quote"):
        split_line(line)


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=20), max_size=5))
def test_what_is_printed_can_be_typed_again(words: list[bytes]) -> None:
    line = " ".join(map(quoted, words))
    assert split_line(line.encode()) == words
