"""Request ids that a partition remembers, so that a request sent twice is applied once.

A router numbers its requests to a partition and says with each one below which number everything
has been answered (the watermark); a replica remembers the rest, from the log it holds. A request
whose number is remembered gets the remembered answer. What is below the watermark is forgotten, so
memory is bounded by what routers have in flight, times the routers (the least recently heard ones
go first). Source: client sessions, Raft dissertation, section 6.3.

Of a log that does not reach back to its beginning, because its head was trimmed or because a snapshot
stands for it, the remembered requests before the head are kept beside it (`RequestMemory.encode`), as an
entry at offset 0 that changes nothing.
"""

from __future__ import annotations

from operator import itemgetter

from fortdb.limits import MEMORY_BYTES_MAX, SESSIONS_MAX
from fortdb.native import bind
from fortdb.replication.entries import (
    FORGET,
    Operation,
    RequestId,
    decode_entry,
    encode_entry,
    encode_operation,
)

_NOTHING = Operation(FORGET, b"")


class SessionMemory:
    """What is remembered of one router's requests."""

    __slots__ = ("known", "used", "watermark")

    def __init__(self) -> None:
        self.known: dict[int, tuple[int, bytes]] = {}
        self.watermark = 0
        self.used = 0  # when it was last added to, as the memory counts

    def forget_below(self, watermark: int) -> None:
        """Raise the watermark. Costs what was remembered since it was raised last, however far it jumps."""
        known = self.known
        if watermark - self.watermark > len(known):
            self.known = {sequence: what for sequence, what in known.items() if sequence >= watermark}
        else:
            for sequence in range(self.watermark, watermark):
                known.pop(sequence, None)
        self.watermark = watermark


bind(SessionMemory)


class RequestMemory:
    """(session, sequence) -> (offset, reply) for requests that are in the log."""

    __slots__ = ("sessions", "uses")

    def __init__(self) -> None:
        self.sessions: dict[int, SessionMemory] = {}
        self.uses = 0

    def find(self, request: RequestId) -> tuple[int, bytes] | None:
        """Offset and reply of a request that was appended before."""
        session = self.sessions.get(request.session)
        return None if session is None else session.known.get(request.sequence)

    def is_stale(self, request: RequestId) -> bool:
        """Whether the request was answered before and is only a late copy (from a connection that
        broke), to be dropped without an answer."""
        session = self.sessions.get(request.session)
        return session is not None and request.sequence < session.watermark

    def remember(self, request: RequestId, offset: int, reply: bytes) -> None:
        """Note that the request stands in the log at `offset` and was given `reply`."""
        session = self.sessions.get(request.session)
        if session is None:
            if len(self.sessions) >= SESSIONS_MAX:
                del self.sessions[min(self.sessions, key=lambda known: self.sessions[known].used)]
            session = self.sessions[request.session] = SessionMemory()
        self.uses += 1
        session.used = self.uses
        if request.watermark > session.watermark:
            session.forget_below(request.watermark)
        if request.sequence >= session.watermark:
            session.known[request.sequence] = (offset, reply)

    def clear(self) -> None:
        """Forget everything, before the log is read again."""
        self.sessions.clear()

    def encode(self, until: int, timestamp_ms: int) -> bytes:
        """What is remembered of requests up to an offset, as an entry of that time; the newest, if it is more than
        `MEMORY_BYTES_MAX`."""
        held = [
            (offset, encode_operation(_NOTHING, RequestId(number, sequence, session.watermark), reply))
            for number, session in self.sessions.items()
            for sequence, (offset, reply) in session.known.items()
            if offset <= until
        ]
        held.sort(key=itemgetter(0))  # of one session they stay in order, as `remember` wants them
        first, size = len(held), 0
        while first and size + len(held[first - 1][1]) <= MEMORY_BYTES_MAX:
            first -= 1
            size += len(held[first][1])
        return encode_entry(0, 0, timestamp_ms, [operation for _, operation in held[first:]])

    def restore(self, encoded: bytes) -> None:
        """Remember what was encoded; before anything that was remembered after it."""
        for request, reply in decode_entry(encoded, 0).requests:
            self.remember(request, 0, reply)

    def __len__(self) -> int:
        return sum(len(session.known) for session in self.sessions.values())


bind(RequestMemory)
