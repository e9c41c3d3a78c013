"""A partition's chain of WORM records, and the clock by which their retention passes.

**The chain.** Whatever is written to WORM keyspaces of a partition gets the next ordinal n and

    content = SHA-256(key length (2) | key | record id (16) | value)
    h(n)    = SHA-256(h(n-1) | n (8) | content (32) | until_ms (8) | compliance (1)),    h(0) = 32 zero bytes

with numbers big-endian. The record keeps n and h(n); a *link* beside it keeps what h(n) is made of, so the chain can
be followed when records have gone. A retention that is changed is written as a new link, and the old one says that it
was superseded. Links whose record is no more are removed from the front; the *outline* (at ordinal 0) says which link
is the first, h before it, and h of the last: a checkpoint that the rest is verified from. What is behind a record that
still lives stays, without its key: some hundred bytes each. All this is among the effects that the leader puts into
the log, so that every replica has the same.

Links are made last, when all effects of a request are known: a part of a transaction that is only prepared has none,
and gets them with its commit, after whatever the partition wrote in between.

**The clock.** A retention is counted by a clock of the partition's own, which begins with the wall clock at its first
WORM record and from then on follows the leader's steady clock alone. The outline holds it, written with every link
and at least every minute; a new leader goes on from there. So it never runs faster than time passes, whatever wall
clocks say, and loses what passes while nobody leads and up to a minute with each failover: records are kept longer by
that, never shorter. Assumed is that a steady clock (CLOCK_BOOTTIME) does not run fast, and that the machine is honest.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import NamedTuple

from fortdb.limits import RETENTION_CLOCK_MS
from fortdb.model import RecordId
from fortdb.storage.keys import encode_id
from fortdb.storage.values import WormRecord, encode_value, payload_of

LIVE, ENDED, REMOVED, SUPERSEDED = range(4)
"""What became of a link's record: it is there, its retention had passed, it was removed before that with a right to do
so, or a later link has it."""

STATES = (b"live", b"ended", b"removed", b"superseded")

_OUTLINE = Struct(">QQ32s32sQ")
_LINK = Struct(">B?QQQ32s32s")
_CONTENT = Struct(">H")
_STEP = Struct(">Q32sQ?")


class Outline(NamedTuple):
    """Links `first` to `last` are kept; `before` is the chain's value before them, `head` the last one."""

    first: int = 1
    last: int = 0
    before: bytes = bytes(32)
    head: bytes = bytes(32)
    clock_ms: int = 0

    def encode(self) -> bytes:
        """As a stored value."""
        return encode_value(_OUTLINE.pack(*self))

    @staticmethod
    def decode(stored: bytes) -> Outline:
        """From a stored value."""
        return Outline(*_OUTLINE.unpack(payload_of(stored)))


class Link(NamedTuple):
    """One step of the chain."""

    state: int
    is_compliance: bool
    until_ms: int
    id: RecordId
    content: bytes
    chain: bytes
    key: bytes

    def encode(self) -> bytes:
        """As a stored value."""
        packed = _LINK.pack(self.state, self.is_compliance, self.until_ms, *self.id, self.content, self.chain)
        return encode_value(packed + self.key)

    @staticmethod
    def decode(stored: bytes) -> Link:
        """From a stored value."""
        payload = payload_of(stored)
        state, is_compliance, until_ms, ms, number, content, chain = _LINK.unpack_from(payload)
        key = payload[_LINK.size :]
        return Link(state, is_compliance, until_ms, RecordId(ms, number), content, chain, key)


def content_of(key: bytes, record: RecordId, value: bytes) -> bytes:
    """The digest of what a record says."""
    return sha256(b"".join((_CONTENT.pack(len(key)), key, encode_id(record), value))).digest()


def link_to(before: bytes, ordinal: int, key: bytes, record: RecordId, held: WormRecord) -> Link:
    """The link that follows the chain's value `before`."""
    content = content_of(key, record, held.value)
    step = _STEP.pack(ordinal, content, held.until_ms, held.is_compliance)
    chain = sha256(before + step).digest()
    return Link(LIVE, held.is_compliance, held.until_ms, record, content, chain, key)


class Ledger:
    """What the leader of a partition keeps in memory for it: where the retention clock stood, and when."""

    __slots__ = ("_clock_ms", "_since_ms", "_written_ms", "partition", "steady_ms")

    def __init__(self, partition: int, stored: bytes | None = None, steady_ms: int = 0) -> None:
        """`stored` is the outline that the leader inherited, if there is one."""
        self.partition = partition
        self.steady_ms = steady_ms  # set before each request
        self._clock_ms = 0 if stored is None else Outline.decode(stored).clock_ms
        self._since_ms = steady_ms
        self._written_ms = self._clock_ms

    def now_ms(self, wall_ms: int) -> int:
        """The retention clock; the wall clock makes it begin."""
        if not self._clock_ms:
            self._clock_ms, self._since_ms = wall_ms, self.steady_ms
        return self._clock_ms + self.steady_ms - self._since_ms

    def written(self, clock_ms: int) -> None:
        """The outline that is proposed holds this."""
        self._written_ms = clock_ms

    def is_due(self) -> bool:
        """Whether the clock runs, and was not written for long."""
        return (
            self._clock_ms > 0
            and self._clock_ms + self.steady_ms - self._since_ms - self._written_ms >= RETENTION_CLOCK_MS
        )
