"""Free ports of the loopback address, for what is started beside others."""

from __future__ import annotations

import itertools
import os
import socket

_numbers = itertools.count(1)
_RING_OFFSETS = [base + index for base in (0, 100, 200, 300, 400) for index in range(6)]


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all are held at once, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def free_ring_port() -> int:
    """A first port for a ring (`Shape`) whose companions are free too, below those that the kernel gives out
    by itself. Another one each time."""
    for attempt in range(200):
        port = 10_000 + (os.getpid() * 7 + next(_numbers) * 20 + attempt * 500) % 20_000
        if all(map(_is_free, (port + offset for offset in _RING_OFFSETS))):
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
