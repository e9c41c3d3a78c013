"""The one interface to a coordination store: small enough for etcd and for a SQLite file.

A store is a flat map from text keys to bytes with one revision counter for the whole store. Every
change takes the next revision; a key remembers the revision of its last change (`Versioned`).
Compare-and-set names that revision. Leases are granted for a time to live and carry keys that
vanish with them. Watches deliver every change after a revision, in order.

Caveats that every user of a store must know:

* `StoreUnavailable` from a change means the outcome is unknown: read before deciding anything.
* A lease is counted from the moment its keepalive was *sent*, by the caller, on the caller's own
  monotonic clock; the store may keep it longer (etcd extends leases when its leader changes) and
  may revoke it while it is alive (rule 11).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Versioned:
    """A stored value and the store revision of its last change."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys under a prefix as they stood together at `revision`, sorted by key."""

    revision: int
    items: tuple[Versioned, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One change: `value` is None when the key was deleted or its lease ended."""

    key: str
    value: bytes | None
    revision: int


class Watch(Protocol):
    """Changes under a prefix, as non-empty batches in revision order. Iterating blocks.

    Ends when `close` is called (from any thread); raises `WatchLost` when history was compacted
    and `StoreUnavailable` when the connection broke: the caller lists again and opens a new one.
    """

    def __iter__(self) -> Iterator[tuple[Event, ...]]: ...

    def close(self) -> None: ...


class Store(Protocol):
    """A coordination store. Every method is blocking, bounded by the store's request time-out,
    and may be called from any thread. All may raise `StoreUnavailable`."""

    def get(self, key: str) -> Versioned | None:
        """The key's value, read linearizably."""
        ...

    def list(self, prefix: str) -> Listing:
        """Everything under `prefix`, read linearizably at one revision."""
        ...

    def create(self, key: str, value: bytes, lease: int | None = None) -> int:
        """Set an absent key; returns the new revision. Raises `StoreConflict` if it exists,
        `LeaseLost` if the lease is not known."""
        ...

    def put(self, key: str, value: bytes, lease: int | None = None) -> int:
        """Set a key whatever it held; returns the new revision. Raises `LeaseLost`."""
        ...

    def replace(self, key: str, value: bytes, revision: int, lease: int | None = None) -> int:
        """Set a key if its last change was at `revision`; returns the new revision.
        Raises `StoreConflict`, `LeaseLost`."""
        ...

    def delete(self, key: str, revision: int | None = None) -> None:
        """Remove a key, if `revision` is given only if its last change was then
        (else `StoreConflict`). Removing an absent key without a revision does nothing."""
        ...

    def grant(self, ttl_ms: int) -> int:
        """A new lease. The store may round its time to live up to whole seconds."""
        ...

    def keepalive(self, lease: int) -> None:
        """Renew a lease for its full time to live. Raises `LeaseLost`."""
        ...

    def revoke(self, lease: int) -> None:
        """End a lease and delete its keys. Ending an unknown lease does nothing."""
        ...

    def watch(self, prefix: str, after_revision: int) -> Watch:
        """Every change under `prefix` with a revision greater than `after_revision`."""
        ...

    def close(self) -> None:
        """Release connections; open watches end."""
        ...
