"""A process that may freeze: it has a database of which writes have to wait, on a disk that becomes full.

`python -m tests.storage.stalling DISK flush` writes until there is no room for a flush, `... compaction` until there
is none for a compaction that writes wait for. It says what the write raised, and whether it could close.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from rocksdict import Cache

from fortdb.storage.batch import PUT_DATA
from fortdb.storage.database import Database, Marker
from fortdb.storage.tuning import DATA
from tests.storage.engines import MEBIBYTE
from tests.support.disks import fill_disk

BIG_BYTES = 600_000
"""Fills memtables of a quarter mebibyte faster than they can be flushed."""
NOISE = os.urandom(BIG_BYTES)


def put(database: Database, key: bytes, value_bytes: int) -> None:
    """Write a value that cannot be compressed."""
    database.write([(PUT_DATA, key, NOISE[:value_bytes])])


def open_database(path: Path, memtable_bytes: int) -> Database:
    """One of an engine that never fails."""
    return Database(path, Cache(MEBIBYTE), memtable_bytes, lambda: None)


def no_room_to_flush(disk: Path) -> Database:
    """A database whose flushes will soon fail."""
    database = open_database(disk / "database", MEBIBYTE // 4)
    fill_disk(disk, leave_bytes=6 * MEBIBYTE)
    return database


def no_room_to_compact(disk: Path) -> Database:
    """A database with room for some flushes, but not for compactions, and writes wait for these."""
    database = open_database(disk / "database", MEBIBYTE // 16)
    for number in range(20):
        put(database, b"\x01%02d" % number, BIG_BYTES)
    database.flush(Marker(1, 1))
    database.compact()
    limits = dict.fromkeys(("level0_slowdown_writes_trigger", "level0_stop_writes_trigger"), "4")
    database.families[DATA].set_options(limits)
    fill_disk(disk, leave_bytes=9 * MEBIBYTE)
    return database


def main(disk: Path, lacking: str) -> None:
    """Write until that fails, then close, with a flush under way."""
    database, value_bytes = (
        (no_room_to_flush(disk), BIG_BYTES) if lacking == "flush" else (no_room_to_compact(disk), 70_000)
    )
    number = 0
    try:
        while True:
            put(database, b"\x01%02d-%d" % (number % 20, number), value_bytes)
            number += 1
    except Exception as error:  # noqa: BLE001  RocksDB raises nothing more special
        print(error, flush=True)
    flusher = threading.Thread(target=flush, args=[database])
    flusher.start()
    database.stop_waiting()
    flusher.join()
    database.close(failed=True)
    print("closed", flush=True)


def flush(database: Database) -> None:
    """Whether it succeeds is of no interest."""
    try:
        database.flush(Marker(2, 2))
    except Exception as error:  # noqa: BLE001
        print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
