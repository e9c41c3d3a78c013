"""How the bytes of an engine's keys are laid out; pure functions.

A data key is `0x01 | token (8, big-endian) | user key`: the engine's order is the ring's order, so
a partition is one contiguous range (two where it wraps), a `SCAN` walks the ring and its cursor is
a position on it, and keys with one `{tag}` lie side by side in their own order.
A log key is `partition id (2) | offset (8)`, an expiry key `partition id (2) | expiry_ms (8) |
data key`, a state key `partition id (2)`, all big-endian so that bytes sort as numbers do.
"""

from __future__ import annotations

from struct import Struct

from fortdb.model import TOKEN_SPACE

DATA_KIND = b"\x01"
"""First byte of a data key; other kinds of record take other bytes."""

_MEMORY_KIND = b"\x03"
_TRANSACTION_KIND = b"\x04"

DATA_PREFIX_BYTES = 9

_PARTITION = Struct(">H")
_LOG = Struct(">HQ")
_TOKEN = Struct(">Q")

partition_key = _PARTITION.pack
log_key = _LOG.pack
log_position = _LOG.unpack
expiry_prefix = _LOG.pack
expiry_position = _LOG.unpack_from


def partition_end(partition: int) -> bytes:
    """After every log, expiry and state key of a partition. The last partition has no successor to name,
    but the data key in an expiry key begins with a small byte."""
    return _PARTITION.pack(partition + 1) if partition < 0xFFFF else b"\xff" * 11


def data_key(token: int, key: bytes) -> bytes:
    """The engine's key for a user key whose hash is `token`."""
    return DATA_KIND + _TOKEN.pack(token) + key


def data_key_at(hash_: bytes, key: bytes) -> bytes:
    """The same for a token's bytes."""
    return DATA_KIND + hash_ + key


def data_bound(token: int) -> bytes:
    """The smallest data key at or after `token`; `TOKEN_SPACE` gives the end of the ring."""
    return DATA_KIND + _TOKEN.pack(token) if token < TOKEN_SPACE else b"\x02"


def data_token(key: bytes) -> int:
    """The token in a data key."""
    token: int = _TOKEN.unpack_from(key, 1)[0]
    return token


def memory_key(partition: int) -> bytes:
    """Where the requests are kept that a partition remembers from before its log; among the data, and in
    nobody's range."""
    return _MEMORY_KIND + _PARTITION.pack(partition)


def transaction_key(partition: int, transaction: bytes) -> bytes:
    """Where a partition keeps what it knows of a transaction over several partitions; among the data."""
    return _TRANSACTION_KIND + _PARTITION.pack(partition) + transaction


def transaction_range(partition: int) -> tuple[bytes, bytes]:
    """The partition's transaction keys: start <= key < end."""
    return transaction_key(partition, b""), _TRANSACTION_KIND + partition_end(partition)


def transaction_of(key: bytes) -> bytes | None:
    """The transaction in a transaction key; None for a key of another kind."""
    return key[1 + _PARTITION.size :] if key.startswith(_TRANSACTION_KIND) else None


def user_key(key: bytes) -> bytes:
    """The user's key in a data key."""
    return key[DATA_PREFIX_BYTES:]
