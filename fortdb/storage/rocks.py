"""The storage engine: a journal of our own, tables in memory, and RocksDB below them.

All replicas of a node share one engine, so one batch with one fsync covers everything a tick did, wholly
or not at all. The way of a batch:

1. `write` appends it to the journal (`journal.py`) and syncs that, if it is asked to.
2. It goes into the active table (`table.py`). `get` looks into the active table, then into the frozen
   one, then into RocksDB.
3. A table that is full is frozen and moved into RocksDB's memory, while a new one fills: by another thread,
   which uses the time in which this one waits for the disk, and by the writes themselves, as far as that is
   not enough. What is moved is always on the disk in the journal.
4. When the journal has grown to `memtable_bytes`, another thread has RocksDB flush, with a marker that says
   how far the journal is contained (`database.py`). The journal's files before that are used again.

Whoever walks over keys, instead of reading one, first has moved into RocksDB what the walk could miss, and
only that: the data, or the logs and the expiry notes. There are no iterators over both.

Opening plays the journal from the marker on. That costs what the journal's size costs, and nothing that
grows with the number of keys. Caveats:

* What a damaged journal can look like, and what is noticed of it, is told in `journal.py`.
* A write that raised may or may not be there after a restart, as a whole.
* What fails in another thread is told by the next call. A walk on another thread (`count`) holds up
  writes while it moves what is in memory, which is bounded (`_TABLE_BYTES_MAX`).
* A batch becomes visible at once to its own thread. Another one may see part of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from time import sleep
from typing import NoReturn
from weakref import WeakSet

from rocksdict import Cache

from fortdb.errors import DiskFull, StorageFailed
from fortdb.storage.batch import DELETE_DATA_RANGE, RocksBatch, decode_batch
from fortdb.storage.database import Database, Marker
from fortdb.storage.engine import UNBOUNDED, Batch, EngineStats, ReplicaState, nothing_meanwhile
from fortdb.storage.failing import Failing
from fortdb.storage.journal import Journal, Recovered
from fortdb.storage.keys import (
    expiry_position,
    expiry_prefix,
    log_key,
    log_position,
    partition_end,
    partition_key,
)
from fortdb.storage.recent import Recent
from fortdb.storage.room import MAKE_ROOM, bytes_free, lack_of_room
from fortdb.storage.states import decode_state
from fortdb.storage.table import Table
from fortdb.storage.tuning import DATA, EXPIRY, LOG, STATE
from fortdb.storage.walk import Walk
from fortdb.storage.worker import Worker

JOURNAL_DIRECTORY = "journal"
"""Beside RocksDB's files."""

_OFFSET_MAX = (1 << 64) - 1
_EXPIRY_PREFIX_BYTES = 10
_ABSENT = object()

_SEGMENT_BYTES_MIN, _SEGMENT_BYTES_MAX = 1 << 20, 16 << 20
_SEGMENTS_BESIDE = 4  # the active one, two that are ready, and one that fills while RocksDB flushes
_TABLE_BYTES_MAX = 16 << 20  # of batches; the longer it fills, the more is written over and moved once
_PAUSE_S = 0.00005  # long enough to wake a thread that waits for the interpreter


class RocksCursor:
    """A walk over a range of the data as it stood when the cursor was made."""

    def __init__(self, engine: RocksEngine, walk: Walk) -> None:
        self._engine = engine
        self._walk: Walk | None = walk

    def read(self, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """The next (key, value) pairs: at least one, at most about `bytes_max`; empty at the end."""
        walk = self._walk
        return [] if walk is None else self._engine.pairs(walk, UNBOUNDED, bytes_max)

    def close(self) -> None:
        """Let go of the snapshot. Idempotent."""
        self._walk = None


class RocksEngine(Failing):
    """`Engine` on one directory. Any thread may call; a second process on the directory is refused.

    `cache_bytes` bounds blocks, indexes and filters in memory; `memtable_bytes` what is not yet in RocksDB's
    files (about twice that while flushing), the journal's size on the disk, and with it the replay at a
    start. Without `sync` nothing waits for the disk, whatever `write` is told: for tests and bulk loads that
    can be repeated. `table_bytes` and `segment_bytes` follow from `memtable_bytes` unless a test says
    otherwise. Raises `StorageFailed` if the directory cannot be opened as it is, `DiskFull` if it is full.
    """

    def __init__(
        self,
        path: Path,
        *,
        cache_bytes: int,
        memtable_bytes: int,
        sync: bool = True,
        table_bytes: int | None = None,
        segment_bytes: int | None = None,
    ) -> None:
        super().__init__(path)
        # A key's newest value is in the first of `table`, `frozen` and RocksDB that knows the key; None
        # stands for one that was deleted. Plain dictionaries, for whoever reads them without `get`, who must
        # take them from here anew for every key, in this order: other objects take their places at any time.
        # Both are empty once the engine failed or was closed; then RocksDB is asked, and that refuses.
        self._active = Table()
        self.table: dict[bytes, bytes | None] = self._active.data
        self.frozen: dict[bytes, bytes | None] = {}
        self.recent = Recent(memtable_bytes // 2)
        self._frozen: Table | None = None  # what `frozen` belongs to; None once all of it is in RocksDB
        self._moved_through = 0  # all batches up to this one are in RocksDB, if not on the disk there
        # Taken in this order. `_writing`: the journal, the active table, and which one is frozen.
        # `_moving`: moving a piece of a table. Apart from these: `_flushing`.
        self._closing, self._writing, self._moving, self._flushing = Lock(), Lock(), Lock(), Lock()
        self._cursors: WeakSet[RocksCursor] = WeakSet()
        self._cache = Cache(cache_bytes)
        self._journal_bytes_max = memtable_bytes
        self._flushed_at_use = 0
        self._table_bytes = table_bytes or min(memtable_bytes // 4, _TABLE_BYTES_MAX)
        segment_bytes = segment_bytes or _segment_bytes(memtable_bytes)
        try:
            self._database = Database(path, self._cache, memtable_bytes, self.stop_waiting_if_failed)
        except Exception as error:  # noqa: BLE001  RocksDB raises nothing more special
            self.fail_to_open(error)
        # Bound once: this is the hot path. A failure or `close` puts `refuse` in its place.
        self._get: Callable[[bytes], bytes | None] = self._database.families[DATA].get
        try:
            self._journal = self._recover(segment_bytes, sync)
        except BaseException:
            self._database.close(failed=True)
            raise
        self._mover = Worker("mover", self._move_gently, self.fail_later)
        self._flusher = Worker("flusher", self._flush, self.fail_later)

    # The hot path.

    def get(self, key: bytes) -> bytes | None:
        """The value under a data key. For the thread that writes: another one might keep what it read before
        that was written over."""
        value = self.table.get(key, _ABSENT)
        if value is _ABSENT:
            value = self.frozen.get(key, _ABSENT)
            if value is _ABSENT:
                return self.recent.get(key) or self._read(key)
        return value  # type: ignore[return-value]  # the one object that it could be is ruled out

    def _read(self, key: bytes) -> bytes | None:
        try:
            value = self._get(key)
        except Exception as error:  # noqa: BLE001
            self.fail(error)
        if value is not None:
            self.recent.keep(key, value)
        return value

    def batch(self) -> RocksBatch:
        """A new, empty batch."""
        return RocksBatch()

    def write(self, batch: Batch, sync: bool, meanwhile: Callable[[], None] = nothing_meanwhile) -> None:
        """Make the batch visible; with `sync`, return only once it is on disk, with all before it. `meanwhile`
        is called once, while the disk is at it; it must not call the engine."""
        assert isinstance(batch, RocksBatch)
        with self._writing:
            self.refuse_if_failed()
            try:
                size = self._append(batch, sync)
                if batch.ranges:
                    self._delete_ranges(batch.ranges)
                if size:
                    self._active.add(batch, self._journal.sequence, size)
                    self._bound_memory()
                    self._bound_journal()
                meanwhile()
                if sync:
                    self._journal.sync()
            except OSError as error:
                self.fail(error)

    def _append(self, batch: RocksBatch, sync: bool) -> int:
        """Write it to the journal, and have the disk begin if it is to `sync`; its size there."""
        if batch.is_empty():
            return 0
        payload = batch.encode()
        self._journal.append(payload)
        if sync:
            self._journal.begin_sync()
        return len(payload)

    # Between memory and RocksDB. Called with `_writing` held, unless they say otherwise.

    def _bound_memory(self) -> None:
        """Freeze a table that is full. While the next one fills, the frozen one is moved as fast at least:
        what the other thread does not get done meanwhile is done here, a little with every write."""
        share = self._active.share_full(self._table_bytes)
        if share >= 1:
            self._freeze()
        elif (frozen := self._frozen) is not None:
            while frozen.share_left() > 1 - share and self._move_piece():
                pass

    def _freeze(self) -> None:
        """Have the active table moved, and begin a new one. What moves is on the disk in the journal before."""
        self._move_frozen()
        with self.guard:
            self._journal.sync()
        self._active.freeze()
        self._frozen = self._active
        self.frozen = self._active.data
        self._active = Table()
        self.table = self._active.data
        if self.refuses:  # another thread found out meanwhile
            self.stop_answering()
            self.refuse()
        self._mover.wake()

    def _bound_journal(self) -> None:
        """Once for each segment that is too many, have it flushed."""
        journal = self._journal
        if journal.living_bytes > self._journal_bytes_max and journal.use != self._flushed_at_use:
            self._flushed_at_use = journal.use
            self._flusher.wake()

    def _move_gently(self) -> None:
        """Move the frozen table, letting everybody else at the interpreter between the pieces. The other
        thread's."""
        while self._move_piece():
            sleep(_PAUSE_S)

    def _move_frozen(self) -> None:
        """Return once the frozen table is moved. Any thread."""
        while self._move_piece():
            pass

    def _move_piece(self) -> bool:
        """Move a piece of the frozen table; whether there may be more. Any thread, `_writing` or not."""
        with self.guard, self._moving:
            frozen = self._frozen
            if frozen is None:
                return False
            if frozen.operations:
                self._move_operations_of(frozen)
            elif keys := frozen.next_keys():
                self._database.write_data(keys, frozen.data)
                self.recent.forget(keys)
            else:
                self._database.write(frozen.changed_states())
                self._moved_through = max(self._moved_through, frozen.through)  # an empty table has no batch
                self.frozen = {}
                self._frozen = None
            return True

    def _move_operations_of(self, table: Table) -> None:
        """A piece of them. `_moving` is held, and nobody adds to the table meanwhile."""
        operations = table.first_operations()
        self._database.write(operations)
        table.forget_operations(len(operations))

    def _move_data(self) -> None:
        """Have all data in RocksDB, for a walk."""
        if not self._active.is_empty():
            self._freeze()
        self._move_frozen()

    def _move_operations(self) -> None:
        """Have all logs and expiry notes in RocksDB, for a walk."""
        with self.guard:
            self._journal.sync()
            for table in (self._frozen, self._active):
                while table is not None and table.operations:
                    with self._moving:
                        self._move_operations_of(table)

    def _move(self, family: str, until_ms: int = _OFFSET_MAX) -> None:
        """Have in RocksDB what a walk over a family could miss; of expiry notes, those up to a time."""
        if family == DATA:
            self._move_data()
            return
        for table in (self._frozen, self._active):
            if (
                table is not None
                and table.operations
                and (family == LOG or table.earliest_note_ms <= until_ms)
            ):
                self._move_operations()
                return

    def _delete_ranges(self, ranges: list[tuple[bytes, bytes]]) -> None:
        """In RocksDB at once, behind everything that was there before, and in the active table."""
        self._move_frozen()
        with self.guard:
            self._journal.sync()
            self._database.write([(DELETE_DATA_RANGE, start, end) for start, end in ranges])
        self.recent.clear()
        for start, end in ranges:
            self._active.forget_range(start, end)

    def _flush(self) -> None:
        """Have on the disk in RocksDB what has been moved, and the journal's files before it used again.
        The marker is fixed first: what is moved meanwhile is beyond it. It never goes back."""
        with self._flushing:
            marker = Marker(self._moved_through, self._journal.use)
            self._database.flush(marker)
            self._journal.release(marker.through)

    def _recover(self, segment_bytes: int, sync: bool) -> Journal:
        """Play what the journal has and RocksDB lacks, make that durable, and begin a new journal."""
        directory = self.path / JOURNAL_DIRECTORY
        with self.guard:
            marker = self._database.marker()
            try:
                recovered = Recovered(directory, *(marker or (0, 0)))
            except StorageFailed as error:
                self.damaged(f"in {self.path}, {error}", error)
            for stored in recovered.batches():
                self._database.write(list(decode_batch(stored)))
            if recovered.last > (marker.through if marker else 0):
                self._database.flush(Marker(recovered.last, recovered.use))
            journal = Journal(
                directory,
                recovered,
                segment_bytes=segment_bytes,
                segments_max=self._journal_bytes_max // segment_bytes + _SEGMENTS_BESIDE,
                sync=sync,
                failed=self.fail_later,
            )
            if marker is None:  # from now on, a journal that is not there was lost
                self._database.flush(Marker(recovered.last, journal.use))
        self._moved_through = recovered.last
        self._flushed_at_use = journal.use
        return journal

    # Data.

    def scan(
        self, start: bytes, end: bytes, count: int, bytes_max: int = UNBOUNDED
    ) -> list[tuple[bytes, bytes]]:
        """Up to `count` (data key, value) pairs with `start <= key < end`, ascending; at least one if there
        is one, at most about `bytes_max`."""
        return self.pairs(self._walk(DATA, start, end), count, bytes_max)

    def scan_backward(
        self, start: bytes, end: bytes, count: int, bytes_max: int = UNBOUNDED
    ) -> list[tuple[bytes, bytes]]:
        """The same from the end of the range, descending."""
        walk = self._walk(DATA, start, end)
        with self.guard:
            return walk.read_backward(start, count, bytes_max)

    def cursor(self, start: bytes, end: bytes) -> RocksCursor:
        """A walk over `start <= key < end` as the data stands now."""
        cursor = RocksCursor(self, self._walk(DATA, start, end))
        self._cursors.add(cursor)
        return cursor

    def count(self, start: bytes, end: bytes) -> int:
        """How many data keys lie in the range. Walks them; call it off the server's thread."""
        walk = self._walk(DATA, start, end)
        with self.guard:
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
        with self.guard:
            while (offset := _offset_at(walk, partition)) is not None:
                if before is not None and offset != before - 1:
                    self._lost(partition, before - 1)
                yield offset, iterator.value()
                before = offset
                iterator.prev()

    def last_offset(self, partition: int) -> int | None:
        """The newest entry's offset, None for an empty log."""
        walk = self._newest(partition)
        with self.guard:
            return _offset_at(walk, partition)

    # Expiry and state.

    def due(self, partition: int, until_ms: int, count: int) -> list[tuple[int, bytes]]:
        """Up to `count` (expiry_ms, data key) notes with `expiry_ms <= until_ms`, oldest first."""
        end = expiry_prefix(partition, until_ms + 1) if until_ms < _OFFSET_MAX else partition_end(partition)
        walk = self._walk(EXPIRY, partition_key(partition), end, until_ms)
        notes = self.pairs(walk, count, UNBOUNDED)
        return [(expiry_position(key)[1], key[_EXPIRY_PREFIX_BYTES:]) for key, _ in notes]

    def states(self) -> Mapping[int, ReplicaState]:
        """The stored state of every replica, by partition id."""
        with self._writing:
            in_memory = {**(self._frozen.states if self._frozen else {}), **self._active.states}
            walk = self._stand(STATE, b"", partition_end(0xFFFF))
        stored = {**dict(self.pairs(walk, UNBOUNDED, UNBOUNDED)), **in_memory}
        try:
            return {
                int.from_bytes(key, "big"): decode_state(state)
                for key, state in sorted(stored.items())
                if state is not None
            }
        except StorageFailed as error:
            self.damaged(f"in {self.path}, {error}", error)

    # Looking after it.

    def stats(self) -> EngineStats:
        """Sizes; walks the directory, so once a second rather than once a request."""
        self.refuse_if_failed()
        with self.guard:
            memory = self._cache.get_usage() + self._database.bytes_in_memory() + self._active.size_bytes
            memory += self.recent.size_bytes
            on_disk = _bytes_under(self.path) + _bytes_under(self.path / JOURNAL_DIRECTORY)
        if (frozen := self._frozen) is not None:
            memory += frozen.size_bytes
        return EngineStats(on_disk, self.bytes_free(), memory)

    def bytes_free(self) -> int:
        """Room on the file system for a process that is not root."""
        return bytes_free(self.path)

    def check_room(self, bytes_min: int) -> None:
        """Raise `DiskFull` if the file system has less room than `bytes_min`. The engine goes on: what to
        stop, and whether to go on when there is room again, is for the caller to say.

        Unless there is next to none: the journal's files are there already, so writes would go on until it
        has to be flushed, and then fail. Whoever could take over the partitions should not wait for that.
        """
        if self.bytes_free() < self._journal.segment_bytes:
            self.fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)))
        if lack := lack_of_room(self.path, bytes_min, "write safely"):
            raise DiskFull(f"{lack}: {MAKE_ROOM}")

    def compact(self) -> None:
        """Rewrite everything, so that what was deleted leaves the disk. Takes long; off the server's thread."""
        with self._writing:
            self.refuse_if_failed()
            self._move_data()
        with self.guard:
            self._flush()
            self._database.compact()

    def close(self) -> None:
        """Flush and close, leaving an empty journal. Idempotent. Raises `StorageFailed` if that fails: all
        that was acknowledged is in the journal then, but the stop was not a clean one."""
        with self._closing:
            if not self._database.families:
                return
            with self._writing:
                self.stop_answering()
            self._database.stop_waiting()
            self._mover.stop()
            self._flusher.stop()
            for cursor in self._cursors:
                cursor.close()
            try:
                if self.failure is None:
                    with self.guard:
                        self._leave_empty_journal()
            finally:
                self._journal.close()
                self._database.close(failed=self.failure is not None)

    def _leave_empty_journal(self) -> None:
        self._move_frozen()
        self._journal.sync()
        self._active.freeze()
        self._frozen, self._active = self._active, Table()
        self._move_frozen()
        self._flush()
        self._journal.empty()

    def pairs(self, walk: Walk, count: int, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """`Walk.read` with this engine's way of failing."""
        self.refuse_if_failed()
        with self.guard:
            return walk.read(count, bytes_max)

    def _walk(self, family: str, start: bytes, end: bytes, until_ms: int = _OFFSET_MAX) -> Walk:
        """A walk over `start <= key < end`, standing at the first key; of expiry notes, up to a time."""
        with self._writing:
            self.refuse_if_failed()
            self._move(family, until_ms)
            return self._stand(family, start, end)

    def _stand(self, family: str, start: bytes, end: bytes) -> Walk:
        """The same over what is in RocksDB already."""
        with self.guard:
            walk = Walk(self._database.families[family], end)
            walk.iterator.seek(start)
            return walk

    def _newest(self, partition: int) -> Walk:
        """A walk over the log, standing at the partition's last entry, or before it if there is none."""
        with self._writing:
            self.refuse_if_failed()
            self._move(LOG)
            with self.guard:
                walk = Walk(self._database.families[LOG], partition_end(partition))
                walk.iterator.seek_for_prev(log_key(partition, _OFFSET_MAX))
                return walk

    def _lost(self, partition: int, offset: int) -> NoReturn:
        self.damaged(f"the log of partition {partition} in {self.path} has no entry {offset}")

    def stop_answering(self) -> None:
        """The engine failed or is about to close: the calls of the hot path refuse."""
        super().stop_answering()
        self._get = self.refuse
        self.recent.clear()  # before the tables: they have the newer values
        self.table, self.frozen = {}, {}


def room_to_start(memtable_bytes: int) -> int:
    """The bytes that the files take which a journal begins with. To make durable what an earlier process left in
    its journal may take more; then opening fails as anything does on a full disk."""
    return 3 * _segment_bytes(memtable_bytes)


def _segment_bytes(memtable_bytes: int) -> int:
    return min(max(memtable_bytes // 4, _SEGMENT_BYTES_MIN), _SEGMENT_BYTES_MAX)


def _offset_at(walk: Walk, partition: int) -> int | None:
    """The offset of the log entry where the walk stands, None outside the partition."""
    iterator = walk.iterator
    if not iterator.valid():
        iterator.status()
        return None
    holder, offset = log_position(iterator.key())
    return offset if holder == partition else None


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
