"""Telling systemd how a server does: sd_notify(3), for units of `Type=notify` with a watchdog.

Without systemd (no NOTIFY_SOCKET) nothing is told. The watchdog is fed from the server's own thread: a
thread that hangs is noticed and the process replaced.
"""

from __future__ import annotations

import os
import socket

from fortdb.net.loop import Loop

_FEEDINGS_PER_TIMEOUT = 3


def notify(*lines: str) -> None:
    """Send lines such as `READY=1` or `STATUS=draining`; systemd that does not listen is no error."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto("\n".join(lines).encode(), address)
        except OSError:
            return  # the service manager is restarting, say


def watchdog_ms() -> int:
    """How often the watchdog wants to be fed, 0 if there is none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) // 1000 // _FEEDINGS_PER_TIMEOUT
    except ValueError:
        return 0


def feed_watchdog(loop: Loop) -> None:
    """Feed it for as long as the loop runs."""
    period_ms = watchdog_ms()
    if period_ms:
        loop.call_every(period_ms, lambda: notify("WATCHDOG=1"))
