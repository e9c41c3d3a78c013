"""Ports of the loopback address for a whole ring."""

from __future__ import annotations

import itertools
import os
import socket

_numbers = itertools.count(1)
_OFFSETS = [base + index for base in (0, 100, 200, 300, 400) for index in range(6)]


def free_port() -> int:
    """A first port whose companions are free too, below those that the kernel gives out by itself."""
    for attempt in range(200):
        port = 10_000 + (os.getpid() * 7 + next(_numbers) * 20 + attempt * 500) % 20_000
        if all(map(_is_free, (port + offset for offset in _OFFSETS))):
            return port
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
