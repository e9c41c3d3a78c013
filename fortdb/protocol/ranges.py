"""`RANGE`: its options, and the bounds of what it walks; pure functions.

All keys that begin with a prefix lie in one partition, side by side and in their own order, if the prefix has a
whole `{tag}`: whatever follows it, the tag and with it the token stay the same. Without one they are strewn over
the ring, in no order, and `SCAN ... MATCH prefix*` walks all of it.

`FROM` and `TO` are keys, both included; `(key` leaves the key itself out. Backward, `FROM` is the greater one.
"""

from __future__ import annotations

from dataclasses import dataclass

from fortdb.errors import BadRequest
from fortdb.limits import KEY_BYTES_MAX, PAGE_COUNT, SCAN_COUNT_MAX
from fortdb.protocol.arguments import parse_integer

_SYNTAX = "syntax error: RANGE prefix [FROM key] [TO key] [COUNT n] [VALUES] [REV]"


@dataclass(frozen=True, slots=True)
class RangeOptions:
    """Keys with `start <= key < end` (None: no end), from which end, how many, and whether with their values."""

    start: bytes
    end: bytes | None
    count: int = PAGE_COUNT
    values: bool = False
    backward: bool = False


def has_tag(prefix: bytes) -> bool:
    """Whether all keys that begin so lie in one partition: there is a whole tag, and it is not empty."""
    start = prefix.find(b"{") + 1
    return start > 0 and prefix.find(b"}", start) > start


def after_all(prefix: bytes) -> bytes | None:
    """The first string behind all that begin with the prefix; None if there is none."""
    shorter = prefix.rstrip(b"\xff")
    return shorter[:-1] + bytes((shorter[-1] + 1,)) if shorter else None


def parse_range(args: list[bytes]) -> RangeOptions:
    """Options of `RANGE`. Raises `BadRequest`."""
    prefix = args[1]
    if not has_tag(prefix):
        raise BadRequest(
            "the prefix has no {tag}, so its keys lie all over the ring in no order; give it one, as in"
            " RANGE {cart:7}:, or walk all keys with SCAN 0 MATCH prefix*"
        )
    bounds: dict[bytes, bytes] = {}
    flags: set[bytes] = set()
    count = PAGE_COUNT
    at = 2
    while at < len(args):
        word = args[at].upper()
        if word in (b"VALUES", b"REV"):
            flags.add(word)
            at += 1
            continue
        if at + 1 == len(args):
            raise BadRequest(_SYNTAX)
        if word in (b"FROM", b"TO") and word not in bounds:
            bounds[word] = args[at + 1]
        elif word == b"COUNT":
            count = parse_integer(args[at + 1])
        else:
            raise BadRequest(_SYNTAX)
        at += 2
    if count < 1:
        raise BadRequest("COUNT must be at least 1")
    backward = b"REV" in flags
    start, end = _between(prefix, bounds.get(b"FROM"), bounds.get(b"TO"), backward)
    return RangeOptions(start, end, min(count, SCAN_COUNT_MAX), b"VALUES" in flags, backward)


def _between(
    prefix: bytes, first: bytes | None, last: bytes | None, backward: bool
) -> tuple[bytes, bytes | None]:
    low, high = (last, first) if backward else (first, last)
    for name, bound in ((b"FROM", first), (b"TO", last)):
        if bound is not None:
            _check_bound(name.decode(), bound, prefix)
    start, end = prefix, after_all(prefix)
    if low is not None:
        start = low[1:] + b"\0" if low.startswith(b"(") else low
    if high is not None:
        end = high[1:] if high.startswith(b"(") else high + b"\0"
    return start, end


def _check_bound(name: str, bound: bytes, prefix: bytes) -> None:
    key = bound.removeprefix(b"(")
    if not key.startswith(prefix):
        shown = key[:64].decode("utf-8", "backslashreplace")
        raise BadRequest(f"{name} takes a key that begins with the prefix, and {shown!r} does not")
    if len(key) > KEY_BYTES_MAX:
        raise BadRequest(f"key of {len(key)} bytes is longer than {KEY_BYTES_MAX}")
