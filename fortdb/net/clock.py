"""The two clocks of a process.

`steady_ms` orders events and counts leases. It goes on while the machine is suspended
(CLOCK_BOOTTIME), unlike CLOCK_MONOTONIC, so a virtual machine that was paused does not wake up
believing that its lease still holds. `wall_ms` is the time of day, for what users see as time: TTLs.
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_ms() -> int:
    """Milliseconds since some fixed moment; never goes backwards."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


def wall_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000
