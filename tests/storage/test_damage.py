"""Damaged files: reads raise, they never answer wrongly, and nothing that was lost is called absent."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fortdb.errors import StorageFailed
from fortdb.storage.engine import ReplicaState
from fortdb.storage.keys import data_key, partition_key
from fortdb.storage.rocks import RocksEngine
from fortdb.storage.segments import used_bytes
from tests.storage.engines import MEBIBYTE, biggest, flip_bit, newest_segment, open_engine
from tests.storage.test_crash import write_and_kill

ALL = (b"\x01", b"\x02")
PAIRS = {data_key(number << 50, b"key"): random.Random(number).randbytes(120) for number in range(3000)}


@pytest.fixture
def flushed(tmp_path: Path) -> Path:
    """A directory whose data is in files and not in the write-ahead log."""
    path = tmp_path / "engine"
    engine = open_engine(path)
    batch = engine.batch()
    for key, value in PAIRS.items():
        batch.put_data(key, value)
    for offset in range(1, 101):
        batch.put_log(1, offset, b"entry %d" % offset)
    engine.write(batch, sync=True)
    engine.close()
    return path


READS: dict[str, Callable[[RocksEngine], object]] = {
    "get": lambda engine: {key: engine.get(key) for key in PAIRS},
    "scan": lambda engine: dict(engine.scan(*ALL, len(PAIRS) + 1)),
    "cursor": lambda engine: dict(read_all(engine)),
    "count": lambda engine: engine.count(*ALL),
}


def read_all(engine: RocksEngine) -> list[tuple[bytes, bytes]]:
    cursor = engine.cursor(*ALL)
    pairs: list[tuple[bytes, bytes]] = []
    while chunk := cursor.read(10_000):
        pairs += chunk
    return pairs


@pytest.mark.parametrize("name", READS)
def test_a_flipped_bit_in_a_data_file_is_never_an_answer(flushed: Path, tmp_path: Path, name: str) -> None:
    right: object = len(PAIRS) if name == "count" else PAIRS
    positions = random.Random(name)
    size = biggest(flushed, ".sst").stat().st_size
    refused = 0
    for trial in range(25):
        copy = tmp_path / f"copy-{trial}"
        shutil.copytree(flushed, copy)
        flip_bit(biggest(copy, ".sst"), positions.randrange(size), positions.randrange(8))
        try:
            engine = open_engine(copy)
        except StorageFailed:
            refused += 1
            continue
        try:
            assert READS[name](engine) == right
        except StorageFailed as error:
            refused += 1
            assert engine.failure == str(error)
        engine.close()
        shutil.rmtree(copy)
    # A get does not look at everything (a flip may lie in what it never reads), a walk reads all data.
    assert refused >= (1 if name == "get" else 20)


def test_an_engine_that_met_damage_refuses_everything_from_then_on(flushed: Path) -> None:
    flip_bit(biggest(flushed, ".sst"), 2000)
    engine = open_engine(flushed)
    with pytest.raises(StorageFailed, match=r"Corruption.*copy its data from the other replicas"):
        engine.scan(*ALL, len(PAIRS))
    assert engine.failure is not None and "Corruption" in engine.failure
    batch = engine.batch()
    batch.put_data(b"\x01", b"")
    untouched = max(PAIRS)
    for call in (
        lambda: engine.get(untouched),
        lambda: engine.write(batch, sync=True),
        lambda: engine.scan(*ALL, 1),
        lambda: engine.cursor(*ALL),
        lambda: engine.count(*ALL),
        lambda: engine.entries(1, 1, 1, 1),
        lambda: list(engine.entries_backward(1)),
        lambda: engine.last_offset(1),
        lambda: engine.due(1, 1, 1),
        engine.states,
        engine.stats,
    ):
        with pytest.raises(StorageFailed, match="Corruption"):
            call()
    engine.close()


def test_a_data_file_cut_short_is_not_opened(flushed: Path) -> None:
    file = biggest(flushed, ".sst")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StorageFailed, match=r"Corruption.*size"):
        open_engine(flushed)


def test_a_flipped_bit_in_the_journal_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "engine"
    write_and_kill(path, 30, 64 * MEBIBYTE)  # nothing is flushed: one segment holds it all and is needed
    segment = newest_segment(path)
    flip_bit(segment, used_bytes(segment) // 2)
    with pytest.raises(
        StorageFailed, match=r"record [\d,]+ of the journal is damaged.*copy its data"
    ) as refused:
        open_engine(path)
    assert str(segment) in str(refused.value)


@pytest.mark.parametrize("clean", [True, False], ids=["after a clean stop", "after a kill"])
def test_a_journal_that_was_lost_is_noticed(tmp_path: Path, clean: bool) -> None:
    path = tmp_path / "engine"
    write_and_kill(path, 10)
    if clean:
        open_engine(path).close()
    shutil.rmtree(path / "journal")
    with pytest.raises(StorageFailed, match="newest files of the journal in .* are missing"):
        open_engine(path)


def test_a_directory_that_lost_its_head_is_not_made_anew(flushed: Path) -> None:
    (flushed / "CURRENT").unlink()
    with pytest.raises(StorageFailed, match="does not exist"):
        open_engine(flushed)


def test_a_gap_in_a_log_is_a_failure(tmp_path: Path) -> None:
    for missing in (1, 5, 9):
        engine = open_engine(tmp_path / f"engine-{missing}")
        batch = engine.batch()
        for offset in range(1, 10):
            if offset != missing:
                batch.put_log(1, offset, b"%d" % offset)
        engine.write(batch, sync=True)
        if missing > 1:
            assert engine.entries(1, 1, missing - 1, 1 << 30) == [
                b"%d" % offset for offset in range(1, missing)
            ]
        with pytest.raises(StorageFailed, match=f"partition 1 in .* has no entry {missing}"):
            engine.entries(1, missing if missing == 9 else 1, 9, 1 << 30)
        assert engine.failure is not None
        engine.close()


def test_a_gap_in_a_log_is_noticed_backward(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    batch = engine.batch()
    for offset in (1, 2, 4):
        batch.put_log(1, offset, b"")
    engine.write(batch, sync=True)
    backward = engine.entries_backward(1)
    assert next(backward) == (4, b"")
    with pytest.raises(StorageFailed, match="has no entry 3"):
        next(backward)
    engine.close()


def test_a_state_that_makes_no_sense_is_a_failure(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    batch = engine.batch()
    batch.put_state(1, ReplicaState(epoch=4))
    batch.states[partition_key(2)] = b"\x09nonsense"
    engine.write(batch, sync=True)
    with pytest.raises(StorageFailed, match="replica state makes no sense") as refused:
        engine.states()
    assert engine.failure == str(refused.value)
    assert str(tmp_path) in engine.failure
    engine.close()
