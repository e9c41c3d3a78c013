"""What the tests of the engine share: small engines, and the files behind them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from fortdb.storage.rocks import RocksEngine

MEBIBYTE = 1024 * 1024


def open_engine(path: Path, memtable_bytes: int = MEBIBYTE) -> RocksEngine:
    """An engine so small that a test meets flushes and compactions."""
    return RocksEngine(path, cache_bytes=MEBIBYTE, memtable_bytes=memtable_bytes)


def flip_bit(file: Path, position: int, bit: int = 0) -> None:
    """What a bad disk does."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def biggest(path: Path, suffix: str) -> Path:
    """The biggest file of a kind."""
    return max(path.glob(f"*{suffix}"), key=lambda file: file.stat().st_size)


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    """Return once the condition holds; fail with `what` if it does not in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not in {deadline_s} s: {what}"
        time.sleep(0.01)
