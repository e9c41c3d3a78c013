"""Where a process of a local ring runs: at which address, and how it is started there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Place:
    """An address to listen on, a command that starts the process there (say in a network namespace),
    and variables that it gets besides its starter's.

    `program` is what stands for `fortdb` on the command line.
    """

    host: str = LOOPBACK
    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable, "-m", "fortdb")

    @property
    def has_own_ports(self) -> bool:
        """Whether nobody else on this machine can hold a port there, and nobody from outside can look."""
        return bool(self.prefix)


HERE = Place()
"""An ordinary process on the loopback address."""
