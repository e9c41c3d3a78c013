"""The files of the journal: how a segment and its records are laid out, made, used again and read.

A segment is a file of a fixed size whose every byte was written and synced before its first record.
Writing over such bytes changes neither the file's length nor its extents, so syncing it is a write of
the data and nothing else: no commit of the file system's own journal, which costs twice as much and
makes all processes on one disk wait for each other.

    segment  header (one page) | record | record | ... | whatever was there before
    header   magic (8) | number of the use (8) | salt (8) | size of the file (8) | checksum (4)
    record   salt (8) | checksum (4) | length, highest bit: more follows (4) | sequence (8)
             | synced through (8) | payload

all little-endian. A file is used again and again. Each use has the next number and a salt drawn for
it, which begins every record and goes into every checksum: a record of a former use is nothing. Headers
are on the disk before the segment is used, and uses follow on one another without a gap, oldest first,
so a missing file is noticed. The salt is also what a reader looks for behind a place that is no record.
"""

from __future__ import annotations

import errno
import os
import secrets
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from fortdb.errors import StorageFailed
from fortdb.native import lane

crc32 = zlib.crc32 if lane is None else lane.crc32

HEADER_BYTES = 4096  # a page of its own: writing a record never touches it
_MAGIC = b"FORTJRN1"
_HEADER = Struct("<8sQ8sQ")
_CHECKSUM = Struct("<I")
_FIELDS = Struct("<IQQ")
_RECORD = Struct("<8sIIQQ")
RECORD_BYTES = _RECORD.size
_MORE = 1 << 31
# A page at a time: what is written in one piece lies in one folio of the page cache, and the kernel counts all of
# a folio as written (in /proc/PID/io, for cgroups) whenever a page of it is.
_ZEROS = bytes(4096)
MAKING = "making"
"""The name of a file that is to be a segment."""


class Segment:
    """A segment that is open for one use."""

    __slots__ = ("_descriptor", "_seed", "_synced", "last", "path", "position", "salt", "size", "use")

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self.size = size
        self._descriptor = descriptor
        self.use = 0
        self.last = 0
        """The sequence of its last record."""
        self.position = self._synced = HEADER_BYTES
        self.salt = b""
        self._seed = 0

    def begin(self, use: int) -> None:
        """Make it empty, durably, for the use of that number."""
        self.use, self.last = use, 0
        self.position = self._synced = HEADER_BYTES
        self.salt = secrets.token_bytes(8)
        self._seed = crc32(self.salt)
        header = _HEADER.pack(_MAGIC, use, self.salt, self.size)
        self._write([header + _CHECKSUM.pack(crc32(header))], 0)
        self.sync()

    def append(self, payload: bytes, more: bool, sequence: int, synced_through: int) -> None:
        """Write a record behind the last one. There must be room for it."""
        length = len(payload)
        fields = _FIELDS.pack(length | _MORE if more else length, sequence, synced_through)
        checksum = crc32(payload, crc32(fields, self._seed))
        position = self.position
        self._write([self.salt + _CHECKSUM.pack(checksum) + fields, payload], position)
        self.position = position + RECORD_BYTES + length
        self.last = sequence

    def begin_sync(self) -> None:
        """Have the disk begin with what `sync` has to wait for, mostly without a wait: who finds the queue of the
        disk full waits for a place in it. Nothing is safe by that, and no error is told. Only where the functions
        in C are."""
        if lane is not None:
            lane.begin_sync(self._descriptor, self._synced, self.position - self._synced)

    def sync(self) -> None:
        """Return once everything written is on the disk."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise _named(error, self.path) from error
        self._synced = self.position

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Take it off the disk, and close it then. Raises `OSError`."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _write(self, parts: list[bytes], position: int) -> None:
        try:
            written = os.pwritev(self._descriptor, parts, position)
            rest = b"".join(parts)[written:] if written < sum(map(len, parts)) else b""
            while rest:
                position += written
                written = os.pwrite(self._descriptor, rest, position)
                rest = rest[written:]
        except OSError as error:
            raise _named(error, self.path) from error


class Record(NamedTuple):
    """A record that a reader found whole, and where its payload lies in the file."""

    sequence: int
    synced_through: int
    more: bool
    start: int
    end: int


def make_segment(directory: Path, use: int, size: int) -> Segment:
    """A new segment, begun for that use. It has its name only once it is wholly on the disk."""
    making = directory / MAKING
    path = directory / f"segment-{use:08d}"
    descriptor = -1
    try:
        descriptor = os.open(making, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        _fill(descriptor, size)
        os.fsync(descriptor)
        segment = Segment(making, descriptor, size)
        segment.begin(use)
        making.rename(path)
        sync_directory(directory)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        making.unlink(missing_ok=True)
        raise _named(error, path) from error
    segment.path = path
    return segment


def former_segments(directory: Path) -> list[Segment]:
    """The segments that an earlier process left, in the order of their use. Raises `StorageFailed` if one
    of them is damaged or missing."""
    (directory / MAKING).unlink(missing_ok=True)
    segments: list[Segment] = []
    try:
        for path in directory.iterdir():
            segment = Segment(path, os.open(path, os.O_RDWR), path.stat().st_size)
            segments.append(segment)
            segment.use, segment.salt = _read_header(path)
        segments.sort(key=lambda segment: segment.use)
        for before, after in pairwise(segments):
            if after.use != before.use + 1:
                raise StorageFailed(
                    f"a file of the journal between {before.path.name} and {after.path.name} is missing"
                )
    except BaseException:
        for segment in segments:
            segment.close()
        raise
    return segments


def record_at(content: bytes, position: int, salt: bytes) -> Record | None:
    """The record that begins there, if a whole one of this use does."""
    if position + RECORD_BYTES > len(content):
        return None
    marked, checksum, length, sequence, synced_through = _RECORD.unpack_from(content, position)
    start = position + RECORD_BYTES
    end = start + (length & ~_MORE)
    if marked != salt or end > len(content):
        return None
    view = memoryview(content)
    if crc32(view[start:end], crc32(view[position + 12 : start], crc32(salt))) != checksum:
        return None
    return Record(sequence, synced_through, bool(length & _MORE), start, end)


def records_behind(content: bytes, position: int, salt: bytes) -> Iterator[Record]:
    """Every whole record of this use that begins at `position` or later, wherever."""
    while (position := content.find(salt, position)) >= 0:
        record = record_at(content, position, salt)
        if record is not None:
            yield record
        position = position + 1 if record is None else record.end


def used_bytes(path: Path) -> int:
    """How far the present use of a segment reaches; nobody reads what lies behind."""
    content = path.read_bytes()
    position, salt = HEADER_BYTES, _read_header(path)[1]
    for record in records_behind(content, position, salt):
        position = record.end
    return position if position > HEADER_BYTES else _HEADER.size + _CHECKSUM.size


def sync_directory(path: Path) -> None:
    """Return once the names in the directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_header(path: Path) -> tuple[int, bytes]:
    """The number of the use, and its salt."""
    with path.open("rb") as file:
        stored = file.read(_HEADER.size + _CHECKSUM.size)
    if len(stored) == _HEADER.size + _CHECKSUM.size:
        magic, use, salt, size = _HEADER.unpack_from(stored)
        (checksum,) = _CHECKSUM.unpack_from(stored, _HEADER.size)
        if magic == _MAGIC and checksum == crc32(stored[: _HEADER.size]):
            if size != path.stat().st_size:
                raise StorageFailed(
                    f"{path} has {path.stat().st_size:,} bytes and not {size:,} as when it was made"
                )
            return use, salt
    raise StorageFailed(f"the header of {path} does not match its checksum")


def _fill(descriptor: int, size: int) -> None:
    while size > 0:
        size -= os.write(descriptor, memoryview(_ZEROS)[:size])


def _named(error: OSError, path: Path) -> OSError:
    """The same error with the name of the file; calls on descriptors do not know it."""
    return OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))
