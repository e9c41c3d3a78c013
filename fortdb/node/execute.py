"""What commands mean: from a request and the data to an answer and the effects on the data.

A handler sees the data through `Execution` and leaves effects there; the leader puts them into its
log. Decisions that depend on state or time (`NX`, `INCR`, an expired TTL) are made here, once, by the
leader, so that replicas only ever put and delete.

Whatever has expired is gone for the reader *and* in the log: the reader's answer waits until the
deletion is committed, so that a later leader with a slower clock cannot bring the value back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from fortdb.errors import BadRequest, Busy, WrongType
from fortdb.limits import (
    KEY_BYTES_MAX,
    LOOK_BYTES,
    READ_BYTES,
    READ_BYTES_MAX,
    REPLY_BYTES_MAX,
    WALK_BYTES_MAX,
    WALK_KEYS_MAX,
    WALK_KEYS_MIN,
)
from fortdb.model import Keyspace, Policy, RecordId, keyspace_name
from fortdb.node import ranges, records, versions, worm
from fortdb.node.ledger import Ledger
from fortdb.protocol.arguments import (
    ExpireOptions,
    check_value,
    parse_expire,
    parse_expire_seconds,
    parse_getex,
    parse_integer,
    parse_set,
)
from fortdb.protocol.resp import NIL, OK, array, bulk, integer
from fortdb.replication.entries import DELETE, FORGET, PUT, Operation
from fortdb.ring.tokens import hash_of
from fortdb.storage.engine import Engine
from fortdb.storage.keys import GUARD_KIND, RECORD_KIND, VERSION_KIND, data_key_at, user_key
from fortdb.storage.values import encode_value, expiry_of, is_records, is_worm_head, payload_of, type_name

Lookup = Callable[[bytes], bytes | None]
"""Data key -> stored value in the engine."""

Overlay = dict[bytes, tuple[Operation, int]]
"""Data key -> its newest effect that is not in the engine yet."""

_SORTING_LOOKS = 8  # as many comparisons does it take to put a key in its order, about


class Around(NamedTuple):
    """What a partition's requests have in common besides its data."""

    engine: Engine
    policies: Mapping[bytes, Keyspace]
    """Keyspaces that ask for anything special, by name."""
    new_id: Callable[[int], RecordId]
    """Of the leader, for what is added at a time."""
    ledger: Ledger
    """The partition's chain and retention clock."""


class Execution:
    """One request's view of a partition, and the effects it leaves."""

    __slots__ = (
        "_before",
        "_commit",
        "_engine",
        "_lookup",
        "_new_id",
        "_overlay",
        "_own",
        "_policies",
        "ledger",
        "left_bytes",
        "now_ms",
        "operations",
        "saw_uncommitted",
        "wants_links",
    )

    def __init__(self, around: Around, overlay: Overlay, now_ms: int, commit: int = 0) -> None:
        """Effects up to the offset `commit` are committed, whether they are in the engine yet or not."""
        self._engine, self._policies, self._new_id, self.ledger = around
        self._lookup: Lookup = self._engine.get
        self._overlay = overlay
        self._commit = commit
        self._own: dict[bytes, Operation] = {}
        self._before: list[Operation | None] = []  # what `_own` had before each operation
        self.now_ms = now_ms
        self.left_bytes = 1 << 62  # that may yet be read; see `bound`
        self.operations: list[Operation] = []
        self.saw_uncommitted = False
        self.wants_links = False  # for WORM records that it writes

    def bound(self) -> Execution:
        """For a request of somebody else: it may look at no more than `READ_BYTES_MAX`."""
        self.left_bytes = READ_BYTES_MAX
        return self

    def at(self, at: bytes) -> bytes | None:
        """What lies under a key of the engine, ended or not. Raises `BadRequest` if the request has read too much."""
        self._check_read()
        found = self._newest(at)
        self.left_bytes -= READ_BYTES if found is None else READ_BYTES + len(found)
        return found

    def _check_read(self) -> None:
        if self.left_bytes < 0:
            raise BadRequest(
                f"the request looks at values of more than {READ_BYTES_MAX} bytes: name fewer keys at once, "
                "or put fewer commands into one transaction"
            )

    def _newest(self, at: bytes) -> bytes | None:
        own = self._own.get(at)
        if own is not None:
            return own.value if own.kind == PUT else None
        known = self._overlay.get(at)
        if known is None:
            return self._lookup(at)
        if known[1] > self._commit:
            self.saw_uncommitted = True
        return known[0].value if known[0].kind == PUT else None

    def stored(self, key: bytes) -> bytes | None:
        """The stored value of a user key, None if it has none or has expired."""
        at = data_key_at(hash_of(key), key)
        value = self.at(at)
        if value is None:
            return None
        expiry_ms = expiry_of(value)
        if expiry_ms and expiry_ms <= self.now_ms:
            self.end(key, at, expiry_ms)
            return None
        return value

    def end(self, key: bytes, at: bytes, expiry_ms: int) -> None:
        """A user key has expired: it holds nothing from now on."""
        keyspace = self.keyspace(key)
        if keyspace is not None and keyspace.policy is Policy.VERSIONS:
            versions.note(self, keyspace, at, None, 0)
        self.effect(Operation(DELETE, at))
        self.effect(Operation(FORGET, at, b"", expiry_ms))

    def has_ended(self, stored: bytes) -> bool:
        """Whether a value under a key that is no user key has expired. Who hides it waits until the log's time is
        past that, so that no later leader shows it again."""
        if not 0 < expiry_of(stored) <= self.now_ms:
            return False
        if not self.operations:
            self.effect(Operation(FORGET, b"", b"", self.now_ms))
        return True

    def walk(self, start: bytes, end: bytes, backward: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """What lies under the engine's keys in a range, in their order or backward: what it was when the walk
        began. As far as it is read; each piece that the engine is asked for is larger than the one before.
        Raises `BadRequest` if the request has read too much, whether it was given that or not."""
        changed = self._changed(start, end)
        order = deque(sorted(changed, reverse=backward))
        for key, value in self._pieces(start, end, backward):
            while order and (order[0] > key if backward else order[0] < key):
                if (other := changed[order[0]]) is not None:
                    yield order[0], other
                order.popleft()
            if order and order[0] == key:
                order.popleft()
                if (newer := changed[key]) is not None:
                    yield key, newer
            else:
                yield key, value
        for key in order:
            if (other := changed[key]) is not None:
                yield key, other

    def _changed(self, start: bytes, end: bytes) -> dict[bytes, bytes | None]:
        """What the effects in a range leave there that are not in the engine yet. For that all are looked at."""
        self._check_read()
        changed: dict[bytes, bytes | None] = {}
        for key, (operation, offset) in self._overlay.items():
            if start <= key < end:
                changed[key] = operation.value if operation.kind == PUT else None
                self.saw_uncommitted |= offset > self._commit
        for key, operation in self._own.items():
            if start <= key < end:
                changed[key] = operation.value if operation.kind == PUT else None
        looks = len(self._overlay) + len(self._own) + _SORTING_LOOKS * len(changed)
        self.left_bytes -= LOOK_BYTES * looks
        return changed

    def _pieces(self, start: bytes, end: bytes, backward: bool) -> Iterator[tuple[bytes, bytes]]:
        count = WALK_KEYS_MIN
        scan = self._engine.scan_backward if backward else self._engine.scan
        while piece := scan(start, end, count, WALK_BYTES_MAX):
            self._check_read()
            self.left_bytes -= sum(READ_BYTES + len(value) for _, value in piece)
            yield from piece
            if backward:
                end = piece[-1][0]
            else:
                start = piece[-1][0] + b"\0"
            count = min(count * 4, WALK_KEYS_MAX)

    def value(self, key: bytes) -> bytes | None:
        """The user's value of a key."""
        stored = self.stored(key)
        return None if stored is None else payload_of(stored)

    def put(self, key: bytes, value: bytes, expiry_ms: int = 0) -> None:
        """Let the key hold a value, until `expiry_ms` (Unix epoch) when that is not 0."""
        check_value(value)
        at = data_key_at(hash_of(key), key)
        if self._policies and (keyspace := self.writable(key)) is not None:
            if keyspace.policy.keeps_records:
                raise WrongType(
                    "Operation against a key holding the wrong kind of value: "
                    f"keyspace {keyspace.name} keeps records; use ADD"
                )
            if keyspace.policy is Policy.VERSIONS:
                versions.note(self, keyspace, at, value, expiry_ms)
        self.effect(Operation(PUT, at, encode_value(value, expiry_ms), expiry_ms))

    def delete(self, key: bytes, stored: bytes) -> None:
        """Let the key hold nothing; `stored` is what it holds. Raises `Immutable` for WORM records: what they are
        stands at the key itself, and does not depend on what the keyspace says now."""
        at = data_key_at(hash_of(key), key)
        if is_worm_head(stored):
            raise worm.not_as_a_whole(key)
        if self._policies and (keyspace := self.writable(key)) is not None:
            if keyspace.policy is Policy.VERSIONS:
                versions.note(self, keyspace, at, None, 0)
            elif is_records(stored):
                records.drop(self, at, stored)
        self.effect(Operation(DELETE, at))

    def roll_back(self, count: int) -> None:
        """Take back all effects but the first `count`."""
        while len(self.operations) > count:
            operation, before = self.operations.pop(), self._before.pop()
            if before is not None:
                self._own[operation.key] = before
            elif operation.kind != FORGET:
                del self._own[operation.key]

    def keyspace(self, key: bytes) -> Keyspace | None:
        """The keyspace of a key, if it asks for anything special."""
        return self._policies.get(keyspace_name(key)) if self._policies else None

    def writable(self, key: bytes) -> Keyspace | None:
        """The same, for a write. Raises `Busy` while the keyspace's policy is about to change."""
        keyspace = self.keyspace(key)
        if keyspace is not None and keyspace.closed:
            raise Busy(f"the policy of keyspace {keyspace.name} is being changed; try again")
        return keyspace

    def new_id(self) -> RecordId:
        """An id for something that is added; greater than all that there are."""
        return self._new_id(self.now_ms)

    def effect(self, operation: Operation) -> None:
        """Leave an effect on a key of the engine."""
        before = None
        if operation.kind != FORGET:
            before = self._own.get(operation.key)
            self._own[operation.key] = operation
        self.operations.append(operation)
        self._before.append(before)


Handler = Callable[[Execution, list[bytes]], bytes]


def check_keys(keys: list[bytes]) -> None:
    """Raises `BadRequest` for a key that is too long."""
    for key in keys:
        if len(key) > KEY_BYTES_MAX:
            raise BadRequest(f"key of {len(key)} bytes is longer than {KEY_BYTES_MAX}")


def _readable(execution: Execution, key: bytes) -> bytes | None:
    """What `GET` answers: the value, or the newest record."""
    stored = execution.stored(key)
    if stored is None or not is_records(stored):
        return None if stored is None else payload_of(stored)
    found = records.newest(execution, data_key_at(hash_of(key), key), stored)
    return None if found is None else found.value


def _get(execution: Execution, args: list[bytes]) -> bytes:
    value = _readable(execution, args[1]) if len(args) == 2 else versions.value_at(execution, args)
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
    former = execution.value(args[1])
    execution.put(args[1], args[2])
    return NIL if former is None else bulk(former)


def _getdel(execution: Execution, args: list[bytes]) -> bytes:
    stored = execution.stored(args[1])
    if stored is None:
        return NIL
    value = payload_of(stored)
    execution.delete(args[1], stored)
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
        if (stored := execution.stored(key)) is not None:
            execution.delete(key, stored)
            deleted += 1
    return integer(deleted)


def _mget(execution: Execution, args: list[bytes]) -> bytes:
    replies, size = [], 0
    for key in args[1:]:
        value = _readable(execution, key)
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
        execution.delete(key, encode_value(value))
    else:
        execution.put(key, value, expiry_ms)


def _persist(execution: Execution, args: list[bytes]) -> bytes:
    stored = execution.stored(args[1])
    if stored is None or not expiry_of(stored):
        return integer(0)
    execution.put(args[1], payload_of(stored))
    return integer(1)


def _type(execution: Execution, args: list[bytes]) -> bytes:
    stored = execution.stored(args[1])
    return b"+none\r\n" if stored is None else b"+%b\r\n" % type_name(stored)


def end(execution: Execution, key: bytes, expiry_ms: int) -> None:
    """It was noted that what lies under a key of the engine ends at `expiry_ms`, and that has come."""
    kind = key[:1]
    if kind == RECORD_KIND:
        records.end_record(execution, key, expiry_ms)
    elif kind == VERSION_KIND:
        versions.end_version(execution, key, expiry_ms)
    elif kind == GUARD_KIND:
        records.end_worm(execution, key, expiry_ms)
    else:
        stored = execution.at(key)
        if stored is not None and expiry_of(stored) == expiry_ms:
            execution.end(user_key(key), key, expiry_ms)
        else:
            execution.effect(Operation(FORGET, key, b"", expiry_ms))


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
    **ranges.HANDLERS,
    **records.HANDLERS,
    **versions.HANDLERS,
    **worm.HANDLERS,
}
"""By canonical command name."""
