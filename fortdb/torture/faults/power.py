"""Loss of power: what was not synced is gone.

The process is killed, and then every file below its data directory is cut to the length that it had
when it was last synced; a file that never was is empty, and one whose directory was not synced since it
was made has no name. What was written since then over bytes that a file had already is put back. That is the
worst that POSIX allows. Since more than the synced may have reached the disk, some of the rest may be kept: a
torn end, and of what was written over, some pages and not others, whichever was written first.

Renames and removals count as done at once. A file system may take both back until the directory is
synced; whoever renames before syncing the content loses it here.

The shim's journal tells what was synced, over all lives of the process since its directory was empty, and
the files beside it hold what was written over.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from pathlib import Path

_KEEP_TORN_ENDS = 0.3  # of the losses of power leave something of what was not synced
_PAGE_BYTES = 4096  # reaches the disk as a whole
_FORMER = struct.Struct("<qq")  # `struct former` in shim.c: where it was, how long it is


class Synced:
    """What of a data directory is on the disk for certain."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}  # by path; of files that were synced
        self.names: dict[str, set[str]] = {}  # by path of a directory: names that were synced

    def replay(self, journal: Path) -> None:
        """Take in what the shim wrote down. Its last line may be torn."""
        directory: set[str] = set()
        with journal.open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                if not line.endswith("\n"):
                    break
                kind, rest = line[0], line[2:-1]
                if kind == "S":
                    size, _, path = rest.partition(" ")
                    self.sizes[path] = int(size)
                elif kind == "D":
                    directory = self.names[rest] = set()
                elif kind == "E":
                    directory.add(rest)
                elif kind == "R":
                    self._renamed(*rest.split("\t", 1))
                elif kind == "U":
                    self._removed(rest)
                elif kind == "T":
                    size, _, path = rest.partition(" ")
                    self.sizes[path] = min(self.sizes.get(path, 0), int(size))

    def _renamed(self, old: str, new: str) -> None:
        self._removed(new)
        for path in [path for path in self.sizes if _is_in(path, old)]:
            self.sizes[new + path[len(old) :]] = self.sizes.pop(path)
        for path in [path for path in self.names if _is_in(path, old)]:
            self.names[new + path[len(old) :]] = self.names.pop(path)
        for path, move in ((old, set.discard), (new, set.add)):
            parent, _, name = path.rpartition("/")
            if parent in self.names:
                move(self.names[parent], name)

    def _removed(self, path: str) -> None:
        self.sizes.pop(path, None)
        self.names.pop(path, None)
        parent, _, name = path.rpartition("/")
        if parent in self.names:
            self.names[parent].discard(name)


def _is_in(path: str, where: str) -> bool:
    return path == where or path.startswith(where + "/")


def lose_power(root: Path, journal: Path, seed: int) -> int:
    """Take from the data directory of a process that has ended what it had not synced; how many bytes."""
    synced = Synced()
    if journal.exists():
        synced.replay(journal)
    chance = random.Random(seed)  # nosec B311 # drawn again by the same seed
    keeps_some = chance.random() < _KEEP_TORN_ENDS
    lost_bytes = 0
    for place, directories, files in os.walk(root):
        durable = synced.names.get(place, set())
        for name in [name for name in directories if name not in durable]:
            directories.remove(name)
            shutil.rmtree(Path(place, name))
        for name in files:
            path = os.path.join(place, name)
            size = os.path.getsize(path)
            if name not in durable:
                os.unlink(path)
                lost_bytes += size
                continue
            lost_bytes += _put_back(path, journal, chance if keeps_some else None)
            kept = min(size, synced.sizes.get(path, 0))
            if keeps_some:
                kept = chance.randint(kept, size)
            if kept < size:
                os.truncate(path, kept)
                lost_bytes += size - kept
    for former in journal.parent.glob(f"{journal.name}.former-*"):
        former.unlink()
    return lost_bytes


def forget(journal: Path) -> None:
    """Nothing is below the data directory any more."""
    journal.unlink(missing_ok=True)
    for former in journal.parent.glob(f"{journal.name}.former-*"):
        former.unlink()


def _put_back(path: str, journal: Path, chance: random.Random | None) -> int:
    """Undo what was written over since the last sync, newest first; with `chance`, not in all pages. How
    many bytes are lost."""
    former = journal.with_name(f"{journal.name}.former-{os.stat(path).st_ino}")
    if not former.exists():
        return 0
    lost_bytes = 0
    kept: dict[int, bool] = {}
    with open(path, "r+b") as file:
        for offset, content in reversed(_written_over(former.read_bytes())):
            at = offset
            while at < offset + len(content):
                page = at // _PAGE_BYTES
                end = min((page + 1) * _PAGE_BYTES, offset + len(content))
                if chance is None or not kept.setdefault(page, chance.random() < 0.5):
                    file.seek(at)
                    file.write(content[at - offset : end - offset])
                    lost_bytes += end - at
                at = end
    return lost_bytes


def _written_over(stored: bytes) -> list[tuple[int, bytes]]:
    """What the shim kept, and where it was; the last may be torn."""
    found = []
    position = 0
    while position + _FORMER.size <= len(stored):
        offset, length = _FORMER.unpack_from(stored, position)
        position += _FORMER.size + length
        if position <= len(stored):
            found.append((offset, stored[position - length : position]))
    return found
