"""RocksDB (through `rocksdict`, raw mode) as the engine uses it: opening, writing, flushing, closing.

Its own write-ahead log is off, so what was written is on the disk after a flush and not before. How far
the journal is contained is written down in the database itself, as a *marker*: all batches up to its
sequence are there. Later ones may be there in part. Playing the journal again from the marker makes that
right, because every change says what becomes of a key and not how it changes.

So the marker must never reach the disk before what it speaks of. It is written when all of that is in
RocksDB's memory, and a flush that we ask for takes one family after the other (`rocksdict` offers no more),
the one with the marker last; a flush that RocksDB makes by itself takes all of them as of one moment.

Caveats:

* `rocksdict` holds the interpreter while it writes, and lets go of it while it flushes. RocksDB has a write wait
  while flushes or compactions are behind, and on a full disk, from which it wants to recover by itself, until
  somebody makes room: the process would be frozen. So no write waits in there. It is refused at once (`no_slowdown`)
  and tried again after a pause, until it is carried out or there is a failure to tell.
* A flush may wait for compactions in the same way, without the interpreter; `stop_waiting` ends that.
* `rocksdict` flushes a family when it is closed, and when its last reference goes. Of a database that failed, the
  marker's could succeed where another's failed. So RocksDB is told to shut down before: it flushes all families
  once more as of one moment, or none, and refuses to flush them one by one afterwards.
* A marker names the use of the journal's segment that was written to. That there is none so new any more
  tells a journal that was lost from one that was never begun.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from time import sleep
from typing import NamedTuple

from rocksdict import Cache, ColumnFamily, Rdict, WriteBatch, WriteOptions

from fortdb.storage.batch import (
    DELETE_DATA,
    DELETE_DATA_RANGE,
    DELETE_EXPIRIES,
    DELETE_EXPIRY,
    DELETE_LOG,
    DELETE_STATE,
    PUT_DATA,
    PUT_EXPIRY,
    PUT_LOG,
    PUT_STATE,
    Operation,
)
from fortdb.storage.segments import sync_directory
from fortdb.storage.tuning import DATA, EXPIRY, FAMILIES, LOG, STATE, database_options, family_options

_MARKER_KEY = b"\xff" * 12
"""In the family of states, whose own keys are two bytes; behind `partition_end` of the last partition."""
_MARKER = Struct(">QQ")

_FAMILY_OF = {
    PUT_DATA: DATA,
    DELETE_DATA: DATA,
    DELETE_DATA_RANGE: DATA,
    PUT_LOG: LOG,
    DELETE_LOG: LOG,
    PUT_EXPIRY: EXPIRY,
    DELETE_EXPIRY: EXPIRY,
    DELETE_EXPIRIES: EXPIRY,
    PUT_STATE: STATE,
    DELETE_STATE: STATE,
}
_STALL = "Result incomplete: Write stall"
"""What a write is refused with that would have to wait."""
_PAUSE_S_MIN = 0.0005  # a flush takes a few milliseconds
_PAUSE_S_MAX = 0.5  # a failure is noticed within about that
_NO_STALLS = {
    "level0_slowdown_writes_trigger": str((1 << 31) - 1),
    "level0_stop_writes_trigger": str((1 << 31) - 1),
    "soft_pending_compaction_bytes_limit": "0",  # none
    "hard_pending_compaction_bytes_limit": "0",
}
_PUTS = frozenset({PUT_DATA, PUT_LOG, PUT_EXPIRY, PUT_STATE})
_DELETES = frozenset({DELETE_DATA, DELETE_EXPIRY, DELETE_STATE})


class Marker(NamedTuple):
    """All batches up to the sequence `through` are in the database; `use` is explained above."""

    through: int
    use: int


class Database:
    """The database in a directory, made if there is none. Any thread may call. A write that has to wait calls
    `refuse_if_failed` every now and then, which ends the wait by raising."""

    def __init__(
        self, path: Path, cache: Cache, memtable_bytes: int, refuse_if_failed: Callable[[], None]
    ) -> None:
        self._path = path
        self._refuse_if_failed = refuse_if_failed
        _make(path, cache, memtable_bytes)
        self._database = database = _open(path, cache, memtable_bytes, create=False)
        self.families = {name: database.get_column_family(name) for name in FAMILIES}
        self._handles: dict[str, ColumnFamily] = {
            name: database.get_column_family_handle(name) for name in FAMILIES
        }
        self._handle_of = {kind: self._handles[name] for kind, name in _FAMILY_OF.items()}
        self._options = WriteOptions()
        self._options.disable_wal = True  # type: ignore[method-assign, assignment]  # the stub is wrong
        self._options.no_slowdown = True

    def marker(self) -> Marker | None:
        """How far the journal is contained; None in a database that never had one."""
        stored = self.families[STATE].get(_MARKER_KEY)
        return None if stored is None else Marker(*_MARKER.unpack(stored))

    def write(self, operations: Sequence[Operation]) -> None:
        """Carry changes out, in order and at once."""
        self._carry_out(lambda: self._batch(operations))

    def write_data(self, keys: Sequence[bytes], data: Mapping[bytes, bytes | None]) -> None:
        """Put these keys as they are in the data, or delete those without a value; at once."""
        self._carry_out(lambda: self._batch_of_data(keys, data))

    def flush(self, marker: Marker) -> None:
        """Return once everything up to the marker is on the disk; all of it has been written before."""
        self._carry_out(lambda: self._batch_of_marker(marker))
        for name in (DATA, LOG, EXPIRY, STATE):
            self.families[name].flush()

    def compact(self) -> None:
        """Rewrite everything, so that what was deleted leaves the disk."""
        for family in self.families.values():
            family.compact_range(None, None)

    def bytes_in_memory(self) -> int:
        """Outside of the cache."""
        return sum(
            family.property_int_value(name) or 0
            for family in self.families.values()
            for name in ("rocksdb.size-all-mem-tables", "rocksdb.estimate-table-readers-mem")
        )

    def stop_waiting(self) -> None:
        """If compactions fail, have no flush wait for them any more: nothing else ends that but room on the disk.
        Called before the database is closed."""
        if self._background_errors():
            for family in self.families.values():
                with suppress(Exception):  # then RocksDB has failed for good, and flushes wait for nothing
                    family.set_options(_NO_STALLS)

    def close(self, *, failed: bool) -> None:
        """Let go of the files; everything was flushed before, or the database `failed`. Idempotent.
        Raises what closing a family raised, once all are closed."""
        families = [*self.families.values(), *((self._database,) if self.families else ())]
        if failed and families:
            self._database.cancel_all_background(False)
        self.families = {}
        self._handles = {}
        self._handle_of = {}
        if hasattr(self, "_database"):
            del self._database
        failures = [] if failed else [error for error in map(_close_family, families) if error is not None]
        del families
        if failures:
            raise failures[0]

    # Writing. A batch can be used once, even if it is refused.

    def _batch(self, operations: Sequence[Operation]) -> WriteBatch:
        handle_of = self._handle_of
        batch = WriteBatch(raw_mode=True)
        for kind, key, value in operations:
            if kind in _PUTS:
                batch.put(key, value, handle_of[kind])
            elif kind in _DELETES:
                batch.delete(key, handle_of[kind])
            else:
                batch.delete_range(key, value, handle_of[kind])
        return batch

    def _batch_of_data(self, keys: Sequence[bytes], data: Mapping[bytes, bytes | None]) -> WriteBatch:
        handle = self._handles[DATA]
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key in keys:
            value = data[key]
            if value is None:
                delete(key, handle)
            else:
                put(key, value, handle)
        return batch

    def _batch_of_marker(self, marker: Marker) -> WriteBatch:
        batch = WriteBatch(raw_mode=True)
        batch.put(_MARKER_KEY, _MARKER.pack(*marker), self._handles[STATE])
        return batch

    def _carry_out(self, batch: Callable[[], WriteBatch]) -> None:
        if not self._is_carried_out(batch()):
            self._carry_out_later(batch)

    def _is_carried_out(self, batch: WriteBatch) -> bool:
        """Carry it out, unless that would have to wait."""
        try:
            self._database.write(batch, self._options)
        except Exception as error:
            if str(error) != _STALL:
                raise
            return False
        return True

    def _carry_out_later(self, batch: Callable[[], WriteBatch]) -> None:
        """Try again and again. The pauses grow, but not far beyond what has been waited already.

        Of errors in the background, RocksDB tells a write all but the lack of room for a compaction: there it
        hopes to recover, and tries every few seconds. No room for a flush is told to a write that begins after it.
        """
        errors = self._background_errors()  # from which it has recovered, maybe
        pause_s = _PAUSE_S_MIN
        while True:
            again = batch()
            sleep(max(pause_s, self._delay_s(again.size_in_bytes())))
            self._refuse_if_failed()
            failed = self._background_errors() > errors
            if self._is_carried_out(again):
                return
            if failed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    def _background_errors(self) -> int:
        """How many flushes and compactions have failed."""
        return self._database.property_int_value("rocksdb.background-errors") or 0

    def _delay_s(self, size_bytes: int) -> float:
        """How long a write must stay away to be let in, when RocksDB does not stop writes but slows them down:
        it charges for one that it refuses, too."""
        rate = self.families[DATA].property_int_value("rocksdb.actual-delayed-write-rate")
        return min(2 * size_bytes / rate, _PAUSE_S_MAX) if rate else 0.0


def _open(path: Path, cache: Cache, memtable_bytes: int, *, create: bool) -> Rdict:
    families = {name: family_options(name, cache, memtable_bytes) for name in FAMILIES}
    return Rdict(str(path), database_options(memtable_bytes, create), column_families=families)


def _make(path: Path, cache: Cache, memtable_bytes: int) -> None:
    """Make an empty database if there is none, under another name first: a directory called `path`
    is one that was made completely, so whatever it lacks later was lost."""
    if path.exists():
        return
    making = path.with_name(path.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    making.parent.mkdir(parents=True, exist_ok=True)
    _open(making, cache, memtable_bytes, create=True).close()
    making.rename(path)
    sync_directory(path.parent)


def _close_family(family: Rdict) -> Exception | None:
    try:
        family.close()
    except Exception as error:  # noqa: BLE001  reported once all are closed
        return error
    return None
