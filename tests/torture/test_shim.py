"""The shim does what it is for: a lost power takes what was not synced, a full disk is full, clocks jump."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fortdb.storage.identity import mark_clean, open_directory
from fortdb.torture.faults.power import Synced, lose_power
from fortdb.torture.faults.shim import Shim, compile_shim, why_no_shim
from tests.storage.engines import MEBIBYTE, open_engine
from tests.storage.test_crash import check_whole

SEED_OF_WHOLE_LOSS = 0
SEED_OF_A_TORN_END = 1
LINE_BYTES = 9
WRITER = Path(__file__).with_name("writer.py")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (reason := why_no_shim()) is not None:
        pytest.skip(reason)
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(library: Path, tmp_path: Path) -> Shim:
    root = tmp_path / "data"
    root.mkdir()
    return Shim(library, tmp_path / "shim", root)


@contextmanager
def writer(shim: Shim, mode: str, count: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(WRITER), str(shim.root / "file"), mode, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **shim.environment},
    )
    with process:
        yield process
        process.kill()


def lines_left(shim: Shim, mode: str) -> int:
    with writer(shim, mode, 100) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("done")
    assert (shim.root / "file").stat().st_size == 100 * LINE_BYTES, "a kill alone loses nothing"
    lose_power(shim.root, shim.journal, SEED_OF_WHOLE_LOSS)
    assert not (shim.root / "nameless").exists()
    return (shim.root / "file").stat().st_size // LINE_BYTES


def test_who_syncs_loses_nothing_with_the_power(shim: Shim) -> None:
    assert lines_left(shim, "sync") == 100


def test_who_does_not_sync_loses_all(shim: Shim) -> None:
    assert lines_left(shim, "async") == 0


@pytest.mark.parametrize("mode", ["over-sync", "over-async"])
def test_what_was_written_over_is_there_again_unless_it_was_synced(shim: Shim, mode: str) -> None:
    assert lines_left(shim, mode) == 100  # that is what the file's size says
    whole = b"".join(b"%08d\n" % number for number in range(100))
    assert (shim.root / "file").read_bytes() == (whole if mode == "over-sync" else bytes(len(whole)))


def test_of_what_was_written_over_some_pages_may_be_left_in_any_order(shim: Shim) -> None:
    with writer(shim, "over-async", 20_000) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("done")
    lose_power(shim.root, shim.journal, SEED_OF_A_TORN_END)
    left = (shim.root / "file").read_bytes()
    pages = [any(left[start : start + 4096]) for start in range(0, len(left), 4096)]
    assert 0 < sum(pages) < len(pages)
    assert pages != sorted(pages, reverse=True)


def test_a_full_disk_takes_nothing_and_says_so(shim: Shim) -> None:
    shim.fill_disk(True)
    with writer(shim, "sync", 1) as process:
        assert process.stderr is not None
        assert any("No space left" in line for line in process.stderr)


def test_a_clock_jumps_for_one_process(shim: Shim) -> None:
    shim.set_clock(3600.0)
    with writer(shim, "async", 1) as process:
        assert process.stdout is not None
        theirs_s = float(process.stdout.readline().split()[1])
    assert 3500 < theirs_s - time.time() < 3700


def test_a_sync_takes_longer(shim: Shim) -> None:
    shim.delay_syncs(20)
    began_s = time.monotonic()
    with writer(shim, "sync", 20) as process:
        assert process.stdout is not None
        process.stdout.readline()
    assert time.monotonic() - began_s > 20 * 0.020


def test_renames_and_removals_take_their_files_along(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text(
        "S 5 /d/a.new\nD /d\nE a.new\nE b\nR /d/a.new\t/d/a\nS 7 /d/b\nU /d/b\nS 3 /d/c\nT 2 /d/c\nS 9 /d/torn"
    )
    synced = Synced()
    synced.replay(journal)
    assert synced.sizes == {"/d/a": 5, "/d/c": 2}
    assert synced.names == {"/d": {"a"}}


def test_a_directory_renamed_keeps_what_it_holds(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text("S 5 /d/x.making/a\nD /d/x.making\nE a\nR /d/x.making\t/d/x\nD /d\nE x\n")
    synced = Synced()
    synced.replay(journal)
    assert synced.sizes == {"/d/x/a": 5}
    assert synced.names == {"/d/x": {"a"}, "/d": {"x"}}


def write_and_lose_power(shim: Shim, acknowledgements: int, seed: int, *sizes: int) -> int:
    """The engine's writer of the crash tests; the last number that it said was safe. `sizes` as of
    `open_engine`."""
    command = [
        sys.executable,
        "-m",
        "tests.storage.writer",
        str(shim.root / "engine"),
        "write",
        *map(str, sizes),
    ]
    environment = {**os.environ, **shim.environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledgements)]
        process.kill()
        lines += process.stdout.readlines()
    lose_power(shim.root, shim.journal, seed)
    return int([line for line in lines if line.endswith("\n")][-1])


def _everything_is_synced(shim: Shim) -> None:
    """Note what this process, without a shim, wrote while it looked."""
    lines: list[str] = []
    for place, directories, files in os.walk(shim.root):
        lines += [f"D {place}", *(f"E {name}" for name in (*directories, *files))]
        lines += [
            f"S {os.path.getsize(path)} {path}" for path in (os.path.join(place, name) for name in files)
        ]
    shim.journal.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("sizes", [(MEBIBYTE,), (MEBIBYTE // 2, 1 << 15)], ids=["small", "tiny"])
@pytest.mark.parametrize("seed", [SEED_OF_WHOLE_LOSS, SEED_OF_A_TORN_END])
def test_the_engine_loses_nothing_that_it_called_safe(shim: Shim, seed: int, sizes: tuple[int, ...]) -> None:
    """Through several losses of power, with flushes, merges of files, and segments of the journal that are
    used again on the way."""
    for _ in range(3):
        acknowledged = write_and_lose_power(shim, 150, seed, *sizes)
        engine = open_engine(shim.root / "engine", *sizes)
        check_whole(engine, acknowledged)
        engine.close()
        _everything_is_synced(shim)


def test_whose_directory_this_is_survives_the_power(tmp_path: Path) -> None:
    """Without a shim nothing is synced: then nothing is left."""
    identity = open_directory(tmp_path / "data", "cluster", "node")
    mark_clean(identity)
    lose_power(tmp_path / "data", tmp_path / "no-journal", SEED_OF_WHOLE_LOSS)
    assert list((tmp_path / "data").iterdir()) == []
