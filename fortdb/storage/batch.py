"""Changes to the four column families that RocksDB makes together: one call deep, no checks.

A batch reaches the families through the engine's `Handles` and not by itself, because a handle keeps
the database open: one forgotten batch would keep the files locked after `close`.
"""

from __future__ import annotations

from rocksdict import ColumnFamily, Rdict, WriteBatch

from fortdb.storage.engine import ReplicaState
from fortdb.storage.keys import expiry_prefix, log_key, partition_end, partition_key
from fortdb.storage.states import encode_state
from fortdb.storage.tuning import DATA, EXPIRY, LOG, STATE


class Handles:
    """The column families as a batch names them, until the engine closes."""

    __slots__ = ("data", "expiry", "log", "state")

    def __init__(self, database: Rdict) -> None:
        self.data: ColumnFamily | None = database.get_column_family_handle(DATA)
        self.log: ColumnFamily | None = database.get_column_family_handle(LOG)
        self.expiry: ColumnFamily | None = database.get_column_family_handle(EXPIRY)
        self.state: ColumnFamily | None = database.get_column_family_handle(STATE)

    def release(self) -> None:
        """Let go of the database."""
        self.data = self.log = self.expiry = self.state = None


class RocksBatch:
    """Changes that become durable and visible together. May be written once."""

    __slots__ = ("_delete", "_delete_range", "_handles", "_put", "raw")

    def __init__(self, handles: Handles) -> None:
        self.raw = raw = WriteBatch(raw_mode=True)
        self._put = raw.put
        self._delete = raw.delete
        self._delete_range = raw.delete_range
        self._handles = handles

    def put_data(self, key: bytes, value: bytes) -> None:
        """Set a data key."""
        self._put(key, value, self._handles.data)

    def delete_data(self, key: bytes) -> None:
        """Delete a data key."""
        self._delete(key, self._handles.data)

    def delete_data_range(self, start: bytes, end: bytes) -> None:
        """Delete data keys with `start <= key < end`."""
        if start < end:
            self._delete_range(start, end, self._handles.data)

    def put_log(self, partition: int, offset: int, entry: bytes) -> None:
        """Set the log entry at an offset."""
        self._put(log_key(partition, offset), entry, self._handles.log)

    def delete_log(self, partition: int, start: int, end: int) -> None:
        """Delete entries with `start <= offset < end`."""
        if start < end:
            self._delete_range(log_key(partition, start), log_key(partition, end), self._handles.log)

    def put_expiry(self, partition: int, expiry_ms: int, key: bytes) -> None:
        """Note that data key `key` ends at `expiry_ms`."""
        self._put(expiry_prefix(partition, expiry_ms) + key, b"", self._handles.expiry)

    def delete_expiry(self, partition: int, expiry_ms: int, key: bytes) -> None:
        """Delete one expiry note."""
        self._delete(expiry_prefix(partition, expiry_ms) + key, self._handles.expiry)

    def delete_expiries(self, partition: int) -> None:
        """Delete every expiry note of the partition."""
        self._delete_range(partition_key(partition), partition_end(partition), self._handles.expiry)

    def put_state(self, partition: int, state: ReplicaState) -> None:
        """Set a replica's state."""
        self._put(partition_key(partition), encode_state(state), self._handles.state)

    def delete_state(self, partition: int) -> None:
        """Delete a replica's state."""
        self._delete(partition_key(partition), self._handles.state)

    def is_empty(self) -> bool:
        """Whether nothing was put or deleted yet."""
        return self.raw.is_empty()
