"""Processes that die at any moment: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fortdb.errors import StorageFailed
from fortdb.storage.rocks import RocksEngine
from tests.storage.engines import open_engine
from tests.storage.writer import KEYS_PER_BATCH, PARTITION, key_of, value_of


def start_writer(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.storage.writer", str(path), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def write_and_kill(path: Path, acknowledgements: int) -> int:
    """Let a process write, kill it after so many acknowledgements; the last number it ever said."""
    with start_writer(path) as writer:
        assert writer.stdout is not None
        for _ in range(acknowledgements):
            assert writer.stdout.readline(), "the writer died by itself"
        writer.kill()
        said = writer.stdout.read().splitlines()
        writer.wait()
    # The kill may cut the last line short; a number without its line break was acknowledged too, but
    # what is cut off it may make it another number.
    return int(said[-2]) if len(said) > 1 else 0


def check_whole(engine: RocksEngine, acknowledged: int) -> int:
    """Every batch up to the last one is wholly there and nothing of the next; the last one's number."""
    last = engine.last_offset(PARTITION) or 0
    assert last >= acknowledged
    if last:
        assert engine.states()[PARTITION].applied == last
        assert engine.entries(PARTITION, 1, last, 1 << 40) == [
            value_of(number) for number in range(1, last + 1)
        ]
    for number in range(1, last + 1):
        for index in range(KEYS_PER_BATCH):
            assert engine.get(key_of(number, index)) == value_of(number)
    for index in range(KEYS_PER_BATCH):
        assert engine.get(key_of(last + 1, index)) is None
    assert engine.count(b"\x01", b"\x02") == last * KEYS_PER_BATCH
    return last


def test_acknowledged_batches_survive_kills_wholly(tmp_path: Path) -> None:
    path = tmp_path / "engine"
    moments = random.Random(20240607)
    last = 0
    for _ in range(5):
        acknowledged = write_and_kill(path, moments.randrange(1, 120))
        engine = open_engine(path)
        now = check_whole(engine, acknowledged)
        engine.close()
        assert now > last
        last = now


def test_a_torn_end_of_the_log_file_costs_only_what_was_never_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "engine"
    write_and_kill(path, 20)
    engine = open_engine(path)
    last = check_whole(engine, 20)
    batch = engine.batch()
    for index in range(KEYS_PER_BATCH):
        batch.put_data(key_of(last + 1, index), value_of(last + 1))
    batch.put_log(PARTITION, last + 1, value_of(last + 1))
    engine.write(batch, sync=True)
    log_file = max(path.glob("*.log"))
    size = log_file.stat().st_size
    # As the power could have cut that last write: at its end, in the middle, in its header, before it.
    for kept in (size - 1, size // 2, 8, 3, 0):
        torn = tmp_path / f"torn-{kept}"
        shutil.copytree(path, torn, ignore=shutil.ignore_patterns("LOCK"))
        os.truncate(torn / log_file.name, kept)
        reopened = open_engine(torn)
        assert check_whole(reopened, last) == last
        reopened.close()
    engine.close()


def test_a_second_process_is_refused_until_the_first_one_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "engine"
    with start_writer(path, "hold") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        with pytest.raises(StorageFailed, match="another process holds") as refused:
            open_engine(path)
        assert str(path) in str(refused.value)
        holder.kill()
        holder.wait()
    open_engine(path).close()
