"""How fast: commands of a user, and guesses at passwords from an address. Time is handed in.

A user's commands are a token bucket of one second. Each process counts for itself. Wrong passwords make
an address wait, twice as long each time; while it waits its passwords are not looked at, right ones
neither, because whoever could tell the two apart could go on guessing.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from fortdb.limits import (
    GUESSES_ADDRESSES_MAX,
    GUESSES_FREE,
    GUESSES_REMEMBERED_MS,
    GUESSES_WAIT_MS_MAX,
)

_FIRST_WAIT_MS = 500
_PREFIX_OF_ONE = 64  # an IPv6 host has that many addresses to choose from (RFC 4291)


class Bucket:
    """Allows so many a second, and that many at once."""

    __slots__ = ("_left", "_since_ms", "per_second")

    def __init__(self, per_second: int, now_ms: int) -> None:
        self.per_second = per_second
        self._left = float(per_second)
        self._since_ms = now_ms

    def take(self, now_ms: int) -> bool:
        """Whether one more is allowed now."""
        gained = (now_ms - self._since_ms) * self.per_second / 1000
        self._left, self._since_ms = min(self.per_second, self._left + gained), now_ms
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class _Guesser:
    count: int = 0
    last_ms: int = 0
    until_ms: int = 0


class Guesses:
    """Wrong passwords by address."""

    def __init__(self) -> None:
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def wait_ms(self, host: str, now_ms: int) -> int:
        """How long passwords from there are not looked at; 0: they are."""
        found = self._guessers.get(whole_of(host))
        return max(0, found.until_ms - now_ms) if found is not None else 0

    def wrong(self, host: str, now_ms: int) -> None:
        """A wrong password came from there."""
        name = whole_of(host)
        guesser = self._guessers.setdefault(name, _Guesser())
        self._guessers.move_to_end(name)
        if now_ms - guesser.last_ms > GUESSES_REMEMBERED_MS:
            guesser.count = 0
        guesser.count += 1
        guesser.last_ms = now_ms
        over = guesser.count - GUESSES_FREE
        if over >= 0:
            guesser.until_ms = now_ms + min(GUESSES_WAIT_MS_MAX, _FIRST_WAIT_MS << min(over, 20))
        if len(self._guessers) > GUESSES_ADDRESSES_MAX:
            self._guessers.popitem(last=False)


def whole_of(host: str) -> str:
    """What stands for the one behind an address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _PREFIX_OF_ONE), strict=False))
