"""Redis' glob patterns on bytes: `*`, `?`, `[abc]`, `[^a-c]`, `\\x`.

A pattern is a row of conditions on single bytes with stars between them. All ways in which a text may fit so far are
bits of one number, and each byte of the text moves them on at once (Shift-And: Baeza-Yates and Gonnet 1992, with
stars as in Navarro and Raffinot 2002). So a text is read once, whatever the pattern; there is no backtracking.

Caveat: what a byte costs grows with the pattern, and so do the tables that are made of it; hence the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from fortdb.errors import BadRequest
from fortdb.limits import PATTERN_BYTES_MAX

_ANY = range(256)


def compile_glob(pattern: bytes) -> Callable[[bytes], bool]:
    """A function that tells whether a text matches the pattern as a whole. Raises `BadRequest` for a pattern that is
    too long."""
    if len(pattern) > PATTERN_BYTES_MAX:
        raise BadRequest(f"a pattern of {len(pattern)} bytes; at most {PATTERN_BYTES_MAX}")
    allows = [0] * 256  # bit n: the byte fits condition n
    stays = 0  # bit n: any bytes may stand before condition n
    count = 0
    at = 0
    while at < len(pattern):
        if pattern[at] == ord("*"):
            stays |= 1 << count
            at += 1
            continue
        allowed, at = _condition(pattern, at)
        for byte in allowed:
            allows[byte] |= 1 << count
        count += 1
    whole = 1 << count
    certain = whole & stays  # the pattern ends with a star: what comes behind does not matter

    def matches(text: bytes) -> bool:
        state = 1  # bit n: so far, n conditions fit
        for byte in text:
            if state & certain:
                return True
            state = (state & allows[byte]) << 1 | state & stays
            if not state:
                return False
        return state & whole > 0

    return matches


def _condition(pattern: bytes, at: int) -> tuple[Collection[int], int]:
    """The bytes that the condition at a place allows, and where it ends."""
    byte = pattern[at]
    at += 1
    if byte == ord("?"):
        return _ANY, at
    if byte == ord("["):
        return _class(pattern, at)
    if byte == ord("\\") and at < len(pattern):
        byte, at = pattern[at], at + 1
    return (byte,), at


def _class(pattern: bytes, at: int) -> tuple[Collection[int], int]:
    """The bytes that a `[...]` allows, and where it ends; an unclosed one ends with the pattern."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    allowed: set[int] = set()
    while at < len(pattern) and pattern[at] != ord("]"):
        if pattern[at] == ord("\\") and at + 1 < len(pattern):
            at += 1
            allowed.add(pattern[at])
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))
            allowed.update(range(low, high + 1))
            at += 2
        else:
            allowed.add(pattern[at])
        at += 1
    return (allowed ^ {*_ANY} if negated else allowed), at + 1
