"""How a stored value is laid out; pure functions.

The first byte says what kind of record follows:

    0x00 | payload                                              a plain value
    0x01 | expiry_ms (8) | payload                              one that ends
    0x02 | ends_ms (8) | total (8) | first id (16) | newest id (16)      the head of a key's records
    0x03 | trim_ms (8) | first ordinal (8) | last ordinal (8) | deleted (1)   the head of a key's history
    0x04 | id (16) | present (1) | ends_ms (8) | payload        a version of a value
    0x05 | as 0x02                                              the head of a key's WORM records
    0x06 | until_ms (8) | compliance (1) | ordinal (8) | chain (32) | payload      a WORM record

all big-endian. Which keys have ended is for the reader to decide: nothing here knows what time it is.

Kinds 0 and 1 are what a key holds by itself, and each of its records. Kind 2 stands at the data key of a key
that holds records: so a walk over keys meets it once, and the newest record is found without one. Every record
below `first` is invisible: it was there when the key was deleted, and is cleaned away meanwhile. `ends_ms` is
when the last of the records ends, 0 if one never does. Kind 3 stands at ordinal 0 of a key's versions, kind 4
at the others; `trim_ms` is when the oldest version is to go, 0 for never.

A WORM record has no end that a reader sees: it is there until it is removed. What its fields mean is told in
`worm.py`; an ordinal of 0 says that it is in no chain yet.

At id 0-0 of a key's records, and at the last ordinal of its versions, there may be a value of kind 1 that says
up to which id or ordinal the rest is to be cleaned away.
"""

from __future__ import annotations

from struct import Struct, error
from typing import NamedTuple

from fortdb.errors import StorageFailed, WrongType
from fortdb.model import RecordId

PLAIN = 0
EXPIRING = 1
RECORDS = 2
HISTORY = 3
VERSION = 4
WORM_RECORDS = 5
WORM = 6

_EXPIRING = Struct(">BQ")
_RECORDS = Struct(">BQQQQQQ")
_HISTORY = Struct(">BQQQB")
_VERSION = Struct(">BQQBQ")
_WORM = Struct(">BQ?Q32s")
_PLAIN_PREFIX = bytes((PLAIN,))
_HEADS = (bytes((RECORDS,)), bytes((WORM_RECORDS,)))
_TIMED = (EXPIRING, RECORDS, HISTORY, WORM_RECORDS)  # the time stands behind the first byte


class RecordsHead(NamedTuple):
    """What a key that holds records says of them. `total` has those that ended and were not cleaned away yet."""

    ends_ms: int
    total: int
    first: RecordId
    newest: RecordId
    is_worm: bool = False


class WormRecord(NamedTuple):
    """A record that is kept until a moment of its partition's retention clock, and its place in the chain."""

    until_ms: int
    is_compliance: bool
    value: bytes
    ordinal: int = 0
    chain: bytes = bytes(32)


class HistoryHead(NamedTuple):
    """Versions `first` to `last` of a key are kept; `deleted`: the last one says that the key was deleted."""

    trim_ms: int
    first: int
    last: int
    deleted: bool


class Version(NamedTuple):
    """What a key held from `id` on: a value, until `ends_ms` if that is not 0, or nothing (None)."""

    id: RecordId
    value: bytes | None
    ends_ms: int


def encode_value(payload: bytes, expiry_ms: int = 0) -> bytes:
    """The stored form of a value that ends at `expiry_ms` (Unix epoch), or never if that is 0."""
    if expiry_ms:
        return _EXPIRING.pack(EXPIRING, expiry_ms) + payload
    return _PLAIN_PREFIX + payload


def payload_of(stored: bytes) -> bytes:
    """What the user stored. Raises `WrongType` for the head of records, `StorageFailed` for a record of an
    unknown kind."""
    if stored and stored[0] == PLAIN:
        return stored[1:]
    expiry_of(stored)
    if stored[0] == WORM:
        return stored[_WORM.size :]
    if stored[0] != EXPIRING:
        raise WrongType(
            "Operation against a key holding the wrong kind of value: it holds records; use ADD, RECORDS, RECORD,"
            " REMOVE, GET or DEL"
        )
    return stored[_EXPIRING.size :]


def expiry_of(stored: bytes) -> int:
    """When the value ends, in milliseconds since the Unix epoch; 0 if never. Raises `StorageFailed`."""
    kind = stored[0] if stored else None
    if kind in (PLAIN, VERSION, WORM):
        return 0
    try:
        if kind not in _TIMED:
            raise _unknown(stored)
        expiry_ms: int = _EXPIRING.unpack_from(stored)[1]
    except error:
        raise _unknown(stored) from None
    return expiry_ms


def encode_records(head: RecordsHead) -> bytes:
    """The stored form of the head of a key's records."""
    kind = WORM_RECORDS if head.is_worm else RECORDS
    return _RECORDS.pack(kind, head.ends_ms, head.total, *head.first, *head.newest)


def is_records(stored: bytes) -> bool:
    """Whether a stored value is the head of a key's records."""
    return stored[:1] in _HEADS


def is_worm_head(stored: bytes) -> bool:
    """Whether a stored value is the head of a key's WORM records."""
    return stored[:1] == _HEADS[1]


def is_worm_record(stored: bytes) -> bool:
    """Whether a stored value is a WORM record."""
    return stored[:1] == bytes((WORM,))


def encode_worm(record: WormRecord) -> bytes:
    """The stored form of a WORM record."""
    head = _WORM.pack(WORM, record.until_ms, record.is_compliance, record.ordinal, record.chain)
    return head + record.value


def decode_worm(stored: bytes) -> WormRecord:
    """A WORM record. Raises `StorageFailed`."""
    try:
        _, until_ms, is_compliance, ordinal, chain = _WORM.unpack_from(stored)
    except error:
        raise _unknown(stored) from None
    return WormRecord(until_ms, is_compliance, stored[_WORM.size :], ordinal, chain)


def is_single(stored: bytes) -> bool:
    """Whether a stored value is what a key holds by itself, one value."""
    return stored[:1] in (_PLAIN_PREFIX, bytes((EXPIRING,)))


def type_name(stored: bytes) -> bytes:
    """What `TYPE` and `SCAN` call a stored value."""
    return b"records" if is_records(stored) else b"string"


def decode_records(stored: bytes) -> RecordsHead:
    """The head of a key's records. Raises `StorageFailed`."""
    try:
        kind, ends_ms, total, *ids = _RECORDS.unpack(stored)
    except error:
        raise _unknown(stored) from None
    return RecordsHead(ends_ms, total, RecordId(*ids[:2]), RecordId(*ids[2:]), kind == WORM_RECORDS)


def encode_history(head: HistoryHead) -> bytes:
    """The stored form of the head of a key's history."""
    return _HISTORY.pack(HISTORY, *head)


def decode_history(stored: bytes) -> HistoryHead:
    """The head of a key's history. Raises `StorageFailed`."""
    try:
        _, trim_ms, first, last, deleted = _HISTORY.unpack(stored)
    except error:
        raise _unknown(stored) from None
    return HistoryHead(trim_ms, first, last, bool(deleted))


def encode_version(version: Version) -> bytes:
    """The stored form of a version."""
    head = _VERSION.pack(VERSION, *version.id, version.value is not None, version.ends_ms)
    return head + (version.value or b"")


def decode_version(stored: bytes) -> Version:
    """A version. Raises `StorageFailed`."""
    try:
        _, ms, number, present, ends_ms = _VERSION.unpack_from(stored)
    except error:
        raise _unknown(stored) from None
    return Version(RecordId(ms, number), stored[_VERSION.size :] if present else None, ends_ms)


def _unknown(stored: bytes) -> StorageFailed:
    return StorageFailed(
        f"a stored value begins with {stored[:9].hex() or 'nothing'}, which is no kind of record that this version"
        " knows; was it written by a newer one?"
    )
