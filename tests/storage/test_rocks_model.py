"""The engine against a dictionary: with tables so small that they are moved all the time, restarts and kills."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fortdb.storage.engine import Batch, ReplicaState
from fortdb.storage.keys import data_key
from tests.storage.engines import open_engine

KEYS = st.builds(data_key, st.sampled_from([0, 1, 1 << 63, (1 << 64) - 1]), st.binary(max_size=2))
LOOKED_AT = [data_key(token, key) for token in (0, 1, 1 << 63) for key in (b"", b"\x00", b"a")]
VALUES = st.binary(max_size=50) | st.integers(1, 30_000).map(lambda times: b"long" * times)
PARTITIONS = st.sampled_from([0, 1, 65535])
TIMES = st.integers(0, 5)


class EngineModel(RuleBasedStateMachine):
    """Every rule stages changes in a batch and in the model; `write` makes both visible.

    Nothing looks at the engine unless a rule says so: whoever walks has what is in memory moved."""

    small_bytes: int | None = 2000

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="fortdb-model-")) / "engine"
        self.open()
        self.data: dict[bytes, bytes] = {}
        self.logs: dict[int, dict[int, bytes]] = {0: {}, 1: {}, 65535: {}}
        self.notes: set[tuple[int, int, bytes]] = set()
        self.states: dict[int, ReplicaState] = {}

    def open(self) -> None:
        self.engine = open_engine(self.path, small_bytes=self.small_bytes)
        self.forget()

    def forget(self) -> None:
        self.batch: Batch = self.engine.batch()

    def write(self, sync: bool) -> None:
        self.engine.write(self.batch, sync)
        self.forget()

    @rule(pairs=st.dictionaries(KEYS, VALUES, max_size=5), gone=st.sets(KEYS, max_size=3), sync=st.booleans())
    def change_data(self, pairs: dict[bytes, bytes], gone: set[bytes], sync: bool) -> None:
        for key, value in pairs.items():
            self.batch.put_data(key, value)
        for key in gone:
            self.batch.delete_data(key)
        self.data |= pairs
        self.data = {key: value for key, value in self.data.items() if key not in gone}
        self.write(sync)

    @rule(start=KEYS, end=KEYS)
    def delete_data_range(self, start: bytes, end: bytes) -> None:
        self.batch.delete_data_range(start, end)
        self.data = {key: value for key, value in self.data.items() if not start <= key < end}
        self.write(sync=False)

    @rule(partition=PARTITIONS, entries=st.lists(VALUES, min_size=1, max_size=4))
    def append(self, partition: int, entries: list[bytes]) -> None:
        log = self.logs[partition]
        first = max(log, default=0) + 1
        for offset, entry in enumerate(entries, first):
            self.batch.put_log(partition, offset, entry)
            log[offset] = entry
        self.write(sync=True)

    @rule(partition=PARTITIONS, share=st.floats(0, 1), head=st.booleans())
    def trim_or_truncate(self, partition: int, share: float, head: bool) -> None:
        log = self.logs[partition]
        if not log:
            return
        cut = min(log) + int(share * len(log))
        start, end = (0, cut) if head else (cut, (1 << 64) - 1)
        self.batch.delete_log(partition, start, end)
        self.logs[partition] = {offset: entry for offset, entry in log.items() if not start <= offset < end}
        self.write(sync=False)

    @rule(
        partition=PARTITIONS, added=st.sets(st.tuples(TIMES, KEYS), max_size=4), gone=st.tuples(TIMES, KEYS)
    )
    def note(self, partition: int, added: set[tuple[int, bytes]], gone: tuple[int, bytes]) -> None:
        for expiry_ms, key in added:
            self.batch.put_expiry(partition, expiry_ms, key)
            self.notes.add((partition, expiry_ms, key))
        self.batch.delete_expiry(partition, *gone)
        self.notes.discard((partition, *gone))
        self.write(sync=False)

    @rule(partition=PARTITIONS)
    def delete_notes(self, partition: int) -> None:
        self.batch.delete_expiries(partition)
        self.notes = {note for note in self.notes if note[0] != partition}
        self.write(sync=False)

    @rule(partition=PARTITIONS, epoch=st.integers(0, 9), delete=st.booleans())
    def change_state(self, partition: int, epoch: int, delete: bool) -> None:
        if delete:
            self.batch.delete_state(partition)
            self.states.pop(partition, None)
        else:
            state = ReplicaState(epoch, epoch, epoch, epoch, ((epoch, epoch + 1),), epoch % 2 == 0)
            self.batch.put_state(partition, state)
            self.states[partition] = state
        self.write(sync=False)

    @rule()
    def restart(self) -> None:
        self.engine.close()
        self.open()

    @rule()
    def die_and_restart(self) -> None:
        """What is in memory is gone; what the files have, as they are now, is played again. In another directory:
        a RocksDB that was not closed in order may tidy up in its own at any time."""
        copy = self.path.with_name(f"{self.path.name}+")
        engine = self.engine
        engine._mover.stop()  # so that the files stand still
        engine._flusher.stop()
        engine._journal._preparer.stop()
        engine._database.families["data"].cancel_all_background(True)
        shutil.copytree(self.path, copy)
        engine.stop_answering()
        engine._journal.close()
        engine._database.close(failed=True)
        self.path = copy
        self.open()

    @rule()
    def move_what_is_full(self) -> None:
        with self.engine._writing:
            self.engine._freeze()

    @rule()
    def move_and_wait(self) -> None:
        with self.engine._writing:
            self.engine._move_data()

    @rule()
    def flush(self) -> None:
        self.engine._flush()

    @rule()
    def compact(self) -> None:
        self.engine.compact()

    @rule(start=KEYS, end=KEYS, count=st.integers(1, 4))
    def look_at_a_range(self, start: bytes, end: bytes, count: int) -> None:
        inside = sorted((key, value) for key, value in self.data.items() if start <= key < end)
        assert self.engine.scan(start, end, count) == inside[:count]
        assert self.engine.scan_backward(start, end, count) == inside[::-1][:count]
        assert self.engine.count(start, end) == len(inside)
        cursor = self.engine.cursor(start, end)
        walked = []
        while chunk := cursor.read(30):
            walked += chunk
        assert walked == inside

    @rule(key=KEYS)
    def look_at_a_key(self, key: bytes) -> None:
        assert self.engine.get(key) == self.data.get(key)

    @rule(partition=PARTITIONS, until_ms=TIMES)
    def look_at_what_is_due(self, partition: int, until_ms: int) -> None:
        due = sorted(
            (when, key) for holder, when, key in self.notes if holder == partition and when <= until_ms
        )
        assert self.engine.due(partition, until_ms, 100) == due

    @rule()
    def look_at_logs(self) -> None:
        for partition, log in self.logs.items():
            assert self.engine.last_offset(partition) == max(log, default=None)
            assert list(self.engine.entries_backward(partition)) == sorted(log.items(), reverse=True)
            if log:
                assert self.engine.entries(partition, min(log), max(log), 1 << 40) == [
                    log[o] for o in sorted(log)
                ]

    @invariant()
    def keys_and_states_agree(self) -> None:
        """These look at memory and RocksDB, and move nothing."""
        assert self.engine.states() == self.states
        for key in LOOKED_AT:
            assert self.engine.get(key) == self.data.get(key)

    def teardown(self) -> None:
        self.engine.close()
        shutil.rmtree(self.path.parent, ignore_errors=True)  # one that died may be tidying up yet


class OrdinaryEngineModel(EngineModel):
    """The same with tables that are hardly ever full."""

    small_bytes = None


TestEngineModel = EngineModel.TestCase
TestEngineModel.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestOrdinaryEngineModel = OrdinaryEngineModel.TestCase
TestOrdinaryEngineModel.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
