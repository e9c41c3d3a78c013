"""Records and versions as the client hands them out, and how they are asked for; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fortdb.client.connection import Reply
from fortdb.client.requests import Argument, Request, integer_of, request, unexpected
from fortdb.errors import BadRequest
from fortdb.model import RecordId


@dataclass(frozen=True, slots=True)
class Record:
    """One of the values of a key."""

    id: RecordId
    value: bytes


@dataclass(frozen=True, slots=True)
class Version:
    """What a key held from `time_ms` on (Unix): a value, until `ends_ms` if it had a TTL, or None: nothing."""

    id: RecordId
    time_ms: int
    value: bytes | None
    ends_ms: int | None


def parse_record_id(text: bytes | str) -> RecordId:
    """The id in its form `ms-number`. Raises `BadRequest`."""
    ms, _, number = (text.decode("ascii", "replace") if isinstance(text, bytes) else text).partition("-")
    if not (ms.isdecimal() and number.isdecimal()):
        raise BadRequest(f"{text!r} is no record id: it has the form ms-number")
    return RecordId(int(ms), int(number))


def add(
    key: bytes | str, value: bytes | str, *, expire_ms: int | None, if_last: RecordId | None
) -> Request[RecordId | None]:
    words = add_words(key, value, expire_ms, if_last)
    return request(words, lambda reply: None if reply is None else _id(reply))


def add_words(
    key: bytes | str, value: bytes | str, expire_ms: int | None, if_last: RecordId | None
) -> list[Argument]:
    """The command `ADD`."""
    arguments: list[Argument] = [b"ADD", key, value]
    if expire_ms is not None:
        arguments += [b"PX", expire_ms]
    if if_last is not None:
        arguments += [b"IFLAST", str(if_last)]
    return arguments


def record(key: bytes | str, record_id: RecordId) -> Request[bytes | None]:
    return request([b"RECORD", key, str(record_id)], _value)


def records(key: bytes | str, first: str | None, count: int, reverse: bool) -> Request[list[Record]]:
    return request(
        [b"RECORDS", key, *_page(first, count, reverse)],
        lambda reply: [Record(_id(item[0]), _present(item[1])) for item in _rows(reply, 2)],
    )


def record_count(key: bytes | str) -> Request[int]:
    return request([b"RECORDCOUNT", key], integer_of)


def remove(
    key: bytes | str, record_id: RecordId, *, if_last: RecordId | None, bypass: bool = False
) -> Request[bool]:
    condition: list[Argument] = [] if if_last is None else [b"IFLAST", str(if_last)]
    if bypass:
        condition.append(b"BYPASS")
    return request([b"REMOVE", key, str(record_id), *condition], lambda reply: integer_of(reply) == 1)


def history(key: bytes | str, first: str | None, count: int, reverse: bool) -> Request[list[Version]]:
    return request(
        [b"HISTORY", key, *_page(first, count, reverse)],
        lambda reply: [_version(item) for item in _rows(reply, 4)],
    )


def get_at(key: bytes | str, moment: RecordId | int) -> Request[bytes | None]:
    return request([b"GET", key, b"AT", str(moment)], _value)


def purge(keys: Sequence[bytes | str]) -> Request[int]:
    return request([b"PURGE", *keys], integer_of)


def _page(first: str | None, count: int, reverse: bool) -> list[Argument]:
    begin: list[Argument] = [] if first is None else [b"FROM", first]
    return [*begin, b"COUNT", count, *([b"REV"] if reverse else [])]


def _rows(reply: Reply, width: int) -> list[list[Reply]]:
    if not isinstance(reply, list):
        raise unexpected(reply)
    rows = [item for item in reply if isinstance(item, list) and len(item) == width]
    if len(rows) != len(reply):
        raise unexpected(reply)
    return rows


def _version(row: list[Reply]) -> Version:
    return Version(_id(row[0]), integer_of(row[1]), _value(row[2]), integer_of(row[3]) or None)


def _id(reply: Reply) -> RecordId:
    return parse_record_id(_present(reply))


def _present(reply: Reply) -> bytes:
    if not isinstance(reply, bytes):
        raise unexpected(reply)
    return reply


def _value(reply: Reply) -> bytes | None:
    return None if reply is None else _present(reply)
