"""Keys and values of a benchmark: every answer to a read is known beforehand, so every one is checked.

Values look random to a compressor and begin with their key's number, so that no two are the same.
"""

from __future__ import annotations

from random import Random

_KEY_FORMAT = b"key:%012d"
KEY_BYTES = len(_KEY_FORMAT % 0)
_NOISE_BYTES = 1 << 20
_NOISE = Random(1).randbytes(_NOISE_BYTES)
_STRIDE = 7919  # a prime: neighbouring keys get noise from different places


def key_of(number: int) -> bytes:
    """The key with that number."""
    return _KEY_FORMAT % number


def value_of(number: int, size: int) -> bytes:
    """What that key holds: `size` bytes, at least 16."""
    at = number * _STRIDE % (_NOISE_BYTES - size)
    return b"%016d" % number + _NOISE[at + 16 : at + size]
