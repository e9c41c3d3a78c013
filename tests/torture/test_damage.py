"""A disk that is said to be damaged is: a flipped bit or a cut is met when the engine starts, or read over."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from fortdb.errors import StorageFailed
from fortdb.storage.segments import HEADER_BYTES, used_bytes
from fortdb.torture.faults.disks import _damage
from tests.storage.engines import open_engine
from tests.storage.test_crash import check_whole, write_and_kill


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "engine"
    write_and_kill(path, 60)
    return path


@pytest.mark.parametrize("cuts", [True, False], ids=["cut", "flipped"])
def test_damage_is_told_or_costs_nothing_or_looks_like_a_torn_end(
    killed: Path, tmp_path: Path, cuts: bool
) -> None:
    """What is answered is always a beginning of what was written. A node that may have lost an end is in no
    ISR (rule 9)."""
    seen: Counter[str] = Counter()
    for seed in range(25):
        copy = tmp_path / f"copy-{seed}"
        shutil.copytree(killed, copy)
        said = _damage(copy, seed, cuts)
        assert said is not None
        try:
            with closing(open_engine(copy)) as engine:
                check_whole(engine, 0)
            seen["read over"] += 1
        except StorageFailed:
            seen["told"] += 1
        shutil.rmtree(copy)
    assert seen["told"] >= 5


def test_bits_are_flipped_where_somebody_reads(killed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(killed, copy)
    reaches = {path.name: used_bytes(path) for path in (copy / "journal").glob("segment-*")}
    assert max(reaches.values()) > HEADER_BYTES
    assert min(reaches.values()) < HEADER_BYTES, "one is ready, and holds nothing but a header"
    for seed in range(60):
        said = _damage(copy, seed, cuts=False)
        assert said is not None
        assert "making" not in said
        words = said.split()
        if (reach := reaches.get(words[3])) is not None:
            assert int(words[6].replace(",", "")) < reach
        shutil.rmtree(copy)
        shutil.copytree(killed, copy)
