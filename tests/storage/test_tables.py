"""What the engine has in memory before RocksDB: who sees it, when it is moved, and that its errors are told."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fortdb.errors import DiskFull, StorageFailed
from fortdb.storage.database import Database
from fortdb.storage.engine import ReplicaState
from fortdb.storage.recent import Recent
from fortdb.storage.rocks import RocksEngine
from fortdb.storage.table import Table
from tests.storage.engines import MEBIBYTE, open_engine
from tests.support.waiting import eventually

ALL = (b"\x01", b"\x02")


def put(engine: RocksEngine, key: bytes, value: bytes) -> None:
    batch = engine.batch()
    batch.put_data(key, value)
    engine.write(batch, sync=True)


def in_rocksdb(engine: RocksEngine, key: bytes) -> bytes | None:
    return engine._database.families["data"].get(key)


def test_a_key_is_in_the_table_then_frozen_then_in_rocksdb(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    engine._mover.stop()
    put(engine, b"\x01a", b"1")
    assert engine.table == {b"\x01a": b"1"}
    with engine._writing:
        engine._freeze()
    assert (engine.table, engine.frozen) == ({}, {b"\x01a": b"1"})
    assert engine.get(b"\x01a") == b"1"
    batch = engine.batch()
    batch.delete_data(b"\x01a")
    engine.write(batch, sync=False)
    assert engine.table == {b"\x01a": None}
    assert engine.get(b"\x01a") is None
    engine._move_frozen()
    assert engine.frozen == {}
    assert in_rocksdb(engine, b"\x01a") == b"1"
    assert engine.get(b"\x01a") is None
    assert engine.count(*ALL) == 0  # walks, so it has the table moved
    assert (engine.table, engine.frozen) == ({}, {})
    engine.close()


def test_a_full_table_is_moved_by_another_thread(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    put(engine, b"\x01big", bytes(MEBIBYTE))
    eventually("it is in RocksDB", lambda: in_rocksdb(engine, b"\x01big") is not None)
    eventually("and nowhere else", lambda: not engine.frozen)
    assert engine.get(b"\x01big") == bytes(MEBIBYTE)
    engine.close()


def test_without_the_other_thread_writes_move_as_fast_as_they_fill(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    engine._mover.stop()
    longest = 0
    for number in range(3000):
        put(engine, b"\x01%06d" % number, bytes(1000))
        longest = max(longest, len(engine.table) + len(engine.frozen))
    assert longest < 600  # two tables of 256 KiB
    assert engine.count(*ALL) == 3000
    engine.close()


def test_what_is_written_often_is_moved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(tmp_path / "engine", 4 * MEBIBYTE)
    engine._mover.stop()
    moved: list[bytes] = []
    write_data = Database.write_data

    def note(database: Database, keys: Sequence[bytes], data: Mapping[bytes, bytes | None]) -> None:
        moved.extend(keys)
        write_data(database, keys, data)

    monkeypatch.setattr(Database, "write_data", note)
    for number in range(1000):
        batch = engine.batch()
        batch.put_data(b"\x01%d" % (number % 7), b"%d" % number)
        engine.write(batch, sync=True)
    assert engine.count(*ALL) == 7
    assert moved == [b"\x01%d" % number for number in range(7)]
    assert in_rocksdb(engine, b"\x013") == b"997"
    engine.close()


@given(st.lists(st.binary(max_size=12) | st.binary(max_size=3).map(lambda end: bytes(7) + end)))
def test_keys_are_sorted_as_python_does(keys: list[bytes]) -> None:
    table = Table()
    table.data = dict.fromkeys(keys, b"")
    table.freeze()
    taken: list[bytes] = []
    while some := table.next_keys():
        taken += some
    assert taken == sorted(set(keys))


def test_what_is_not_due_is_not_moved(tmp_path: Path) -> None:
    """It is asked for every partition ten times a second."""
    engine = open_engine(tmp_path / "engine")
    batch = engine.batch()
    batch.put_expiry(1, 5000, b"\x01a")
    engine.write(batch, sync=False)
    assert engine.due(1, 4999, 10) == []
    assert engine._active.operations
    assert engine.due(1, 5000, 10) == [(5000, b"\x01a")]
    assert not engine._active.operations
    engine.close()


def test_states_are_looked_at_where_they_are(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    engine._mover.stop()
    for epoch in (1, 2, 3):
        batch = engine.batch()
        batch.put_state(epoch, ReplicaState(epoch=epoch))
        batch.put_state(9, ReplicaState(epoch=epoch))
        engine.write(batch, sync=False)
        if epoch < 3:
            with engine._writing:
                engine._freeze()
    epochs = {partition: state.epoch for partition, state in engine.states().items()}
    assert epochs == {1: 1, 2: 2, 3: 3, 9: 3}
    engine.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Exception("IO error: No space left on device"), DiskFull),
        (Exception("Corruption: block checksum mismatch"), StorageFailed),
        (OSError(errno.EIO, "Input/output error", "segment-1"), StorageFailed),
        (ValueError("a mistake of ours"), StorageFailed),
    ],
)
@pytest.mark.parametrize("thread", ["_mover", "_flusher"])
def test_what_fails_in_another_thread_is_told_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thread: str, error: Exception, kind: type[StorageFailed]
) -> None:
    engine = open_engine(tmp_path / "engine")
    put(engine, b"\x01a", b"1")

    def fail() -> None:
        raise error

    monkeypatch.setattr(getattr(engine, thread), "_work", fail)
    getattr(engine, thread).wake()
    eventually("it failed", lambda: engine.failure is not None)
    assert (engine.table, engine.frozen) == ({}, {})
    with pytest.raises(kind, match=str(error.args[-1]).split(":")[0]):
        engine.get(b"\x01a")
    with pytest.raises(kind):
        put(engine, b"\x01a", b"2")
    engine.close()
    engine = open_engine(tmp_path / "engine")
    assert engine.get(b"\x01a") == b"1"
    engine.close()


def test_what_was_read_is_kept_and_what_was_written_since_is_not(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    keys = (b"\x01a", b"\x01gone", b"\x01range")
    for key in keys:
        put(engine, key, b"old")
    assert engine.count(*ALL) == 3  # walks, so it has the table moved
    assert [engine.get(key) for key in keys] == [b"old"] * 3
    assert set(engine.recent.young) == set(keys)
    put(engine, b"\x01a", b"new")
    batch = engine.batch()
    batch.delete_data(b"\x01gone")
    engine.write(batch, sync=True)
    assert (engine.get(b"\x01a"), engine.get(b"\x01gone")) == (b"new", None)
    assert engine.count(*ALL) == 2
    assert (engine.get(b"\x01a"), engine.get(b"\x01gone")) == (b"new", None)
    batch = engine.batch()
    batch.delete_data_range(b"\x01range", b"\x01rangf")
    engine.write(batch, sync=True)
    assert engine.get(b"\x01range") is None
    engine.close()
    with pytest.raises(StorageFailed):
        engine.get(b"\x01a")


def test_no_older_value_is_seen_while_an_engine_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(tmp_path / "engine")
    put(engine, b"\x01a", b"old")
    assert engine.count(*ALL) == 1 and engine.get(b"\x01a") == b"old"
    put(engine, b"\x01a", b"new")
    seen: list[bytes | None] = []
    clear = Recent.clear

    def clearing(recent: Recent) -> None:
        seen.append(engine.get(b"\x01a"))  # as another thread might, in the middle
        clear(recent)

    monkeypatch.setattr(Recent, "clear", clearing)
    engine.stop_answering()
    assert seen == [b"new"]
    with pytest.raises(StorageFailed):
        engine.get(b"\x01a")
    monkeypatch.undo()
    engine.refuses = False
    engine.close()


def test_what_is_read_again_stays(tmp_path: Path) -> None:
    recent = Recent(4000)
    recent.keep(b"often", b"value")
    for number in range(200):
        recent.keep(b"%d" % number, b"value")
        assert recent.get(b"often") == b"value"
    assert recent.get(b"0") is None
    assert recent.size_bytes <= 4000 + 200
    recent.keep(b"large", bytes(9000))
    assert recent.get(b"large") is None
