"""What the rest of FortDB asks of a storage engine, and nothing more.

One engine holds all the replicas of a node: their logs, their data and their state, so that one
atomic batch with one fsync covers everything a tick of the server did. Keys and values here are
bytes; their layout is in `keys.py`.

Failure is a state, never an answer: an engine that meets a checksum error, a full disk or any
other I/O error raises `StorageFailed` (or `DiskFull`) from the call that met it and from every
later call, and `failure` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

UNBOUNDED = 1 << 62
"""For whoever sets no bound."""


def nothing_meanwhile() -> None:
    """For whoever has nothing to do while the disk writes."""


class ReplicaState(NamedTuple):
    """What a replica must remember across a restart besides its log and its data.

    `epoch`: the highest leader epoch seen (rule 2). `applied`: the last offset whose operations
    are in the data. `base_offset` and `base_epoch`: the position just before the first entry that
    the log still holds; (0, 0) for a log that was never trimmed. `epochs`: (epoch, first offset)
    pairs, ascending, for every epoch with an entry after the base. `installing`: a snapshot was
    being installed, so the data is incomplete and the replica counts as empty.
    """

    epoch: int = 0
    applied: int = 0
    base_offset: int = 0
    base_epoch: int = 0
    epochs: tuple[tuple[int, int], ...] = ()
    installing: bool = False


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Sizes in bytes."""

    bytes_on_disk: int
    bytes_free: int
    bytes_in_memory: int


class Batch(Protocol):
    """Changes that become durable and visible together, in order. `partition` is its id."""

    data: dict[bytes, bytes | None]
    """What is put under data keys, and None for what is deleted."""

    def put_data(self, key: bytes, value: bytes) -> None: ...

    def delete_data(self, key: bytes) -> None: ...

    def delete_data_range(self, start: bytes, end: bytes) -> None:
        """Delete data keys with `start <= key < end`."""
        ...

    def put_log(self, partition: int, offset: int, entry: bytes) -> None: ...

    def delete_log(self, partition: int, start: int, end: int) -> None:
        """Delete entries with `start <= offset < end`."""
        ...

    def put_expiry(self, partition: int, expiry_ms: int, key: bytes) -> None:
        """Note that data key `key` ends at `expiry_ms` (wall clock, Unix epoch)."""
        ...

    def delete_expiry(self, partition: int, expiry_ms: int, key: bytes) -> None: ...

    def delete_expiries(self, partition: int) -> None:
        """Delete every expiry note of the partition."""
        ...

    def put_state(self, partition: int, state: ReplicaState) -> None: ...

    def delete_state(self, partition: int) -> None: ...

    def is_empty(self) -> bool: ...


class Cursor(Protocol):
    """A walk over a range of the data as it stood when the cursor was made."""

    def read(self, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """The next (key, value) pairs: at least one, at most about `bytes_max`; empty at the end."""
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """All replicas of one node on one disk. Methods may be called from any thread, but the
    order of `write` calls is the caller's to keep. All may raise `StorageFailed`."""

    failure: str | None
    """None, or the reason why nothing can be read or written any more."""

    def get(self, key: bytes) -> bytes | None:
        """The value under a data key."""
        ...

    def scan(
        self, start: bytes, end: bytes, count: int, bytes_max: int = UNBOUNDED
    ) -> list[tuple[bytes, bytes]]:
        """Up to `count` (data key, value) pairs with `start <= key < end`, ascending; at least one if there
        is one, at most about `bytes_max`."""
        ...

    def scan_backward(
        self, start: bytes, end: bytes, count: int, bytes_max: int = UNBOUNDED
    ) -> list[tuple[bytes, bytes]]:
        """The same from the end of the range, descending."""
        ...

    def cursor(self, start: bytes, end: bytes) -> Cursor: ...

    def count(self, start: bytes, end: bytes) -> int:
        """How many data keys lie in the range. Walks them; call it off the server's thread."""
        ...

    def batch(self) -> Batch: ...

    def write(self, batch: Batch, sync: bool, meanwhile: Callable[[], None] = nothing_meanwhile) -> None:
        """Make the batch visible; with `sync`, return only once it is on disk. `meanwhile` is called once,
        while the disk is at it; it must not call the engine."""
        ...

    def entries(self, partition: int, first: int, last: int, bytes_max: int) -> list[bytes]:
        """Log entries from offset `first` to `last` inclusive, without a gap: at least one if
        `first` exists, at most about `bytes_max`."""
        ...

    def entries_backward(self, partition: int) -> Iterator[tuple[int, bytes]]:
        """(offset, entry) from the newest entry to the oldest."""
        ...

    def last_offset(self, partition: int) -> int | None:
        """The newest entry's offset, None for an empty log."""
        ...

    def due(self, partition: int, until_ms: int, count: int) -> list[tuple[int, bytes]]:
        """Up to `count` (expiry_ms, data key) notes with `expiry_ms <= until_ms`, oldest first."""
        ...

    def states(self) -> Mapping[int, ReplicaState]:
        """The stored state of every replica, by partition id."""
        ...

    def stats(self) -> EngineStats: ...

    def close(self) -> None:
        """Flush and close. Idempotent."""
        ...
