"""Request ids that a partition remembers, so that a request sent twice is applied once.

A router numbers its requests to a partition and says with each one below which number everything
has been answered (the watermark); a replica remembers the rest, from the log it holds. A request
whose number is remembered gets the remembered answer. What is below the watermark is forgotten, so
memory is bounded by what routers have in flight, times the routers (the least recently heard ones
go first). Source: client sessions, Raft dissertation, section 6.3.
"""

from __future__ import annotations

from fortdb.limits import SESSIONS_MAX
from fortdb.native import bind
from fortdb.replication.entries import RequestId


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

    def __len__(self) -> int:
        return sum(len(session.known) for session in self.sessions.values())


bind(RequestMemory)
