"""What FortDB does with a store: read and write whole records, always by compare-and-set.

Blocking; a server calls these on its session's worker thread. All may raise `StoreUnavailable`
(of a change: outcome unknown, read before deciding) and `RecordError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fortdb.coordination.keys import Keys
from fortdb.coordination.records import (
    decode_controller,
    decode_keyspaces,
    decode_layout,
    decode_partition,
    encode_controller,
    encode_keyspaces,
    encode_layout,
    encode_partition,
    view_of,
)
from fortdb.coordination.store import Store
from fortdb.errors import StoreConflict
from fortdb.model import ClusterView, Keyspace, Layout, PartitionRecord


def read_view(store: Store, keys: Keys) -> ClusterView:
    """Everything about the cluster, at one revision."""
    return view_of(keys, store.list(keys.prefix))


def read_record(store: Store, keys: Keys, partition: str) -> PartitionRecord | None:
    """The partition's record as it is now; None if there is none."""
    found = store.get(keys.partition(partition))
    return None if found is None else decode_partition(partition, found.value, found.revision)


def write_record(store: Store, keys: Keys, record: PartitionRecord) -> PartitionRecord:
    """Store `record` over the one of `record.revision` (0: over none); returns it with its new
    revision. Raises `StoreConflict` if another was stored meanwhile."""
    revision = _write(store, keys.partition(record.partition), encode_partition(record), record.revision)
    return replace(record, revision=revision)


def read_layout(store: Store, keys: Keys) -> tuple[Layout | None, int]:
    """The layout and its revision; (None, 0) for a cluster that has none yet."""
    found = store.get(keys.layout)
    return (None, 0) if found is None else (decode_layout(found.value), found.revision)


def write_layout(store: Store, keys: Keys, layout: Layout, expected_revision: int) -> int:
    """Store a layout over the one of `expected_revision` (0: over none); returns its revision.
    Raises `StoreConflict`."""
    return _write(store, keys.layout, encode_layout(layout), expected_revision)


def read_keyspaces(store: Store, keys: Keys) -> tuple[Mapping[str, Keyspace], int]:
    """All keyspaces by name, and their record's revision; ({}, 0) if none was ever declared."""
    found = store.get(keys.keyspaces)
    return ({}, 0) if found is None else (decode_keyspaces(found.value), found.revision)


def write_keyspaces(
    store: Store, keys: Keys, keyspaces: Mapping[str, Keyspace], expected_revision: int
) -> int:
    """Store all keyspaces over those of `expected_revision` (0: over none); returns their revision.
    Raises `StoreConflict`."""
    return _write(store, keys.keyspaces, encode_keyspaces(keyspaces), expected_revision)


def take_controller(store: Store, keys: Keys, name: str, lease: int) -> bool:
    """Become controller on `lease` if nobody is; True if `name` is it now.

    A record that already names `name` is moved to `lease`: it stems from a request whose answer
    was lost, or from an earlier life whose lease is about to end. Raises `LeaseLost`.
    """
    value = encode_controller(name)
    try:
        store.create(keys.controller, value, lease)
        return True
    except StoreConflict:
        found = store.get(keys.controller)
    if found is None or decode_controller(found.value) != name:
        return False
    try:
        store.replace(keys.controller, value, found.revision, lease)
    except StoreConflict:
        return False
    return True


def _write(store: Store, key: str, value: bytes, expected_revision: int) -> int:
    if expected_revision == 0:
        return store.create(key, value)
    return store.replace(key, value, expected_revision)
