"""Where the epochs of a log begin, and where two logs part.

A log is described by its *base* (the position just before its first retained entry), the first
offset of each epoch after the base, and its last offset. Two logs that carry the same epoch at an
offset are identical up to it (the log matching property), so the point where they part is found
from the two histories alone, in one round trip, however many leaders came and went in between.

Source: KIP-101 and KIP-279 (truncation by leader epoch instead of by high watermark); the whole
history travels, so that KIP-279's repeated questions are not needed.
"""

from __future__ import annotations

from typing import NamedTuple

from fortdb.native import bind


class LogShape(NamedTuple):
    """A log's outline. `epochs` are (epoch, first offset), ascending, all after `base_offset`."""

    base_offset: int = 0
    base_epoch: int = 0
    epochs: tuple[tuple[int, int], ...] = ()
    last_offset: int = 0

    @property
    def last_epoch(self) -> int:
        """The epoch of the newest entry, or the base's when the log holds none."""
        return self.epochs[-1][0] if self.epochs else self.base_epoch

    def epoch_at(self, offset: int) -> int:
        """The epoch of the entry at `offset`, which lies between the base and the last offset."""
        assert self.base_offset <= offset <= self.last_offset, (offset, self)
        return self._segment(offset)[0]

    def appended(self, epoch: int, count: int) -> LogShape:
        """The shape after `count` more entries of `epoch`."""
        assert epoch >= self.last_epoch, (epoch, self)
        epochs = self.epochs
        if not epochs or epochs[-1][0] != epoch:
            epochs = (*epochs, (epoch, self.last_offset + 1))
        return LogShape(self.base_offset, self.base_epoch, epochs, self.last_offset + count)

    def truncated(self, offset: int) -> LogShape:
        """The shape without the entries after `offset`."""
        assert self.base_offset <= offset <= self.last_offset, (offset, self)
        epochs = tuple(pair for pair in self.epochs if pair[1] <= offset)
        return LogShape(self.base_offset, self.base_epoch, epochs, offset)

    def trimmed(self, offset: int) -> LogShape:
        """The shape without the entries up to and including `offset`."""
        epoch = self.epoch_at(offset)
        later = tuple(pair for pair in self.epochs if pair[1] > offset)
        if offset < self.last_offset and (not later or later[0][1] > offset + 1):
            later = ((epoch, offset + 1), *later)
        return LogShape(offset, epoch, later, self.last_offset)

    def _segment(self, offset: int) -> tuple[int, int]:
        """(epoch, first offset) of the run of entries that `offset` lies in."""
        for epoch, first in reversed(self.epochs):
            if first <= offset:
                return epoch, first
        return self.base_epoch, self.base_offset


bind(LogShape)


def common_offset(ours: LogShape, theirs: LogShape) -> int | None:
    """The last offset up to which both logs are identical.

    None when it lies before what one of them still knows: only a snapshot can help then.
    """
    floor = max(ours.base_offset, theirs.base_offset)
    offset = min(ours.last_offset, theirs.last_offset)
    while offset >= floor:
        our_epoch, our_first = ours._segment(offset)
        their_epoch, their_first = theirs._segment(offset)
        if our_epoch == their_epoch:
            return offset
        offset = (our_first if our_epoch > their_epoch else their_first) - 1
    return None
