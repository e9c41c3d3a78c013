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
from tests.storage.engines import MEBIBYTE, open_engine
from tests.storage.writer import KEYS_PER_BATCH, PARTITION, key_of, value_of


def start_writer(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.storage.writer", str(path), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def write_and_kill(path: Path, acknowledgements: int, memtable_bytes: int = MEBIBYTE) -> int:
    """Let a process write, kill it after so many acknowledgements; the last number it ever said."""
    with start_writer(path, "write", str(memtable_bytes)) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(acknowledgements)]
        writer.kill()
        lines += writer.stdout.readlines()
        writer.wait()
    # The kill may cut the last line short, and then it is another number.
    numbers = [int(line) for line in lines if line.endswith("\n")]
    assert len(numbers) >= acknowledgements, "the writer died by itself"
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return numbers[-1]


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
        assert now >= acknowledged > last
        last = now


def test_a_torn_end_of_the_log_file_costs_only_what_was_never_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "engine"
    acknowledged = write_and_kill(path, 20)  # nobody changes the directory any more, so it can be copied
    log_file = max(path.glob("*.log"))
    size = log_file.stat().st_size
    lasts = []
    # As the power could have cut it: in the last write, anywhere before it, in the first header, at once.
    for kept in (size, size - 1, size * 2 // 3, size // 3, 8, 3, 0):
        torn = tmp_path / f"torn-{kept}"
        shutil.copytree(path, torn)
        os.truncate(torn / log_file.name, kept)
        engine = open_engine(torn)
        lasts.append(check_whole(engine, 0))
        engine.close()
    assert lasts[0] >= acknowledged
    assert lasts[0] - 1 <= lasts[1] <= lasts[0]
    assert lasts == sorted(lasts, reverse=True)
    assert lasts[-1] < lasts[0]


def test_a_second_process_is_refused_until_the_first_one_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "engine"
    with start_writer(path, "hold", str(MEBIBYTE)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        with pytest.raises(StorageFailed, match="another process holds") as refused:
            open_engine(path)
        assert str(path) in str(refused.value)
        holder.kill()
        holder.wait()
    open_engine(path).close()
