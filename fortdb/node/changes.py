"""Changes of keys, read from the log: for whoever asks a partition's leader what came after an offset.

An entry holds effects on keys of the engine; what users know of is found among them. An entry that is committed
stays what it is for ever, on every replica, so no lease is needed to tell it: a leader that was deposed tells
nothing false, only less. Effects of a transaction over several partitions are in the log when it is decided
(`FINISH`); what was only prepared lies under a key of its own and is no change.

Whoever asks (`ask`) waits until there is something for him, or until `FEED_WAIT_MS` are over: then he hears how
far was looked. The log is read from the engine, a piece at a time and only up to the commit offset. While nobody
waits, a tick costs one comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fortdb.errors import BadRequest, Busy, FortError, NotLeader, Unavailable
from fortdb.limits import FEED_ASKERS_MAX, FEED_READ_BYTES, FEED_TICK_BYTES, FEED_WAIT_MS
from fortdb.native import bind
from fortdb.net.gather import Completes
from fortdb.node.core import NodeCore
from fortdb.node.hosted import Hosted
from fortdb.protocol.feeds import (
    ChangeKind,
    Selection,
    check_offset,
    encode_change,
    mark_of_push,
    selection_of,
)
from fortdb.protocol.records import encode_id_text
from fortdb.protocol.resp import array, bulk, integer
from fortdb.replication.entries import DELETE, FORGET, PUT, Operation, decode_entry
from fortdb.storage.keys import DATA_KIND, ID_MIN, RECORD_KIND, owner, owner_key, record_id
from fortdb.storage.values import decode_worm, expiry_of, is_single, is_worm_record, payload_of


class Change(NamedTuple):
    """One effect that users know of."""

    kind: ChangeKind
    key: bytes
    value: bytes | None = None
    record: bytes | None = None
    ends_ms: int = 0


def changes_of(operations: list[Operation]) -> Iterator[Change]:
    """The changes among the effects of an entry, in their order."""
    for index, (kind, key, value, _) in enumerate(operations):
        if kind == FORGET:
            continue
        if key.startswith(DATA_KIND):
            if kind == DELETE:
                yield Change(ChangeKind.DELETE, owner(key))
            elif is_single(value):
                yield Change(ChangeKind.PUT, owner(key), payload_of(value), None, expiry_of(value))
        elif key.startswith(RECORD_KIND) and record_id(key) != ID_MIN:
            named = encode_id_text(record_id(key))
            if kind == PUT and is_worm_record(value) and not decode_worm(value).ordinal:
                continue  # it follows with its place in the chain
            if kind == PUT:
                yield Change(ChangeKind.ADD, owner(key), payload_of(value), named, expiry_of(value))
            elif _is_of_a_head(operations, index):
                yield Change(ChangeKind.REMOVE, owner(key), None, named)


def _is_of_a_head(operations: list[Operation], index: int) -> bool:
    """Whether the record that is removed was one that its key still had: the key's head is changed with it. What
    `DEL` left is cleaned away without."""
    key = operations[index].key
    at = owner_key(key)
    for operation in operations[index + 1 : index + 3]:
        if operation.kind != FORGET:
            return operation.key == at
    return False


@dataclass(slots=True)
class _Asker:
    """Somebody waits for changes behind an offset. `after` below 0: wants to know the offsets only."""

    slot: Completes
    after: int
    until_ms: int
    mark: bytes
    values: bool
    selection: Selection


class Changes:
    """Who waits at this node for changes, by partition."""

    __slots__ = ("__dict__", "waiting")

    def __init__(self, node: NodeCore) -> None:
        self._node = node
        self.waiting: dict[int, list[_Asker]] = {}
        self._count = 0
        self._budget_bytes = FEED_TICK_BYTES  # of the log, in this tick

    def ask(self, slot: Completes, args: list[bytes]) -> None:
        """`CHANGES partition after resp values scope [name]`; `after` -1 asks for the offsets only. Answers
        with the offset that the log begins after, the one up to which was looked, and the changes, as pushes.
        Raises `BadRequest`, `Busy`."""
        partition, after, resp, values = (_number(word) for word in args[1:5])
        selection = selection_of(args[3:])
        if selection is None or len(args) > 7:
            raise BadRequest("CHANGES partition after resp values scope [name]")
        if self._count >= FEED_ASKERS_MAX:
            raise Busy(f"{self._count} feeds wait on {self._node.own.name} already")
        if not self.waiting:
            self._budget_bytes = FEED_TICK_BYTES  # nobody has looked since the last tick
        until_ms = self._node.loop.now_ms + FEED_WAIT_MS
        asker = _Asker(slot, after, until_ms, mark_of_push(resp), bool(values), selection)
        if not self._answer(partition, asker):
            self.waiting.setdefault(partition, []).append(asker)
            self._count += 1

    def look(self) -> None:
        """Tell what has been committed since; once a tick, while anybody waits."""
        self._budget_bytes = FEED_TICK_BYTES
        for partition in list(self.waiting):
            hosted = self._node.hosted.get(partition)
            commit = -1 if hosted is None or hosted.replica.leading is None else hosted.replica.log.commit
            askers = self.waiting[partition]
            if commit >= 0 and all(asker.after >= commit for asker in askers):
                continue
            self._keep(partition, [asker for asker in askers if not self._answer(partition, asker)])

    def time_out(self) -> None:
        """Tell those who have waited long enough how far was looked; now and then."""
        now_ms = self._node.loop.now_ms
        for partition, askers in list(self.waiting.items()):
            hosted = self._node.hosted.get(partition)
            left = [asker for asker in askers if asker.until_ms > now_ms]
            for asker in askers:
                if asker.until_ms <= now_ms and hosted is not None:
                    _tell(asker, hosted, b"")
            self._keep(partition, left)

    def _keep(self, partition: int, askers: list[_Asker]) -> None:
        self._count -= len(self.waiting[partition]) - len(askers)
        if askers:
            self.waiting[partition] = askers
        else:
            del self.waiting[partition]

    def _answer(self, partition: int, asker: _Asker) -> bool:
        """Answer, if there is something to say."""
        hosted = self._node.hosted.get(partition)
        try:
            if hosted is None or hosted.replica.leading is None:
                raise NotLeader(f"partition {partition} is not led by {self._node.own.name}")
            if asker.after < 0:
                if hosted.serve_until_ms <= self._node.loop.now_ms:
                    raise Unavailable(f"{self._node.own.name} does not serve {hosted.replica.name} yet")
                asker.after = hosted.replica.log.commit
                _tell(asker, hosted, b"")
                return True
            self._check(hosted, asker.after)
        except FortError as error:
            asker.slot.complete(error.wire())
            return True
        pushes = self._read(hosted, asker)
        if pushes:
            _tell(asker, hosted, pushes)
        return bool(pushes)

    def _check(self, hosted: Hosted, after: int) -> None:
        """Whether the log has what came after an offset. Only a leader that serves certainly has all of it."""
        shape, name = hosted.replica.log.shape, hosted.replica.name
        serves = hosted.serve_until_ms > self._node.loop.now_ms
        check_offset(name, after, shape.base_offset, shape.last_offset if serves else after)

    def _read(self, hosted: Hosted, asker: _Asker) -> bytes:
        """The next changes for somebody, as pushes. What was looked at and is not for him is passed."""
        log, partition = hosted.replica.log, hosted.replica.partition
        if asker.after >= log.commit:
            return b""
        if self._budget_bytes <= 0:
            self._node.loop.tick_again()
            return b""
        pushes: list[bytes] = []
        for entry in self._node.engine.entries(partition, asker.after + 1, log.commit, FEED_READ_BYTES):
            self._budget_bytes -= len(entry)
            offset = asker.after + 1
            if asker.selection.may_be_in(entry):
                pushes += _pushes(hosted.replica.name, offset, entry, asker)
            asker.after = offset
        if not pushes and asker.after < log.commit:
            self._node.loop.tick_again()
        return b"".join(pushes)


bind(Changes)


def _pushes(name: str, offset: int, entry: bytes, asker: _Asker) -> list[bytes]:
    found = [
        one for one in changes_of(decode_entry(entry, offset).operations) if asker.selection.matches(one.key)
    ]
    made: list[bytes] = []
    for number, (kind, key, value, record, ends_ms) in enumerate(found, 1):
        position = b"%b:%d" % (name.encode(), offset if number == len(found) else offset - 1)
        shown = value if asker.values else None
        made.append(asker.mark + encode_change(position, kind, key, shown, record, ends_ms))
    return made


def _tell(asker: _Asker, hosted: Hosted, pushes: bytes) -> None:
    base = hosted.replica.log.shape.base_offset
    asker.slot.complete(array([integer(base), integer(asker.after), bulk(pushes)]))


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise BadRequest("CHANGES takes numbers") from None
