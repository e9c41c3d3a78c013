"""What the tests of the engine share: small engines, and the files behind them."""

from __future__ import annotations

from pathlib import Path

from fortdb.storage.rocks import RocksEngine
from fortdb.storage.segments import HEADER_BYTES, used_bytes
from tests.support.waiting import eventually

MEBIBYTE = 1024 * 1024


def open_engine(path: Path, memtable_bytes: int = MEBIBYTE, small_bytes: int | None = None) -> RocksEngine:
    """An engine so small that a test meets flushes and compactions. With `small_bytes`, tables and the
    journal's segments are as small as that, so that they are moved and used again all the time."""
    return RocksEngine(
        path,
        cache_bytes=MEBIBYTE,
        memtable_bytes=memtable_bytes,
        table_bytes=small_bytes,
        segment_bytes=small_bytes and small_bytes + HEADER_BYTES,
    )


def newest_segment(path: Path) -> Path:
    """The segment of the engine's journal that holds the last records."""
    found = [file for file in (path / "journal").glob("segment-*") if used_bytes(file) > HEADER_BYTES]
    return max(found, key=lambda file: file.read_bytes()[8:16][::-1])


def wait_for_segments(journal: Path) -> None:
    """Until a new journal has as many as it keeps ready: its thread writes nothing more then."""
    eventually("two segments are ready", lambda: len(list(journal.glob("segment-*"))) == 3)


def flip_bit(file: Path, position: int, bit: int = 0) -> None:
    """What a bad disk does."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def biggest(path: Path, suffix: str) -> Path:
    """The biggest file of a kind."""
    return max(path.glob(f"*{suffix}"), key=lambda file: file.stat().st_size)
