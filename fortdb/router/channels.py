"""From a router to the leader of one partition: requests in order, retried until they are answered.

A channel keeps every request that has no answer yet, in the order in which they came. A request is
sent in the epoch that the router believes in, and a node executes it only in that epoch. When the
epoch changes, everything unanswered is sent again, in order, to the new leader, with the same
request ids: what the former leader had passed on is recognised and answered from the log, the rest
is executed (rule 16). So a client that pipelines sees its requests applied in its own order, across
failovers, each once.

A node that could not become ready in time says so of a request that it held, and means its own holding.
If the same write was sent before, to a former leader or on a connection that broke, that copy may lie in
a log and be committed yet: the client hears "outcome unknown".

A leader that has too few in sync, or no room, says the truth of what former leaders were sent: that is in its log or
never will be. But what it was sent itself in this epoch, on a connection that broke, it may read later, when it can
write again: then the client hears the same.

An answer counts only in the epoch in which its request was sent last. A node that led, lost the lead and has
it again may have refused the request then, or found that a swap did not apply, and what it said may be on
its way yet; meanwhile the request was sent again and may be executed with another result.

Reads travel the same way; executing one twice harms nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from fortdb.errors import (
    Busy,
    DiskFull,
    FortError,
    NotEnoughReplicas,
    OutcomeUnknown,
    StorageFailed,
    Unavailable,
)
from fortdb.limits import CHANNEL_REQUESTS_MAX
from fortdb.native import bind
from fortdb.net.gather import Completes
from fortdb.replication.messages import encode_request

_NOT_BEGUN = (f"-{Unavailable.code} ".encode(), f"-{Busy.code} ".encode())
"""How replies begin that a node gives without looking whether it knows the request."""

_NOT_NOW = tuple(f"-{refusal.code} ".encode() for refusal in (NotEnoughReplicas, DiskFull, StorageFailed))
"""And what a leader says that looked, and could not write at this moment."""


class Wire(Protocol):
    """A link to a node, as far as channels need it."""

    is_up: bool

    def write(self, data: bytes) -> None: ...


class Unanswered:
    """A client's request (or the part of one that concerns this partition)."""

    __slots__ = ("began_s", "command", "deadline_ms", "is_write", "sent_count", "slot")

    def __init__(self, command: bytes, slot: Completes, is_write: bool, deadline_ms: int) -> None:
        self.command = command
        self.slot = slot
        self.is_write = is_write
        self.deadline_ms = deadline_ms
        self.sent_count = 0
        self.began_s = perf_counter()


bind(Unanswered)


class Channel:
    """Unanswered requests to one partition."""

    __slots__ = (
        *("partition", "name", "leader", "epoch", "retries_total", "wire", "unanswered", "next", "oldest"),
        "repeated",
    )

    def __init__(self, partition: int, name: str) -> None:
        self.partition = partition
        self.name = name
        self.leader: str | None = None
        self.epoch = 0
        self.retries_total = 0
        self.wire: Wire | None = None
        self.unanswered: dict[int, Unanswered] = {}  # by sequence, in which order they are added
        self.next = 1  # sequence
        self.oldest = 1  # no sequence below is unanswered; see `watermark`
        self.repeated: set[int] = set()  # writes that were sent before in this epoch

    def __len__(self) -> int:
        return len(self.unanswered)

    def watermark(self) -> int:
        """The oldest sequence that is unanswered, or the next. (The first key of a dictionary that is
        emptied from its head takes longer and longer to find; each sequence is passed here once.)"""
        oldest = self.oldest
        while oldest < self.next and oldest not in self.unanswered:
            oldest += 1
        self.oldest = oldest
        return oldest

    def send(self, request: Unanswered) -> None:
        """Send a request, or keep it until there is a leader to send it to."""
        unanswered = self.unanswered
        if len(unanswered) >= CHANNEL_REQUESTS_MAX:
            request.slot.complete(Busy(f"{len(unanswered)} requests wait for {self.name} already").wire())
            return
        sequence = self.next
        self.next += 1
        unanswered[sequence] = request
        wire = self.wire
        if wire is not None and wire.is_up:
            request.sent_count = 1
            wire.write(
                encode_request(self.partition, self.epoch, sequence, self.watermark(), request.command)
            )

    def answered(self, epoch: int, sequence: int, reply: bytes, wire: Wire) -> Unanswered | None:
        """The answer to a request that was sent in an epoch. What is still said of a former one, by another
        leader or by the same, after the request was sent in the next one is ignored: only the last to
        execute it knows what holds. Returns the request."""
        if epoch != self.epoch or wire is not self.wire:
            return None
        request = self.unanswered.pop(sequence, None)
        if request is not None:
            if self._may_come_yet(sequence, request, reply):
                reply = OutcomeUnknown(
                    f"partition {self.name}: {self.leader} did not execute the write again; "
                    "whether it had been applied before is not known"
                ).wire()
            self.repeated.discard(sequence)
            request.slot.complete(reply)
        return request

    def _may_come_yet(self, sequence: int, request: Unanswered, reply: bytes) -> bool:
        """Whether another copy of a write may be executed though this one was not."""
        if sequence in self.repeated and reply.startswith(_NOT_NOW):
            return True
        return request.is_write and request.sent_count > 1 and reply.startswith(_NOT_BEGUN)

    def route(self, leader: str | None, epoch: int, wire: Wire | None) -> None:
        """Somebody leads in this epoch. What is unanswered goes there if this is news."""
        is_new = epoch > self.epoch
        if is_new or (epoch == self.epoch and wire is not self.wire):
            if is_new:
                self.repeated.clear()
            self.leader, self.epoch, self.wire = leader, epoch, wire
            self._send_again(is_repeated=not is_new)

    def link_up(self, name: str, wire: Wire) -> None:
        """There is a new connection to a node; what was sent on the former one may be lost."""
        if name == self.leader:
            self.wire = wire
            self._send_again(is_repeated=True)

    def _send_again(self, *, is_repeated: bool) -> None:
        wire = self.wire
        if wire is None or not wire.is_up or not self.unanswered:
            return
        watermark = self.watermark()
        for sequence, request in self.unanswered.items():
            self.retries_total += request.sent_count > 0
            if is_repeated and request.is_write and request.sent_count > 0:
                self.repeated.add(sequence)
            request.sent_count += 1
            wire.write(encode_request(self.partition, self.epoch, sequence, watermark, request.command))

    def time_out(self, now_ms: int, failed: Callable[[FortError], None]) -> None:
        """Answer what is past its deadline, saying whether it may have been applied."""
        while self.unanswered:
            sequence = self.watermark()
            request = self.unanswered[sequence]
            if request.deadline_ms > now_ms:
                return
            del self.unanswered[sequence]
            self.repeated.discard(sequence)
            error = self._timed_out(request)
            failed(error)
            request.slot.complete(error.wire())

    def _timed_out(self, request: Unanswered) -> FortError:
        leader = f"its leader {self.leader} did not answer" if self.leader else "it has no leader"
        if request.is_write and request.sent_count:
            return OutcomeUnknown(
                f"partition {self.name}: {leader} in time; the write may or may not have been applied"
            )
        return Unavailable(f"partition {self.name}: {leader} in time; nothing was applied, try again")


bind(Channel)
