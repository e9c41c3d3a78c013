"""What a leader knows of one follower, in one epoch and one life of the follower's process."""

from __future__ import annotations

from collections import deque
from enum import Enum

from fortdb.native import bind


class Phase(Enum):
    """How a follower is fed."""

    PROBE = "probe"  # asked for the outline of its log, no answer yet
    STREAM = "stream"  # aligned: entries follow as they come
    SNAPSHOT = "snapshot"  # the log does not reach back far enough: gets the data
    INSTALL = "install"  # has been sent all the data: entries follow when it is on its disk
    DOWN = "down"  # no connection


bind(Phase)


class Progress:
    """One follower's progress. Offsets are of the leader's log, times of the leader's clock."""

    __slots__ = (
        "_flight",
        "_mark",
        "asked_ms",
        "attempt",
        "caught_up_ms",
        "flight_bytes",
        "incarnation",
        "match",
        "next",
        "phase",
        "promised_until_ms",
    )

    def __init__(self, incarnation: str, now_ms: int) -> None:
        self.incarnation = incarnation
        self.phase = Phase.PROBE
        self.match = 0  # on its disk up to here, as it said in this epoch
        self.next = 1  # the next offset to send
        self.flight_bytes = 0
        self.promised_until_ms = 0
        self.caught_up_ms = now_ms
        self.asked_ms = now_ms
        self.attempt = 0
        self._flight: deque[tuple[int, int]] = deque()  # (last offset, bytes) of each append sent
        self._mark: tuple[int, int] | None = None  # (our last offset, when) to measure lag against

    def ask(self, now_ms: int) -> int:
        """A question is on its way to the follower; returns which. Only its answer counts."""
        self.phase = Phase.PROBE
        self.asked_ms = now_ms
        self.attempt += 1
        return self.attempt

    def stream_from(self, offset: int) -> None:
        """The logs agree before `offset`: send from there."""
        self.phase = Phase.STREAM
        self.next = offset
        self._flight.clear()
        self.flight_bytes = 0

    def needs_snapshot(self) -> None:
        """The log no longer holds what the follower lacks; it will forget what it has."""
        self.phase = Phase.SNAPSHOT
        self.match = 0

    def has_all_data(self, offset: int) -> None:
        """The last of a snapshot is on its way, as of `offset`. What followed at once would come before the
        follower has put it in its place, and be dropped."""
        self.phase = Phase.INSTALL
        self.next = offset + 1

    def sent(self, count: int, size: int) -> None:
        """`count` entries of `size` bytes together are on their way."""
        self.next += count
        self._flight.append((self.next - 1, size))
        self.flight_bytes += size

    def acknowledged(self, offset: int, last_offset: int, now_ms: int) -> None:
        """On its disk up to `offset`, while the leader's log ends at `last_offset`.

        Under load a follower never stands at the end of the log, so it counts as caught up as of
        the moment at which the log ended where the follower now is (Kafka's lastCaughtUpTime).
        """
        self.match = max(self.match, offset)
        while self._flight and self._flight[0][0] <= offset:
            self.flight_bytes -= self._flight.popleft()[1]
        if offset >= last_offset:
            self.caught_up_ms = now_ms
            self._mark = None
            return
        if self._mark is not None and offset >= self._mark[0]:
            self.caught_up_ms = max(self.caught_up_ms, self._mark[1])
            self._mark = None
        if self._mark is None:
            self._mark = (last_offset, now_ms)


bind(Progress)
