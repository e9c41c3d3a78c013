"""Keys that hold records: any number of values, each with an id, in the order in which they were added.

A record lies under a key of its own, beside its key's (`storage/keys.py`); at the key itself stands a head
with the number of records, the first and the newest (`storage/values.py`). So `ADD`, `GET` and `RECORD` cost
the same whatever the number, and `RECORDS` costs what it answers. What nobody waits for is done later, a piece
with every sweep of the node: `DEL` only takes the head away, and says up to which id to clean; ids are never
used again, so a head that comes after it begins above all that is left. A record that has ended is hidden at
once, and taken off the head's number when it is removed.

Records are where their keyspace's policy says so, and only there: a keyspace that has keys does not change
between records and anything else, and a key that was written before the keyspace stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from fortdb.errors import WrongType
from fortdb.limits import CLEAN_BYTES, CLEAN_COUNT, PAGE_BYTES_MAX
from fortdb.model import Policy, RecordId
from fortdb.node import worm
from fortdb.protocol.arguments import check_value
from fortdb.protocol.records import encode_id_text, parse_add, parse_id, parse_page, parse_remove
from fortdb.protocol.resp import NIL, array, bulk, integer
from fortdb.replication.entries import DELETE, FORGET, PUT, Operation
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import (
    ID_MAX,
    ID_MIN,
    data_key_at,
    decode_id,
    encode_id,
    owner_key,
    record_id,
    record_key,
    user_key,
)
from fortdb.storage.values import (
    RecordsHead,
    decode_records,
    encode_records,
    encode_value,
    expiry_of,
    is_records,
    is_worm_record,
    payload_of,
)

if TYPE_CHECKING:
    from fortdb.node.execute import Execution


class Record(NamedTuple):
    """A value and its id."""

    id: RecordId
    value: bytes


def newest(execution: Execution, at: bytes, stored: bytes) -> Record | None:
    """The newest record of the key at `at`, whose head is `stored`; None if all have ended."""
    head = decode_records(stored)
    found = execution.at(record_key(at, head.newest))
    if found is not None and not execution.has_ended(found):
        return Record(head.newest, payload_of(found))
    return next(_live(execution, at, head.first, head.newest, backward=True), None)


def drop(execution: Execution, at: bytes, stored: bytes) -> None:
    """The key at `at` is about to be deleted: have its records cleaned away."""
    until = encode_id(decode_records(stored).newest)
    marker, now_ms = record_key(at, ID_MIN), execution.now_ms
    execution.effect(Operation(PUT, marker, encode_value(until, now_ms), now_ms))


def end_record(execution: Execution, key: bytes, expiry_ms: int) -> None:
    """It was noted that what lies at a record's key ends at `expiry_ms`, and that has come."""
    stored = execution.at(key)
    if stored is None or expiry_of(stored) != expiry_ms:
        execution.effect(Operation(FORGET, key, b"", expiry_ms))
    elif record_id(key) == ID_MIN:
        _clean(execution, key, stored)
    else:
        at = owner_key(key)
        head = execution.at(at)
        if head is not None and is_records(head):
            _take_out(execution, at, decode_records(head), record_id(key), stored)
        else:
            _remove(execution, key, stored)


def end_worm(execution: Execution, key: bytes, expiry_ms: int) -> None:
    """It was noted to look at a WORM record at `expiry_ms`, and that has come."""
    stored = worm.look_again(execution, key, expiry_ms)
    if stored is not None:
        at, record = owner_key(key), record_id(key)
        head = execution.at(at)
        if head is not None and is_records(head):
            _take_out(execution, at, decode_records(head), record, stored)
        else:
            _remove(execution, record_key(at, record), stored)


def _clean(execution: Execution, marker: bytes, stored: bytes) -> None:
    """Remove some of the records that a deleted key left."""
    at, until = owner_key(marker), decode_id(payload_of(stored))
    if sweep_range(execution, record_key(at, RecordId(0, 1)), record_key(at, until) + b"\0"):
        _remove(execution, marker, stored)


def sweep_range(execution: Execution, start: bytes, end: bytes) -> bool:
    """Remove what lies in a range of the engine's keys, or the first of it; whether that was all."""
    size = 0
    for number, (key, value) in enumerate(execution.walk(start, end)):
        if number >= CLEAN_COUNT or size > CLEAN_BYTES:
            return False
        size += len(value)
        _remove(execution, key, value)
    return True


def _remove(execution: Execution, key: bytes, stored: bytes) -> None:
    """Remove what lies under a key of the engine, and the note of its end."""
    execution.effect(Operation(DELETE, key))
    if expiry_ms := expiry_of(stored):
        execution.effect(Operation(FORGET, key, b"", expiry_ms))


def _take_out(execution: Execution, at: bytes, head: RecordsHead, record: RecordId, stored: bytes) -> None:
    """Remove one record, and say so in the head, if it is the head's."""
    _remove(execution, record_key(at, record), stored)
    if record < head.first:
        return
    if head.total == 1:
        execution.effect(Operation(DELETE, at))
        return
    first, last = head.first, head.newest
    if record == last:
        before = next(execution.walk(record_key(at, first), record_key(at, record), backward=True), None)
        assert before is not None, "a head that counts another record has one"
        last = record_id(before[0])
    elif record == first:
        first = RecordId(record.ms, record.number + 1)  # or later: nobody looks for it
    shorter = head._replace(total=head.total - 1, first=first, newest=last)
    execution.effect(Operation(PUT, at, encode_records(shorter)))


def _live(
    execution: Execution, at: bytes, low: RecordId, high: RecordId, backward: bool = False
) -> Iterator[Record]:
    """Records from `low` to `high` that have not ended."""
    for key, stored in execution.walk(record_key(at, low), record_key(at, high) + b"\0", backward):
        if not execution.has_ended(stored):
            yield Record(record_id(key), payload_of(stored))


def _head(execution: Execution, key: bytes) -> RecordsHead | None:
    """The head of a key, None if there is no key. Raises `WrongType` if it holds no records."""
    stored = execution.stored(key)
    if stored is None:
        return None
    if not is_records(stored):
        raise WrongType("Operation against a key holding the wrong kind of value: it holds one value")
    return decode_records(stored)


def _is_last(execution: Execution, at: bytes, expected: RecordId) -> bool:
    """Whether the newest record has this id; 0-0: whether there is none."""
    stored = execution.stored(user_key(at))
    found = None if stored is None else newest(execution, at, stored)
    return (ID_MIN if found is None else found.id) == expected


# --- commands ----------------------------------------------------------------------------------------


def _add(execution: Execution, args: list[bytes]) -> bytes:
    key, value = args[1], args[2]
    check_value(value)
    keyspace = execution.writable(key)
    if keyspace is None or not keyspace.policy.keeps_records:
        raise WrongType(
            "Operation against a key holding the wrong kind of value: the key's keyspace keeps no records; "
            "records are for keys name/... after KEYSPACE CREATE name POLICY records"
        )
    options = parse_add(args, execution.now_ms)
    at = data_key_at(hash_of(key), key)
    head = _head(execution, key)
    if options.if_last is not None and not _is_last(execution, at, options.if_last):
        return NIL
    if keyspace.policy is Policy.WORM:
        added = worm.put(execution, keyspace, at, value, options.expiry_ms)
        first, total = (added, 0) if head is None else (head.first, head.total)
        execution.effect(Operation(PUT, at, encode_records(RecordsHead(0, total + 1, first, added, True))))
        return bulk(encode_id_text(added))
    added = execution.new_id()
    ends_ms = [options.expiry_ms, keyspace.retention_ms and execution.now_ms + keyspace.retention_ms]
    expiry_ms = min(filter(None, ends_ms), default=0)
    execution.effect(Operation(PUT, record_key(at, added), encode_value(value, expiry_ms), expiry_ms))
    if head is None:
        head = RecordsHead(expiry_ms, 1, added, added)
    else:
        last_ms = max(head.ends_ms, expiry_ms) if head.ends_ms and expiry_ms else 0
        head = RecordsHead(last_ms, head.total + 1, head.first, added)
    execution.effect(Operation(PUT, at, encode_records(head)))
    return bulk(encode_id_text(added))


def _record(execution: Execution, args: list[bytes]) -> bytes:
    found = _find(execution, args)
    return NIL if found is None else bulk(payload_of(found[1]))


def _find(execution: Execution, args: list[bytes]) -> tuple[RecordsHead, bytes] | None:
    """The head and the record that `... key id` names, unless it has ended."""
    record = parse_id(args[2])
    head = _head(execution, args[1])
    if head is None or not head.first <= record <= head.newest:
        return None
    stored = execution.at(record_key(data_key_at(hash_of(args[1]), args[1]), record))
    return None if stored is None or execution.has_ended(stored) else (head, stored)


def _records(execution: Execution, args: list[bytes]) -> bytes:
    options = parse_page(args)
    head = _head(execution, args[1])
    if head is None:
        return array([])
    at = data_key_at(hash_of(args[1]), args[1])
    low, high = head.first, head.newest
    if options.backward:
        high = min(high, ID_MAX if options.first is None else options.first)
    else:
        low = max(low, ID_MIN if options.first is None else options.first)
    replies: list[bytes] = []
    size = 0
    for record in islice(_live(execution, at, low, high, options.backward), options.count):
        reply = array([bulk(encode_id_text(record.id)), bulk(record.value)])
        size += len(reply)
        if replies and size > PAGE_BYTES_MAX:
            break
        replies.append(reply)
    return array(replies)


def _record_count(execution: Execution, args: list[bytes]) -> bytes:
    head = _head(execution, args[1])
    return integer(0 if head is None else head.total)


def _remove_record(execution: Execution, args: list[bytes]) -> bytes:
    key, options = args[1], parse_remove(args)
    expected = options.if_last
    execution.writable(key)
    at = data_key_at(hash_of(key), key)
    found = _find(execution, args)
    if found is None or (expected is not None and not _is_last(execution, at, expected)):
        return integer(0)
    head, stored = found
    if is_worm_record(stored):
        worm.remove(execution, at, parse_id(args[2]), stored, options.bypass)
    _take_out(execution, at, head, parse_id(args[2]), stored)
    return integer(1)


HANDLERS = {
    "ADD": _add,
    "RECORD": _record,
    "RECORDS": _records,
    "RECORDCOUNT": _record_count,
    "REMOVE": _remove_record,
}
"""By canonical command name."""
