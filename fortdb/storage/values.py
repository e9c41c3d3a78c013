"""How a stored value is laid out; pure functions.

The first byte says what kind of record follows, so that other kinds can come later without touching
what is stored: `0x00 | payload` is a plain value, `0x01 | expiry_ms (8, big-endian) | payload` one
that ends. Which keys have ended is for the reader to decide: nothing here knows what time it is.
"""

from __future__ import annotations

from struct import Struct, error

from fortdb.errors import StorageFailed

PLAIN = 0
EXPIRING = 1

_EXPIRING = Struct(">BQ")
_PLAIN_PREFIX = bytes((PLAIN,))


def encode_value(payload: bytes, expiry_ms: int = 0) -> bytes:
    """The stored form of a value that ends at `expiry_ms` (Unix epoch), or never if that is 0."""
    if expiry_ms:
        return _EXPIRING.pack(EXPIRING, expiry_ms) + payload
    return _PLAIN_PREFIX + payload


def payload_of(stored: bytes) -> bytes:
    """What the user stored. Raises `StorageFailed` for a record of an unknown kind."""
    if stored and stored[0] == PLAIN:
        return stored[1:]
    expiry_of(stored)
    return stored[_EXPIRING.size :]


def expiry_of(stored: bytes) -> int:
    """When the value ends, in milliseconds since the Unix epoch; 0 if never. Raises `StorageFailed`."""
    if stored and stored[0] == PLAIN:
        return 0
    try:
        kind, expiry_ms = _EXPIRING.unpack_from(stored)
    except error:
        kind, expiry_ms = None, 0
    if kind != EXPIRING:
        raise StorageFailed(
            f"a stored value begins with {stored[:9].hex() or 'nothing'}, which is no kind of record that this version"
            " knows; was it written by a newer one?"
        )
    return int(expiry_ms)
