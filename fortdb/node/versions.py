"""Keys whose former values are kept: what a key held, and since when.

Each change of a key of such a keyspace writes the new value twice, at the key itself, where everybody reads it
as any other, and as a version beside it, with an id. Versions are numbered from the oldest to the newest
without a gap, and only the oldest are ever removed, so every one is found by reading single keys: one that
held at a moment by bisection, and nothing ever walks. How many there are stands in a head, at ordinal 0.

A version goes when there are more than `KEEP`, or when its successor is older than `RETENTION`: what held at a
moment within the retention can always be told. The present value never goes; that a key was deleted goes with
the last version before it. Trimming is done with the next write, a few versions with each, and by the node's
sweep, for keys that nobody writes any more.

A value that was written before the keyspace kept versions becomes the first one with the first change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fortdb.errors import BadRequest, WrongType
from fortdb.limits import CLEAN_COUNT, PAGE_BYTES_MAX, TRIM_COUNT
from fortdb.model import Keyspace, Policy, RecordId
from fortdb.node import records, worm
from fortdb.protocol.records import encode_id_text, parse_moment, parse_page
from fortdb.protocol.resp import NIL, array, bulk, integer
from fortdb.replication.entries import DELETE, FORGET, PUT, Operation
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import (
    ID_MAX,
    ID_MIN,
    ORDINAL_MAX,
    data_key_at,
    owner_key,
    user_key,
    version_key,
    version_ordinal,
)
from fortdb.storage.values import (
    HistoryHead,
    Version,
    decode_history,
    decode_version,
    encode_history,
    encode_value,
    encode_version,
    expiry_of,
    is_records,
    is_worm_head,
    payload_of,
)

if TYPE_CHECKING:
    from fortdb.node.execute import Execution

_HEAD = 0
_ORDINAL_BYTES = 8


def note(execution: Execution, keyspace: Keyspace, at: bytes, value: bytes | None, ends_ms: int) -> None:
    """The key at `at` is about to hold another value, or None: nothing."""
    head = _head(execution, at)
    if head is None:
        head = _begin(execution, at, value)
        if head is None:
            return
    last = head.last + 1
    _put(execution, at, last, Version(execution.new_id(), value, ends_ms))
    head = HistoryHead(0, head.first, last, value is None)
    _put_head(execution, at, _trimmed(execution, keyspace, at, head, TRIM_COUNT))


def end_version(execution: Execution, key: bytes, expiry_ms: int) -> None:
    """It was noted that what lies at a version's key is due at `expiry_ms`, and that has come."""
    stored = execution.at(key)
    is_due = stored is not None and expiry_of(stored) == expiry_ms
    if stored is not None and is_due and version_ordinal(key) == ORDINAL_MAX:
        _clean(execution, key, stored, expiry_ms)
        return
    execution.effect(Operation(FORGET, key, b"", expiry_ms))
    if stored is not None and is_due:
        _trim(execution, owner_key(key), decode_history(stored))


def value_at(execution: Execution, args: list[bytes]) -> bytes | None:
    """What the key of `GET key AT id` held then."""
    if len(args) != 4 or args[2].upper() != b"AT":
        raise BadRequest("syntax error: GET key [STALE | AT id]")
    key, moment = args[1], parse_moment(args[3])
    at = data_key_at(hash_of(key), key)
    head = _head(execution, at)
    if head is None:
        keyspace = execution.keyspace(key)
        if keyspace is None or keyspace.policy is not Policy.VERSIONS:
            raise WrongType(
                "Operation against a key holding the wrong kind of value: the key's keyspace keeps no versions; "
                "they are kept of keys name/... after KEYSPACE CREATE name POLICY versions"
            )
        return None
    ordinal = _last_until(execution, at, head, moment)
    if ordinal < head.first:
        return None
    version = _version(execution, at, ordinal)
    return None if 0 < version.ends_ms <= moment.ms else version.value


def _begin(execution: Execution, at: bytes, value: bytes | None) -> HistoryHead | None:
    """The history of a key that had none; None if there is nothing to tell."""
    marker = execution.at(version_key(at, ORDINAL_MAX))
    first = 1 if marker is None else int.from_bytes(payload_of(marker)) + 1
    former = execution.at(at)
    if former is None or 0 < expiry_of(former) <= execution.now_ms:
        return None if value is None else HistoryHead(0, first, first - 1, False)
    _put(execution, at, first, Version(execution.new_id(), payload_of(former), expiry_of(former)))
    return HistoryHead(0, first, first, False)


def _trimmed(
    execution: Execution, keyspace: Keyspace, at: bytes, head: HistoryHead, count: int
) -> HistoryHead:
    """What is left of a history once the oldest versions are gone, at most `count` of them."""
    first, retention_ms = head.first, keyspace.retention_ms
    for first in range(head.first, head.last + 1):
        is_too_much = 0 < keyspace.keep <= head.last - first
        if (
            first - head.first == count
            or first == head.last
            or not (is_too_much or _goes_ms(execution, at, first, retention_ms) <= execution.now_ms)
        ):
            break
        execution.effect(Operation(DELETE, version_key(at, first)))
    trim_ms = 0
    if retention_ms and (first < head.last or head.deleted):
        trim_ms = _goes_ms(execution, at, min(first, head.last - 1), retention_ms)
    return HistoryHead(trim_ms, first, head.last, head.deleted)


def _goes_ms(execution: Execution, at: bytes, ordinal: int, retention_ms: int) -> int:
    """When the version before the one after `ordinal` has been kept long enough."""
    return _version(execution, at, ordinal + 1).id.ms + retention_ms if retention_ms else ID_MAX.ms


def _trim(execution: Execution, at: bytes, head: HistoryHead) -> None:
    """Trim the history of a key that was not written since the oldest version had to go."""
    keyspace = execution.keyspace(user_key(at))
    if keyspace is None or keyspace.policy is not Policy.VERSIONS:
        _put_head(execution, at, head._replace(trim_ms=0))
        return
    left = _trimmed(execution, keyspace, at, head, CLEAN_COUNT)
    if left.deleted and left.first == left.last and 0 < left.trim_ms <= execution.now_ms:
        execution.effect(Operation(DELETE, version_key(at, left.last)))
        execution.effect(Operation(DELETE, version_key(at, _HEAD)))
    else:
        _put_head(execution, at, left)


def _clean(execution: Execution, marker: bytes, stored: bytes, expiry_ms: int) -> None:
    """Remove some of the versions that a purged key left."""
    at, until = owner_key(marker), int.from_bytes(payload_of(stored))
    if records.sweep_range(execution, version_key(at, _HEAD + 1), version_key(at, until) + b"\0"):
        execution.effect(Operation(DELETE, marker))
        execution.effect(Operation(FORGET, marker, b"", expiry_ms))


def _head(execution: Execution, at: bytes) -> HistoryHead | None:
    stored = execution.at(version_key(at, _HEAD))
    return None if stored is None else decode_history(stored)


def _put_head(execution: Execution, at: bytes, head: HistoryHead) -> None:
    execution.effect(Operation(PUT, version_key(at, _HEAD), encode_history(head), head.trim_ms))


def _put(execution: Execution, at: bytes, ordinal: int, version: Version) -> None:
    execution.effect(Operation(PUT, version_key(at, ordinal), encode_version(version)))


def _version(execution: Execution, at: bytes, ordinal: int) -> Version:
    stored = execution.at(version_key(at, ordinal))
    assert stored is not None, "a history has no gap"
    return decode_version(stored)


def _last_until(execution: Execution, at: bytes, head: HistoryHead, moment: RecordId) -> int:
    """The ordinal of the last version that is not after an id; the one before the first if there is none."""
    low, high = head.first - 1, head.last
    while low < high:
        middle = (low + high + 1) // 2
        if _version(execution, at, middle).id <= moment:
            low = middle
        else:
            high = middle - 1
    return low


# --- commands ----------------------------------------------------------------------------------------


def _history(execution: Execution, args: list[bytes]) -> bytes:
    options = parse_page(args)
    at = data_key_at(hash_of(args[1]), args[1])
    execution.stored(args[1])  # it may just have ended, and that is part of its history
    head = _head(execution, at)
    if head is None:
        return array([])
    if options.backward:
        last = head.last if options.first is None else _last_until(execution, at, head, options.first)
        ordinals = range(last, head.first - 1, -1)
    else:
        first = head.first
        if options.first is not None and options.first > ID_MIN:
            first = _last_until(execution, at, head, _before(options.first)) + 1
        ordinals = range(first, head.last + 1)
    replies: list[bytes] = []
    size = 0
    for ordinal in ordinals[: options.count]:
        reply = _reply(_version(execution, at, ordinal))
        size += len(reply)
        if replies and size > PAGE_BYTES_MAX:
            break
        replies.append(reply)
    return array(replies)


def _before(record: RecordId) -> RecordId:
    return RecordId(record.ms, record.number - 1) if record.number else RecordId(record.ms - 1, ID_MAX.number)


def _reply(version: Version) -> bytes:
    value = NIL if version.value is None else bulk(version.value)
    return array([bulk(encode_id_text(version.id)), integer(version.id.ms), value, integer(version.ends_ms)])


def _purge(execution: Execution, args: list[bytes]) -> bytes:
    return integer(sum(purge(execution, key) for key in args[1:]))


def purge(execution: Execution, key: bytes) -> bool:
    """Delete a key with its records and its history; whether there was any of it."""
    execution.writable(key)
    return forget(execution, data_key_at(hash_of(key), key))


def forget(execution: Execution, at: bytes) -> bool:
    """The same for a data key, whatever the state of its keyspace. Raises `Immutable` for WORM records."""
    stored, head = execution.at(at), _head(execution, at)
    if stored is not None:
        if is_worm_head(stored):
            raise worm.not_as_a_whole(user_key(at))
        if is_records(stored):
            records.drop(execution, at, stored)
        execution.effect(Operation(DELETE, at))
    if head is not None:
        marker, now_ms = version_key(at, ORDINAL_MAX), execution.now_ms
        until = head.last.to_bytes(_ORDINAL_BYTES)
        execution.effect(Operation(DELETE, version_key(at, _HEAD)))
        execution.effect(Operation(PUT, marker, encode_value(until, now_ms), now_ms))
    return stored is not None or head is not None


HANDLERS = {"HISTORY": _history, "PURGE": _purge}
"""By canonical command name."""
