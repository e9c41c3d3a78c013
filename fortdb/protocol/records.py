"""Options of the commands on records and versions, and the form of ids on the wire; pure functions.

An id is `ms-number`, as in Redis' streams (https://redis.io/docs/latest/develop/data-types/streams/). Where a
range begins, `ms` alone stands for the whole millisecond, `(id` leaves the id itself out, `-` and `+` are the
smallest and the greatest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fortdb.errors import BadRequest
from fortdb.limits import HOLD_NAME_BYTES_MAX, PAGE_COUNT, SCAN_COUNT_MAX
from fortdb.model import RecordId
from fortdb.protocol.arguments import parse_integer, parse_time

_NUMBER_MAX = (1 << 64) - 1
_ID = re.compile(rb"(\d{1,20})(?:-(\d{1,20}))?\Z").match
_SYNTAX = "syntax error"


@dataclass(frozen=True, slots=True)
class AddOptions:
    """`ADD key value ...`: when the record ends (Unix ms, 0 for never said), and the id that must be the newest."""

    expiry_ms: int = 0
    if_last: RecordId | None = None


@dataclass(frozen=True, slots=True)
class RemoveOptions:
    """`REMOVE key id ...`: the id that must be the newest, and whether governance is overridden."""

    if_last: RecordId | None
    bypass: bool


@dataclass(frozen=True, slots=True)
class PageOptions:
    """`RECORDS key ...` and `HISTORY key ...`: the first id that counts, None for all, and how many."""

    first: RecordId | None = None
    count: int = PAGE_COUNT
    backward: bool = False


def parse_id(text: bytes) -> RecordId:
    """`ms-number`, or `ms` for the first id of a millisecond."""
    return _id(text, 0)


def parse_moment(text: bytes) -> RecordId:
    """`ms-number`, or a time in Unix milliseconds: the last id that there can be then."""
    return _id(text, _NUMBER_MAX)


def encode_id_text(record: RecordId) -> bytes:
    """The form on the wire."""
    return b"%d-%d" % record


def parse_add(args: list[bytes], now_ms: int) -> AddOptions:
    """Options of `ADD`."""
    expiry_ms = 0
    if_last: RecordId | None = None
    for word, value in _pairs(args[3:]):
        if word == b"IFLAST" and if_last is None:
            if_last = parse_id(value)
        elif expiry_ms or not (expiry_ms := parse_time(word, value, now_ms, "add") or 0):
            raise BadRequest(_SYNTAX)
    return AddOptions(expiry_ms, if_last)


def parse_remove(args: list[bytes]) -> RemoveOptions:
    """Options of `REMOVE`."""
    words, bypass = args[3:], False
    if words and words[-1].upper() == b"BYPASS":
        words, bypass = words[:-1], True
    pairs = _pairs(words)
    if not pairs:
        return RemoveOptions(None, bypass)
    if len(pairs) > 1 or pairs[0][0] != b"IFLAST":
        raise BadRequest(_SYNTAX)
    return RemoveOptions(parse_id(pairs[0][1]), bypass)


def parse_retain(args: list[bytes]) -> tuple[int, bool]:
    """`RETAIN key id until [BYPASS]`: the moment in Unix milliseconds, and whether it may be earlier than it was."""
    until_ms = parse_integer(args[3])
    if until_ms <= 0:
        raise BadRequest("RETAIN takes a time in Unix milliseconds")
    if len(args) > 5 or (len(args) == 5 and args[4].upper() != b"BYPASS"):
        raise BadRequest(_SYNTAX)
    return until_ms, len(args) == 5


def parse_hold(args: list[bytes]) -> tuple[RecordId, bytes]:
    """`HOLD key id|* [name]` and `RELEASE`: the id, 0-0 for all records, and the hold's name."""
    if len(args) > 4:
        raise BadRequest(_SYNTAX)
    name = args[3] if len(args) == 4 else b"legal"
    if not 0 < len(name) <= HOLD_NAME_BYTES_MAX:
        raise BadRequest(f"the name of a hold has 1 to {HOLD_NAME_BYTES_MAX} bytes")
    if args[2] == b"*":
        return RecordId(0, 0), name
    record = parse_id(args[2])
    if record == RecordId(0, 0):
        raise BadRequest("no record has the id 0-0; * stands for all")
    return record, name


def parse_page(args: list[bytes]) -> PageOptions:
    """Options of `RECORDS` and `HISTORY`."""
    first: bytes | None = None
    count = PAGE_COUNT
    backward = False
    at = 2
    while at < len(args):
        word = args[at].upper()
        at += 1
        if word == b"REV":
            backward = True
            continue
        if at == len(args):
            raise BadRequest(_SYNTAX)
        if word == b"FROM" and first is None:
            first = args[at]
        elif word == b"COUNT":
            count = parse_integer(args[at])
        else:
            raise BadRequest(_SYNTAX)
        at += 1
    if count < 1:
        raise BadRequest("COUNT must be at least 1")
    return PageOptions(_bound(first, backward), min(count, SCAN_COUNT_MAX), backward)


def _bound(text: bytes | None, backward: bool) -> RecordId | None:
    if text is None or text == (b"+" if backward else b"-"):
        return None
    if text in (b"-", b"+"):
        return RecordId(0, 0) if backward else RecordId(_NUMBER_MAX, _NUMBER_MAX)
    if not text.startswith(b"("):
        return parse_moment(text) if backward else parse_id(text)
    if backward:
        ms, number = parse_id(text[1:])
        return RecordId(ms, number - 1) if number else RecordId(max(ms - 1, 0), _NUMBER_MAX if ms else 0)
    ms, number = parse_moment(text[1:])
    return RecordId(ms, number + 1) if number < _NUMBER_MAX else RecordId(min(ms + 1, _NUMBER_MAX), 0)


def _id(text: bytes, number: int) -> RecordId:
    match = _ID(text)
    if match is None:
        raise BadRequest("Invalid record ID specified: it is ms-number, or a time in Unix milliseconds")
    found = RecordId(int(match[1]), number if match[2] is None else int(match[2]))
    if max(found) > _NUMBER_MAX:
        raise BadRequest("Invalid record ID specified: it has a number of more than 64 bits")
    return found


def _pairs(words: list[bytes]) -> list[tuple[bytes, bytes]]:
    if len(words) % 2:
        raise BadRequest(_SYNTAX)
    return [(word.upper(), value) for word, value in zip(words[::2], words[1::2], strict=True)]
