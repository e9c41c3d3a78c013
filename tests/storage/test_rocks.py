"""What the engine does with good input on a good disk, at the edges above all."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from fortdb.errors import StorageFailed
from fortdb.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX
from fortdb.model import TOKEN_SPACE
from fortdb.storage.engine import Engine, ReplicaState
from fortdb.storage.keys import data_bound, data_key
from tests.storage.engines import MEBIBYTE, open_engine
from tests.support.waiting import eventually

OFFSET_MAX = (1 << 64) - 1
ALL = (data_bound(0), data_bound(TOKEN_SPACE))


def test_empty_and_huge(tmp_path: Path) -> None:
    engine: Engine = open_engine(tmp_path / "engine")
    pairs = {
        data_key(0, b""): b"",
        data_key(0, bytes(KEY_BYTES_MAX)): b"\x00" * VALUE_BYTES_MAX,
        data_key(TOKEN_SPACE - 1, b"\xff" * KEY_BYTES_MAX): b"\xff" * VALUE_BYTES_MAX,
    }
    batch = engine.batch()
    assert batch.is_empty()
    for key, value in pairs.items():
        batch.put_data(key, value)
    batch.put_log(0, 0, b"")
    batch.put_log(0, 1, bytes(VALUE_BYTES_MAX))
    assert not batch.is_empty()
    engine.write(batch, sync=True)
    engine.write(engine.batch(), sync=True)
    for _ in range(2):
        assert {key: engine.get(key) for key in pairs} == pairs
        assert engine.get(data_key(0, b"\x00")) is None
        assert dict(engine.scan(*ALL, 10)) == pairs
        assert engine.entries(0, 0, 1, 1) == [b""]
        assert engine.entries(0, 0, 1, 1 << 30) == [b"", bytes(VALUE_BYTES_MAX)]
        engine.close()
        engine = open_engine(tmp_path / "engine")
    engine.close()


def test_the_ends_of_the_ring(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    last = TOKEN_SPACE - 1
    keys = [
        data_key(0, b""),
        data_key(0, b"a"),
        data_key(1, b""),
        data_key(last, b""),
        data_key(last, b"\xff" * 40),
    ]
    batch = engine.batch()
    for key in keys:
        batch.put_data(key, key)
    engine.write(batch, sync=False)
    assert [key for key, _ in engine.scan(*ALL, 10)] == keys
    assert engine.count(*ALL) == 5
    assert engine.count(data_bound(0), data_bound(1)) == 2
    assert engine.count(data_bound(last), data_bound(TOKEN_SPACE)) == 2
    assert engine.count(data_bound(1), data_bound(last)) == 1
    assert engine.scan(data_bound(last), data_bound(last), 10) == []
    batch = engine.batch()
    batch.delete_data_range(data_bound(last), data_bound(TOKEN_SPACE))
    batch.delete_data_range(data_bound(0), data_bound(0))
    engine.write(batch, sync=False)
    assert [key for key, _ in engine.scan(*ALL, 10)] == keys[:3]
    engine.close()


def test_neighbouring_partitions_do_not_see_each_other(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    partitions = (0, 1, 255, 256, 65534, 65535)
    batch = engine.batch()
    for partition in partitions:
        for offset in (OFFSET_MAX - 1, OFFSET_MAX) if partition == 65535 else (0, 1):
            batch.put_log(partition, offset, b"%d" % partition)
        for expiry_ms in (0, 1, OFFSET_MAX):
            batch.put_expiry(partition, expiry_ms, b"\x01%d" % partition)
        batch.put_state(partition, ReplicaState(epoch=partition))
    engine.write(batch, sync=False)
    assert engine.states() == {partition: ReplicaState(epoch=partition) for partition in partitions}
    for partition in partitions:
        last = OFFSET_MAX if partition == 65535 else 1
        assert engine.last_offset(partition) == last
        assert list(engine.entries_backward(partition)) == [
            (last, b"%d" % partition),
            (last - 1, b"%d" % partition),
        ]
        assert engine.entries(partition, last - 1, last, 1 << 30) == [b"%d" % partition] * 2
        note = b"\x01%d" % partition
        assert engine.due(partition, 0, 10) == [(0, note)]
        assert engine.due(partition, OFFSET_MAX - 1, 10) == [(0, note), (1, note)]
        assert engine.due(partition, OFFSET_MAX, 10) == [(0, note), (1, note), (OFFSET_MAX, note)]
        assert engine.due(partition, OFFSET_MAX, 1) == [(0, note)]
    for absent in (2, 254, 257, 65533):
        assert engine.last_offset(absent) is None
        assert list(engine.entries_backward(absent)) == []
        assert engine.due(absent, OFFSET_MAX, 10) == []
    batch = engine.batch()
    for gone in (1, 255, 65535):
        batch.delete_expiries(gone)
        batch.delete_log(gone, 0, OFFSET_MAX)
        batch.delete_state(gone)
    batch.delete_expiry(0, 1, b"\x010")
    engine.write(batch, sync=False)
    assert set(engine.states()) == {0, 256, 65534}
    assert [engine.last_offset(partition) for partition in partitions] == [1, None, None, 1, 1, OFFSET_MAX]
    assert [len(engine.due(partition, OFFSET_MAX, 10)) for partition in partitions] == [2, 0, 0, 3, 3, 0]
    engine.close()


def test_a_cursor_walks_the_data_as_it_stood(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    batch = engine.batch()
    for number in range(500):
        batch.put_data(data_key(number, b"before"), bytes(1000))
    engine.write(batch, sync=False)
    cursor = engine.cursor(data_bound(100), data_bound(400))
    batch = engine.batch()
    batch.delete_data_range(*ALL)
    batch.put_data(data_key(200, b"after"), b"")
    engine.write(batch, sync=False)
    gc.collect()
    chunks = [cursor.read(10_000)]
    while chunks[-1]:
        assert 10_000 <= sum(len(key) + len(value) for key, value in chunks[-1]) < 12_000 or len(chunks) > 29
        chunks.append(cursor.read(10_000))
    assert [key for chunk in chunks for key, _ in chunk] == [data_key(n, b"before") for n in range(100, 400)]
    assert cursor.read(10_000) == []
    assert engine.scan(*ALL, 10) == [(data_key(200, b"after"), b"")]
    cursor.close()
    cursor.close()
    engine.close()


def test_a_cursor_reads_at_least_one_pair_and_stops_at_its_end(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    batch = engine.batch()
    for number in range(3):
        batch.put_data(data_key(number, b""), bytes(1000))
    engine.write(batch, sync=False)
    cursor = engine.cursor(*ALL)
    assert [len(cursor.read(1)) for _ in range(4)] == [1, 1, 1, 0]
    engine.close()


def test_entries_are_at_least_one_and_at_most_about_as_many_bytes(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    batch = engine.batch()
    for offset in range(1, 101):
        batch.put_log(7, offset, bytes(1000))
    engine.write(batch, sync=False)
    assert len(engine.entries(7, 1, 100, 1)) == 1
    assert len(engine.entries(7, 1, 100, 1 << 30)) == 100
    assert len(engine.entries(7, 90, 95, 1 << 30)) == 6
    assert 9 <= len(engine.entries(7, 1, 100, 10_000)) <= 11
    assert engine.entries(7, 5, 4, 1 << 30) == []
    engine.close()


def bytes_of_tables(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.sst"))


def test_a_trimmed_log_leaves_the_disk(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    entry = bytes(range(256)) * 64
    kept = 64
    for first in range(1, 4097, 64):  # 64 MiB written, 1 MiB kept
        batch = engine.batch()
        for offset in range(first, first + 64):
            batch.put_log(1, offset, entry)
        batch.delete_log(1, 0, first + 64 - kept)
        engine.write(batch, sync=False)
    eventually(
        "the log's space was reclaimed by itself", lambda: engine.stats().bytes_on_disk < 16 * MEBIBYTE
    )
    assert engine.last_offset(1) == 4096
    assert len(engine.entries(1, 4097 - kept, 4096, 1 << 30)) == kept
    assert len(list(engine.entries_backward(1))) == kept
    engine.compact()
    eventually("only what is kept is on disk", lambda: bytes_of_tables(tmp_path / "engine") < 2 * MEBIBYTE)
    assert len(engine.entries(1, 4097 - kept, 4096, 1 << 30)) == kept
    engine.close()


def test_closing_twice_and_calls_after_it(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    batch = engine.batch()
    batch.put_data(b"\x01key", b"value")
    engine.write(batch, sync=False)
    held_batch, held_cursor, held_backward = engine.batch(), engine.cursor(*ALL), engine.entries_backward(1)
    engine.close()
    engine.close()
    with pytest.raises(StorageFailed, match="is closed"):
        engine.get(b"\x01key")
    with pytest.raises(StorageFailed, match="is closed"):
        engine.write(held_batch, sync=True)
    with pytest.raises(StorageFailed, match="is closed"):
        next(held_backward)
    assert held_cursor.read(1) == []
    assert engine.failure is None
    # A batch and a cursor that somebody still holds do not keep the files locked.
    reopened = open_engine(tmp_path / "engine")
    assert reopened.get(b"\x01key") == b"value"
    assert {file.stat().st_size for file in (tmp_path / "engine").glob("*.log")} == {0}
    reopened.close()


def test_a_callers_mistake_is_no_failure_of_the_storage(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    with pytest.raises(KeyError):
        engine.get("text")  # type: ignore[arg-type]
    assert engine.failure is None
    assert engine.get(b"\x01") is None
    engine.close()


def test_stats_grow_with_what_is_stored(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    engine._mover.stop()  # what is written stays in memory until `compact`
    engine._flusher.stop()
    before = engine.stats()
    batch = engine.batch()
    batch.put_log(1, 1, bytes(4 * MEBIBYTE))
    engine.write(batch, sync=True)
    after = engine.stats()
    assert after.bytes_on_disk > before.bytes_on_disk
    assert after.bytes_free > 0
    assert after.bytes_in_memory > 4 * MEBIBYTE
    engine.compact()
    grown = engine.stats().bytes_on_disk - before.bytes_on_disk
    assert grown >= 4 * MEBIBYTE
    engine.close()


def test_any_thread_may_call(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "engine")
    cursor_of_another_thread = engine.cursor(*ALL)
    mistakes: list[str] = []

    def work(thread: int) -> None:
        for number in range(200):
            key = data_key(thread, b"%d" % number)
            batch = engine.batch()
            batch.put_data(key, key)
            batch.put_log(thread, number, key)
            engine.write(batch, sync=False)
            if engine.get(key) != key or engine.last_offset(thread) != number:
                mistakes.append(f"{thread}/{number}")
        if cursor_of_another_thread.read(1):
            mistakes.append("the cursor saw what came after it")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mistakes == []
    assert engine.count(*ALL) == 800
    engine.close()
