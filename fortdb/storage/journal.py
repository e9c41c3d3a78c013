"""The write-ahead log: batches, one after the other, in files that are written over and over.

Theory. `append` writes a batch as a record behind the last one (as several, if it is larger than a
segment), `sync` makes it durable. Segments (`segments.py`) are zero-filled before their first use and
used again afterwards, so neither call changes anything but bytes of an existing file. What the server's
thread must never wait for, making and emptying segments, is done ahead by a thread of its own.

Rules:

* A segment is synced before the next one is begun. So only the last segment with records can have any
  that are not on the disk.
* Every record carries the sequence of the last one that was on the disk when it was written. That tells
  a torn end from damage after a loss of power, when pages that were not synced may be there or not in any
  order: a record that is not whole was synced, and is damaged, if a later one says that it was; otherwise
  nobody was ever told that it is safe, and the log ends before it.
* What an earlier process left is read, made durable elsewhere and emptied. Nothing is appended to it.
* A segment is used again once `release` says that nobody needs its records.

Caveats:

* Damage to the last records that were synced, with none behind them, looks like a torn end. That is one
  reason why a node that was not stopped cleanly leaves every in-sync set (rule 9). A clean stop leaves a
  journal behind without a record in it.
* A full disk is no failure as long as there is a segment ready: it is told to whoever needs one.
* After a write or a sync raised, what is on the disk is unknown: the journal must not be used any more.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Condition

from fortdb.errors import StorageFailed
from fortdb.storage.room import is_full
from fortdb.storage.segments import (
    HEADER_BYTES,
    RECORD_BYTES,
    Record,
    Segment,
    former_segments,
    make_segment,
    record_at,
    records_behind,
    sync_directory,
)
from fortdb.storage.worker import Worker

_READY = 2  # emptied ahead, so that one can fill while the next is made


class Recovered:
    """What an earlier process left in the journal. `after`: the last sequence that is needed no more;
    `use`: the number of a use that is known to have begun. Raises `StorageFailed` for damage."""

    def __init__(self, directory: Path, after: int, use: int) -> None:
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)
        self._after = after
        self._batches: list[tuple[Segment, list[Record]]] = []
        self._next: int | None = None  # the sequence that has to follow, once there is any
        self.last = after
        self.segments = former_segments(directory)
        self.use = self.segments[-1].use if self.segments else 0
        try:
            self._read(directory, use)
        except BaseException:
            for segment in self.segments:
                segment.close()
            raise

    def batches(self) -> Iterator[bytes]:
        """The payload of every batch after `after`, in order. A batch of which the end is torn off is none."""
        pieces: list[bytes] = []
        for segment, records in self._batches:
            content = segment.path.read_bytes() if records else b""
            for record in records:
                pieces.append(content[record.start : record.end])
                if not record.more:
                    yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    pieces.clear()

    def _read(self, directory: Path, use: int) -> None:
        if self.use < use:
            raise StorageFailed(f"the newest files of the journal in {directory} are missing")
        for segment in self.segments:
            self._batches.append((segment, self._judge(segment, segment.path.read_bytes())))
        self.last = self._after if self._next is None else self._next - 1
        if self.last < self._after:
            raise StorageFailed(
                f"record {self.last + 1:,} of the journal in {directory} is damaged: {self._after:,} was on the disk"
            )

    def _judge(self, segment: Segment, content: bytes) -> list[Record]:
        """The segment's records after `after`, up to one that is not whole."""
        records: list[Record] = []
        position = HEADER_BYTES
        while (record := record_at(content, position, segment.salt)) is not None and self._follows(record):
            self._next = record.sequence + 1
            position = record.end
            if record.sequence > self._after:
                records.append(record)
        for later in records_behind(content, position, segment.salt):
            # Without any record before it, what is missing is the one before it or one before that.
            missing = min(self._after + 1, later.sequence - 1) if self._next is None else self._next
            if later.synced_through >= missing or missing <= self._after:
                raise StorageFailed(
                    f"record {missing:,} of the journal is damaged, in {segment.path} at or after byte {position:,}"
                    f" or in the file before it: record {later.sequence:,} says that it was on the disk"
                )
        return records

    def _follows(self, record: Record) -> bool:
        return record.sequence == self._next if self._next is not None else record.sequence <= self._after + 1


class Journal:
    """The journal of one process, after whatever was `recovered` was made durable elsewhere.

    `segments_max`: with more than so many on the disk, a segment that is not needed any more is removed
    instead of used again. `failed` hears from another thread what went wrong there. Without `sync`, `sync`
    does nothing. One thread at a time may append and sync; `release` may be called from any other.
    """

    def __init__(
        self,
        directory: Path,
        recovered: Recovered,
        *,
        segment_bytes: int,
        segments_max: int,
        sync: bool,
        failed: Callable[[Exception], None],
    ) -> None:
        self._directory = directory
        self.segment_bytes = segment_bytes
        self._segments_max = segments_max
        self._syncs = sync
        self._failed = failed
        self.sequence = recovered.last
        """Of the last record written."""
        self.synced_through = recovered.last
        """The sequence of the last record that is certainly on the disk."""
        self._use = recovered.use
        self._changed = Condition()
        self._full: deque[Segment] = deque()  # with records that somebody needs, oldest first
        self._free: deque[Segment] = deque()  # with records that nobody needs, oldest first
        self._ready: deque[Segment] = deque()  # empty, in the order of their use
        self._attempts = 0  # to make segments, in the other thread
        self._obstacle: tuple[int, OSError] = (0, OSError())  # the last of them that failed, and why
        self._empty_former(recovered.segments)
        self._active = self._ready.popleft()
        self._preparer = Worker("journal", self._prepare, self._not_prepared)
        self._preparer.wake()

    @property
    def use(self) -> int:
        """The number of the use of the segment that is written to."""
        return self._active.use

    @property
    def path(self) -> Path:
        """The segment that is written to."""
        return self._active.path

    @property
    def living_bytes(self) -> int:
        """What the segments take that are needed."""
        return (len(self._full) + 1) * self.segment_bytes

    def append(self, payload: bytes) -> None:
        """Write a batch; it is not durable yet. Raises `OSError`."""
        room = self.segment_bytes - HEADER_BYTES - RECORD_BYTES
        if len(payload) <= room:
            self._append(payload, more=False)
            return
        for start in range(0, len(payload), room):
            self._append(payload[start : start + room], more=start + room < len(payload))

    def begin_sync(self) -> None:
        """`sync` will come soon: the disk may as well begin."""
        if self._syncs and self.synced_through < self.sequence:
            self._active.begin_sync()

    def sync(self) -> None:
        """Return once every batch is on the disk. Raises `OSError`."""
        if self._syncs and self.synced_through < self.sequence:
            self._active.sync()
            self.synced_through = self.sequence

    def release(self, through: int) -> None:
        """Nobody needs the records up to this sequence any more."""
        with self._changed:
            while self._full and self._full[0].last <= through:
                self._free.append(self._full.popleft())
        self._preparer.wake()

    def empty(self) -> None:
        """Nobody needs any record any more; the last call but `close`. Raises `OSError`."""
        self._preparer.stop()
        for segment in (*self._free, *self._full, self._active):
            self._use += 1
            segment.begin(self._use)

    def close(self) -> None:
        """Let go of the files. Idempotent."""
        self._preparer.stop()
        for segment in (*self._free, *self._full, self._active, *self._ready):
            segment.close()

    def _append(self, payload: bytes, *, more: bool) -> None:
        segment = self._active
        if segment.position + RECORD_BYTES + len(payload) > segment.size:
            segment = self._move_on()
        segment.append(payload, more, self.sequence + 1, self.synced_through)
        self.sequence += 1

    def _move_on(self) -> Segment:
        self.sync()
        following = self._take()
        with self._changed:
            self._full.append(self._active)
            self._active = following
        self._preparer.wake()
        return following

    def _take(self) -> Segment:
        """A segment that is ready; waits only if they were used faster than they could be made."""
        with self._changed:
            if not self._ready:
                before = self._attempts  # what stood in their way may be gone
                self._preparer.wake()
                self._changed.wait_for(lambda: self._ready or self._obstacle[0] > before)
            if not self._ready:
                raise self._obstacle[1]
            return self._ready.popleft()

    # What happens in the other thread, or before it begins.

    def _empty_former(self, segments: list[Segment]) -> None:
        """All of it before the first record is written: a record that was torn off must not stand beside
        another one with its sequence. Oldest first, so that uses stay without a gap."""
        if not segments or any(segment.size != self.segment_bytes for segment in segments):
            self._use += 1
            self._ready.append(make_segment(self._directory, self._use, self.segment_bytes))
        for segment in segments:
            if segment.size == self.segment_bytes:
                self._use += 1
                segment.begin(self._use)
                self._ready.append(segment)
            else:
                segment.remove()

    def _prepare(self) -> None:
        with self._changed:
            self._attempts += 1
        while True:
            with self._changed:
                missing = _READY - len(self._ready)
                known = len(self._full) + len(self._free) + len(self._ready) + 1
                # Always the oldest one, so that uses stay without a gap. It is known until it has another use or is
                # gone: if the disk is full, that is tried again.
                wanted = missing > 0 or known > self._segments_max
                former = self._free[0] if self._free and wanted else None
            if former is not None and missing <= 0:
                former.remove()
                self._free.popleft()
                sync_directory(self._directory)
            elif missing > 0:
                self._make_ready(former)
            else:
                return

    def _make_ready(self, former: Segment | None) -> None:
        use = self._use + 1
        if former is not None:
            former.begin(use)
        segment = former or make_segment(self._directory, use, self.segment_bytes)
        self._use = use
        with self._changed:
            if former is not None:
                self._free.popleft()
            self._ready.append(segment)
            self._changed.notify_all()

    def _not_prepared(self, error: Exception) -> None:
        full = isinstance(error, OSError) and is_full(error)
        with self._changed:
            obstacle = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
            self._obstacle = (self._attempts, obstacle)
            self._changed.notify_all()
        if not full:
            self._failed(error)
