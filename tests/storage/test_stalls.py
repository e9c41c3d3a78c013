"""RocksDB that is behind: writes wait without the interpreter, and no longer than there is hope."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rocksdict import Cache

from fortdb.errors import StorageFailed
from fortdb.storage.database import Database
from fortdb.storage.tuning import DATA
from tests.storage.engines import MEBIBYTE
from tests.storage.stalling import BIG_BYTES, NOISE, put
from tests.support.disks import small_disk


@pytest.mark.parametrize("lacking", ["flush", "compaction"])
def test_a_write_that_waits_hears_that_the_disk_is_full(tmp_path: Path, lacking: str) -> None:
    """In a process of its own: one that waits with the interpreter held can only be killed."""
    with small_disk(tmp_path / "disk", 32) as disk:
        done = subprocess.run(
            [sys.executable, "-m", "tests.storage.stalling", str(disk), lacking],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    raised, closed = done.stdout.splitlines()
    assert "No space left" in raised
    assert closed == "closed"


def test_writes_wait_for_a_disk_that_is_slower_than_they_are(tmp_path: Path) -> None:
    waits: list[int] = []
    database = Database(tmp_path / "database", Cache(MEBIBYTE), MEBIBYTE // 4, lambda: waits.append(1))
    for number in range(100):
        put(database, b"\x01%03d" % number, BIG_BYTES)
    assert waits
    assert all(database.families[DATA].get(b"\x01%03d" % number) == NOISE for number in range(100))
    database.close(failed=False)


def test_a_write_stops_waiting_once_the_engine_failed(tmp_path: Path) -> None:
    def refuse() -> None:
        raise StorageFailed("the journal failed")

    database = Database(tmp_path / "database", Cache(MEBIBYTE), MEBIBYTE // 4, refuse)
    with pytest.raises(StorageFailed, match="the journal failed"):
        for number in range(100):
            put(database, b"\x01%03d" % number, BIG_BYTES)
    database.close(failed=True)
