"""Processes that die at any moment: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fortdb.errors import StorageFailed
from fortdb.storage.rocks import RocksEngine
from fortdb.storage.segments import HEADER_BYTES, used_bytes
from tests.storage.engines import MEBIBYTE, newest_segment, open_engine
from tests.storage.writer import KEYS_PER_BATCH, PARTITION, key_of, value_of


def start_writer(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.storage.writer", str(path), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def write_and_kill(path: Path, acknowledgements: int, *sizes: int) -> int:
    """Let a process write, kill it after so many acknowledgements; the last number it ever said. `sizes`
    as of `open_engine`."""
    with start_writer(path, "write", *map(str, sizes or (MEBIBYTE,))) as writer:
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


@pytest.mark.parametrize("sizes", [(MEBIBYTE,), (MEBIBYTE // 2, 1 << 15)], ids=["small", "tiny"])
def test_acknowledged_batches_survive_kills_wholly(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """With tiny segments, each is used several times, and a batch may need two."""
    path = tmp_path / "engine"
    moments = random.Random(20240607)
    last = 0
    for _ in range(5):
        acknowledged = write_and_kill(path, moments.randrange(1, 120), *sizes)
        engine = open_engine(path, *sizes)
        now = check_whole(engine, acknowledged)
        engine.close()
        assert now >= acknowledged > last
        last = now


def test_an_end_that_is_not_on_the_disk_costs_only_what_was_never_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "engine"
    # Nobody changes the directory any more, so it can be copied; nor did RocksDB begin to flush, or files of a flush
    # that was cut short would have what is torn off here, as if it had never been on the disk.
    acknowledged = write_and_kill(path, 20, 4 * MEBIBYTE)
    segment = newest_segment(path)
    size = used_bytes(segment)
    lasts = []
    # In the last record, and before it: as if nothing behind had ever been acknowledged.
    for kept in (size, size - 1, size * 2 // 3, size // 3, HEADER_BYTES + 3, HEADER_BYTES):
        torn = tmp_path / f"torn-{kept}"
        shutil.copytree(path, torn)
        with (torn / "journal" / segment.name).open("r+b") as file:
            file.seek(kept)
            file.write(bytes(segment.stat().st_size - kept))
        engine = open_engine(torn, 4 * MEBIBYTE)
        lasts.append(check_whole(engine, 0))
        engine.close()
    assert lasts[0] >= acknowledged
    assert lasts[1] == lasts[0] - 1
    assert lasts == sorted(lasts, reverse=True)
    assert lasts[-1] < lasts[0]


FORMER_VERSION = """
import os, sys
from rocksdict import Cache, Options, Rdict, WriteBatch, WriteOptions
from fortdb.storage.keys import log_key, partition_key
from fortdb.storage.engine import ReplicaState
from fortdb.storage.states import encode_state
from fortdb.storage.tuning import FAMILIES, database_options, family_options
from tests.storage.writer import KEYS_PER_BATCH, PARTITION, key_of, value_of
cache = Cache(1 << 20)
families = {name: family_options(name, cache, 1 << 20) for name in FAMILIES}
database = Rdict(sys.argv[1], database_options(1 << 20, True), column_families=families)
handle = database.get_column_family_handle
for number in range(1, 101):
    batch = WriteBatch(raw_mode=True)
    for index in range(KEYS_PER_BATCH):
        batch.put(key_of(number, index), value_of(number), handle("data"))
    batch.put(log_key(PARTITION, number), value_of(number), handle("log"))
    batch.put(partition_key(PARTITION), encode_state(ReplicaState(epoch=1, applied=number)), handle("state"))
    options = WriteOptions()
    options.sync = True
    database.write(batch, options)
os._exit(0)
"""


def test_what_the_former_version_left_is_opened_without_loss(tmp_path: Path) -> None:
    """It had no journal, but RocksDB's own log, and was killed."""
    path = tmp_path / "engine"
    subprocess.run([sys.executable, "-c", FORMER_VERSION, str(path)], check=True)
    assert max(file.stat().st_size for file in path.glob("*.log")) > 0
    engine = open_engine(path)
    assert check_whole(engine, 100) == 100
    engine.close()
    assert write_and_kill(path, 10) >= 110
    engine = open_engine(path)
    check_whole(engine, 110)
    engine.close()


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
