"""Passwords: kept as argon2id hashes (RFC 9106), verified in an effort that tells nothing.

A hash is a line of its own, `$argon2id$v=19$m=...,t=...,p=...$salt$hash`, which carries its parameters.
Those of new ones are OWASP's least (19 MiB, 2 passes): some 20 ms, because a database is connected to
more often than a person logs in. Stronger ones in the file are honoured, up to a bound.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

from fortdb.errors import ConfigError

MEMORY_KIB = 19 * 1024
PASSES = 2
_MEMORY_KIB_MAX = 256 * 1024
_PASSES_MAX = 16
_LANES_MAX = 8

_hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=1)


def hash_password(password: str) -> str:
    """A line for `passwords` in users.toml, another one each time."""
    return _hasher.hash(password)


def check_hash(line: str) -> None:
    """Raises `ConfigError` for what is no argon2id hash, or one that costs more than a server can spend."""
    try:
        parameters = extract_parameters(line)
    except InvalidHashError:
        raise ConfigError("is no argon2 hash; `fortdb user hash` makes one") from None
    if parameters.type is not Type.ID:
        raise ConfigError("is not argon2id; `fortdb user hash` makes one")
    for what, value, most in (
        ("memory in KiB (m)", parameters.memory_cost, _MEMORY_KIB_MAX),
        ("passes (t)", parameters.time_cost, _PASSES_MAX),
        ("lanes (p)", parameters.parallelism, _LANES_MAX),
    ):
        if value > most:
            raise ConfigError(f"has {what} {value}; at most {most}, or logging in takes too long")


def stand_in(line: str | None) -> str:
    """A hash that no password has, as costly to verify as `line` (None: as a new one)."""
    head = (line or hash_password("")).rsplit("$", 2)[0]
    salt, digest = (base64.b64encode(os.urandom(size)).decode().rstrip("=") for size in (16, 32))
    return f"{head}${salt}${digest}"


def which(password: bytes, lines: Sequence[str], efforts: int, fake: str) -> str | None:
    """The hash that is the password's, None if none is. As many are tried as `efforts` says, whichever
    fits, so that the time does not tell whether there is such a user or how many passwords it has."""
    found = None
    for line in [*lines, *[fake] * (efforts - len(lines))]:
        try:
            if _hasher.verify(line, password):
                found = line
        except (VerificationError, InvalidHashError):
            continue
    return found
