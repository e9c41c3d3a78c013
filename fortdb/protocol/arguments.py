"""Options of commands, read as Redis reads them, with its errors; pure functions.

Times come in as the options give them and go out as Unix milliseconds; `now_ms` is handed in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fortdb.errors import BadRequest
from fortdb.limits import VALUE_BYTES_MAX
from fortdb.model import TOKEN_SPACE

_INTEGER = re.compile(rb"(?:0|-?[1-9][0-9]{0,18})\Z").match
_SYNTAX = "syntax error"
_INT64 = 1 << 63


def check_value(value: bytes) -> None:
    """Raises `BadRequest` for a value that is too long."""
    if len(value) > VALUE_BYTES_MAX:
        raise BadRequest(f"string exceeds maximum allowed size ({VALUE_BYTES_MAX} bytes)")


def parse_integer(text: bytes) -> int:
    """A 64-bit signed integer in Redis' strict form: no sign but '-', no spaces, no leading zeros."""
    number = int(text) if _INTEGER(text) else _INT64
    if not -_INT64 <= number < _INT64:
        raise BadRequest("value is not an integer or out of range")
    return number


def parse_cursor(text: bytes) -> int:
    """Where a scan goes on: a token, from 0 to 2^64 - 1."""
    if not text.isdigit() or len(text) > 20 or int(text) >= TOKEN_SPACE:
        raise BadRequest("invalid cursor")
    return int(text)


@dataclass(frozen=True, slots=True)
class SetOptions:
    """`SET key value ...`"""

    key: bytes
    value: bytes
    only_if_absent: bool = False
    only_if_present: bool = False
    only_if_equal: bytes | None = None
    get: bool = False
    keep_ttl: bool = False
    expiry_ms: int | None = None

    @property
    def is_conditional(self) -> bool:
        """Whether the value counts only if the key holds something certain."""
        return self.only_if_absent or self.only_if_present or self.only_if_equal is not None

    def may_replace(self, held: bytes | None) -> bool:
        """Whether the condition holds for a key that holds this value (None: nothing)."""
        if self.only_if_absent:
            return held is None
        return held is not None and self.only_if_equal in (None, held)


@dataclass(frozen=True, slots=True)
class GetexOptions:
    """`GETEX key ...`"""

    persist: bool = False
    expiry_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ExpireOptions:
    """`EXPIRE key time ...` and its relatives."""

    expiry_ms: int
    only_if_none: bool = False
    only_if_some: bool = False
    only_if_later: bool = False
    only_if_earlier: bool = False


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """`SCAN cursor ...`"""

    cursor: int
    match: bytes | None = None
    count: int = 10
    type: bytes | None = None


def parse_set(args: list[bytes], now_ms: int) -> SetOptions:
    """Options of `SET`; `ACK` is taken off before."""
    flags: dict[str, bool] = {}
    expiry_ms: int | None = None
    equal: bytes | None = None
    at = 3
    while at < len(args):
        word = args[at].upper()
        at += 1
        if word in _SET_FLAGS:
            flags[_SET_FLAGS[word]] = True
        elif word in _TIMES and at < len(args) and expiry_ms is None:
            expiry_ms = _expiry_ms(word, args[at], now_ms, "set")
            at += 1
        elif word == _IF_EQUAL and at < len(args) and equal is None:
            equal = args[at]
            at += 1
        else:
            raise BadRequest(_SYNTAX)
    options = SetOptions(args[1], args[2], **flags, only_if_equal=equal, expiry_ms=expiry_ms)
    conditions = options.only_if_absent + options.only_if_present + (equal is not None)
    if conditions > 1 or (options.keep_ttl and expiry_ms is not None):
        raise BadRequest(_SYNTAX)
    return options


def ends_with_acknowledgement(args: list[bytes]) -> bool:
    """Whether the last two words of a `SET` are its option `ACK` and what follows it; `ACK` may also be
    what `IFEQ` compares with."""
    return len(args) >= 5 and args[-2].upper() == b"ACK" and _is_option(args, len(args) - 2)


def ends_with_receipt(args: list[bytes]) -> bool:
    """Whether the last word of a `SET` or `ADD` is its option `RECEIPT`, and not the value of the one before."""
    return len(args) >= 4 and args[-1].upper() == b"RECEIPT" and _is_option(args, len(args) - 1)


def tells_former_value(args: list[bytes]) -> bool:
    """Whether a `SET` has the option `GET`."""
    return any(
        word.upper() == b"GET" and _is_option(args, place) for place, word in enumerate(args) if place > 2
    )


def _is_option(args: list[bytes], place: int) -> bool:
    """Whether the word at a place is an option, given which ones of those before it take a value."""
    at = 3
    while at < place:
        word = args[at].upper()
        at += 2 if word in _TAKE_VALUES or word in _TIMES else 1
    return at == place


def parse_getex(args: list[bytes], now_ms: int) -> GetexOptions:
    """Options of `GETEX`."""
    words = [args[2].upper()] if len(args) > 2 else []
    if not words:
        return GetexOptions()
    if words == [b"PERSIST"] and len(args) == 3:
        return GetexOptions(persist=True)
    if words[0] in _TIMES and len(args) == 4:
        return GetexOptions(expiry_ms=_expiry_ms(words[0], args[3], now_ms, "getex"))
    raise BadRequest(_SYNTAX)


def parse_expire_seconds(args: list[bytes], now_ms: int) -> int:
    """When `SETEX key seconds value` or `PSETEX key milliseconds value` lets the key end."""
    name = args[0].lower()
    return _expiry_ms(b"PX" if name == b"psetex" else b"EX", args[2], now_ms, name.decode())


def parse_expire(args: list[bytes], now_ms: int) -> ExpireOptions:
    """`EXPIRE`, `PEXPIRE`, `EXPIREAT`, `PEXPIREAT`: a time in the past is allowed, it deletes."""
    name = args[0].upper()
    number = parse_integer(args[2])
    expiry_ms = number if name.startswith(b"P") else number * 1000
    if not name.endswith(b"AT"):
        expiry_ms += now_ms
    if abs(expiry_ms) >= _INT64:
        raise BadRequest(f"invalid expire time in '{name.decode().lower()}' command")
    words = {word.upper() for word in args[3:]}
    unknown = words - _EXPIRE_FLAGS.keys()
    if unknown:
        raise BadRequest(f"Unsupported option {min(unknown).decode('utf-8', 'backslashreplace')}")
    if b"NX" in words and len(words) > 1:
        raise BadRequest("NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= words:
        raise BadRequest("GT and LT options at the same time are not compatible")
    return ExpireOptions(expiry_ms, **{_EXPIRE_FLAGS[word]: True for word in words})


def parse_scan(args: list[bytes]) -> ScanOptions:
    """Options of `SCAN`."""
    cursor = parse_cursor(args[1])
    match: bytes | None = None
    kind: bytes | None = None
    count = 10
    if len(args) % 2:
        raise BadRequest(_SYNTAX)
    for word, value in zip(args[2::2], args[3::2], strict=True):
        match word.upper():
            case b"MATCH":
                match = value
            case b"TYPE":
                kind = value
            case b"COUNT":
                count = parse_integer(value)
            case _:
                raise BadRequest(_SYNTAX)
    if count < 1:
        raise BadRequest(_SYNTAX)
    return ScanOptions(cursor, match, count, kind)


_IF_EQUAL = b"IFEQ"  # Valkey's compare-and-set, https://valkey.io/commands/set
_TAKE_VALUES = (_IF_EQUAL, b"IFLAST", b"ACK")
_SET_FLAGS = {
    b"NX": "only_if_absent",
    b"XX": "only_if_present",
    b"GET": "get",
    b"KEEPTTL": "keep_ttl",
}
_EXPIRE_FLAGS = {
    b"NX": "only_if_none",
    b"XX": "only_if_some",
    b"GT": "only_if_later",
    b"LT": "only_if_earlier",
}
_TIMES = {
    b"EX": (1000, True),
    b"PX": (1, True),
    b"EXAT": (1000, False),
    b"PXAT": (1, False),
}


def parse_time(word: bytes, value: bytes, now_ms: int, command: str) -> int | None:
    """When `EX seconds` and its relatives let something end; None for another word (in capitals)."""
    return _expiry_ms(word, value, now_ms, command) if word in _TIMES else None


def _expiry_ms(word: bytes, value: bytes, now_ms: int, command: str) -> int:
    unit_ms, is_relative = _TIMES[word]
    number = parse_integer(value)
    expiry_ms = number * unit_ms + (now_ms if is_relative else 0)
    if number <= 0 or expiry_ms >= _INT64:
        raise BadRequest(f"invalid expire time in '{command}' command")
    return expiry_ms
