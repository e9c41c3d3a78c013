"""Change feeds of clients: from the leaders of partitions, who are asked again and again, to a connection.

Each partition of a feed is asked for what came after an offset; the node answers when there is something, and the
answer is pushed as it is. A leader that dies, moves or says nothing is asked no more, and the next one goes on from
the same offset: clients see a pause. So nothing is left out, and what a client has may come again only if it
asks for it (after a connection that broke), never by itself.

Bounds: of a client that does not read, no more than `OUTPUT_SOFT_BYTES` and an answer are kept. What comes then is
thrown away and its partition asked again later, from where the client is; the log is the buffer. A client that
falls behind the log's beginning, or may no longer read, hears an error and is hung up on.

Source: etcd's watch (revisions, progress), Kafka's consumers (fetch by offset, held by the broker).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from hiredis import Reader

from fortdb.errors import BadRequest, FeedLost, FortError, NotLeader, Unavailable
from fortdb.limits import FEED_BEHIND_ASKED, FEED_LATE_MS, FEED_WAIT_MS, OUTPUT_SOFT_BYTES
from fortdb.net.loop import Loop
from fortdb.protocol.commands import Command
from fortdb.protocol.feeds import (
    Action,
    FeedRequest,
    Scope,
    Selection,
    check_offset,
    encode_position,
    encode_progress,
    mark_of_push,
    parse_feed,
)
from fortdb.protocol.ranges import has_tag
from fortdb.protocol.resp import OK, bulk
from fortdb.ring.tokens import TokenMap, token_of

if TYPE_CHECKING:
    from fortdb.net.front import ClientConnection, Slot

_SWEEP_MS = 50
_AGAIN_MS = 100  # before a partition is asked again that had no leader
_NOT_NOW = (b"-UNAVAILABLE ", b"-BUSY ")
_CLOSED = Unavailable("the feed was given up before it began").wire()


class Source(Protocol):
    """Where changes come from."""

    def leader_of(self, partition: int) -> object:
        """Whoever would be asked now; another value when that is another, or another reign."""
        ...

    def ask_changes(self, partition: int, args: list[bytes], slot: Asked) -> Callable[[], None]:
        """Ask the leader. Returns how to forget the question."""
        ...


class Asked:
    """Where the answer to a question goes."""

    __slots__ = ("_feed", "_number", "_part")

    def __init__(self, feed: Feed, part: _Part) -> None:
        self._feed = feed
        self._part = part
        self._number = part.number

    def complete(self, reply: bytes) -> None:
        """The answer; ignored if the question was given up."""
        if self._number == self._part.number and self._part.is_asked:
            self._feed.answered(self._part, reply)


class _Part:
    """One partition of a feed."""

    __slots__ = (
        "after",
        "again_ms",
        "asked_ms",
        "base",
        "forget",
        "is_asked",
        "leader",
        "name",
        "number",
        "partition",
    )

    def __init__(self, partition: int, name: str) -> None:
        self.partition = partition
        self.name = name
        self.after = -1  # the client knows everything up to this offset; -1: not known where to begin
        self.base = 0
        self.number = 0  # of the question
        self.is_asked = False
        self.asked_ms = 0
        self.again_ms = 0  # when to ask, if it is not asked
        self.leader: object = None
        self.forget: Callable[[], None] = _nothing


class Feed:
    """What one connection gets."""

    def __init__(
        self, feeds: Feeds, connection: ClientConnection, slot: Slot, command: Command, args: list[bytes]
    ) -> None:
        """`slot` gets the position at which it begins, or an error. Raises `FortError`."""
        self.command = command
        self.args = args
        self.request = parse_feed(args)
        self._feeds = feeds
        self._connection = connection
        self._slot = slot
        self._mark = mark_of_push(connection.session.resp)
        partitions = feeds.partitions_of(self.request.selection)
        self._parts = [_Part(partition, name) for partition, name in partitions]
        self._behind: deque[_Part] = deque()
        self._has_begun = False
        self._deadline_ms = feeds.loop.now_ms + feeds.deadline_ms

    def start(self) -> None:
        """Ask everybody where the logs begin and end."""
        for part in self._parts:
            self._ask(part)

    def close(self) -> None:
        """Ask nobody any more. Idempotent."""
        self._feeds.forget(self)
        for part in self._parts:
            part.is_asked = False
            part.forget()
            part.forget = _nothing
        if not self._has_begun:
            self._slot.complete(_CLOSED)

    def end(self, error: FortError) -> None:
        """Tell the client why there is nothing more, and hang up; if nothing had begun yet, tell it only."""
        if not self._has_begun:
            self._slot.complete(error.wire())
        self.close()
        connection = self._connection
        if connection.feed is self:
            connection.feed = None
        if not self._has_begun:
            return
        connection.reply(error.wire())
        connection.quit()

    def answered(self, part: _Part, reply: bytes) -> None:
        """A node answered."""
        part.is_asked = False
        part.forget = _nothing
        if reply.startswith(self._feeds.try_again):
            part.again_ms = self._feeds.loop.now_ms + _AGAIN_MS
            return
        answer = _parsed(reply)
        if isinstance(answer, FortError):
            self.end(answer)
            return
        base, after, pushes = answer
        if not self._has_begun:
            part.base, part.after = base, after
            if all(one.after >= 0 for one in self._parts):
                self._begin()
            return
        if self._is_full():
            self._behind.append(part)
            return
        if pushes:
            self._connection.write(pushes)
        elif after > part.after:
            self._connection.write(self._mark + encode_progress(encode_position({part.name: after})))
        part.after = after
        self._ask(part)
        self._catch_up(1)

    def sweep(self, now_ms: int) -> None:
        """Ask again where that is due."""
        if not self._has_begun and now_ms > self._deadline_ms:
            silent = next(part for part in self._parts if part.after < 0)
            self.end(Unavailable(f"partition {silent.name}: no leader answered in time; try again"))
            return
        self._catch_up(FEED_BEHIND_ASKED)
        for part in self._parts:
            if not part.is_asked:
                if part.again_ms and part.again_ms <= now_ms:
                    self._ask(part)
            elif (
                now_ms - part.asked_ms > FEED_WAIT_MS + FEED_LATE_MS
                or self._feeds.source.leader_of(part.partition) != part.leader
            ):
                part.forget()
                self._ask(part)

    def _begin(self) -> None:
        request = self.request
        if request.action is Action.POSITION:
            self._slot.complete(bulk(self._position()))
            self.close()
            self._connection.feed = None
            return
        try:
            self._go_to(request)
        except FortError as error:
            self.end(error)
            return
        self._has_begun = True
        self._slot.complete(bulk(self._position()))
        for part in self._parts:
            self._ask(part)

    def _go_to(self, request: FeedRequest) -> None:
        if request.since is None:
            return
        self._feeds.check_names(request.since)
        for part in self._parts:
            after = request.since.get(part.name)
            if after is None:
                raise BadRequest(
                    f"the position says nothing of partition {part.name}, which the feed concerns, too; join the"
                    " positions of all partitions by commas, as SUBSCRIBE answers them"
                )
            check_offset(part.name, after, part.base, part.after)
            part.after = after

    def _position(self) -> bytes:
        return encode_position({part.name: part.after for part in self._parts})

    def _is_full(self) -> bool:
        return self._connection.queued_bytes > OUTPUT_SOFT_BYTES

    def _catch_up(self, count: int) -> None:
        """Ask for some of what was thrown away, if there is room."""
        while count and self._behind and not self._is_full():
            count -= 1
            self._ask(self._behind.popleft())

    def _ask(self, part: _Part) -> None:
        request, selection = self.request, self.request.selection
        after = part.after if self._has_begun else -1
        words = [part.partition, after, self._connection.session.resp, int(request.values)]
        name = [] if selection.scope is Scope.ALL else [selection.name]
        args = [b"CHANGES", *(b"%d" % word for word in words)]
        args += [selection.scope.value.encode(), *name]
        part.number += 1
        part.is_asked, part.again_ms = True, 0
        part.asked_ms = self._feeds.loop.now_ms
        part.leader = self._feeds.source.leader_of(part.partition)
        forget = self._feeds.source.ask_changes(part.partition, args, Asked(self, part))
        if part.is_asked:
            part.forget = forget


class Feeds:
    """The feeds of a process."""

    def __init__(self, loop: Loop, source: Source, deadline_ms: int, knows_leaders: bool) -> None:
        """`knows_leaders`: the source asks the next leader when one says that it does not lead."""
        self.loop = loop
        self.source = source
        self.deadline_ms = deadline_ms
        self.try_again = (*_NOT_NOW, b"-NOTLEADER ") if knows_leaders else _NOT_NOW
        self.tokens: TokenMap | None = None
        self._feeds: dict[Feed, None] = {}
        loop.call_every(_SWEEP_MS, self._sweep)

    def __len__(self) -> int:
        return len(self._feeds)

    def execute(
        self, tokens: TokenMap, connection: ClientConnection, command: Command, args: list[bytes]
    ) -> bytes | Slot:
        """`FEED` or `WATCHKEY`. Raises `FortError`."""
        self.tokens = tokens
        feed = connection.feed
        if parse_feed(args).action is Action.UNSUBSCRIBE:
            if feed is None:
                raise BadRequest("there is no feed on this connection")
            feed.close()
            connection.feed = None
            return OK
        if feed is not None:
            raise BadRequest(
                "there is a feed on this connection; FEED UNSUBSCRIBE first, or open another one"
            )
        slot = connection.awaited_slot()
        try:
            feed = Feed(self, connection, slot, command, args)
        except FortError as error:
            slot.complete(error.wire())
            return slot
        connection.feed = feed
        self._feeds[feed] = None
        feed.start()
        return slot

    def forget(self, feed: Feed) -> None:
        """Called by a feed that ends."""
        self._feeds.pop(feed, None)

    def end_all(self, error: FortError) -> None:
        """This process stops."""
        for feed in list(self._feeds):
            feed.end(error)

    def partitions_of(self, selection: Selection) -> Sequence[tuple[int, str]]:
        """The partitions that have what is wanted. Raises `BadRequest`."""
        assert self.tokens is not None
        if selection.scope is Scope.KEY or (selection.scope is Scope.PREFIX and has_tag(selection.name)):
            one = self.tokens.partition_of(token_of(selection.name))
            return [(one.id, one.name)]
        if selection.scope is Scope.PARTITION:
            name = selection.name.decode("utf-8", "backslashreplace")
            self.check_names({name: 0})
            known = self.tokens.by_name(name)
            assert known is not None
            return [(known.id, known.name)]
        return self.tokens.all_names()

    def check_names(self, names: Mapping[str, int]) -> None:
        """Raises `BadRequest` for a partition that there is not."""
        assert self.tokens is not None
        for name in names:
            if self.tokens.by_name(name) is None:
                raise BadRequest(f"there is no partition {name[:64]}; RING names them")

    def _sweep(self) -> None:
        for feed in list(self._feeds):
            feed.sweep(self.loop.now_ms)


def _parsed(reply: bytes) -> tuple[int, int, bytes] | FortError:
    """An answer, or the error in it as one that says the same."""
    if reply.startswith(b"-"):
        code, _, text = reply[1:-2].decode("utf-8", "replace").partition(" ")
        return {FeedLost.code: FeedLost, NotLeader.code: NotLeader}.get(code, BadRequest)(text)
    reader = Reader()
    reader.feed(reply)
    base, after, pushes = reader.gets()
    return base, after, pushes


def _nothing() -> None:
    """There is no question to forget."""
