"""The two clocks of a process, and the name of the boot that one of them counts from.

`steady_ms` orders events and counts leases. It goes on while the machine is suspended
(CLOCK_BOOTTIME); CLOCK_MONOTONIC stands still then, so a virtual machine that was paused would wake
up believing in a lease that ended long ago (rule 11). It starts anew at every boot: a moment on it
means something only together with `boot_id`. `wall_ms` is the time of day, for what users see as
time: TTLs.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def steady_ms() -> int:
    """Milliseconds since the machine started, suspension included; never goes backwards."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


def wall_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def boot_id() -> str:
    """The kernel's name for the life of this machine since its last start.

    Where there is none (not Linux) every process gets its own, and so trusts no other's leases.
    """
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return str(uuid.uuid4())
