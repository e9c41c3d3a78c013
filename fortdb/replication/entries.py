"""The bytes of a log entry: what one tick appended to one partition, committed together.

    entry     = crc32 (4) | epoch (8) | offset (8) | timestamp_ms (8) | operation*
    operation = kind (1) | identified (1) | key length (2) | value length (4) | expiry_ms (8)
                | [session (8) | sequence (8) | watermark (8) | reply length (4)] | key | value | [reply]

All little-endian. The same bytes lie in the log of every replica and travel between them, so the
checksum is end to end: made once by the leader, checked by whoever reads the entry.

Operations carry effects, not commands: the leader decides what `INCR` or an expired TTL means, and
followers only put and delete (state machine replication by deterministic effects). An operation
may name the request that caused it and the answer it got, so that the request, sent again after
a leader's death, is recognised by the next leader (Raft dissertation, section 6.3). An entry
without operations is the no-op with which a leader opens its epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from fortdb.errors import StorageFailed
from fortdb.native import bind

_HEADER = Struct("<IQQQ")
_HEADER_REST = Struct("<QQQ")  # after the checksum
_OPERATION = Struct("<BBHIQ")
_REQUEST = Struct("<QQQI")
_CRC_BYTES = 4


class Kind(IntEnum):
    """What an operation does to the data."""

    PUT = 1  # key holds value, until expiry_ms when that is not 0
    DELETE = 2  # key holds nothing
    FORGET = 3  # the expiry note (expiry_ms, key) is of no use any more


PUT, DELETE, FORGET = int(Kind.PUT), int(Kind.DELETE), int(Kind.FORGET)
"""The same as plain numbers, for where every operation passes: they compare and pack several times faster."""


class Operation(NamedTuple):
    """One effect on one data key."""

    kind: int
    key: bytes
    value: bytes = b""
    expiry_ms: int = 0


bind(Operation)


class RequestId(NamedTuple):
    """Names a request of a router: `sequence` counts within (session, partition).

    Every request with a sequence below `watermark` has been answered to its client and will never
    be sent again.
    """

    session: int
    sequence: int
    watermark: int


bind(RequestId)


class Identified(NamedTuple):
    """A request in the log and the reply it was given."""

    request: RequestId
    reply: bytes


class Entry(NamedTuple):
    """A decoded entry."""

    epoch: int
    offset: int
    timestamp_ms: int
    operations: list[Operation]
    requests: list[Identified]


def encode_operation(operation: Operation, request: RequestId | None = None, reply: bytes = b"") -> bytes:
    """The bytes of one operation; the last operation of a request carries its id and its reply."""
    kind, key, value, expiry_ms = operation
    if request is None:
        return _OPERATION.pack(kind, 0, len(key), len(value), expiry_ms) + key + value
    head = _OPERATION.pack(kind, 1, len(key), len(value), expiry_ms)
    return b"".join((head, _REQUEST.pack(*request, len(reply)), key, value, reply))


def encode_entry(
    epoch: int, offset: int, timestamp_ms: int, operations: Sequence[bytes | bytearray]
) -> bytes:
    """An entry of already encoded operations."""
    body = b"".join((_HEADER_REST.pack(epoch, offset, timestamp_ms), *operations))
    return crc32(body).to_bytes(_CRC_BYTES, "little") + body


def entry_timestamp(entry: bytes) -> int:
    """The leader's wall clock when it made the entry, in milliseconds."""
    timestamp_ms: int = _HEADER.unpack_from(entry)[3]
    return timestamp_ms


def decode_entry(entry: bytes, offset: int) -> Entry:
    """Check and decode an entry that stands at `offset`. Raises `StorageFailed` if it is not
    what its leader made."""
    try:
        checksum, epoch, own_offset, timestamp_ms = _HEADER.unpack_from(entry)
        if crc32(memoryview(entry)[_CRC_BYTES:]) != checksum or own_offset != offset:
            raise ValueError("checksum or offset")
        operations: list[Operation] = []
        requests: list[Identified] = []
        at, end = _HEADER.size, len(entry)
        while at < end:
            kind, identified, key_length, value_length, expiry_ms = _OPERATION.unpack_from(entry, at)
            at += _OPERATION.size
            reply_length = 0
            if identified:
                session, sequence, watermark, reply_length = _REQUEST.unpack_from(entry, at)
                at += _REQUEST.size
            middle = at + key_length
            stop = middle + value_length
            operations.append(Operation(kind, entry[at:middle], entry[middle:stop], expiry_ms))
            at = stop + reply_length
            if identified:
                request = RequestId(session, sequence, watermark)
                requests.append(Identified(request, entry[stop:at]))
        if at != end:
            raise ValueError("length")
    except Exception as error:  # noqa: BLE001  whatever unpacking raises
        raise StorageFailed(
            f"the log entry at offset {offset} is damaged ({error}); the replica must be rebuilt from another"
        ) from None
    return Entry(epoch, offset, timestamp_ms, operations, requests)
