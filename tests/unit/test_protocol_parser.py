"""The request parser: whatever arrives, in whatever pieces, and never more of it than is allowed."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hiredis import Reader
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb.errors import BadRequest, FortError, ProtocolError
from fortdb.limits import ARGUMENTS_MAX, COMMAND_BYTES_MAX, LINE_BYTES_MAX, VALUE_BYTES_MAX
from fortdb.protocol.resp import RequestParser, pack
from fortdb.protocol.text import quote, split_line

commands = st.lists(st.binary(max_size=60), min_size=1, max_size=5)
Parsed = list[list[bytes] | str]


def parsed(*pieces: bytes) -> Parsed:
    """Requests as they are, errors as their text; nothing is fed after a protocol error."""
    parser = RequestParser()
    found: Parsed = []
    for piece in pieces:
        for request in parser.feed(piece) if piece else []:
            found.append(request if isinstance(request, list) else str(request))
            if isinstance(request, ProtocolError):
                return found
    return found


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


@settings(max_examples=150, deadline=None)
@given(st.lists(commands, min_size=1, max_size=6), st.lists(st.integers(0, 1 << 16), max_size=8))
def test_commands_survive_the_wire_in_any_pieces(sent: list[list[bytes]], cuts: list[int]) -> None:
    data = b"".join(map(pack, sent))
    assert parsed(*pieces_of(data, cuts)) == sent


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), max_size=5),
    st.lists(st.integers(0, 999)),
)
def test_text_lines_survive_the_wire_in_any_pieces(sent: list[list[bytes]], cuts: list[int]) -> None:
    data = b"PING\n" + b"".join(b" ".join(map(quote, words)) + b"\r\n" for words in sent)
    assert parsed(*pieces_of(data, cuts)) == [[b"PING"], *sent]


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_are_requests_or_errors_and_pieces_do_not_matter(data: bytes, cuts: list[int]) -> None:
    whole = parsed(data)
    assert parsed(*pieces_of(data, cuts)) == whole


@pytest.mark.parametrize("data", [b"*\r\n", b"*1\r\nX", b"*1\r\n:1\r\n", b"*0\r\n+a", b"*2\r\n$1\r\na\r\n*"])
def test_a_fault_is_told_alike_in_whatever_pieces_it_comes(data: bytes) -> None:
    (error,) = parsed(data)
    assert isinstance(error, str)
    for cut in range(1, len(data)):
        assert parsed(data[:cut], data[cut:]) == [error]


resp_like = st.lists(
    st.sampled_from(
        [
            b"*1\r\n",
            b"*2\r\n",
            b"$3\r\n",
            b"GET",
            b"\r\n",
            b"*",
            b"$",
            b"-1",
            b"0",
            b"$0\r\n",
            b":1\r\n",
            b"%1\r\n",
            b"~2\r\n",
            b">1\r\n",
        ]
    ),
    min_size=1,
    max_size=30,
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(resp_like, st.lists(st.integers(0, 200), max_size=5))
def test_what_looks_like_resp_is_read_alike_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    """Requests before the fault are the same; the fault itself may be found a piece earlier or later."""
    whole = [request for request in parsed(b"*" + data) if isinstance(request, list)]
    pieces = [request for request in parsed(*pieces_of(b"*" + data, cuts)) if isinstance(request, list)]
    assert pieces == whole


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"*%d\r\n" % (ARGUMENTS_MAX + 1), "multibulk length"),
        (b"*-1\r\n$1\r\n", "multibulk length"),
        (b"*x\r\n", "multibulk length"),
        (b"*2\r\n$%d\r\n" % (VALUE_BYTES_MAX + 1), "bulk length"),
        (b"*2\r\n$-1\r\n", "bulk length"),
        (b"*1\r\n:1\r\n", "expected '\\$', got ':'"),
        (b"*1\r\n%1\r\n$1\r\na\r\n$1\r\nb\r\n", "expected '\\$', got '%'"),
        (b"*0\r\n%1\r\n$4\r\nPING\r\n$0\r\n\r\n", "multibulk length"),
        (b"*0\r\n~1\r\n$4\r\nPING\r\n", "multibulk length"),
        (b"*0\r\n>1\r\n$4\r\nPING\r\n", "multibulk length"),
        (b"*0\r\n>4000000000\r\n", "multibulk length"),
        (b"*" + b"1" * 100, "too long a length"),
        (b"*1\r\n$" + b"1" * 100, "too long a length"),
    ],
)
def test_too_much_is_refused_at_its_header(header: bytes, says: str) -> None:
    (error,) = RequestParser().feed(header)
    assert isinstance(error, ProtocolError)
    with pytest.raises(FortError, match=says):
        raise error


def test_arguments_that_are_too_large_together_are_refused_at_the_last_header() -> None:
    parser = RequestParser()
    count = COMMAND_BYTES_MAX // VALUE_BYTES_MAX
    value = b"$%d\r\n%s\r\n" % (VALUE_BYTES_MAX, bytes(VALUE_BYTES_MAX))
    assert parser.feed(b"*%d\r\n" % (count + 1)) == []
    for _ in range(count):
        assert parser.feed(value) == []
    (error,) = parser.feed(b"$1\r\n")
    assert isinstance(error, ProtocolError)
    assert "too large" in str(error)


def test_an_oversize_value_is_not_buffered() -> None:
    parser = RequestParser()
    tracemalloc.start()
    try:
        parser.feed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (1 << 40))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000


def test_many_commands_before_a_large_one_are_read_once() -> None:
    """The work is counted, not timed: bytes handed to the C parser, of a read full of small commands
    that ends in the beginning of a large one."""
    commands = pack([b"PING"]) * 20_000
    parser = RequestParser()
    handed = 0

    class CountingReader(Reader):
        def feed(self, data: bytes) -> None:  # type: ignore[override]
            nonlocal handed
            handed += len(data)
            super().feed(data)

    parser._reader = CountingReader()
    requests = parser.feed(commands + b"*2\r\n$3\r\nGET\r\n$1000000\r\nx")
    assert requests == [[b"PING"]] * 20_000
    assert handed == len(commands)
    assert parser.feed(bytes(999_999) + b"\r\n") == [[b"GET", b"x" + bytes(999_999)]]


def test_what_stands_before_a_fault_is_still_a_request() -> None:
    *pings, error = RequestParser().feed(pack([b"PING"]) * 3 + b"*1\r\n$99999999999\r\n")
    assert pings == [[b"PING"]] * 3
    assert isinstance(error, ProtocolError)


def test_a_long_line_is_refused_before_its_end() -> None:
    parser = RequestParser()
    assert parser.feed(b"PUT k " + b"x" * (LINE_BYTES_MAX - 10)) == []
    (error,) = parser.feed(b"x" * 20)
    assert isinstance(error, ProtocolError)


def test_a_line_that_cannot_be_understood_does_not_end_the_others() -> None:
    ping, error, get = RequestParser().feed(b"PING\nPUT k 'unfinished\nGET k\n")
    assert (ping, get) == ([b"PING"], [b"GET", b"k"])
    assert isinstance(error, BadRequest)
    assert not isinstance(error, ProtocolError)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_quoted_words_come_back(words: list[bytes]) -> None:
    assert split_line(b" ".join(map(quote, words))) == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'PUT k "hello world"', [b"PUT", b"k", b"hello world"]),
        (b"PUT k 'it\\'s'", [b"PUT", b"k", b"it's"]),
        (b'PUT k "\\x00\\xff\\n"', [b"PUT", b"k", b"\x00\xff\n"]),
        (b"  GET \t k  ", [b"GET", b"k"]),
        (b'PUT k ""', [b"PUT", b"k", b""]),
        (b"", []),
    ],
)
def test_lines_as_people_type_them(line: bytes, words: list[bytes]) -> None:
    assert split_line(line) == words
