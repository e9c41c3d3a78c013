"""What a partition knows of transactions over several partitions: locks and decisions.

Both are records among the partition's data, written through its log as everything else, so that every replica has
them, snapshots and moves carry them, and a restart finds them. A *prepared* part of a transaction holds its effects,
which nobody sees yet, and the keys that are locked until its fate is known. A *decision* is kept by the
transaction's home: a commit until all parts did as it says, an abort until no commit can come any more.

The leader keeps the same in memory, as a fold over the records: read once before it serves, and then following
what it proposes itself. A record that is proposed counts at once, as with all effects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any, Generic, NamedTuple, TypeVar

from fortdb.limits import TRACES_MAX
from fortdb.protocol.transactions import Trace
from fortdb.replication.entries import PUT, Operation, decode_entry, encode_entry, encode_operation
from fortdb.storage.keys import transaction_of
from fortdb.storage.values import encode_value, payload_of

_PREPARED = Struct("<cQHI")
_DECISION = Struct("<c?QH")
_LENGTH = Struct("<I")
_PARTITION = Struct("<H")


class Prefix(NamedTuple):
    """Stands for all keys that begin so."""

    prefix: bytes


Waiting = TypeVar("Waiting")
Wanted = frozenset[bytes] | Prefix
"""The keys that a request is about."""


def meets(wanted: Wanted, keys: Collection[bytes]) -> bool:
    """Whether a request is about one of the keys."""
    if isinstance(wanted, Prefix):
        return any(key.startswith(wanted.prefix) for key in keys)
    return not wanted.isdisjoint(keys)


def apart(one: Wanted, other: Wanted) -> bool:
    """Whether there is no key that both are about. Ranges change nothing, so two of them do not meet."""
    if isinstance(other, Prefix):
        return isinstance(one, Prefix) or not meets(other, one)
    return not meets(one, other)


class Queue(Generic[Waiting]):
    """Those who wait for locks, in their order, and the keys that they are about: nobody behind overtakes them."""

    __slots__ = ("_keys", "_prefixes", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[tuple[Waiting, Wanted]] = deque()
        self._keys: dict[bytes, int] = {}  # how many of those who wait are about it
        self._prefixes: dict[Prefix, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[tuple[Waiting, Wanted]]:
        return iter(self._waiting)

    @property
    def first(self) -> Waiting | None:
        """Who waits longest."""
        return self._waiting[0][0] if self._waiting else None

    def add(self, waiting: Waiting, wanted: Wanted) -> None:
        """One more waits."""
        self._waiting.append((waiting, wanted))
        for held, key in self._places(wanted):
            held[key] = held.get(key, 0) + 1

    def pop(self) -> tuple[Waiting, Wanted]:
        """The first waits no longer."""
        waiting, wanted = self._waiting.popleft()
        for held, key in self._places(wanted):
            held[key] -= 1
            if not held[key]:
                del held[key]
        return waiting, wanted

    def lets_pass(self, wanted: Wanted) -> bool:
        """Whether a request is about other keys."""
        return not meets(wanted, self._keys) and all(apart(wanted, other) for other in self._prefixes)

    def _places(self, wanted: Wanted) -> Iterator[tuple[dict[Any, int], Any]]:
        if isinstance(wanted, Prefix):
            yield self._prefixes, wanted
        else:
            for key in wanted:
                yield self._keys, key


@dataclass(frozen=True, slots=True)
class Prepared:
    """A part that is executed and not yet shown; its keys are locked."""

    began_ms: int  # the home's time
    home: int
    keys: tuple[bytes, ...]
    operations: tuple[Operation, ...]

    def encode(self) -> bytes:
        """As a stored value."""
        keys = b"".join(_LENGTH.pack(len(key)) + key for key in self.keys)
        effects = encode_entry(0, 0, 0, [encode_operation(operation) for operation in self.operations])
        return encode_value(_PREPARED.pack(b"P", self.began_ms, self.home, len(self.keys)) + keys + effects)


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a transaction; `participants` are those that may not have heard of it."""

    is_commit: bool
    began_ms: int
    participants: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """As a stored value."""
        head = _DECISION.pack(b"D", self.is_commit, self.began_ms, len(self.participants))
        return encode_value(head + b"".join(map(_PARTITION.pack, self.participants)))


def decode(stored: bytes) -> Prepared | Decision:
    """A record from its stored value."""
    payload = payload_of(stored)
    if payload[:1] == b"D":
        _, is_commit, began_ms, _ = _DECISION.unpack_from(payload)
        participants = [number for (number,) in _PARTITION.iter_unpack(payload[_DECISION.size :])]
        return Decision(is_commit, began_ms, tuple(participants))
    _, began_ms, home, count = _PREPARED.unpack_from(payload)
    at = _PREPARED.size
    keys = []
    for _ in range(count):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(payload, at)[0]
        keys.append(payload[start:at])
    return Prepared(began_ms, home, tuple(keys), tuple(decode_entry(payload[at:], 0).operations))


class LockTable:
    """A partition's records in memory, for as long as one leader leads."""

    __slots__ = ("decisions", "leader", "locked", "prepared", "since_ms")

    def __init__(self, leader: object = None) -> None:
        self.leader = leader  # whose view of the partition this is
        self.prepared: dict[bytes, Prepared] = {}
        self.decisions: dict[bytes, Decision] = {}
        self.locked: dict[bytes, bytes] = {}  # key -> the transaction that holds it
        self.since_ms: dict[bytes, int] = {}  # when each was heard of first, steady clock

    def read(self, pairs: Iterable[tuple[bytes, bytes]], now_ms: int) -> None:
        """Take in what the data holds."""
        self.note([Operation(PUT, key, value) for key, value in pairs], now_ms)

    def note(self, operations: Iterable[Operation], now_ms: int) -> None:
        """Follow what was proposed."""
        for operation in operations:
            transaction = transaction_of(operation.key)
            if transaction is not None:
                self._drop(transaction)
                if operation.kind == PUT:
                    self._add(transaction, decode(operation.value), now_ms)

    def _add(self, transaction: bytes, record: Prepared | Decision, now_ms: int) -> None:
        self.since_ms[transaction] = now_ms
        if isinstance(record, Decision):
            self.decisions[transaction] = record
        else:
            self.prepared[transaction] = record
            self.locked.update(dict.fromkeys(record.keys, transaction))

    def _drop(self, transaction: bytes) -> None:
        self.since_ms.pop(transaction, None)
        self.decisions.pop(transaction, None)
        prepared = self.prepared.pop(transaction, None)
        if prepared is not None:
            for key in prepared.keys:
                del self.locked[key]

    def old(self, partition: int, until_ms: int) -> list[Trace]:
        """What somebody should finish, heard of before a moment: parts without a fate, and commits of which not
        all parts may know."""
        found: list[Trace] = []
        for transaction, since_ms in self.since_ms.items():  # the oldest first
            if since_ms > until_ms or len(found) >= TRACES_MAX:
                break
            prepared, decision = self.prepared.get(transaction), self.decisions.get(transaction)
            if prepared is not None:
                found.append(Trace(partition, transaction, prepared.began_ms, False, (prepared.home,)))
            elif decision is not None and decision.participants:
                found.append(Trace(partition, transaction, decision.began_ms, True, decision.participants))
        return found

    def over(self, time_ms: int, count: int) -> list[bytes]:
        """Transactions whose abort nobody can overlook any more, at a time in the log."""
        found: list[bytes] = []
        for transaction, decision in self.decisions.items():
            if len(found) >= count:
                break
            if not decision.is_commit and decision.began_ms < time_ms:
                found.append(transaction)
        return found
