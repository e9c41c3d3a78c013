"""The storage engine on RocksDB (through `rocksdict`, raw mode).

All replicas of a node share one database with four column families (see `tuning.py`), so one batch
with one fsync of the write-ahead log covers everything a tick did, wholly or not at all.

What recovery does, as measured: with RocksDB's default a damaged record in the write-ahead log
silently drops everything after it. Here a record whose checksum is wrong, wherever it is, makes
opening fail, and only a log that ends in the middle of a record (the process died while it wrote,
so nobody was told that the record is safe) is opened without that record. Caveats:

* Damage that looks exactly like a torn end cannot be told from one: a record header in the last
  32 KiB block turned to zeros or to a length beyond the end of the file, or a file cut short.
  That is one reason why a node that was not stopped cleanly leaves every in-sync set (rule 9). A
  clean stop leaves an empty write-ahead log behind.
* A write that raised may or may not be there after a restart, as a whole.
* An engine that failed stays failed. RocksDB can resume from some errors by itself, but after a
  failed fsync nobody knows which pages are on disk; only reading them anew, at a start, tells.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import NoReturn
from weakref import WeakSet

from rocksdict import Cache, DbClosedError, Rdict, WriteBatch, WriteOptions

from fortdb.errors import DiskFull, StorageFailed
from fortdb.storage.batch import Handles, RocksBatch
from fortdb.storage.engine import Batch, EngineStats, ReplicaState
from fortdb.storage.keys import (
    expiry_position,
    expiry_prefix,
    log_key,
    log_position,
    partition_end,
    partition_key,
)
from fortdb.storage.states import decode_state
from fortdb.storage.tuning import DATA, EXPIRY, FAMILIES, LOG, STATE, database_options, family_options
from fortdb.storage.walk import Walk

_OFFSET_MAX = (1 << 64) - 1
_EXPIRY_PREFIX_BYTES = 10
_UNBOUNDED = 1 << 62

_FULL = ("No space left", "quota exceeded")
_HELD = ("While lock file", "lock hold by current process")
_ADVICE = {
    "Corruption": "A file is damaged: empty the node's data directory, or give it another disk, and let the node"
    " copy its data from the other replicas",
    "IO error": "Look at the disk and at the kernel's messages, then start the node again",
}


class _Guard:
    """`with guard:` turns what RocksDB raises into the engine's failure, off the hot path."""

    def __init__(self, fail: Callable[[Exception], NoReturn]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception):
            self._fail(error)


class RocksCursor:
    """A walk over a range of the data as it stood when the cursor was made."""

    def __init__(self, engine: RocksEngine, walk: Walk) -> None:
        self._engine = engine
        self._walk: Walk | None = walk

    def read(self, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """The next (key, value) pairs: at least one, at most about `bytes_max`; empty at the end."""
        walk = self._walk
        return [] if walk is None else self._engine.pairs(walk, _UNBOUNDED, bytes_max)

    def close(self) -> None:
        """Let go of the snapshot. Idempotent."""
        self._walk = None


class RocksEngine:
    """`Engine` on one directory. Any thread may call; a second process on the directory is refused.

    `cache_bytes` bounds blocks, indexes and filters in memory, `memtable_bytes` what is not yet in
    files (about twice that while flushing) and with it the replay at a start. Without `sync` nothing
    waits for the disk, whatever `write` is told: for tests and bulk loads that can be repeated.
    Raises `StorageFailed` if the directory cannot be opened as it is, `DiskFull` if it is full.
    """

    def __init__(self, path: Path, *, cache_bytes: int, memtable_bytes: int, sync: bool = True) -> None:
        self.path = path
        self.table: dict[bytes, bytes | None] = {}
        self.frozen: dict[bytes, bytes | None] = {}
        self.failure: str | None = None
        self._failed_as: type[StorageFailed] = StorageFailed
        self._closing = Lock()
        self._guard = _Guard(self._fail)
        self._cursors: WeakSet[RocksCursor] = WeakSet()
        self._cache = Cache(cache_bytes)
        try:
            _make_database(path, self._cache, memtable_bytes)
            self._database = _open_database(path, self._cache, memtable_bytes, create=False)
        except Exception as error:  # noqa: BLE001  RocksDB raises nothing more special
            self._fail_to_open(error)
        database = self._database
        self._families = {name: database.get_column_family(name) for name in FAMILIES}
        self._handles = Handles(database)
        self._synced = WriteOptions()
        self._synced.sync = sync
        self._unsynced = WriteOptions()
        # Bound once: these two are the hot path. A failure or `close` puts `_refuse` in their place.
        self._get: Callable[[bytes], bytes | None] = self._families[DATA].get
        self._write: Callable[[WriteBatch, WriteOptions], None] = database.write

    # The hot path.

    def get(self, key: bytes) -> bytes | None:
        """The value under a data key."""
        try:
            return self._get(key)
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def batch(self) -> RocksBatch:
        """A new, empty batch."""
        return RocksBatch(self._handles)

    def write(self, batch: Batch, sync: bool) -> None:
        """Make the batch visible; with `sync`, return only once it is on disk."""
        assert isinstance(batch, RocksBatch)
        try:
            self._write(batch.raw, self._synced if sync else self._unsynced)
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    # Data.

    def scan(self, start: bytes, end: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """Up to `count` (data key, value) pairs with `start <= key < end`, ascending."""
        return self.pairs(self._walk(DATA, start, end), count, _UNBOUNDED)

    def cursor(self, start: bytes, end: bytes) -> RocksCursor:
        """A walk over `start <= key < end` as the data stands now."""
        cursor = RocksCursor(self, self._walk(DATA, start, end))
        self._cursors.add(cursor)
        return cursor

    def count(self, start: bytes, end: bytes) -> int:
        """How many data keys lie in the range. Walks them; call it off the server's thread."""
        walk = self._walk(DATA, start, end)
        with self._guard:
            return walk.count()

    # The log.

    def entries(self, partition: int, first: int, last: int, bytes_max: int) -> list[bytes]:
        """Log entries from offset `first` to `last` inclusive, at most about `bytes_max` but at least
        one. Raises `StorageFailed` if `first` or one in between is missing: a log has no gaps."""
        if first > last:
            return []
        walk = self._walk(LOG, log_key(partition, first), log_key(partition, last) + b"\0")
        pairs = self.pairs(walk, last - first + 1, bytes_max)
        if not pairs:
            self._lost(partition, first)
        # Keys ascend without repeating, so the last one is where it belongs exactly if all are.
        if pairs[-1][0] != log_key(partition, first + len(pairs) - 1):
            held = {key for key, _ in pairs}
            self._lost(
                partition,
                next(offset for offset in range(first, last + 1) if log_key(partition, offset) not in held),
            )
        return [entry for _, entry in pairs]

    def entries_backward(self, partition: int) -> Iterator[tuple[int, bytes]]:
        """(offset, entry) from the newest entry to the oldest."""
        walk = self._newest(partition)
        iterator = walk.iterator
        before: int | None = None
        with self._guard:
            while (offset := _offset_at(walk, partition)) is not None:
                if before is not None and offset != before - 1:
                    self._lost(partition, before - 1)
                yield offset, iterator.value()
                before = offset
                iterator.prev()

    def last_offset(self, partition: int) -> int | None:
        """The newest entry's offset, None for an empty log."""
        walk = self._newest(partition)
        with self._guard:
            return _offset_at(walk, partition)

    # Expiry and state.

    def due(self, partition: int, until_ms: int, count: int) -> list[tuple[int, bytes]]:
        """Up to `count` (expiry_ms, data key) notes with `expiry_ms <= until_ms`, oldest first."""
        end = expiry_prefix(partition, until_ms + 1) if until_ms < _OFFSET_MAX else partition_end(partition)
        notes = self.pairs(self._walk(EXPIRY, partition_key(partition), end), count, _UNBOUNDED)
        return [(expiry_position(key)[1], key[_EXPIRY_PREFIX_BYTES:]) for key, _ in notes]

    def states(self) -> Mapping[int, ReplicaState]:
        """The stored state of every replica, by partition id."""
        pairs = self.pairs(self._walk(STATE, b"", partition_end(0xFFFF)), _UNBOUNDED, _UNBOUNDED)
        try:
            return {int.from_bytes(key, "big"): decode_state(value) for key, value in pairs}
        except StorageFailed as error:
            self._give_up(StorageFailed, f"in {self.path}, {error}. {_ADVICE['Corruption']}", error)

    # Looking after it.

    def stats(self) -> EngineStats:
        """Sizes; walks the directory, so once a second rather than once a request."""
        self._refuse_if_failed()
        memory = self._cache.get_usage()
        for family in self._families.values():
            for name in ("rocksdb.size-all-mem-tables", "rocksdb.estimate-table-readers-mem"):
                memory += family.property_int_value(name) or 0
        return EngineStats(_bytes_under(self.path), self.bytes_free(), memory)

    def bytes_free(self) -> int:
        """Room on the file system for a process that is not root."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def check_room(self, bytes_min: int) -> None:
        """Raise `DiskFull` if the file system has less room than `bytes_min`. The engine goes on:
        what to stop, and whether to go on when there is room again, is for the caller to say."""
        free = self.bytes_free()
        if free < bytes_min:
            raise DiskFull(
                f"{self.path} has {free:,} bytes free, and the node needs {bytes_min:,} to write safely:"
                " make room or give it a bigger disk"
            )

    def compact(self) -> None:
        """Rewrite everything, so that what was deleted leaves the disk. Takes long; off the server's thread."""
        self._refuse_if_failed()
        with self._guard:
            for family in self._families.values():
                family.flush()
                family.compact_range(None, None)

    def close(self) -> None:
        """Flush and close. Idempotent. Raises `StorageFailed` if flushing fails: all that was
        acknowledged is in the write-ahead log then, but the stop was not a clean one."""
        with self._closing:
            if not self._families:
                return
            self._get = self._write = self._refuse
            for cursor in self._cursors:
                cursor.close()
            families = [*self._families.values(), self._database]
            self._families = {}
            self._handles.release()
            del self._database
            failures = [error for error in map(_close_family, families) if error is not None]
        if self.failure is None and failures:
            self._fail(failures[0])

    def pairs(self, walk: Walk, count: int, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """`Walk.read` with this engine's way of failing."""
        self._refuse_if_failed()
        with self._guard:
            return walk.read(count, bytes_max)

    def _walk(self, family: str, start: bytes, end: bytes) -> Walk:
        """A walk over `start <= key < end`, standing at the first key."""
        self._refuse_if_failed()
        with self._guard:
            walk = Walk(self._families[family], end)
            walk.iterator.seek(start)
            return walk

    def _newest(self, partition: int) -> Walk:
        """A walk over the log, standing at the partition's last entry, or before it if there is none."""
        self._refuse_if_failed()
        with self._guard:
            walk = Walk(self._families[LOG], partition_end(partition))
            walk.iterator.seek_for_prev(log_key(partition, _OFFSET_MAX))
            return walk

    # Failure.

    def _lost(self, partition: int, offset: int) -> NoReturn:
        self._give_up(
            StorageFailed,
            f"the log of partition {partition} in {self.path} has no entry {offset}. {_ADVICE['Corruption']}",
            None,
        )

    def _refuse(self, *_: object) -> NoReturn:
        raise self._failed_as(self.failure or f"the engine in {self.path} is closed")

    def _refuse_if_failed(self) -> None:
        if self.failure is not None or not self._families:
            self._refuse()

    def _fail(self, error: Exception) -> NoReturn:
        """Turn RocksDB's exception into ours. It only knows plain `Exception`; anything else is ours
        already, or a caller's mistake (a key that is no bytes) and no failure of the storage."""
        if isinstance(error, DbClosedError):
            self._refuse()
        if type(error) is not Exception:
            raise error
        text = str(error)
        if any(sign in text for sign in _FULL):
            advice = "Make room or give the node a bigger disk, then start it again"
            self._give_up(DiskFull, f"the disk of {self.path} is full: {text}. {advice}", error)
        advice = next((advice for sign, advice in _ADVICE.items() if sign in text), "Start the node again")
        self._give_up(StorageFailed, f"the storage engine in {self.path} failed: {text}. {advice}", error)

    def _fail_to_open(self, error: Exception) -> NoReturn:
        self._families = {}
        if any(sign in str(error) for sign in _HELD):
            message = f"another process holds {self.path}: stop it first, or give this node its own directory"
            self._give_up(StorageFailed, message, error)
        if isinstance(error, OSError):
            error = Exception(str(error))
        self._fail(error)

    def _give_up(self, kind: type[StorageFailed], reason: str, cause: Exception | None) -> NoReturn:
        """Fail now and from now on. The first reason stays: what follows is a consequence."""
        if self.failure is None:
            self._failed_as = kind
            self.failure = reason
        self._get = self._write = self._refuse
        raise kind(reason) from cause


def _offset_at(walk: Walk, partition: int) -> int | None:
    """The offset of the log entry where the walk stands, None outside the partition."""
    iterator = walk.iterator
    if not iterator.valid():
        iterator.status()
        return None
    holder, offset = log_position(iterator.key())
    return offset if holder == partition else None


def _open_database(path: Path, cache: Cache, memtable_bytes: int, *, create: bool) -> Rdict:
    families = {name: family_options(name, cache, memtable_bytes) for name in FAMILIES}
    return Rdict(str(path), database_options(memtable_bytes, create), column_families=families)


def _make_database(path: Path, cache: Cache, memtable_bytes: int) -> None:
    """Make an empty database if there is none, under another name first: a directory called `path`
    is one that was made completely, so whatever it lacks later was lost."""
    if path.exists():
        return
    making = path.with_name(path.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    making.parent.mkdir(parents=True, exist_ok=True)
    _open_database(making, cache, memtable_bytes, create=True).close()
    making.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _close_family(family: Rdict) -> Exception | None:
    """Closing one family flushes it; the others are closed whatever comes of it."""
    try:
        family.close()
    except Exception as error:  # noqa: BLE001  reported once all are closed
        return error
    return None


def _bytes_under(path: Path) -> int:
    """What the files take on disk; they come and go meanwhile."""
    size = 0
    with os.scandir(path) as files:
        for file in files:
            try:
                size += file.stat(follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue
    return size
