"""A disk that is full: the write says so, nothing acknowledged is lost, and room makes it well."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fortdb.errors import DiskFull
from fortdb.storage.identity import open_directory
from tests.storage.engines import MEBIBYTE, open_engine, wait_for_segments
from tests.support.disks import fill_disk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 96) as disk:
        yield disk


def value_of(number: int) -> bytes:
    return number.to_bytes(4, "big") * 5000


def key_of(number: int) -> bytes:
    return b"\x01%06d" % number


@pytest.mark.parametrize(
    "memtable_bytes", [MEBIBYTE, 64 * MEBIBYTE], ids=["while-flushing", "in-the-log-file"]
)
def test_a_full_disk_loses_nothing_acknowledged(disk: Path, memtable_bytes: int) -> None:
    path = disk / "engine"
    engine = open_engine(path, memtable_bytes)
    ballast = disk / "ballast"
    wait_for_segments(path / "journal")
    fill_disk(disk, leave_bytes=8 * MEBIBYTE)
    acknowledged = 0
    with pytest.raises(DiskFull, match="is full.*make room|is full.*Make room") as full:
        while acknowledged < 100_000:
            batch = engine.batch()
            batch.put_data(key_of(acknowledged), os.urandom(16_000) + value_of(acknowledged))
            batch.put_log(1, acknowledged + 1, value_of(acknowledged))
            engine.write(batch, sync=True)
            acknowledged += 1
    assert acknowledged > 10
    assert engine.failure == str(full.value)
    with pytest.raises(DiskFull):
        engine.get(key_of(0))
    with pytest.raises(DiskFull):
        engine.write(engine.batch(), sync=True)
    engine.close()

    ballast.unlink()
    engine = open_engine(path, memtable_bytes)
    found = engine.last_offset(1) or 0
    assert found in (acknowledged, acknowledged + 1)  # the write that raised: all of it or nothing
    assert engine.count(b"\x01", b"\x02") == found
    for number in range(found):
        assert (engine.get(key_of(number)) or b"")[16_000:] == value_of(number)
    assert engine.entries(1, 1, found, 1 << 40) == [value_of(number) for number in range(found)]
    batch = engine.batch()
    batch.put_data(b"\x01after", b"well again")
    engine.write(batch, sync=True)
    engine.close()


def test_a_full_disk_cannot_be_taken(disk: Path) -> None:
    (disk / "data").mkdir()
    with (disk / "ballast").open("wb") as ballast, pytest.raises(OSError, match="No space left"):
        while True:
            ballast.write(bytes(MEBIBYTE))
            ballast.flush()
    with pytest.raises(DiskFull, match="cannot be used"):
        open_directory(disk / "data", "cluster", "node")
    with pytest.raises(DiskFull):
        open_engine(disk / "engine")


def test_room_is_checked_with_numbers(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    engine.check_room(1)
    with pytest.raises(DiskFull, match=r"bytes free, and the node needs 1,000,000,000,000,000,000"):
        engine.check_room(10**18)
    assert engine.failure is None
    assert engine.get(b"\x01") is None
    engine.close()


def test_a_disk_without_any_room_is_a_failure_before_it_is_needed(disk: Path) -> None:
    """The journal's files are there, so a write would still be taken."""
    engine = open_engine(disk / "engine")
    batch = engine.batch()
    batch.put_data(b"\x01key", b"value")
    engine.write(batch, sync=True)
    wait_for_segments(disk / "engine" / "journal")
    ballast = fill_disk(disk, leave_bytes=0)
    with pytest.raises(DiskFull, match="No space left"):
        engine.check_room(1)
    with pytest.raises(DiskFull, match="No space left"):
        engine.get(b"\x01key")
    engine.close()
    ballast.unlink()
    engine = open_engine(disk / "engine")
    assert engine.get(b"\x01key") == b"value"
    engine.close()
