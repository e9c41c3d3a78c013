"""Change feeds: what is asked for, positions, and the form of a change on the wire; pure functions.

A change is pushed as an array (a push in RESP3) of seven:

    change | position | put, delete, add or remove | key | value or nil | id of a record or nil | ends_ms, 0 for never

and `position | position` tells now and then how far a feed has come where nothing was to be told.

A position is `partition:offset`, several of them joined by commas. It means: everything up to this entry of the
partition's log is known, go on behind it. Logs are the same on every replica, so it is good wherever the
partition is led. One entry may hold several changes; all but the last of them carry the position *before* the
entry, so that whoever goes on from there gets the whole entry again rather than half of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from fortdb.errors import BadRequest, FeedLost
from fortdb.limits import FEED_WORDS_MAX
from fortdb.model import keyspace_name
from fortdb.protocol.resp import NIL, bulk, integer

_SYNTAX = (
    "syntax error: FEED SUBSCRIBE|POSITION ALL|PARTITION name|KEYSPACE name|PREFIX prefix|KEY key [FROM position]"
    " [NOVALUES], or FEED UNSUBSCRIBE"
)
_DEFAULT = b"default"  # the keyspace of keys without a `/`, as rights name it
_OFFSET_DIGITS_MAX = 19


class Action(Enum):
    """What `FEED` is to do."""

    SUBSCRIBE = "subscribe"
    POSITION = "position"
    UNSUBSCRIBE = "unsubscribe"


class Scope(Enum):
    """By what changes are chosen."""

    ALL = "ALL"
    PARTITION = "PARTITION"
    KEYSPACE = "KEYSPACE"
    PREFIX = "PREFIX"
    KEY = "KEY"


class ChangeKind(Enum):
    """What happened to a key."""

    PUT = "put"  # it holds the value
    DELETE = "delete"  # it holds nothing: deleted, or ended
    ADD = "add"  # a record was added
    REMOVE = "remove"  # a record was removed, or ended; perhaps one of a key that was deleted before


@dataclass(frozen=True, slots=True)
class Selection:
    """Which changes are wanted."""

    scope: Scope
    name: bytes = b""

    def matches(self, key: bytes) -> bool:
        """Whether a key's changes are."""
        if self.scope is Scope.KEY:
            return key == self.name
        if self.scope is Scope.PREFIX:
            return key.startswith(self.name)
        if self.scope is Scope.KEYSPACE:
            return (keyspace_name(key) if b"/" in key else _DEFAULT) == self.name
        return True

    def may_be_in(self, entry: bytes) -> bool:
        """Whether an entry of a log, as it is stored, can have any; faster than decoding it."""
        if self.scope is Scope.KEYSPACE:
            return self.name == _DEFAULT or self.name + b"/" in entry
        return self.scope in (Scope.ALL, Scope.PARTITION) or self.name in entry


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """A `FEED` or `WATCHKEY`. `since` None: from now on."""

    action: Action
    selection: Selection
    since: Mapping[str, int] | None = None
    values: bool = True


def parse_feed(args: list[bytes]) -> FeedRequest:
    """What a `FEED` or `WATCHKEY` asks for. Raises `BadRequest`."""
    if args[0].upper() == b"WATCHKEY":
        args = [b"FEED", b"SUBSCRIBE", b"KEY", *args[1:]]
    words = [word.upper() for word in args[:3]]
    if words[1:] == [b"UNSUBSCRIBE"]:
        return FeedRequest(Action.UNSUBSCRIBE, Selection(Scope.ALL))
    selection = selection_of(args)
    if selection is None or words[1] not in (b"SUBSCRIBE", b"POSITION"):
        raise BadRequest(_SYNTAX)
    since: Mapping[str, int] | None = None
    values = True
    rest = args[3 if selection.scope is Scope.ALL else 4 :]
    while rest:
        word = rest.pop(0).upper()
        if word == b"NOVALUES":
            values = False
        elif word == b"FROM" and rest and since is None:
            since = decode_position(rest.pop(0))
        else:
            raise BadRequest(_SYNTAX)
    action = Action.SUBSCRIBE if words[1] == b"SUBSCRIBE" else Action.POSITION
    if action is Action.POSITION and not (since is None and values):
        raise BadRequest(_SYNTAX)
    return FeedRequest(action, selection, since, values)


def selection_of(args: list[bytes]) -> Selection | None:
    """The selection in `FEED action scope [name] ...`, None if there is none."""
    try:
        scope = Scope(args[2].upper().decode("ascii", "replace"))
    except (IndexError, ValueError):
        return None
    if scope is Scope.ALL:
        return Selection(scope)
    return Selection(scope, args[3]) if len(args) > 3 else None


def decode_position(text: bytes) -> dict[str, int]:
    """Offsets by the names of partitions. Raises `BadRequest`."""
    found: dict[str, int] = {}
    words = text.split(b",")
    for word in words:
        name, colon, offset = word.rpartition(b":")
        if not (name and colon and offset.isdigit()) or len(offset) > _OFFSET_DIGITS_MAX:
            raise BadRequest(
                f"{word[:64].decode('utf-8', 'backslashreplace')!r} is no position: it is partition:offset, several"
                " of them joined by commas, as a feed tells them"
            )
        found[name.decode("utf-8", "backslashreplace")] = int(offset)
    if len(words) > FEED_WORDS_MAX:
        raise BadRequest(f"a position of {len(words)} partitions; a ring has {FEED_WORDS_MAX} at most")
    return found


def check_offset(name: str, after: int, base: int, last: int) -> None:
    """Raises `FeedLost` unless a partition's log, which begins after `base` and ends at `last`, has what came after
    an offset."""
    advice = "take FEED POSITION, scan the keys, and subscribe from that position"
    if after < base:
        raise FeedLost(
            f"position {name}:{after} is too old: changes up to {name}:{base}, the oldest position that is left, are"
            f" no longer in the log; {advice}"
        )
    if after > last:
        raise FeedLost(f"position {name}:{after} is ahead of the log, or of another ring; {advice}")


def encode_position(offsets: Mapping[str, int]) -> bytes:
    """The form on the wire."""
    return b",".join(b"%b:%d" % (name.encode(), offset) for name, offset in offsets.items())


def encode_change(
    position: bytes, kind: ChangeKind, key: bytes, value: bytes | None, record: bytes | None, ends_ms: int
) -> bytes:
    """A change, without the first byte, which says whether it is an array or a push."""
    optional = [NIL if word is None else bulk(word) for word in (value, record)]
    words = [bulk(b"change"), bulk(position), bulk(kind.value.encode()), bulk(key), *optional]
    return b"7\r\n%b%b" % (b"".join(words), integer(ends_ms))


def encode_progress(position: bytes) -> bytes:
    """How far a feed has come, without the first byte."""
    return b"2\r\n%b%b" % (bulk(b"position"), bulk(position))


def mark_of_push(resp: int) -> bytes:
    """The first byte of what is pushed in a version of the protocol."""
    return b">" if resp >= 3 else b"*"
