"""One answer made of several: the parts of a command that was split over partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from fortdb.errors import BadRequest, Fault, FortError
from fortdb.limits import REPLY_BYTES_MAX

log = structlog.get_logger(__name__)

_TOO_LARGE = BadRequest(
    f"the answer would be larger than {REPLY_BYTES_MAX} bytes: ask for fewer keys at once"
).wire()


class Completes(Protocol):
    """Anything that waits for a reply."""

    def complete(self, reply: bytes) -> None: ...


class Gather:
    """Completes `slot` with `join(replies)` once all parts have theirs."""

    def __init__(self, slot: Completes, count: int, join: Callable[[list[bytes]], bytes]) -> None:
        self._slot = slot
        self._join = join
        self._replies: list[bytes | None] = [None] * count
        self._missing = count
        self._bytes = 0

    def part(self, index: int) -> Part:
        """Where the reply of one part goes."""
        return Part(self, index)

    def arrived(self, index: int, reply: bytes) -> None:
        """Called by a part."""
        if self._replies[index] is None:
            self._bytes += len(reply)
            if self._bytes > REPLY_BYTES_MAX:
                reply = _TOO_LARGE
            self._replies[index] = reply
            self._missing -= 1
            if not self._missing:
                self._slot.complete(self._joined())

    def _joined(self) -> bytes:
        """A join only makes an answer of answers: what goes wrong in it has changed nothing."""
        try:
            return self._join([reply for reply in self._replies if reply is not None])
        except Exception as error:
            log.exception("answers_not_joined")
            return Fault(error).wire()


class PlainSlot:
    """A slot of a request without an id: nobody repeats it, so that what became of it is an answer."""

    __slots__ = ()

    def complete(self, reply: bytes) -> None:
        """The reply."""
        raise NotImplementedError

    def refuse(self, error: FortError, epoch: int, leader: str | None) -> None:
        """Not executed."""
        self.complete(error.wire())

    def abandon(self, error: FortError, epoch: int, leader: str | None) -> None:
        """Perhaps executed; the error says so."""
        self.complete(error.wire())

    def drop(self) -> None:
        """Never happens: only requests with ids have copies."""


class Part(PlainSlot):
    """One part of a gathered answer; a slot like any other."""

    __slots__ = ("gather", "index")

    def __init__(self, gather: Gather, index: int) -> None:
        self.gather = gather
        self.index = index

    def complete(self, reply: bytes) -> None:
        """The reply of this part."""
        self.gather.arrived(self.index, reply)


class Then(PlainSlot):
    """Takes a reply and goes on with it; a slot like any other."""

    __slots__ = ("_go_on",)

    def __init__(self, go_on: Callable[[bytes], None]) -> None:
        self._go_on = go_on

    def complete(self, reply: bytes) -> None:
        """Go on with the reply."""
        self._go_on(reply)


def sum_of(replies: list[bytes]) -> bytes:
    """The sum of integer replies, or the first error among them."""
    for reply in replies:
        if reply[:1] != b":":
            return reply
    return b":%d\r\n" % sum(int(reply[1:-2]) for reply in replies)
