"""Commands on several keys: split by partition, and their answers joined; pure functions.

Each part is the same command with the keys of one group, so a part is executed atomically and the
whole is not. The first error among the parts is the answer to the whole; the other parts may have
been applied all the same, as with any timed-out write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hiredis import Reader

from fortdb.protocol.commands import Command
from fortdb.protocol.resp import NIL, OK, array, bulk, integer


@dataclass(frozen=True, slots=True)
class Scattered:
    """The parts of a command, and how their replies become one."""

    commands: list[list[bytes]]
    join: Callable[[list[bytes]], bytes]


def split(command: Command, args: list[bytes], group_of: Callable[[bytes], int]) -> Scattered:
    """Split by the group of each key; parts come in the order in which their first keys do."""
    groups: dict[int, list[bytes]] = {}
    places: dict[int, list[int]] = {}  # of each part's keys among all keys
    first, step = command.first_key, command.step
    for place, at in enumerate(range(first, len(args), step)):
        group = group_of(args[at])
        groups.setdefault(group, [args[0]]).extend(args[at : at + step])
        places.setdefault(group, []).append(place)
    order = list(places.values())
    if command.name in ("MGET", "WATCH"):
        return Scattered(list(groups.values()), lambda replies: _interleave(replies, order))
    join = _all_ok if command.name == "MSET" else _sum
    return Scattered(list(groups.values()), join)


def _first_error(replies: list[bytes]) -> bytes | None:
    return next((reply for reply in replies if reply[:1] == b"-"), None)


def _sum(replies: list[bytes]) -> bytes:
    return _first_error(replies) or integer(sum(int(reply[1:-2]) for reply in replies))


def _all_ok(replies: list[bytes]) -> bytes:
    return _first_error(replies) or OK


def _interleave(replies: list[bytes], places: list[list[int]]) -> bytes:
    error = _first_error(replies)
    if error is not None:
        return error
    values: dict[int, bytes | None] = {}
    for reply, where in zip(replies, places, strict=True):
        reader = Reader()
        reader.feed(reply)
        values.update(zip(where, reader.gets(), strict=True))
    ordered = [values[place] for place in range(len(values))]
    return array([NIL if value is None else bulk(value) for value in ordered])
