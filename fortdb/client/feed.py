"""Changes of keys as they are committed, walked as they come.

    feed = client.feed(prefix="orders/", since=position)
    for change in feed:
        ...  # do something with it, and once that is done:
        position = feed.position

A feed connects again by itself, to whichever router answers, and goes on where it was. So every change comes at
least once, those of one key in their order; after a connection that broke some may come again, together with what
followed them. `FeedLost` is raised when the log does not reach back far enough: note `Client.feed_position()`, scan
the keys, and begin a feed since that position.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Self

from fortdb.client.connection import Connection, Reply
from fortdb.client.failures import ConnectionFailed
from fortdb.client.records import parse_record_id
from fortdb.client.requests import Argument, Request, raw, unexpected
from fortdb.errors import Answer, BadRequest, FortError, ProtocolError
from fortdb.model import RecordId
from fortdb.protocol.feeds import ChangeKind, decode_position, encode_position

_LOOK_S = 0.25  # how soon a `close` by another thread is seen
_BREATHS_S = (0.05, 0.1, 0.25, 0.5, 1.0)  # between attempts to connect


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `position`: behind it a feed of its partition goes on; of a feed over several, see
    `Feed.position`. `value` is None for what was deleted or removed, and where values are not asked for; `record`
    is the id for `ADD` and `REMOVE`; `ends_ms` is when the value is to end (Unix ms), 0 for never."""

    position: str
    kind: ChangeKind
    key: bytes
    value: bytes | None
    record: RecordId | None
    ends_ms: int


def selection_words(
    key: bytes | str | None, prefix: bytes | str | None, keyspace: str | None, partition: str | None
) -> list[Argument]:
    """Which changes, as `FEED` takes it. Raises `BadRequest` if it is said twice."""
    named: list[tuple[Argument, bytes | str | None]] = [
        (b"KEY", key),
        (b"PREFIX", prefix),
        (b"KEYSPACE", keyspace),
        (b"PARTITION", partition),
    ]
    given = [(word, name) for word, name in named if name is not None]
    if len(given) > 1:
        raise BadRequest("key, prefix, keyspace and partition exclude each other; give one")
    return [b"ALL"] if not given else [given[0][0], given[0][1] or b""]


class Feed:
    """Made by `Client.feed`. For one thread, but `close`, which any thread may call."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        selection: list[Argument],
        since: str | None,
        values: bool,
        timeout_s: float,
    ) -> None:
        """Raises what the first attempt raises; later ones are repeated."""
        self._connect = connect
        self._selection = selection
        self._offsets = {} if since is None else decode_position(since.encode())
        self._values = values
        self._timeout_s = timeout_s
        self._progress: deque[tuple[Change | None, str]] = deque()
        self._heard_s = self._said_s = 0.0
        self._closed = False
        self._connection: Connection | None = None
        self._subscribe()

    @property
    def position(self) -> str:
        """Behind everything that was given out so far: what `since` takes to go on."""
        return encode_position(self._offsets).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it: a walk over it ends, too. Idempotent."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        while (change := self.next(3600.0)) is None:
            if self._closed:
                raise StopIteration
        return change

    def next(self, within_s: float) -> Change | None:
        """The next change, None if there is none in time or the feed is closed."""
        deadline_s = monotonic() + within_s
        while not self._closed:
            while self._progress:
                change, position = self._progress.popleft()
                self._offsets |= decode_position(position.encode())
                if change is not None:
                    return change
            if (now_s := monotonic()) >= deadline_s:
                return None
            try:
                self._hear(min(deadline_s, now_s + _LOOK_S))
            except FortError as error:
                if not _is_passing(error):
                    self.close()
                    raise
                self._connect_again(deadline_s)
        return None

    def _hear(self, until_s: float) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            raise ConnectionFailed("not connected")
        for reply in connection.hear(until_s):
            self._heard_s = monotonic()
            self._take(reply)
        silent_s = monotonic() - max(self._heard_s, self._said_s)
        if monotonic() - self._heard_s > self._timeout_s:
            connection.close()
        elif silent_s > self._timeout_s / 3:
            self._said_s = monotonic()
            connection.say(raw([b"PING"]).packed, monotonic() + self._timeout_s)

    def _take(self, reply: Reply) -> None:
        match reply:
            case [b"change", bytes(position), bytes(kind), bytes(key), value, record, int(ends_ms)]:
                change = Change(
                    position.decode(),
                    ChangeKind(kind.decode()),
                    key,
                    value if isinstance(value, bytes) else None,
                    parse_record_id(record.decode()) if isinstance(record, bytes) else None,
                    ends_ms,
                )
                self._progress.append((change, change.position))
            case [b"position", bytes(position)]:
                self._progress.append((None, position.decode()))
            case FortError():
                raise reply
            case b"PONG":
                return
            case _:
                raise unexpected(reply)

    def _subscribe(self) -> None:
        connection = self._connection = self._connect()
        self._progress.clear()  # it comes again
        deadline_s = self._heard_s = monotonic()
        deadline_s += self._timeout_s
        connection.say(self._request().packed, deadline_s)
        replies: list[Reply] = []
        while not replies:
            if monotonic() >= deadline_s:
                connection.close()
                raise ConnectionFailed("the feed did not begin in time; try again")
            replies = connection.hear(deadline_s)
        if not isinstance(replies[0], bytes):
            connection.close()
            raise replies[0] if isinstance(replies[0], FortError) else unexpected(replies[0])
        self._offsets = decode_position(replies[0])
        for reply in replies[1:]:
            self._take(reply)

    def _request(self) -> Request[Reply]:
        words: list[Argument] = [b"FEED", b"SUBSCRIBE", *self._selection]
        words += [b"FROM", encode_position(self._offsets)] if self._offsets else []
        return raw(words if self._values else [*words, b"NOVALUES"])

    def _connect_again(self, deadline_s: float) -> None:
        """Try until it succeeds, the time is over, or the feed is closed. Raises what does not pass."""
        if self._connection is not None:
            self._connection.close()
        for attempt in range(1 << 62):
            if self._closed or monotonic() >= deadline_s:
                return
            try:
                self._subscribe()
                return
            except FortError as error:
                if not _is_passing(error):
                    self.close()
                    raise
            time.sleep(_BREATHS_S[min(attempt, len(_BREATHS_S) - 1)])


def _is_passing(error: FortError) -> bool:
    """Whether another attempt may succeed."""
    return isinstance(error, ConnectionFailed | ProtocolError) or error.answer is Answer.RETRY
