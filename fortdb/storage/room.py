"""Room on the file system of a directory, for a process that is not root."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)

MAKE_ROOM = "make room or give the node a bigger disk"


def is_full(error: OSError) -> bool:
    """Whether the error says that there is no room: on the file system, or in what its owner may use of it."""
    return error.errno in _FULL


def bytes_free(path: Path) -> int:
    """Of a directory that may not be there yet: where it would be made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def lack_of_room(path: Path, bytes_min: int, purpose: str) -> str:
    """What is missing there for the node to do something; empty if there are `bytes_min`."""
    free = bytes_free(path)
    if free >= bytes_min:
        return ""
    return f"{path} has {free:,} bytes free, and the node needs {bytes_min:,} to {purpose}"
