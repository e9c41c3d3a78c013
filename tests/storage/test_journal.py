"""The journal by itself: what is there after a loss of power, and what is noticed of damage."""

from __future__ import annotations

import errno
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fortdb.errors import StorageFailed
from fortdb.storage import segments
from fortdb.storage.journal import Journal, Recovered
from fortdb.storage.segments import HEADER_BYTES, RECORD_BYTES, Segment, used_bytes
from tests.storage.engines import flip_bit, wait_for_segments
from tests.support.waiting import eventually

FAILURES: list[Exception] = []  # of the journals' threads
PAGE = 4096
SMALL = HEADER_BYTES + 2 * PAGE


def open_journal(directory: Path, segment_bytes: int = SMALL, after: int = 0) -> Journal:
    recovered = Recovered(directory, after, 0)
    return Journal(
        directory, recovered, segment_bytes=segment_bytes, segments_max=4, sync=True, failed=FAILURES.append
    )


def batches(directory: Path, after: int = 0, use: int = 0) -> list[bytes]:
    recovered = Recovered(directory, after, use)
    for segment in recovered.segments:
        segment.close()
    return list(recovered.batches())


def payload(number: int, size: int = 100) -> bytes:
    return random.Random(number).randbytes(size)


@pytest.fixture(autouse=True)
def nothing_fails_in_another_thread() -> Iterator[None]:
    FAILURES.clear()
    yield
    assert FAILURES == []


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def copies(directory: Path, tmp_path: Path) -> Iterator[Path]:
    """Copies of the journal as it stands, one after the other in the same place."""
    copy = tmp_path / "copy"
    copy.mkdir()
    return _copies(directory, copy / "journal")


def _copies(directory: Path, copy: Path) -> Iterator[Path]:
    while True:
        content: dict[str, bytes] = {}
        while not content or content != _content(directory):
            content = _content(directory)  # segments are being made or emptied
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name, stored in content.items():
            (copy / name).write_bytes(stored)
        yield copy


def _content(directory: Path) -> dict[str, bytes]:
    try:
        return {path.name: path.read_bytes() for path in directory.iterdir()}
    except FileNotFoundError:
        return {}


def test_what_was_written_comes_back_in_order(directory: Path, copies: Iterator[Path]) -> None:
    """Over several segments, and batches that are larger than one, empty, or exactly as large."""
    room = SMALL - HEADER_BYTES - RECORD_BYTES
    sizes = [0, 1, 100, room - 1, room, room + 1, 2 * room, 5 * room + 7, 100]
    written = [payload(number, size) for number, size in enumerate(sizes)]
    journal = open_journal(directory)
    for batch in written:
        journal.append(batch)
    journal.sync()
    assert batches(next(copies)) == written
    journal.close()


def test_an_emptied_journal_is_empty_and_goes_on_counting(directory: Path, copies: Iterator[Path]) -> None:
    journal = open_journal(directory)
    for number in range(50):
        journal.append(payload(number, 500))
    sequence = journal.sequence
    journal.empty()
    journal.close()
    assert batches(next(copies), after=sequence) == []
    journal = open_journal(directory, after=sequence)
    journal.append(b"next")
    assert journal.sequence == sequence + 1
    assert batches(next(copies), after=sequence) == [b"next"]
    journal.close()


def test_an_end_torn_at_any_byte_costs_the_last_batch_only(directory: Path, copies: Iterator[Path]) -> None:
    journal = open_journal(directory)
    written = [payload(number) for number in range(5)]
    for batch in written:
        journal.append(batch)
        journal.sync()
    path, start = journal.path, used_bytes(journal.path)
    journal.append(payload(9))
    end = used_bytes(path)
    assert end == start + RECORD_BYTES + 100
    for kept in range(start, end + 1):
        copy = next(copies)
        with (copy / path.name).open("r+b") as file:
            file.seek(kept)
            file.write(bytes(end - kept))
        whole = kept == end or not any(path.read_bytes()[kept:end])
        assert batches(copy) == written + [payload(9)] * whole
    journal.close()


def test_a_flipped_bit_in_what_was_synced_is_told(directory: Path, copies: Iterator[Path]) -> None:
    """At every byte of every record but the last: that one is not told from a torn end, and lost."""
    journal = open_journal(directory)
    for number in range(4):
        journal.append(payload(number))
        journal.sync()
    record = RECORD_BYTES + 100
    for position in range(HEADER_BYTES, HEADER_BYTES + 3 * record):
        copy = next(copies)
        flip_bit(copy / journal.path.name, position, position % 8)
        with pytest.raises(StorageFailed, match="of the journal is damaged"):
            batches(copy)
    copy = next(copies)
    flip_bit(copy / journal.path.name, HEADER_BYTES + 3 * record + 50)
    assert batches(copy) == [payload(number) for number in range(3)]
    with pytest.raises(StorageFailed, match="record 4 of the journal .* is damaged"):
        batches(copy, after=4)  # unless somebody knows that it was on the disk
    journal.close()


def test_damage_in_one_segment_is_told_by_the_next(directory: Path, copies: Iterator[Path]) -> None:
    """A segment is synced before the next one is begun, so its last record is never a torn end."""
    journal = open_journal(directory)
    first = journal.path
    while journal.path == first:
        before = used_bytes(first)
        journal.append(payload(1))
    copy = next(copies)
    flip_bit(copy / first.name, before - 10)
    with pytest.raises(StorageFailed, match="is damaged"):
        batches(copy)
    journal.close()


def test_a_missing_short_or_headless_segment_is_told(directory: Path, copies: Iterator[Path]) -> None:
    journal = open_journal(directory)
    paths: list[Path] = []
    while len(paths) < 4:
        journal.append(payload(1, 1000))
        if journal.path not in paths:
            paths.append(journal.path)
    journal.append(payload(2))
    journal.sync()
    use = journal.use
    for path in paths[1:3]:
        copy = next(copies)
        (copy / path.name).unlink()
        with pytest.raises(StorageFailed, match="is missing"):
            batches(copy)
    copy = next(copies)
    (copy / paths[0].name).unlink()
    with pytest.raises(StorageFailed, match="record 1 of the journal is damaged"):
        batches(copy)
    copy = next(copies)
    for path in copy.iterdir():
        path.unlink()
    with pytest.raises(StorageFailed, match="newest files of the journal"):
        batches(copy, use=use)
    copy = next(copies)
    with (copy / paths[1].name).open("r+b") as file:
        file.truncate(SMALL - 1)
    with pytest.raises(StorageFailed, match="as when it was made"):
        batches(copy)
    for position in range(36):
        copy = next(copies)
        flip_bit(copy / paths[1].name, position)
        with pytest.raises(StorageFailed, match="does not match its checksum"):
            batches(copy)
    journal.close()


def test_records_of_former_uses_are_never_read(directory: Path, copies: Iterator[Path]) -> None:
    """Records of one size, so that those of the former use stand exactly where the next ones will."""
    journal = open_journal(directory)
    written: list[bytes] = []
    released = 0
    for number in range(400):
        written.append(payload(number, 1000))
        journal.append(written[-1])
        journal.sync()
        if number % 20 == 19:
            released = journal.sequence - 3
            journal.release(released)
        if number % 7 == 0:
            assert batches(next(copies), after=released) == written[released:]
    assert len(list(directory.iterdir())) < 10
    assert journal.use > 40
    journal.close()


@pytest.mark.parametrize("seed", range(8))
def test_pages_that_were_not_synced_are_there_or_not_in_any_order(
    directory: Path, copies: Iterator[Path], seed: int
) -> None:
    """A loss of power: of the pages written since the last sync, any may have what was there before. What
    was synced is there, and of the rest a beginning; twice, since what is torn off must not come back."""
    chance = random.Random(seed)
    after: int = 0
    written: list[bytes] = []
    for _ in range(2):
        journal = open_journal(directory, HEADER_BYTES + 64 * PAGE, after)
        for number in range(chance.randrange(1, 30)):
            written.append(payload(number, chance.randrange(3000)))
            journal.append(written[-1])
        journal.sync()
        path = journal.path
        synced, before = len(written), path.read_bytes()
        for number in range(chance.randrange(1, 12)):
            written.append(payload(number, chance.choice((10, 3000, 9000))))
            journal.append(written[-1])
        journal.close()
        content = path.read_bytes()
        pages = [
            start for start in range(0, len(content), PAGE) if before[start:][:PAGE] != content[start:][:PAGE]
        ]
        for trial in range(40):
            copy = next(copies)
            torn = bytearray(content)
            for start in chance.sample(pages, chance.randint(1, len(pages)) if trial else len(pages)):
                torn[start : start + PAGE] = before[start : start + PAGE]
            (copy / path.name).write_bytes(torn)
            left = batches(copy, after=after)
            assert synced - after <= len(left)
            assert left == written[after:][: len(left)]
        shutil.rmtree(directory)
        shutil.copytree(copy, directory)
        after += len(left)
        written = written[:after]


def test_a_full_disk_is_told_when_a_segment_is_needed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(directory)
    wait_for_segments(directory)

    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(segments, "_fill", full)
        with pytest.raises(OSError, match="No space left on device.*segment-0"):
            for number in range(100):
                journal.append(payload(number, 1000))
        assert journal.use == 3
        eventually("nothing is left of the last attempt", lambda: not (directory / "making").exists())
    number = journal.sequence
    journal.append(payload(99, 1000))  # there is room again
    assert journal.sequence == number + 1
    journal.close()


def test_room_that_is_made_during_an_attempt_counts(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That attempt still fails, and so does not speak for the disk as it is when a segment is needed."""
    journal = open_journal(directory)
    wait_for_segments(directory)
    underway, needed = threading.Event(), threading.Event()

    def full(descriptor: int, size: int) -> None:
        monkeypatch.undo()
        underway.set()
        needed.wait(10)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segments, "_fill", full)
    use_up(journal)
    assert underway.wait(10)
    use_up(journal)
    need = threading.Timer(0.2, needed.set)  # it is needed by then; were it not yet, nothing would be tested
    need.start()
    use_up(journal)
    need.join()
    journal.close()


def use_up(journal: Journal) -> None:
    """Append until the segment that is written to is another one."""
    use = journal.use
    while journal.use == use:
        journal.append(payload(0, 1000))


@pytest.mark.parametrize("what", ["begin", "remove"])
def test_a_full_disk_makes_no_gap_where_a_segment_is_used_again_or_removed(
    directory: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A file system that copies on write needs room for both."""
    journal = open_journal(directory)
    for _ in range(2 if what == "begin" else 6):  # more than are kept
        use_up(journal)
    attempts: list[str] = []

    def full(*args: object, **options: object) -> None:
        attempts.append(what)
        raise OSError(errno.ENOSPC, "No space left on device")

    eventually("two segments are ready", lambda: len(journal._ready) == 2)
    with monkeypatch.context() as patch:
        patch.setattr(Segment, "begin", full)
        patch.setattr(Path, "unlink", full)
        patch.setattr(segments, "_fill", full)
        if what == "begin":
            use_up(journal)  # so that one is missing
            eventually("no other one could be made", lambda: attempts)
            attempts.clear()
        journal.release(journal.sequence)
        eventually("it was tried", lambda: attempts)
    for _ in range(8):  # there is room again
        use_up(journal)
        journal.release(journal.sequence)
    after = journal.sequence
    journal.close()
    assert batches(directory, after=after) == []
    assert len(list(directory.iterdir())) <= 6


def test_with_another_size_the_former_segments_go(directory: Path) -> None:
    journal = open_journal(directory)
    for number in range(20):
        journal.append(payload(number, 1000))
    sequence = journal.sequence
    journal.close()
    journal = open_journal(directory, 2 * SMALL, after=sequence)
    wait_for_segments(directory)
    assert {path.stat().st_size for path in directory.iterdir()} == {2 * SMALL}
    journal.close()
    assert batches(directory, after=sequence) == []
