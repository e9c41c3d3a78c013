"""Transactions at the leader of a partition: `WATCH`, `EXEC`, and the parts of one over several partitions.

All commands of a transaction run on one `Execution`: each sees the effects of those before it, and nobody else
sees any before the last has run, because a node executes one request at a time. The effects go into the log as
those of one request do, in one entry and under one id, so that they are committed together and a copy of the
request gets the former answer. A command that fails takes its own effects back and no others, as in Redis.

Whether a watched key was written since `WATCH` is read from the log, which holds every write in order and is the
same on every replica: nothing is kept in memory for a watcher, and a failover changes nothing. A version names
the last entry of that time by epoch and offset; two logs that share such an entry share all before it (Log
Matching, Raft section 5.3), so a version whose entry was lost in a failover is recognised. Where the log does not
reach back that far, or more was written since than is worth reading, the key counts as written: the client's
answer is nil as if it had been, and it tries again.

Over several partitions a router leads through two phases (`router/transactions.py`). All partitions but one, the
*home*, `prepare`: they execute their part, answer, keep the effects in a record and lock the keys. The home then
executes its own part and decides, in one entry (`commit`): that entry is the moment at which all is executed. The
others `finish`: they show the effects, or forget them, and unlock. If nobody commits, whoever asks the home for
the decision (`net/recovery.py`) makes one (`resolve`): abort, in a record that refuses a commit which comes late. Such a record is
kept until the time in the home's log is so late that the commit is refused for its age: both are compared with
the same log, so no two clocks have to agree. Sources: two-phase commit with the last agent as coordinator, Gray
and Reuter 1993, section 10.4; decisions as replicated records that anybody may resolve: Percolator 2010,
Spanner 2012.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from fortdb.errors import Aborted, Answer, BadRequest, Busy, FortError, OutcomeUnknown
from fortdb.limits import DECISIONS_MAX, TRANSACTION_BYTES_MAX, TRANSACTION_MS_MAX, WATCH_LOG_BYTES_MAX
from fortdb.node import worm
from fortdb.node.execute import HANDLERS, Execution
from fortdb.node.locks import Decision, LockTable, Prefix, Prepared, Wanted
from fortdb.protocol.commands import Command, keys_of, lookup, unknown_command
from fortdb.protocol.resp import NIL_ARRAY, OK, array, bulk, integer
from fortdb.protocol.transactions import BUNDLE_AT, Bundle
from fortdb.replication.entries import DELETE, FORGET, PUT, Operation, decode_entry
from fortdb.replication.leader import Leader
from fortdb.ring.tokens import hash_of
from fortdb.storage.engine import Engine
from fortdb.storage.keys import data_key_at, transaction_key

_FEW_KEYS = 16  # are looked for in an entry's bytes before it is decoded


class Place(NamedTuple):
    """Where a transaction, or a part of one, is executed."""

    execution: Execution
    engine: Engine
    leader: Leader
    locks: LockTable


def wanted_by(command: Command, args: list[bytes], locks: LockTable) -> Wanted:
    """The keys that a request is about, a whole transaction's, too. A `SCAN` is about those that are locked now:
    they may be part of what was committed before it began; later ones are not."""
    at = BUNDLE_AT.get(command.name)
    if at is not None:
        return frozenset(Bundle.decode(args[at:]).keys)
    if command.name == "RANGE":
        return Prefix(args[1])
    if command.name == "SCAN":
        return frozenset(locks.locked)
    return frozenset(keys_of(command, args) if command.first_key else ())


def _watch(place: Place, args: list[bytes]) -> bytes:
    """The versions of keys, an array. An entry that is being built and holds one of them is closed: what comes
    after is to be told apart from it."""
    leader, keys = place.leader, args[1:]
    if leader.proposal and any(_is_proposed(leader, key) for key in keys):
        leader.seal(place.execution.now_ms)
    shape = leader.log.shape
    version = bulk(b"%d:%d" % (shape.epoch_at(shape.last_offset), shape.last_offset))
    return array([version] * len(keys))


def _is_proposed(leader: Leader, key: bytes) -> bool:
    known = leader.overlay.get(data_key_at(hash_of(key), key))
    return known is not None and known[1] == leader.next_offset


def _exec(place: Place, args: list[bytes]) -> bytes:
    return execute(place, Bundle.decode(args[BUNDLE_AT["EXEC"] :]))


def execute(place: Place, bundle: Bundle) -> bytes:
    """The answer to a whole transaction; nil, and no effects, if a watched key was written. Raises `BadRequest`,
    with no effects either, for one that is too large."""
    execution = place.execution
    if bundle.watched and was_written(execution, bundle.watched, place.engine, place.leader):
        execution.roll_back(0)
        return NIL_ARRAY
    replies: list[bytes] = []
    size = 0
    for args in bundle.commands:
        begun = len(execution.operations)
        replies.append(_reply(execution, args))
        size += len(replies[-1]) + _bytes_of(execution.operations[begun:])
        if size > TRANSACTION_BYTES_MAX:
            raise BadRequest(
                f"the transaction's effects and answers take more than {TRANSACTION_BYTES_MAX} bytes;"
                " nothing was executed, make several of it"
            )
    return array(replies)


# --- over several partitions ---------------------------------------------------------------------------


def _begin(place: Place, args: list[bytes]) -> bytes:
    """What this partition, as the home of a transaction, counts its age from."""
    return integer(place.execution.now_ms)


def _prepare(place: Place, args: list[bytes]) -> bytes:
    """Execute a part of a transaction, keep its effects from everybody and lock its keys."""
    transaction, began_ms, home = args[1], _number(args[2]), _number(args[3])
    if transaction in place.locks.prepared:
        raise BadRequest("the part is prepared already")
    bundle = Bundle.decode(args[BUNDLE_AT["PREPARE"] :])
    reply = execute(place, bundle)
    if reply != NIL_ARRAY:
        record = Prepared(began_ms, home, tuple(bundle.keys), tuple(place.execution.operations))
        place.execution.roll_back(0)
        _put(place, transaction, record)
    return reply


def _commit(place: Place, args: list[bytes]) -> bytes:
    """Execute the home's part of a transaction and decide for all parts. Raises `Aborted` if it was decided
    otherwise, or is too old to know that, and `OutcomeUnknown` if this is a copy of what was executed before and is
    no longer remembered with its answer: the router learns the decision by `RESOLVE` then."""
    transaction, began_ms = args[1], _number(args[2])
    decision = place.locks.decisions.get(transaction)
    if decision is not None and decision.is_commit:
        raise OutcomeUnknown("the transaction was committed; its answers are no longer known")
    if decision is not None or place.execution.now_ms > began_ms + TRANSACTION_MS_MAX:
        raise Aborted("the transaction took too long and was given up; nothing was executed, try again")
    if len(place.locks.decisions) >= DECISIONS_MAX:
        raise Busy(f"{DECISIONS_MAX} decisions are remembered already; try again")
    reply = execute(place, Bundle.decode(args[BUNDLE_AT["COMMIT"] :]))
    if reply != NIL_ARRAY:
        participants = tuple(_number(number) for number in args[3].split(b","))
        _put(place, transaction, Decision(True, began_ms, participants))
    return reply


def _resolve(place: Place, args: list[bytes]) -> bytes:
    """The decision, which is not told before it is committed; abort, if there was none."""
    transaction, began_ms = args[1], _number(args[2])
    decision = place.locks.decisions.get(transaction)
    place.execution.saw_uncommitted = True
    if decision is None:
        decision = Decision(False, max(place.execution.now_ms, began_ms))
        _put(place, transaction, decision)
    return b"+COMMIT\r\n" if decision.is_commit else b"+ABORT\r\n"


def _finish(place: Place, args: list[bytes]) -> bytes:
    """Do as was decided with a prepared part, if it is still there."""
    prepared = place.locks.prepared.get(args[1])
    place.execution.saw_uncommitted = True
    if prepared is not None:
        if args[2] == b"COMMIT":
            for operation in prepared.operations:
                place.execution.effect(operation)
            place.execution.wants_links = worm.wants_links(prepared.operations)
        _delete(place, args[1])
    return OK


def _forget(place: Place, args: list[bytes]) -> bytes:
    """All parts know of the commit, and nobody will ask again. An abort stays: it refuses a commit that comes late."""
    decision = place.locks.decisions.get(args[1])
    place.execution.saw_uncommitted = True
    if decision is not None and decision.is_commit:
        _delete(place, args[1])
    return OK


def _put(place: Place, transaction: bytes, record: Prepared | Decision) -> None:
    key = transaction_key(place.leader.partition, transaction)
    place.execution.effect(Operation(PUT, key, record.encode()))


def _delete(place: Place, transaction: bytes) -> None:
    place.execution.effect(Operation(DELETE, transaction_key(place.leader.partition, transaction)))


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise BadRequest("no number")
    return int(text)


TRANSACTIONAL: dict[str, Callable[[Place, list[bytes]], bytes]] = {
    "WATCH": _watch,
    "EXEC": _exec,
    "BEGIN": _begin,
    "PREPARE": _prepare,
    "COMMIT": _commit,
    "RESOLVE": _resolve,
    "FINISH": _finish,
    "FORGET": _forget,
}
"""By the names of internal commands."""


# --- one command -------------------------------------------------------------------------------------------


def _reply(execution: Execution, args: list[bytes]) -> bytes:
    """One command's answer. What it refuses is an answer too; what the engine cannot do is raised."""
    command = lookup(args[0])
    handler = None if command is None else HANDLERS.get(command.name)
    if handler is None:
        raise unknown_command(args)
    begun = len(execution.operations)
    try:
        return handler(execution, args)
    except FortError as error:
        if error.answer is not Answer.REFUSE:
            raise
        execution.roll_back(begun)
        return error.wire()


def _bytes_of(operations: list[Operation]) -> int:
    return sum(len(operation.key) + len(operation.value) for operation in operations)


# --- what was written since ---------------------------------------------------------------------------


def was_written(execution: Execution, watched: dict[bytes, bytes], engine: Engine, leader: Leader) -> bool:
    """Whether one of the watched keys was written after its version, or has ended since, or nobody can tell."""
    since: dict[bytes, set[bytes]] = {}
    for key, version in watched.items():
        since.setdefault(version, set()).add(data_key_at(hash_of(key), key))
    budget = WATCH_LOG_BYTES_MAX
    for version, keys in since.items():
        offset = _offset_of(version, leader)
        if offset is None:
            return True
        for read_bytes, is_written in _look(offset, keys, engine, leader):
            budget -= read_bytes
            if is_written or budget < 0:
                return True
    return any(_has_ended(execution, key) for key in watched)


def _has_ended(execution: Execution, key: bytes) -> bool:
    """Whether the key's time to live is over and the log does not say so yet."""
    begun = len(execution.operations)
    execution.stored(key)
    return len(execution.operations) > begun


def _offset_of(version: bytes, leader: Leader) -> int | None:
    """The offset in a version, None if this log does not have, or no longer has, the entry that it names."""
    epoch, _, offset = version.partition(b":")
    if not (epoch.isdigit() and offset.isdigit() and len(version) < 50):
        raise BadRequest("no version of a key")
    shape, at = leader.log.shape, int(offset)
    if not shape.base_offset <= at <= shape.last_offset or shape.epoch_at(at) != int(epoch):
        return None
    return at


def _look(offset: int, keys: set[bytes], engine: Engine, leader: Leader) -> Iterator[tuple[int, bool]]:
    """(bytes read, whether one of the keys is written there) of everything after `offset`, the newest part first:
    it is in memory."""
    yield 0, _touches(leader.operations, keys)
    log = leader.log
    for pending in log.pending:
        if pending.offset > offset:
            yield 0, _touches(pending.operations, keys)
    last = log.pending[0].offset - 1 if log.pending else log.last_offset
    is_there = _finder(keys)
    while offset < last:
        entries = engine.entries(leader.partition, offset + 1, last, WATCH_LOG_BYTES_MAX // 16)
        for entry in entries:
            offset += 1
            found = is_there(entry) and _touches(decode_entry(entry, offset).operations, keys)
            yield len(entry), found


def _touches(operations: list[Operation], keys: set[bytes]) -> bool:
    return any(operation.key in keys and operation.kind != FORGET for operation in operations)


def _finder(keys: set[bytes]) -> Callable[[bytes], bool]:
    """Whether an entry may be about one of the keys, found faster than by decoding it where that can be."""
    if len(keys) > _FEW_KEYS:
        return lambda entry: True
    return lambda entry: any(key in entry for key in keys)
