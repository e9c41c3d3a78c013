"""Records and versions against dictionaries: random commands, clocks, restarts, elections and sweeps."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fortdb.model import Keyspace, Policy
from tests.support.partitions import OnePartition

RECORDS = st.sampled_from(["log/{t}", "log/{t}\0", "log/b"])
VERSIONS = st.sampled_from(["doc/{t}", "doc/{t}\0"])
VALUES = st.binary(max_size=3)
TTLS = st.none() | st.integers(1, 200)
MOMENTS = st.integers(0, 1_000_000)


def text(record: tuple[int, int]) -> bytes:
    return b"%d-%d" % record


def number(encoded: bytes) -> tuple[int, int]:
    ms, _, count = encoded.partition(b"-")
    return int(ms), int(count)


class DataModel(RuleBasedStateMachine):
    """`log/` keeps records, `doc/` four versions of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="fortdb-data-"))
        self.one = OnePartition(
            self.directory,
            Keyspace("log", policy=Policy.RECORDS),
            Keyspace("doc", policy=Policy.VERSIONS, keep=4),
        )
        self.records: dict[str, dict[tuple[int, int], tuple[bytes, int]]] = {}
        self.versions: dict[str, list[tuple[tuple[int, int], bytes | None]]] = {}
        self.newest = (0, 0)

    def teardown(self) -> None:
        self.one.close()
        shutil.rmtree(self.directory)

    @property
    def now_ms(self) -> int:
        return self.one.execution().now_ms

    def live(self, key: str) -> dict[tuple[int, int], bytes]:
        now_ms = self.now_ms
        return {
            record: value
            for record, (value, ends_ms) in sorted(self.records.get(key, {}).items())
            if not 0 < ends_ms <= now_ms
        }

    @rule(key=RECORDS, value=VALUES, ttl_ms=TTLS, stale=st.booleans())
    def add(self, key: str, value: bytes, ttl_ms: int | None, stale: bool) -> None:
        now_ms = self.now_ms
        live = self.live(key)
        expected = self.newest if stale else max(live, default=(0, 0))
        options = () if ttl_ms is None else ("PX", ttl_ms)
        added = self.one.run("ADD", key, value, *options, "IFLAST", text(expected))
        if expected != max(live, default=(0, 0)):
            assert added is None
            return
        assert number(added) > self.newest
        self.newest = number(added)
        self.records.setdefault(key, {})[self.newest] = (value, 0 if ttl_ms is None else now_ms + ttl_ms)

    @rule(key=RECORDS, share=st.floats(0, 1))
    def remove(self, key: str, share: float) -> None:
        records = sorted(self.records.get(key, {}))
        record = records[int(share * (len(records) - 1))] if records else (1, 1)
        assert self.one.run("REMOVE", key, text(record)) == (record in self.live(key))
        if record in self.live(key):
            del self.records[key][record]

    @rule(key=RECORDS)
    def delete_records(self, key: str) -> None:
        deleted = self.one.run("DEL", key)
        assert deleted or not self.live(key)
        self.records.pop(key, None)

    @rule(key=VERSIONS, value=VALUES)
    def set(self, key: str, value: bytes) -> None:
        self.one.run("SET", key, value)
        self.note(key, value)

    @rule(key=VERSIONS)
    def delete(self, key: str) -> None:
        versions = self.versions.get(key, [])
        was_there = bool(versions) and versions[-1][1] is not None
        assert self.one.run("DEL", key) == was_there
        if was_there:
            self.note(key, None)

    @rule(key=VERSIONS)
    def purge(self, key: str) -> None:
        assert self.one.run("PURGE", key) == (key in self.versions)
        self.versions.pop(key, None)

    def note(self, key: str, value: bytes | None) -> None:
        ((encoded, *_),) = self.one.run("HISTORY", key, "REV", "COUNT", 1)
        assert number(encoded) > self.newest
        self.newest = number(encoded)
        self.versions[key] = [*self.versions.get(key, []), (self.newest, value)][-4:]

    @rule(ms=st.integers(-300, 300))
    def clock(self, ms: int) -> None:
        self.one.now_ms += ms

    @rule()
    def write(self) -> None:
        self.one.write()

    @rule()
    def sweep(self) -> None:
        self.one.sweep()

    @rule()
    def elect(self) -> None:
        self.one.elect()

    @rule()
    def restart(self) -> None:
        self.one.restart()

    @rule(key=RECORDS, share=st.floats(0, 1), count=st.integers(1, 3), backward=st.booleans())
    def read_a_page(self, key: str, share: float, count: int, backward: bool) -> None:
        live = self.live(key)
        every = sorted(self.records.get(key, {}))
        first = every[int(share * (len(every) - 1))] if every else (5, 5)
        wanted = [(record, live[record]) for record in sorted(live, reverse=backward)]
        wanted = [pair for pair in wanted if (pair[0] <= first if backward else pair[0] >= first)]
        words = ("FROM", text(first), "COUNT", count, *(("REV",) if backward else ()))
        assert self.one.run("RECORDS", key, *words) == [[text(r), v] for r, v in wanted[:count]]

    @rule(key=VERSIONS, ms=MOMENTS)
    def look_back(self, key: str, ms: int) -> None:
        moment_ms = 1_000_000 - 5_000 + ms % 10_000
        versions = [value for version, value in self.versions.get(key, []) if version[0] <= moment_ms]
        assert self.one.run("GET", key, "AT", moment_ms) == (versions[-1] if versions else None)

    @invariant()
    def keys_agree(self) -> None:
        for key in ("log/{t}", "log/{t}\0", "log/b"):
            live = self.live(key)
            assert self.one.run("GET", key) == (live[max(live)] if live else None)
            assert self.one.run("RECORDS", key) == [[text(r), v] for r, v in live.items()]
            assert self.one.run("RECORDCOUNT", key) >= len(live)
        for key in ("doc/{t}", "doc/{t}\0"):
            versions = self.versions.get(key, [])
            assert self.one.run("GET", key) == (versions[-1][1] if versions else None)
            history = [(number(version), value) for version, _, value, _ in self.one.run("HISTORY", key)]
            assert history == versions

    @rule()
    def clean_up_and_count(self) -> None:
        """Once all sweeps are done, the engine holds what there is and nothing else."""
        while self.one.sweep():
            pass
        expected = 0
        for key in self.records:
            live = self.live(key)
            assert self.one.run("RECORDCOUNT", key) == len(live)
            expected += len(live) + bool(live)
        for versions in self.versions.values():
            expected += 1 + len(versions) + (versions[-1][1] is not None)
        assert len(self.one.contents()) == expected


TestDataModel = DataModel.TestCase
TestDataModel.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
