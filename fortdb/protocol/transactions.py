"""What a connection has said since `MULTI`, and how it crosses the ring as one request; pure functions.

Commands are looked at when they are queued, as Redis does: a name that is not known, a wrong number of
arguments or a key that is too long spoils the whole, and `EXEC` then executes nothing. What only the data can
tell (a value that is no integer) is an answer among the answers.

What names the state in which a key was watched is a *version*: epoch and offset of the last entry in the log of
the key's partition. It tells the same on every replica and after every failover.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fortdb.errors import BadRequest, Discarded, FortError
from fortdb.limits import (
    KEY_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_COMMANDS_MAX,
    WATCHED_BYTES_MAX,
    WATCHED_KEYS_MAX,
)
from fortdb.protocol.arguments import ends_with_acknowledgement, ends_with_receipt
from fortdb.protocol.commands import RECEIPTED, Command, CommandKind, keys_of, lookup
from fortdb.protocol.resp import array, bulk
from fortdb.protocol.scatter import split

AT_ONCE = frozenset({"MULTI", "EXEC", "DISCARD", "WATCH", "QUIT", "RESET"})
"""What is not queued between `MULTI` and `EXEC`."""

_LONG_ANSWERS = frozenset({"COMMAND", "CONFIG", "HELP", "INFO"})
"""About the process: thousands of these in one transaction would hold up everybody else."""

_ARGUMENT_BYTES = 64  # that an argument takes in memory beside its own


@dataclass(frozen=True, slots=True)
class Queued:
    """A command that waits for `EXEC`."""

    command: Command
    args: list[bytes]

    @property
    def is_local(self) -> bool:
        """Whether the connection itself answers it."""
        return self.command.kind is CommandKind.SESSION


class Queue:
    """Commands since `MULTI`."""

    __slots__ = ("commands", "is_spoiled", "size_bytes")

    def __init__(self) -> None:
        self.commands: list[Queued] = []
        self.size_bytes = 0
        self.is_spoiled = False

    def add(self, command: Command, args: list[bytes]) -> None:
        """Queue a command. Raises `BadRequest` if it cannot be part of a transaction, which is spoiled then."""
        try:
            check_queued(command, args)
            if self.is_spoiled:
                return
            self.size_bytes += sum(map(len, args)) + _ARGUMENT_BYTES * len(args)
            if self.size_bytes > TRANSACTION_BYTES_MAX:
                raise BadRequest(
                    f"a transaction of more than {TRANSACTION_BYTES_MAX} bytes: make several of it"
                )
            if len(self.commands) >= TRANSACTION_COMMANDS_MAX:
                raise BadRequest(
                    f"a transaction of more than {TRANSACTION_COMMANDS_MAX} commands: make several"
                )
        except FortError:
            self.spoil()
            raise
        self.commands.append(Queued(command, args))

    def spoil(self) -> None:
        """A command could not be queued: `EXEC` will execute nothing."""
        self.is_spoiled = True
        self.commands.clear()


def check_queued(command: Command, args: list[bytes]) -> None:
    """Raises `BadRequest` for a command that cannot be part of a transaction."""
    if command.kind is CommandKind.FEED:
        raise BadRequest(f"{command.name} is about the connection; say it outside of MULTI")
    if command.name in _LONG_ANSWERS:
        raise BadRequest(f"{command.name} is about the process; say it outside of MULTI")
    if command.kind in (CommandKind.RING, CommandKind.ADMIN):
        raise BadRequest(f"{command.name} is about the whole ring; say it outside of MULTI")
    if command.name == "RANGE":
        raise BadRequest("RANGE reads more keys than it names, and locks none; say it outside of MULTI")
    if command.name == "GET" and len(args) == 3:
        raise BadRequest("a transaction reads no stale values; say GET without STALE")
    if command.name == "SET" and ends_with_acknowledgement(args):
        raise BadRequest("a transaction is acknowledged by every in-sync replica; say SET without ACK")
    if command.name in RECEIPTED and ends_with_receipt(args):
        raise BadRequest("a transaction gives no receipts; say it outside of MULTI, or without RECEIPT")
    check_key_lengths(keys_of(command, args) if command.first_key else [])


def check_key_lengths(keys: list[bytes]) -> None:
    """Raises `BadRequest` for a key that is too long."""
    for key in keys:
        if len(key) > KEY_BYTES_MAX:
            raise BadRequest(f"key of {len(key)} bytes is longer than {KEY_BYTES_MAX}")


class Watched:
    """The keys that a connection watches, each with the version that it had first."""

    __slots__ = ("versions",)

    def __init__(self) -> None:
        self.versions: dict[bytes, bytes | None] = {}  # None: its partition has not said

    def add(self, keys: list[bytes]) -> list[bytes]:
        """Watch keys. Returns those whose version must be asked for. Raises `BadRequest` beyond a bound."""
        check_key_lengths(keys)
        new = [key for key in dict.fromkeys(keys) if self.versions.get(key) is None]
        all_keys = self.versions.keys() | set(new)
        if len(all_keys) > WATCHED_KEYS_MAX or sum(map(len, all_keys)) > WATCHED_BYTES_MAX:
            raise BadRequest(
                f"a connection watches at most {WATCHED_KEYS_MAX} keys of {WATCHED_BYTES_MAX} bytes together"
            )
        self.versions.update(dict.fromkeys(new))
        return new

    def clear(self) -> dict[bytes, bytes | None]:
        """Watch nothing more. Returns what was watched."""
        watched, self.versions = self.versions, {}
        return watched


def known(versions: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
    """The versions of watched keys. Raises `Discarded` if a `WATCH` among them failed: nobody could tell then
    whether the key changed."""
    if None in versions.values():
        raise Discarded("Transaction discarded because a WATCH before it failed.")
    return {key: version for key, version in versions.items() if version is not None}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A transaction as a leader gets it: nothing of it is executed if one of the watched keys was written after
    its version, and otherwise all, at one moment."""

    commands: list[list[bytes]]
    watched: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def keys(self) -> list[bytes]:
        """Every key that it is about."""
        found = dict.fromkeys(self.watched)
        for args in self.commands:
            command = lookup(args[0])
            if command is not None:
                found.update(dict.fromkeys(keys_of(command, args)))
        return list(found)

    def encode(self) -> list[bytes]:
        """As the last arguments of a command: `watched (key version)* (count argument*)*`."""
        flat = [b"%d" % len(self.watched)]
        for pair in self.watched.items():
            flat += pair
        for args in self.commands:
            flat.append(b"%d" % len(args))
            flat += args
        return flat

    @staticmethod
    def decode(args: list[bytes]) -> Bundle:
        """From those arguments. Raises `BadRequest` for what is no encoded transaction."""
        watched: dict[bytes, bytes] = {}
        commands: list[list[bytes]] = []
        try:
            at = 1 + 2 * _count(args[0])
            pairs = args[1:at]
            watched.update(zip(pairs[::2], pairs[1::2], strict=True))
            while at < len(args):
                end = at + 1 + _count(args[at])
                commands.append(args[at + 1 : end])
                at = end
            if at != len(args) or not all(commands):
                raise ValueError
        except ValueError:
            raise BadRequest("no encoded transaction") from None
        return Bundle(commands, watched)


def _count(text: bytes) -> int:
    if not text.isdigit() or len(text) > 9:
        raise ValueError
    return int(text)


REPEATABLE = ("RESOLVE", "FINISH", "FORGET")
"""Internal commands that change nothing more when they are executed again."""

BUNDLE_AT = {"EXEC": 1, "PREPARE": 4, "COMMIT": 4}
"""Where in the arguments of internal commands an encoded transaction begins."""


class Trace(NamedTuple):
    """What an old transaction over several partitions left in one of them, for whoever finishes it: a prepared
    part, then `others` is its home, or a commit, which not all of `others` may know."""

    partition: int
    transaction: bytes
    began_ms: int
    is_commit: bool
    others: tuple[int, ...]

    def encode(self) -> bytes:
        """As an element of the answer to `TRACES`: `partition id began PREPARED home`, or `... COMMITTED
        participants`."""
        kind = b"COMMITTED" if self.is_commit else b"PREPARED"
        others = b",".join(b"%d" % other for other in self.others)
        fields = [b"%d" % self.partition, self.transaction, b"%d" % self.began_ms, kind, others]
        return array([bulk(field) for field in fields])

    @staticmethod
    def decode(fields: list[bytes]) -> Trace:
        """From the parsed element."""
        partition, transaction, began_ms, kind, others = fields
        parts = tuple(int(other) for other in others.split(b","))
        return Trace(int(partition), transaction, int(began_ms), kind == b"COMMITTED", parts)


@dataclass(frozen=True, slots=True)
class Distributed:
    """A transaction's parts by group of keys, and how their replies become one."""

    parts: dict[int, Bundle]
    places: list[list[tuple[int, int]]]  # of each command: where its replies are, group and index
    joins: list[Callable[[list[bytes]], bytes]]

    def join(self, replies: Mapping[int, bytes]) -> bytes:
        """The answer to the whole, from the array that each group answered."""
        found = {group: elements(reply) for group, reply in replies.items()}
        return array(
            [
                join([found[group][index] for group, index in places])
                for places, join in zip(self.places, self.joins, strict=True)
            ]
        )


def distribute(bundle: Bundle, group_of: Callable[[bytes], int]) -> Distributed:
    """Give each group of keys the commands and versions that concern it, in their order; commands on keys of
    several groups are split."""
    parts: dict[int, Bundle] = {}
    made = Distributed(parts, [], [])

    def part(group: int) -> Bundle:
        return parts.setdefault(group, Bundle([]))

    for key, version in bundle.watched.items():
        part(group_of(key)).watched[key] = version
    for args in bundle.commands:
        command = lookup(args[0])
        assert command is not None
        places: list[tuple[int, int]] = []
        pieces: list[list[bytes]] = [args]
        join: Callable[[list[bytes]], bytes] = _only
        if command.many_keys:
            scattered = split(command, args, group_of)
            if len(scattered.commands) > 1:
                pieces, join = scattered.commands, scattered.join
        for piece in pieces:
            group = group_of(keys_of(command, piece)[0])
            commands = part(group).commands
            places.append((group, len(commands)))
            commands.append(piece)
        made.places.append(places)
        made.joins.append(join)
    return made


def _only(replies: list[bytes]) -> bytes:
    return replies[0]


def interleave(replies: bytes, queued: list[Queued], local: list[bytes]) -> bytes:
    """The answer to `EXEC`: the leader's array of replies, with those of the connection itself in their places."""
    if not local:
        return replies
    far, near = iter(elements(replies)), iter(local)
    return array([next(near if one.is_local else far) for one in queued])


def elements(replies: bytes) -> list[bytes]:
    """The elements of an array in RESP2, each still encoded."""
    at = replies.index(b"\n") + 1
    found = []
    for _ in range(int(replies[1:at])):
        end = _end_of(replies, at)
        found.append(replies[at:end])
        at = end
    return found


def _end_of(replies: bytes, at: int) -> int:
    """Where the reply ends that begins at `at`."""
    end = replies.index(b"\n", at) + 1
    kind, count = replies[at], 0
    if kind in b"$*":
        count = int(replies[at + 1 : end])
    if kind == ord("$"):
        return end if count < 0 else end + count + 2
    for _ in range(count):
        end = _end_of(replies, end)
    return end
