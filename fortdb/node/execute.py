"""What commands mean: from a request and the data to an answer and the effects on the data.

A handler sees the data through `Execution` and leaves effects there; the leader puts them into its
log. Decisions that depend on state or time (`NX`, `INCR`, an expired TTL) are made here, once, by the
leader, so that replicas only ever put and delete.

Whatever has expired is gone for the reader *and* in the log: the reader's answer waits until the
deletion is committed, so that a later leader with a slower clock cannot bring the value back.
"""

from __future__ import annotations

from collections.abc import Callable

from fortdb.errors import BadRequest
from fortdb.limits import KEY_BYTES_MAX, REPLY_BYTES_MAX, VALUE_BYTES_MAX
from fortdb.protocol.arguments import (
    ExpireOptions,
    parse_expire,
    parse_expire_seconds,
    parse_getex,
    parse_integer,
    parse_set,
)
from fortdb.protocol.resp import NIL, OK, array, bulk, integer
from fortdb.replication.entries import DELETE, FORGET, PUT, Operation
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import data_key_at
from fortdb.storage.values import encode_value, expiry_of, payload_of

Lookup = Callable[[bytes], bytes | None]
"""Data key -> stored value in the engine."""

Overlay = dict[bytes, tuple[Operation, int]]
"""Data key -> its newest effect that is not in the engine yet."""


class Execution:
    """One request's view of a partition, and the effects it leaves."""

    __slots__ = (
        "_commit",
        "_lookup",
        "_overlay",
        "_own",
        "now_ms",
        "operations",
        "saw_uncommitted",
    )

    def __init__(self, lookup: Lookup, overlay: Overlay, now_ms: int, commit: int = 0) -> None:
        """Effects up to the offset `commit` are committed, whether they are in the engine yet or not."""
        self._lookup = lookup
        self._overlay = overlay
        self._commit = commit
        self._own: dict[bytes, Operation] = {}
        self.now_ms = now_ms
        self.operations: list[Operation] = []
        self.saw_uncommitted = False

    def stored(self, key: bytes) -> bytes | None:
        """The stored value of a user key, None if it has none or has expired."""
        at = data_key_at(hash_of(key), key)
        own = self._own.get(at)
        if own is not None:
            return own.value if own.kind == PUT else None
        known = self._overlay.get(at)
        if known is None:
            value = self._lookup(at)
        else:
            if known[1] > self._commit:
                self.saw_uncommitted = True
            value = known[0].value if known[0].kind == PUT else None
        if value is None:
            return None
        expiry_ms = expiry_of(value)
        if expiry_ms and expiry_ms <= self.now_ms:
            self.add(Operation(DELETE, at))
            self.operations.append(Operation(FORGET, at, b"", expiry_ms))
            return None
        return value

    def value(self, key: bytes) -> bytes | None:
        """The user's value of a key."""
        stored = self.stored(key)
        return None if stored is None else payload_of(stored)

    def put(self, key: bytes, value: bytes, expiry_ms: int = 0) -> None:
        """Let the key hold a value, until `expiry_ms` (Unix epoch) when that is not 0."""
        if len(value) > VALUE_BYTES_MAX:
            raise BadRequest(f"string exceeds maximum allowed size ({VALUE_BYTES_MAX} bytes)")
        at = data_key_at(hash_of(key), key)
        self.add(Operation(PUT, at, encode_value(value, expiry_ms), expiry_ms))

    def delete(self, key: bytes) -> None:
        """Let the key hold nothing."""
        self.add(Operation(DELETE, data_key_at(hash_of(key), key)))

    def roll_back(self, count: int) -> None:
        """Take back all effects but the first `count`."""
        if len(self.operations) > count:
            del self.operations[count:]
            self._own = {
                operation.key: operation for operation in self.operations if operation.kind != FORGET
            }

    def add(self, operation: Operation) -> None:
        """Leave an effect."""
        self._own[operation.key] = operation
        self.operations.append(operation)


Handler = Callable[[Execution, list[bytes]], bytes]


def check_keys(keys: list[bytes]) -> None:
    """Raises `BadRequest` for a key that is too long."""
    for key in keys:
        if len(key) > KEY_BYTES_MAX:
            raise BadRequest(f"key of {len(key)} bytes is longer than {KEY_BYTES_MAX}")


def _get(execution: Execution, args: list[bytes]) -> bytes:
    value = execution.value(args[1])
    return NIL if value is None else bulk(value)


def _set(execution: Execution, args: list[bytes]) -> bytes:
    if len(args) == 3:
        execution.put(args[1], args[2])
        return OK
    options = parse_set(args, execution.now_ms)
    stored = None
    if options.is_conditional or options.get or options.keep_ttl:
        stored = execution.stored(options.key)
    payload = None if stored is None else payload_of(stored)
    former = NIL if payload is None else bulk(payload)
    if options.is_conditional and not options.may_replace(payload):
        return former if options.get else NIL
    expiry_ms = options.expiry_ms or 0
    if options.keep_ttl and stored is not None:
        expiry_ms = expiry_of(stored)
    execution.put(options.key, options.value, expiry_ms)
    return former if options.get else OK


def _setnx(execution: Execution, args: list[bytes]) -> bytes:
    if execution.stored(args[1]) is not None:
        return integer(0)
    execution.put(args[1], args[2])
    return integer(1)


def _set_with_seconds(execution: Execution, args: list[bytes]) -> bytes:
    execution.put(args[1], args[3], parse_expire_seconds(args, execution.now_ms))
    return OK


def _getset(execution: Execution, args: list[bytes]) -> bytes:
    former = _get(execution, args)
    execution.put(args[1], args[2])
    return former


def _getdel(execution: Execution, args: list[bytes]) -> bytes:
    value = execution.value(args[1])
    if value is None:
        return NIL
    execution.delete(args[1])
    return bulk(value)


def _getex(execution: Execution, args: list[bytes]) -> bytes:
    options = parse_getex(args, execution.now_ms)
    value = execution.value(args[1])
    if value is None:
        return NIL
    if options.persist:
        execution.put(args[1], value)
    elif options.expiry_ms is not None:
        _expire_at(execution, args[1], value, options.expiry_ms)
    return bulk(value)


def _append(execution: Execution, args: list[bytes]) -> bytes:
    stored = execution.stored(args[1])
    value, expiry_ms = (b"", 0) if stored is None else (payload_of(stored), expiry_of(stored))
    value += args[2]
    execution.put(args[1], value, expiry_ms)
    return integer(len(value))


def _strlen(execution: Execution, args: list[bytes]) -> bytes:
    return integer(len(execution.value(args[1]) or b""))


def _exists(execution: Execution, args: list[bytes]) -> bytes:
    return integer(sum(execution.stored(key) is not None for key in args[1:]))


def _delete(execution: Execution, args: list[bytes]) -> bytes:
    deleted = 0
    for key in args[1:]:
        if execution.stored(key) is not None:
            execution.delete(key)
            deleted += 1
    return integer(deleted)


def _mget(execution: Execution, args: list[bytes]) -> bytes:
    replies, size = [], 0
    for key in args[1:]:
        value = execution.value(key)
        replies.append(NIL if value is None else bulk(value))
        size += len(replies[-1])
        if size > REPLY_BYTES_MAX:
            raise BadRequest(
                f"the answer would be larger than {REPLY_BYTES_MAX} bytes: ask for fewer keys at once"
            )
    return array(replies)


def _mset(execution: Execution, args: list[bytes]) -> bytes:
    for key, value in zip(args[1::2], args[2::2], strict=True):
        execution.put(key, value)
    return OK


def _add(execution: Execution, key: bytes, amount: int) -> bytes:
    stored = execution.stored(key)
    value, expiry_ms = (b"0", 0) if stored is None else (payload_of(stored), expiry_of(stored))
    total = parse_integer(value) + amount
    if not -(1 << 63) <= total < 1 << 63:
        raise BadRequest("increment or decrement would overflow")
    execution.put(key, b"%d" % total, expiry_ms)
    return integer(total)


def _incr(execution: Execution, args: list[bytes]) -> bytes:
    return _add(execution, args[1], 1)


def _decr(execution: Execution, args: list[bytes]) -> bytes:
    return _add(execution, args[1], -1)


def _incrby(execution: Execution, args: list[bytes]) -> bytes:
    return _add(execution, args[1], parse_integer(args[2]))


def _decrby(execution: Execution, args: list[bytes]) -> bytes:
    return _add(execution, args[1], -parse_integer(args[2]))


def _remaining_ms(execution: Execution, key: bytes) -> int:
    """Milliseconds left, -1 without a TTL, -2 without a value."""
    stored = execution.stored(key)
    if stored is None:
        return -2
    expiry_ms = expiry_of(stored)
    return expiry_ms - execution.now_ms if expiry_ms else -1


def _ttl(execution: Execution, args: list[bytes]) -> bytes:
    left_ms = _remaining_ms(execution, args[1])
    return integer(left_ms if left_ms < 0 else (left_ms + 500) // 1000)


def _pttl(execution: Execution, args: list[bytes]) -> bytes:
    return integer(_remaining_ms(execution, args[1]))


def _expiretime(execution: Execution, args: list[bytes]) -> bytes:
    left_ms = _remaining_ms(execution, args[1])
    return integer(left_ms if left_ms < 0 else (execution.now_ms + left_ms + 500) // 1000)


def _pexpiretime(execution: Execution, args: list[bytes]) -> bytes:
    left_ms = _remaining_ms(execution, args[1])
    return integer(left_ms if left_ms < 0 else execution.now_ms + left_ms)


def _expire(execution: Execution, args: list[bytes]) -> bytes:
    options = parse_expire(args, execution.now_ms)
    stored = execution.stored(args[1])
    if stored is None or not _condition_holds(options, expiry_of(stored)):
        return integer(0)
    _expire_at(execution, args[1], payload_of(stored), options.expiry_ms)
    return integer(1)


def _condition_holds(options: ExpireOptions, present_ms: int) -> bool:
    if options.only_if_none and present_ms:
        return False
    if options.only_if_some and not present_ms:
        return False
    if options.only_if_later and (not present_ms or options.expiry_ms <= present_ms):
        return False
    return not (options.only_if_earlier and present_ms and options.expiry_ms >= present_ms)


def _expire_at(execution: Execution, key: bytes, value: bytes, expiry_ms: int) -> None:
    if expiry_ms <= execution.now_ms:
        execution.delete(key)
    else:
        execution.put(key, value, expiry_ms)


def _persist(execution: Execution, args: list[bytes]) -> bytes:
    stored = execution.stored(args[1])
    if stored is None or not expiry_of(stored):
        return integer(0)
    execution.put(args[1], payload_of(stored))
    return integer(1)


def _type(execution: Execution, args: list[bytes]) -> bytes:
    return b"+none\r\n" if execution.stored(args[1]) is None else b"+string\r\n"


HANDLERS: dict[str, Handler] = {
    "GET": _get,
    "SET": _set,
    "SETNX": _setnx,
    "SETEX": _set_with_seconds,
    "PSETEX": _set_with_seconds,
    "GETSET": _getset,
    "GETDEL": _getdel,
    "GETEX": _getex,
    "APPEND": _append,
    "STRLEN": _strlen,
    "EXISTS": _exists,
    "TOUCH": _exists,
    "DEL": _delete,
    "UNLINK": _delete,
    "MGET": _mget,
    "MSET": _mset,
    "INCR": _incr,
    "DECR": _decr,
    "INCRBY": _incrby,
    "DECRBY": _decrby,
    "TTL": _ttl,
    "PTTL": _pttl,
    "EXPIRETIME": _expiretime,
    "PEXPIRETIME": _pexpiretime,
    "EXPIRE": _expire,
    "PEXPIRE": _expire,
    "EXPIREAT": _expire,
    "PEXPIREAT": _expire,
    "PERSIST": _persist,
    "TYPE": _type,
}
"""By canonical command name."""
