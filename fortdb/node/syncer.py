"""One fdatasync at a time, while the server's thread goes on.

In C a thread that holds no interpreter waits for the disk and wakes the loop; without C the server's thread
waits itself. Either way `done` is called, on the server's thread, with 0 or what went wrong (an errno).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from fortdb.native import lane
from fortdb.net.loop import Loop


class Syncer:
    """Calls `done` for every `begin`."""

    def __init__(self, loop: Loop, done: Callable[[int], None]) -> None:
        self._done = done
        self._loop = loop
        self._thread = None if lane is None else lane.Syncer()
        if self._thread is not None:
            loop.register(self._thread.fileno(), self)

    def begin(self, descriptor: int) -> None:
        """Have everything on the disk that was written to the file so far."""
        if self._thread is not None:
            self._thread.begin(descriptor)
            return
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            self._done(error.errno or 1)
        else:
            self._done(0)

    def readable(self) -> None:
        """Called by the loop: it is done."""
        assert self._thread is not None
        self._done(self._thread.end())

    def writable(self) -> None:
        """Never asked for."""

    def close(self) -> None:
        """Wait for what is under way, of which nobody hears any more. Idempotent."""
        if self._thread is not None:
            self._loop.unregister(self._thread.fileno())
            self._thread.close()
            self._thread = None
