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

from collections import OrderedDict
from operator import itemgetter

from fortdb.limits import MEMORY_BYTES_MAX, SESSIONS_MAX
from fortdb.replication.entries import (
    FORGET,
    Operation,
    RequestId,
    decode_entry,
    encode_entry,
    encode_operation,
)

_NOTHING = Operation(FORGET, b"")


class _Session:
    __slots__ = ("known", "watermark")

    def __init__(self) -> None:
        self.known: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self.watermark = 0


class RequestMemory:
    """(session, sequence) -> (offset, reply) for requests that are in the log."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[int, _Session] = OrderedDict()

    def find(self, request: RequestId) -> tuple[int, bytes] | None:
        """Offset and reply of a request that was appended before."""
        session = self._sessions.get(request.session)
        return None if session is None else session.known.get(request.sequence)

    def is_stale(self, request: RequestId) -> bool:
        """Whether the request was answered before and is only a late copy (from a connection that
        broke), to be dropped without an answer."""
        session = self._sessions.get(request.session)
        return session is not None and request.sequence < session.watermark

    def remember(self, request: RequestId, offset: int, reply: bytes) -> None:
        """Note that the request stands in the log at `offset` and was given `reply`."""
        sessions = self._sessions
        session = sessions.get(request.session)
        if session is None:
            session = sessions[request.session] = _Session()
            if len(sessions) > SESSIONS_MAX:
                sessions.popitem(last=False)
        else:
            sessions.move_to_end(request.session)
        known = session.known
        if request.watermark > session.watermark:
            watermark = session.watermark = request.watermark
            while known and next(iter(known)) < watermark:
                known.popitem(last=False)
        known[request.sequence] = (offset, reply)

    def clear(self) -> None:
        """Forget everything, before the log is read again."""
        self._sessions.clear()

    def encode(self, until: int) -> bytes:
        """What is remembered of requests up to an offset; the newest, if it is more than `MEMORY_BYTES_MAX`."""
        held = [
            (offset, encode_operation(_NOTHING, RequestId(number, sequence, session.watermark), reply))
            for number, session in self._sessions.items()
            for sequence, (offset, reply) in session.known.items()
            if offset <= until
        ]
        held.sort(key=itemgetter(0))  # of one session they stay in order, as `remember` wants them
        first, size = len(held), 0
        while first and size + len(held[first - 1][1]) <= MEMORY_BYTES_MAX:
            first -= 1
            size += len(held[first][1])
        return encode_entry(0, 0, 0, [operation for _, operation in held[first:]])

    def restore(self, encoded: bytes) -> None:
        """Remember what was encoded; before anything that was remembered after it."""
        for request, reply in decode_entry(encoded, 0).requests:
            self.remember(request, 0, reply)

    def __len__(self) -> int:
        return sum(len(session.known) for session in self._sessions.values())
