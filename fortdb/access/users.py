"""Users: who they are, what they may do, and the file that says so.

A table for each user; everything that is not allowed in it is refused:

    [app]
    passwords = ["$argon2id$..."]           # one, or more while one replaces another
    commands = ["read", "write"]            # of read, write, scan, view, admin
    keyspaces = ["orders", "default"]       # or ["*"]
    commands_per_second = 5000              # optional
    value_bytes_max = 65536                 # optional

The keyspace of a key is what stands before its first `/`, whether such a keyspace was created or not; keys
without a `/` are in `default`. So what a user reaches does not change when a keyspace comes or goes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from fortdb.access.passwords import check_hash, stand_in
from fortdb.errors import ConfigError
from fortdb.limits import VALUE_BYTES_MAX

DEFAULT_USER = "default"
"""Whom `AUTH password` means, as in Redis."""

EVERYTHING = "*"
DEFAULT_KEYSPACE = "default"
_PASSWORDS_MAX = 4  # each makes every login slower
_NAME_BYTES_MAX = 128
_USERS_MAX = 10_000


class Right(Enum):
    """Classes of commands."""

    READ = "read"  # values of keys
    WRITE = "write"  # changes of keys
    SCAN = "scan"  # walks over all keys
    VIEW = "view"  # the ring's state
    ADMIN = "admin"  # changes of the ring
    GOVERN = "govern"  # legal holds, and what the mode governance forbids others


_FIELDS = ("passwords", "commands", "keyspaces", "commands_per_second", "value_bytes_max")


@dataclass(frozen=True, slots=True)
class User:
    """One user. `keyspaces` None: all; the numbers 0: no limit."""

    name: str
    passwords: tuple[str, ...] = field(repr=False)
    rights: frozenset[Right]
    keyspaces: frozenset[bytes] | None
    commands_per_second: int = 0
    value_bytes_max: int = 0

    @property
    def is_unrestricted(self) -> bool:
        """Whether no GET or SET of this user needs to be looked at."""
        return (
            {Right.READ, Right.WRITE} <= self.rights
            and self.keyspaces is None
            and not self.commands_per_second
            and not self.value_bytes_max
        )


class Users:
    """All users of a file."""

    def __init__(self, users: Mapping[str, User]) -> None:
        self._users = users
        self.efforts = max((len(user.passwords) for user in users.values()), default=1)
        """How many hashes are tried at every login, that of an unknown user included."""
        self.fake = stand_in(next((line for user in users.values() for line in user.passwords), None))

    def get(self, name: str) -> User | None:
        """The user of that name."""
        return self._users.get(name)

    def __len__(self) -> int:
        return len(self._users)

    def __iter__(self) -> Iterator[User]:
        return iter(self._users.values())


def parse_users(text: str, where: str) -> Users:
    """The users of a file. Raises `ConfigError` naming `where`, the user and everything that is wrong."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: is no TOML: {error}") from None
    problems: list[str] = []
    users = {name: _user(name, table, problems) for name, table in tables.items()}
    if not users:
        problems.append("there is no user in it; without one nobody could connect")
    if len(users) > _USERS_MAX:
        problems.append(f"{len(users)} users; at most {_USERS_MAX}")
    if problems:
        raise ConfigError("\n  ".join([f"{where}: {len(problems)} wrong", *problems]))
    return Users({name: user for name, user in users.items() if user is not None})


def _user(name: str, table: object, problems: list[str]) -> User | None:
    if not isinstance(table, dict):
        problems.append(f"{name}: stands outside of a table; write [user] and the settings below it")
        return None
    if not name or len(name.encode()) > _NAME_BYTES_MAX or not name.isprintable() or " " in name:
        problems.append(f"{name!r}: is no name; at most {_NAME_BYTES_MAX} bytes, without spaces")
    problems += [
        f"{name}.{key}: no such setting; there are {', '.join(_FIELDS)}" for key in table.keys() - {*_FIELDS}
    ]
    spaces = _texts(name, table, "keyspaces", problems)
    if any("/" in space for space in spaces):
        problems.append(f"{name}.keyspaces: write names without '/'")
    if EVERYTHING in spaces and len(spaces) > 1:
        problems.append(f'{name}.keyspaces: "*" is all of them; leave the others out')
    return User(
        name,
        _passwords(name, table, problems),
        frozenset(_rights(name, table, problems)),
        None if EVERYTHING in spaces else frozenset(space.encode() for space in spaces),
        _number(name, table, "commands_per_second", 1_000_000_000, problems),
        _number(name, table, "value_bytes_max", VALUE_BYTES_MAX, problems),
    )


def _passwords(name: str, table: Mapping[str, Any], problems: list[str]) -> tuple[str, ...]:
    lines = _texts(name, table, "passwords", problems)
    if len(lines) > _PASSWORDS_MAX:
        problems.append(f"{name}.passwords: {len(lines)} of them; at most {_PASSWORDS_MAX}")
    for number, line in enumerate(lines, 1):
        try:
            check_hash(line)
        except ConfigError as error:
            problems.append(f"{name}.passwords: number {number} {error}")
    return tuple(lines)


def _rights(name: str, table: Mapping[str, Any], problems: list[str]) -> list[Right]:
    words = _texts(name, table, "commands", problems)
    known = {right.value: right for right in Right}
    for word in words:
        if word not in known:
            problems.append(f"{name}.commands: no class {word!r}; there are {', '.join(known)}")
    return [known[word] for word in words if word in known]


def _texts(name: str, table: Mapping[str, Any], key: str, problems: list[str]) -> list[str]:
    found = table.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(text, str) and text for text in found):
        problems.append(f"{name}.{key}: must be given, a list of texts with at least one in it")
        return []
    return found


def _number(name: str, table: Mapping[str, Any], key: str, most: int, problems: list[str]) -> int:
    found = table.get(key, 0)
    if type(found) is not int or not (0 if key not in table else 1) <= found <= most:
        problems.append(f"{name}.{key}: must be a whole number from 1 to {most}, not {found!r}")
        return 0
    return found
