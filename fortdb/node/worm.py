"""Records that nobody changes or removes before their retention has passed: write once, read many.

They are records as others (`records.py`) of which two kinds of things are known beside them: a note when to look
whether one may go, and holds. A record goes when its retention has passed by the partition's own clock (`ledger.py`)
*and* nothing holds it; until the node's sweep has removed it, in the log, everybody sees it. Whether a record is
protected stands in the record and at its key, not in the keyspace's policy: whoever gets the keyspace out of the
way has not got at the records.

The modes are those of S3 Object Lock (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html): in
governance a user with the right `govern` may shorten a retention or remove a record, saying so with `BYPASS`; in
compliance nobody may. A hold keeps a record whatever its mode and retention, against `BYPASS`, too, until it is
released; it lies on one record or on all of a key, and several of different names do not know each other. Users'
rights are asked at the gate, before a command comes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fortdb.errors import BadRequest, Immutable
from fortdb.limits import CHAIN_BYTES, CHAIN_COUNT, HOLD_CHECK_MS, HOLDS_MAX, TRIM_COUNT
from fortdb.model import Keyspace, Mode, RecordId
from fortdb.node.ledger import (
    ENDED,
    LIVE,
    REMOVED,
    STATES,
    SUPERSEDED,
    Link,
    Outline,
    content_of,
    link_to,
)
from fortdb.protocol.arguments import parse_integer
from fortdb.protocol.records import encode_id_text, parse_hold, parse_id, parse_retain
from fortdb.protocol.resp import NIL, array, bulk, integer
from fortdb.replication.entries import DELETE, FORGET, PUT, Operation
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import (
    GUARD_KIND,
    ID_MIN,
    RECORD_KIND,
    chain_key,
    data_key_at,
    due_key,
    hold_key,
    hold_name,
    owner_key,
    record_id,
    record_key,
    user_key,
)
from fortdb.storage.values import (
    WormRecord,
    decode_worm,
    encode_value,
    encode_worm,
    expiry_of,
    is_worm_head,
    is_worm_record,
)

if TYPE_CHECKING:
    from fortdb.node.execute import Execution

_INT64 = 1 << 63
_MODES = (Mode.GOVERNANCE.value.encode(), Mode.COMPLIANCE.value.encode())


def not_as_a_whole(key: bytes) -> Immutable:
    """The refusal to delete a key with all that it holds."""
    shown = key[:64].decode("utf-8", "backslashreplace")
    return Immutable(
        f"{shown} holds WORM records: they go one by one when their retention has passed and nothing holds them"
    )


def put(execution: Execution, keyspace: Keyspace, at: bytes, value: bytes, expiry_ms: int) -> RecordId:
    """Add a record, without its link and without the key's head."""
    keep_ms = keyspace.retention_ms
    if expiry_ms:
        if expiry_ms - execution.now_ms < keep_ms:
            raise BadRequest(
                f"records of keyspace {keyspace.name} are kept for {keep_ms} ms; EX and its kin may lengthen that only"
            )
        keep_ms = expiry_ms - execution.now_ms
    until_ms = _clock(execution) + keep_ms
    if until_ms >= _INT64:
        raise BadRequest("invalid expire time in 'add' command")
    added = execution.new_id()
    record = WormRecord(until_ms, keyspace.mode is Mode.COMPLIANCE, value)
    _put(execution, at, added, record)
    _look_at(execution, due_key(at, added), execution.now_ms + keep_ms)
    return added


def remove(execution: Execution, at: bytes, record: RecordId, stored: bytes, bypass: bool) -> None:
    """The record is about to be removed: take away what is beside it. Raises `Immutable` if it must stay."""
    held = decode_worm(stored)
    if _is_held(execution, at, record):
        raise Immutable("the record is held; it stays until RELEASE")
    is_over = held.until_ms <= _clock(execution)
    if not is_over:
        _check_bypass(held, bypass)
    _forget(execution, at, record)
    _mark(execution, held.ordinal, ENDED if is_over else REMOVED)


def look_again(execution: Execution, key: bytes, expiry_ms: int) -> bytes | None:
    """It was noted to look at a WORM record at `expiry_ms`, and that has come. What is stored of it, if it may go; all
    beside it is taken away then."""
    stored = execution.at(key)
    execution.effect(Operation(FORGET, key, b"", expiry_ms))
    if stored is None or expiry_of(stored) != expiry_ms:
        return None
    at, record = owner_key(key), record_id(key)
    found = execution.at(record_key(at, record))
    if found is None or not is_worm_record(found):
        execution.effect(Operation(DELETE, key))
        return None
    held = decode_worm(found)
    left_ms = held.until_ms - _clock(execution)
    if left_ms > 0 or _is_held(execution, at, record):
        _look_at(execution, key, execution.now_ms + (left_ms if left_ms > 0 else HOLD_CHECK_MS))
        return None
    execution.effect(Operation(DELETE, key))
    _mark(execution, held.ordinal, ENDED)
    return found


def link(execution: Execution, trim_count: int = TRIM_COUNT) -> None:
    """Chain the WORM records among the effects, now that no more are to come; write the retention clock, and remove
    links from the front of the chain."""
    outline = _outline(execution)
    for operation in list(execution.operations):
        if operation.kind != PUT or operation.key[:1] != RECORD_KIND or not is_worm_record(operation.value):
            continue
        held = decode_worm(operation.value)
        if held.ordinal or execution.at(operation.key) != operation.value:
            continue  # it was removed, or written again, by the same transaction
        at, record, ordinal = owner_key(operation.key), record_id(operation.key), outline.last + 1
        made = link_to(outline.head, ordinal, user_key(at), record, held)
        linked = encode_worm(held._replace(ordinal=ordinal, chain=made.chain))
        execution.effect(Operation(PUT, operation.key, linked))
        execution.effect(Operation(PUT, chain_key(execution.ledger.partition, ordinal), made.encode()))
        outline = outline._replace(last=ordinal, head=made.chain)
    clock_ms = max(_clock(execution), outline.clock_ms)
    execution.ledger.written(clock_ms)
    outline = _trimmed(execution, outline._replace(clock_ms=clock_ms), trim_count)
    execution.effect(Operation(PUT, chain_key(execution.ledger.partition, 0), outline.encode()))


def wants_links(operations: Sequence[Operation]) -> bool:
    """Whether effects that come from elsewhere are on WORM records."""
    return any(operation.key[:1] == GUARD_KIND for operation in operations)


# --- the parts -----------------------------------------------------------------------------------------


def _clock(execution: Execution) -> int:
    return execution.ledger.now_ms(execution.now_ms)


def _put(execution: Execution, at: bytes, record: RecordId, held: WormRecord) -> None:
    """Write a record; `link` gives it its place."""
    unlinked = encode_worm(held._replace(ordinal=0, chain=bytes(32)))
    execution.effect(Operation(PUT, record_key(at, record), unlinked))
    execution.wants_links = True


def _look_at(execution: Execution, key: bytes, moment_ms: int) -> None:
    execution.effect(Operation(PUT, key, encode_value(b"", moment_ms), moment_ms))


def _forget(execution: Execution, at: bytes, record: RecordId) -> None:
    """Take away the note when to look at a record."""
    key = due_key(at, record)
    stored = execution.at(key)
    if stored is not None:
        execution.effect(Operation(DELETE, key))
        execution.effect(Operation(FORGET, key, b"", expiry_of(stored)))


def _mark(execution: Execution, ordinal: int, state: int) -> None:
    """Say in a link what became of its record; the key goes with it."""
    execution.wants_links = True
    key = chain_key(execution.ledger.partition, ordinal)
    stored = execution.at(key) if ordinal else None
    if stored is not None:
        marked = Link.decode(stored)._replace(state=state, key=b"")
        execution.effect(Operation(PUT, key, marked.encode()))


def _is_held(execution: Execution, at: bytes, record: RecordId) -> bool:
    return any(True for _ in _holds(execution, at, record)) or any(
        True for _ in _holds(execution, at, ID_MIN)
    )


def _holds(execution: Execution, at: bytes, record: RecordId) -> list[bytes]:
    """The names of the holds on one record, or (0-0) on all of a key."""
    start = hold_key(at, record, b"")
    end = hold_key(at, RecordId(record.ms, record.number + 1), b"")
    return [hold_name(at, key) for key, _ in execution.walk(start, end)]


def _check_bypass(held: WormRecord, bypass: bool) -> None:
    if held.is_compliance:
        raise Immutable(
            f"the record is kept until {held.until_ms} (Unix ms), in mode compliance: by everybody"
        )
    if not bypass:
        raise Immutable(
            f"the record is kept until {held.until_ms} (Unix ms); in mode governance BYPASS overrides that"
        )


def _outline(execution: Execution) -> Outline:
    stored = execution.at(chain_key(execution.ledger.partition, 0))
    return Outline() if stored is None else Outline.decode(stored)


def _trimmed(execution: Execution, outline: Outline, count: int) -> Outline:
    """The outline without the links in front whose records are no more, at most `count` of them. The last stays."""
    partition, first, before = execution.ledger.partition, outline.first, outline.before
    while first < outline.last and first < outline.first + count:
        stored = execution.at(chain_key(partition, first))
        link = None if stored is None else Link.decode(stored)
        if link is None or link.state == LIVE:
            break  # one that is missing is for `CHAIN` to tell
        execution.effect(Operation(DELETE, chain_key(partition, first)))
        first, before = first + 1, link.chain
    return outline._replace(first=first, before=before)


# --- commands ------------------------------------------------------------------------------------------


def _found(execution: Execution, key: bytes, record: RecordId) -> tuple[bytes, bytes] | None:
    """Where a key lies and what its WORM record of that id is stored as."""
    at = data_key_at(hash_of(key), key)
    stored = execution.at(record_key(at, record))
    return None if stored is None or not is_worm_record(stored) else (at, stored)


def _hold(execution: Execution, args: list[bytes]) -> bytes:
    record, name = parse_hold(args)
    at = data_key_at(hash_of(args[1]), args[1])
    execution.writable(args[1])
    if not _is_there(execution, at, record):
        return integer(0)
    holds = _holds(execution, at, record)
    if name not in holds:
        if len(holds) >= HOLDS_MAX:
            raise BadRequest(f"there are {HOLDS_MAX} holds on it already; RELEASE one")
        execution.effect(Operation(PUT, hold_key(at, record, name), encode_value(b"")))
    return integer(1)


def _is_there(execution: Execution, at: bytes, record: RecordId) -> bool:
    """Whether there is something to hold: the record, or (0-0) any."""
    if record != ID_MIN:
        return _found(execution, user_key(at), record) is not None
    head = execution.at(at)
    return head is not None and is_worm_head(head)


def _release(execution: Execution, args: list[bytes]) -> bytes:
    record, name = parse_hold(args)
    at = data_key_at(hash_of(args[1]), args[1])
    execution.writable(args[1])
    key = hold_key(at, record, name)
    if execution.at(key) is None:
        return integer(0)
    execution.effect(Operation(DELETE, key))
    due = execution.at(due_key(at, record))
    if due is not None:  # it may have been due for long, and is looked at rarely while it is held
        _forget(execution, at, record)
        _look_at(execution, due_key(at, record), min(expiry_of(due), execution.now_ms + 1))
    return integer(1)


def _retain(execution: Execution, args: list[bytes]) -> bytes:
    record, (until_ms, bypass) = parse_id(args[2]), parse_retain(args)
    execution.writable(args[1])
    found = _found(execution, args[1], record)
    if found is None:
        return integer(0)
    at, stored = found
    held = decode_worm(stored)
    if until_ms < held.until_ms:
        _check_bypass(held, bypass)
        if _is_held(execution, at, record):
            raise Immutable("the record is held; its retention is not shortened before RELEASE")
    if until_ms != held.until_ms:
        _mark(execution, held.ordinal, SUPERSEDED)
        _put(execution, at, record, held._replace(until_ms=until_ms))
        _forget(execution, at, record)
        _look_at(execution, due_key(at, record), execution.now_ms + max(until_ms - _clock(execution), 0))
    return integer(1)


def _record_info(execution: Execution, args: list[bytes]) -> bytes:
    """`RECORDINFO key id`: what keeps a record, and its place in the chain, as names and values."""
    record = parse_id(args[2])
    found = _found(execution, args[1], record)
    if found is None:
        return NIL
    at, stored = found
    held = decode_worm(stored)
    holds = [*_holds(execution, at, record), *(b"*" + name for name in _holds(execution, at, ID_MIN))]
    return array(
        [
            *(bulk(b"mode"), bulk(_MODES[held.is_compliance])),
            *(bulk(b"until"), integer(held.until_ms)),
            *(bulk(b"holds"), array([bulk(name) for name in holds])),
            *(bulk(b"content"), bulk(content_of(args[1], record, held.value).hex().encode())),
            *(bulk(b"ordinal"), integer(held.ordinal)),
            *(bulk(b"chain"), bulk(held.chain.hex().encode())),
        ]
    )


def _chain(execution: Execution, args: list[bytes]) -> bytes:
    """`CHAIN partition ordinal`: the chain's outline, and links from an ordinal on with what is found of their
    records now. Whoever asks does the sums."""
    partition, start = parse_integer(args[1]), parse_integer(args[2])
    if partition != execution.ledger.partition:
        raise BadRequest(f"partition {partition} is not the one that was asked")
    outline = _outline(execution)
    start = max(start, outline.first)
    replies: list[bytes] = []
    size = 0
    for key, stored in execution.walk(chain_key(partition, start), chain_key(partition, outline.last + 1)):
        link, ordinal = Link.decode(stored), int.from_bytes(key[-8:])
        found, read_bytes = _finding(execution, ordinal, link)
        size += read_bytes + len(stored)
        replies.append(
            array(
                [
                    integer(ordinal),
                    bulk(STATES[link.state] if link.state < len(STATES) else b"unknown"),
                    bulk(_MODES[link.is_compliance]),
                    integer(link.until_ms),
                    bulk(encode_id_text(link.id)),
                    bulk(link.content),
                    bulk(link.chain),
                    bulk(link.key),
                    bulk(found),
                ]
            )
        )
        if len(replies) >= CHAIN_COUNT or size > CHAIN_BYTES:
            break
    head = [integer(outline.first), integer(outline.last), bulk(outline.before), bulk(outline.head)]
    return array([*head, integer(outline.clock_ms), array(replies)])


def _finding(execution: Execution, ordinal: int, link: Link) -> tuple[bytes, int]:
    """What is wrong with a link's record, empty if nothing is; and how many bytes were read to tell."""
    if link.state != LIVE:
        is_early = link.state == ENDED and link.until_ms > _outline(execution).clock_ms
        return b"the record was removed before its retention had passed" if is_early else b"", 0
    found = _found(execution, link.key, link.id)
    if found is None:
        return b"the record is missing, or is no WORM record", 0
    held = decode_worm(found[1])
    if content_of(link.key, link.id, held.value) != link.content:
        return b"the record's key, id or value is not what was written", len(found[1])
    named = (held.ordinal, held.chain, held.until_ms, held.is_compliance)
    if named != (ordinal, link.chain, link.until_ms, link.is_compliance):
        return b"the record's retention or place in the chain is not what was written", len(found[1])
    return b"", len(found[1])


HANDLERS = {
    "HOLD": _hold,
    "RELEASE": _release,
    "RETAIN": _retain,
    "RECORDINFO": _record_info,
    "CHAIN": _chain,
}
"""By canonical command name."""
