"""How the bytes of an engine's keys are laid out; pure functions.

A data key is `0x01 | token (8, big-endian) | user key`: the engine's order is the ring's order, so
a partition is one contiguous range (two where it wraps), a `SCAN` walks the ring and its cursor is
a position on it, and keys with one `{tag}` lie side by side in their own order.
A record of a key lies apart from it, at `0x04 | token (8) | key length (2) | user key | record id (16)`,
and a version of its value at `0x05 | token (8) | key length (2) | user key | ordinal (8)`. So the records
of a key are one contiguous range, in the order of their ids, whatever bytes keys are made of: the length
keeps a key from being taken for the beginning of another. Id 0-0, ordinal 0 and the last ordinal name no
record and no version; what lies there is told in `values.py`.
What guards a WORM record lies at `0x07 | token (8) | key length (2) | user key | what (1) | record id (16)`, with
a name behind it if it is a hold; a partition's chain at `0x08 | partition id (2) | ordinal (8)` (`node/worm.py`).
A log key is `partition id (2) | offset (8)`, an expiry key `partition id (2) | expiry_ms (8) |
data key`, a state key `partition id (2)`, all big-endian so that bytes sort as numbers do.
"""

from __future__ import annotations

from struct import Struct

from fortdb.model import TOKEN_SPACE, RecordId

DATA_KIND = b"\x01"
"""First byte of a data key; other kinds of record take other bytes."""

_MEMORY_KIND = b"\x03"
_TRANSACTION_KIND = b"\x06"

RECORD_KIND = b"\x04"
VERSION_KIND = b"\x05"
GUARD_KIND = b"\x07"
_CHAIN_KIND = b"\x08"

KINDS = (DATA_KIND, RECORD_KIND, VERSION_KIND, GUARD_KIND)
"""First bytes of what belongs to users' keys: in each of them keys are in the order of their tokens."""

DATA_PREFIX_BYTES = 9

_PARTITION = Struct(">H")
_LOG = Struct(">HQ")
_TOKEN = Struct(">Q")
_KEY_LENGTH = Struct(">H")
_RECORD_ID = Struct(">QQ")
_ORDINAL = Struct(">Q")
_RECORD_KEY = 11  # where the user key stands in the key of a record or a version

ID_MIN, ID_MAX = RecordId(0, 0), RecordId((1 << 64) - 1, (1 << 64) - 1)

ORDINAL_MAX = (1 << 64) - 1

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


def data_bound(token: int, kind: bytes = DATA_KIND) -> bytes:
    """The smallest key of a kind at or after `token`; `TOKEN_SPACE` gives the end of the ring."""
    return kind + _TOKEN.pack(token) if token < TOKEN_SPACE else bytes((kind[0] + 1,))


def after_token(hash_: bytes) -> bytes:
    """Behind all data keys with a token, given as bytes."""
    return data_bound(int.from_bytes(hash_) + 1)


def encode_id(record: RecordId) -> bytes:
    """The 16 bytes of an id, which sort as ids do."""
    return _RECORD_ID.pack(*record)


def decode_id(encoded: bytes) -> RecordId:
    """The id in its 16 bytes."""
    return RecordId(*_RECORD_ID.unpack(encoded))


def record_key(at: bytes, record: RecordId) -> bytes:
    """Where a record lies of the key whose data key is `at`."""
    return _beside(RECORD_KIND, at) + _RECORD_ID.pack(*record)


def record_id(key: bytes) -> RecordId:
    """The id in a record's key."""
    return RecordId(*_RECORD_ID.unpack_from(key, len(key) - _RECORD_ID.size))


def due_key(at: bytes, record: RecordId) -> bytes:
    """Where it is noted when to look whether a WORM record may go."""
    return _beside(GUARD_KIND, at) + b"\0" + _RECORD_ID.pack(*record)


def is_due_key(key: bytes) -> bool:
    """Whether that is noted there."""
    return key.startswith(GUARD_KIND) and key == due_key(owner_key(key), record_id(key))


def hold_key(at: bytes, record: RecordId, name: bytes) -> bytes:
    """Where a hold lies on one WORM record of a key, or on all (id 0-0)."""
    return _beside(GUARD_KIND, at) + b"\1" + _RECORD_ID.pack(*record) + name


def hold_name(at: bytes, key: bytes) -> bytes:
    """The name in a hold's key."""
    return key[len(hold_key(at, ID_MIN, b"")) :]


def chain_key(partition: int, ordinal: int) -> bytes:
    """Where a link of a partition's chain lies; at ordinal 0 its outline."""
    return _CHAIN_KIND + _PARTITION.pack(partition) + _ORDINAL.pack(ordinal)


def chain_range(partition: int) -> tuple[bytes, bytes]:
    """The partition's chain: start <= key < end."""
    return chain_key(partition, 0), _CHAIN_KIND + partition_end(partition)


def version_key(at: bytes, ordinal: int) -> bytes:
    """Where a version lies of the key whose data key is `at`."""
    return _beside(VERSION_KIND, at) + _ORDINAL.pack(ordinal)


def version_ordinal(key: bytes) -> int:
    """The ordinal in a version's key."""
    ordinal: int = _ORDINAL.unpack_from(key, len(key) - _ORDINAL.size)[0]
    return ordinal


def owner(key: bytes) -> bytes:
    """The user's key that a key of the engine belongs to, of whichever of the `KINDS`."""
    return user_key(key if key.startswith(DATA_KIND) else owner_key(key))


def owner_key(key: bytes) -> bytes:
    """The data key of the key that a record or a version belongs to."""
    (length,) = _KEY_LENGTH.unpack_from(key, DATA_PREFIX_BYTES)
    return DATA_KIND + key[1:DATA_PREFIX_BYTES] + key[_RECORD_KEY : _RECORD_KEY + length]


def _beside(kind: bytes, at: bytes) -> bytes:
    length = _KEY_LENGTH.pack(len(at) - DATA_PREFIX_BYTES)
    return kind + at[1:DATA_PREFIX_BYTES] + length + at[DATA_PREFIX_BYTES:]


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
