"""What was written and is not in RocksDB yet: plain dictionaries and a list.

Only the last value of a data key and of a state counts, so these are dictionaries, where None stands for
a key that was deleted: what is written often is moved into RocksDB once for a table. Logs and expiry notes are
nearly always written once, so they are kept as a list, in order; who walks them has the list moved into RocksDB
first.

A table is moved in pieces, small because `rocksdict` holds the interpreter while it writes: a piece is how
long the server's thread can be kept waiting. Data goes in one sorted run, which RocksDB takes in at half
the cost. Without the function in C that sorts it while others have the interpreter, which would take ten
milliseconds, there are many runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from fortdb.native import lane
from fortdb.storage.batch import DELETE_STATE, NEVER_MS, PUT_STATE, Operation, RocksBatch

_KEY_OVERHEAD_BYTES = 150
"""What a key costs in a dictionary besides its own bytes and those of its value."""

_PIECE = 64  # so many changes take about 0.1 ms
_PIECE_BYTES = 1 << 17
_RUN = 2048 if lane is None else None  # keys that are sorted together; in Python, in less than a millisecond
_CHANGES_MAX = 32 * 1024  # moving them takes some ten milliseconds, which a walk may have to wait for


class Table:
    """The changes of the batches after those of the table before, up to `through`."""

    __slots__ = (
        "_moved",
        "_piece",
        "_rest",
        "_run",
        "_total",
        "_written_bytes",
        "data",
        "earliest_note_ms",
        "operations",
        "states",
        "through",
    )

    def __init__(self) -> None:
        self.data: dict[bytes, bytes | None] = {}
        self.states: dict[bytes, bytes | None] = {}
        self.operations: list[Operation] = []
        self.earliest_note_ms = NEVER_MS
        """No expiry note before this is touched by `operations`."""
        self.through = 0
        self._written_bytes = 0  # all batches together
        self._rest: Iterator[bytes] = iter(())
        self._run: list[bytes] = []  # of keys, backward
        self._piece = _PIECE
        self._total = self._moved = 0  # changes

    def add(self, batch: RocksBatch, sequence: int, size_bytes: int) -> None:
        """Take a batch in, except for the ranges of data that it deletes."""
        self.data.update(batch.data)
        self.states.update(batch.states)
        self.operations += batch.operations
        if batch.earliest_note_ms < self.earliest_note_ms:
            self.earliest_note_ms = batch.earliest_note_ms
        self.through = sequence
        self._written_bytes += size_bytes

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, at most about."""
        return self._written_bytes + _KEY_OVERHEAD_BYTES * len(self.data)

    def share_full(self, written_bytes_max: int) -> float:
        """How much of it is used, of 1, if batches of so many bytes fill it: that bounds its size, and what the
        journal has to keep for it."""
        changes = len(self.data) + len(self.operations)
        return max(self._written_bytes / written_bytes_max, changes / _CHANGES_MAX)

    def is_empty(self) -> bool:
        """Whether there is nothing that RocksDB lacks."""
        return not (self.data or self.operations or self.states)

    def forget_range(self, start: bytes, end: bytes) -> None:
        """The data keys with `start <= key < end` were deleted in RocksDB."""
        for key in [key for key in self.data if start <= key < end]:
            del self.data[key]

    # Moving.

    def freeze(self) -> None:
        """Nothing is added any more, and moving begins."""
        self._rest = iter(self.data)
        self._total = len(self.data) + len(self.operations)
        self._moved = 0  # those of `forget_operations` before do not count
        self._piece = max(1, min(_PIECE, _PIECE_BYTES * len(self.data) // (self.size_bytes + 1)))

    def share_left(self) -> float:
        """How much of a frozen table has still to be moved, of 1."""
        return 1 - self._moved / self._total if self._total else 0.0

    def first_operations(self) -> list[Operation]:
        """The next operations to move; `forget_operations` once that is done."""
        size = 0
        for number, (_, _, value) in enumerate(self.operations[:_PIECE], 1):
            size += len(value)
            if size >= _PIECE_BYTES:
                return self.operations[:number]
        return self.operations[:_PIECE]

    def forget_operations(self, count: int) -> None:
        """So many are in RocksDB."""
        del self.operations[:count]
        self._moved += count
        if not self.operations:
            self.earliest_note_ms = NEVER_MS

    def next_keys(self) -> list[bytes]:
        """The keys of the next data to move; nothing once all was taken."""
        if not self._run:
            self._run = list(islice(self._rest, _RUN))
            if lane is None:
                self._run.sort()
            else:
                lane.sort_keys(self._run)
            self._run.reverse()
        keys = self._run[: -self._piece - 1 : -1]
        del self._run[-self._piece :]
        self._moved += len(keys)
        return keys

    def changed_states(self) -> list[Operation]:
        """The states to move."""
        return [
            (DELETE_STATE, key, b"") if state is None else (PUT_STATE, key, state)
            for key, state in self.states.items()
        ]
