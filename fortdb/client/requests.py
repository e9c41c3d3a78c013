"""Commands as values: what is sent, whether it may be repeated, and what the reply means.

Pure functions, shared by `Client` (runs one at once) and `Pipeline` (collects them), so that each
command is written down one time. The wire carries the Redis names (SET, not PUT), which every
server of this protocol understands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Generic, TypeVar

import hiredis

from fortdb.client.connection import Exchange, Reply
from fortdb.client.failures import ConnectionFailed
from fortdb.errors import BadRequest, FortError, OutcomeUnknown, ProtocolError, Unavailable
from fortdb.limits import ARGUMENTS_MAX, COMMAND_BYTES_MAX, VALUE_BYTES_MAX
from fortdb.model import Ack
from fortdb.protocol.commands import CommandKind, lookup

T = TypeVar("T")
K = TypeVar("K", bytes, str)
Argument = bytes | str | int | float
"""Text is sent as UTF-8, numbers as Redis writes them."""

HARMLESS = frozenset({"PING", "ECHO", "INFO", "COMMAND", "RING"})
"""Commands outside the data that change nothing, in the ring or in the connection."""


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One command. `decode` turns a reply that is no error into the caller's value."""

    packed: bytes
    name: bytes
    decode: Callable[[Reply], T]

    @property
    def read_only(self) -> bool:
        """It changes nothing: a broken connection is reason enough to send it once more."""
        command = lookup(self.name)
        kinds = (CommandKind.READ, CommandKind.RING)
        return command is not None and (command.kind in kinds or command.name in HARMLESS)

    @property
    def stateful(self) -> bool:
        """It may leave something behind in the connection (MULTI, AUTH, or a name not known
        here), which must not meet the next caller."""
        command = lookup(self.name)
        return command is None or (command.kind is CommandKind.SESSION and command.name not in HARMLESS)


def request(arguments: Sequence[Argument], decode: Callable[[Reply], T]) -> Request[T]:
    """Pack a command; raises `BadRequest` before anything is sent when a bound is broken."""
    if not arguments:
        raise BadRequest("a command needs a name")
    if len(arguments) > ARGUMENTS_MAX:
        raise BadRequest(f"{len(arguments)} arguments; at most {ARGUMENTS_MAX} go in one command")
    encoded = tuple(_encode(argument) for argument in arguments)
    longest, total = max(map(len, encoded)), sum(map(len, encoded))
    if longest > VALUE_BYTES_MAX:
        raise BadRequest(f"an argument of {longest} bytes; at most {VALUE_BYTES_MAX} are stored")
    if total > COMMAND_BYTES_MAX:
        raise BadRequest(f"a command of {total} bytes; at most {COMMAND_BYTES_MAX} are sent at once")
    packed: bytes = hiredis.pack_command(encoded)  # type: ignore[arg-type]  # its stub says one-tuple
    return Request(packed, encoded[0], decode)


def raw(arguments: Sequence[Argument]) -> Request[Reply]:
    """Any command; the reply as it came."""
    return request(arguments, lambda reply: reply)


def put(
    key: bytes | str,
    value: bytes | str,
    *,
    expire_ms: int | None = None,
    only_if_absent: bool = False,
    only_if_present: bool = False,
    only_if_equal: bytes | str | None = None,
    ack: Ack | None = None,
) -> Request[bool]:
    """Store a value; False when the condition did not hold."""
    if only_if_absent + only_if_present + (only_if_equal is not None) > 1:
        raise BadRequest("only_if_absent, only_if_present and only_if_equal exclude each other; give one")
    arguments: list[Argument] = [b"SET", key, value]
    if expire_ms is not None:
        arguments += [b"PX", expire_ms]
    if only_if_absent:
        arguments.append(b"NX")
    if only_if_present:
        arguments.append(b"XX")
    if only_if_equal is not None:
        arguments += [b"IFEQ", only_if_equal]
    if ack is not None:
        arguments += [b"ACK", ack.value.upper()]
    return request(arguments, _was_done)


def get(key: bytes | str, *, stale: bool = False) -> Request[bytes | None]:
    return request([b"GET", key, b"STALE"] if stale else [b"GET", key], _bytes_or_none)


def delete(keys: Sequence[bytes | str]) -> Request[int]:
    return request([b"DEL", *keys], integer_of)


def exists(keys: Sequence[bytes | str]) -> Request[int]:
    return request([b"EXISTS", *keys], integer_of)


def get_many(keys: Sequence[bytes | str]) -> Request[list[bytes | None]]:
    return request([b"MGET", *keys], _list_of_bytes)


def put_many(items: Mapping[K, bytes | str]) -> Request[bool]:
    return request([b"MSET", *chain.from_iterable(items.items())], _was_done)


def increment(key: bytes | str, by: int) -> Request[int]:
    return request([b"INCRBY", key, by], integer_of)


def append(key: bytes | str, value: bytes | str) -> Request[int]:
    return request([b"APPEND", key, value], integer_of)


def get_and_delete(key: bytes | str) -> Request[bytes | None]:
    return request([b"GETDEL", key], _bytes_or_none)


def length(key: bytes | str) -> Request[int]:
    return request([b"STRLEN", key], integer_of)


def expire(key: bytes | str, expire_ms: int) -> Request[bool]:
    return request([b"PEXPIRE", key, expire_ms], _was_done)


def persist(key: bytes | str) -> Request[bool]:
    return request([b"PERSIST", key], _was_done)


def time_to_live_ms(key: bytes | str) -> Request[int | None]:
    return request([b"PTTL", key], lambda reply: None if integer_of(reply) < 0 else integer_of(reply))


def scan(cursor: bytes, match: bytes | str | None, count: int) -> Request[tuple[bytes, list[bytes]]]:
    """One step of a walk: the next cursor (`b"0"` at the end) and some keys."""
    pattern: list[Argument] = [] if match is None else [b"MATCH", match]
    return request([b"SCAN", cursor, *pattern, b"COUNT", count], _scan_step)


def keys_between(
    prefix: bytes | str, first: bytes | str | None, last: bytes | str | None, count: int, reverse: bool
) -> Request[tuple[bytes | None, list[tuple[bytes, bytes | None]]]]:
    """A page of keys with their values, and where to go on (None at the end)."""
    words: list[Argument] = [b"RANGE", prefix, b"COUNT", count, b"VALUES"]
    words += [] if first is None else [b"FROM", first]
    words += [] if last is None else [b"TO", last]
    return request([*words, b"REV"] if reverse else words, _range_step)


def count(keyspace: str | None) -> Request[int]:
    return request([b"DBSIZE"] if keyspace is None else [b"DBSIZE", keyspace], integer_of)


def ping() -> Request[bool]:
    return request([b"PING"], lambda reply: reply == b"PONG")


def text(arguments: Sequence[Argument]) -> Request[bytes]:
    """An admin command that answers with a status or a document."""
    return request(arguments, bytes_of)


def without_reply(batch: Sequence[Request[Any]], exchange: Exchange, timeout_s: float) -> list[Reply]:
    """What to say of each request that got no reply."""
    happened = f"no answer within {timeout_s:g} s" if exchange.timed_out else str(exchange.failure)
    answered = len(exchange.replies)
    ends = list(accumulate(len(request.packed) for request in batch))
    errors: list[Reply] = []
    for request, end in zip(batch[answered:], ends[answered:], strict=True):
        if request.read_only:
            errors.append((Unavailable if exchange.timed_out else ConnectionFailed)(f"{happened}; try again"))
        elif exchange.sent_bytes < end:
            errors.append(ConnectionFailed(f"{happened}; it was not executed, try again"))
        else:
            errors.append(OutcomeUnknown(f"{happened}; it may have been executed, read before trying again"))
    return errors


def _encode(argument: Argument) -> bytes:
    match argument:
        case bytes():
            return argument
        case str():
            try:
                return argument.encode()
            except UnicodeEncodeError as error:
                raise BadRequest("text with a lone surrogate has no UTF-8 form; send bytes") from error
        case bool():
            raise BadRequest("a truth value is no argument; send b'0' or b'1'")
        case int() | float():
            return repr(argument).encode()
        case bytearray() | memoryview():
            return bytes(argument)
    raise BadRequest(f"an argument is bytes or str, not {type(argument).__name__}")


def unexpected(reply: Reply) -> ProtocolError:
    """The error for a reply that the command does not have."""
    return ProtocolError(f"a reply of type {type(reply).__name__} was not expected; is this a FortDB router?")


def _was_done(reply: Reply) -> bool:
    """+OK, 1 or 0, or nil for a condition that did not hold."""
    if reply is None or isinstance(reply, int):
        return bool(reply)
    if reply == b"OK":
        return True
    raise unexpected(reply)


def integer_of(reply: Reply) -> int:
    """A reply that is a number."""
    if not isinstance(reply, int):
        raise unexpected(reply)
    return reply


def bytes_of(reply: Reply) -> bytes:
    """A reply that is a string."""
    if not isinstance(reply, bytes):
        raise unexpected(reply)
    return reply


def _bytes_or_none(reply: Reply) -> bytes | None:
    return None if reply is None else bytes_of(reply)


def _list_of_bytes(reply: Reply) -> list[bytes | None]:
    if not isinstance(reply, list):
        raise unexpected(reply)
    for item in reply:
        if isinstance(item, FortError):
            raise item
    return [_bytes_or_none(item) for item in reply]


def _scan_step(reply: Reply) -> tuple[bytes, list[bytes]]:
    if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], list):
        raise unexpected(reply)
    return bytes_of(reply[0]), [bytes_of(key) for key in reply[1]]


def _range_step(reply: Reply) -> tuple[bytes | None, list[tuple[bytes, bytes | None]]]:
    match reply:
        case [next_, list(rows)]:
            return _bytes_or_none(next_), [_range_row(row) for row in rows]
    raise unexpected(reply)


def _range_row(row: Reply) -> tuple[bytes, bytes | None]:
    match row:
        case [bytes(key), value]:
            return key, _bytes_or_none(value)
    raise unexpected(row)
