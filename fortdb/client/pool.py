"""A bounded pool of connections for many threads.

As in httpcore, decisions are made under the lock and every system call (connecting, looking at a
socket, closing) happens outside it, on a connection or a free place that the thread already owns.
The connection used last is handed out first, so that a quiet client lets the others grow idle.

A pooled connection may have been closed by the server meanwhile. It is looked at before it is
handed out; without that, the first write after a router's restart would fail with an unknown
outcome although nothing was ever sent to a living server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from time import monotonic

from fortdb.client.connection import Connection
from fortdb.errors import BadRequest, Busy


class Pool:
    """At most `connections_max` connections made by `connect`, in use and idle together."""

    def __init__(self, connect: Callable[[], Connection], connections_max: int) -> None:
        if connections_max < 1:
            raise BadRequest(f"connections_max must be at least 1, not {connections_max}")
        self._connect = connect
        self._connections_max = connections_max
        self._changed = Condition()
        self._idle: list[Connection] = []
        self._in_use = 0
        self._closed = False

    @contextmanager
    def connection(self, deadline_s: float, fresh: bool = False) -> Iterator[Connection]:
        """A connection for this thread alone; with `fresh` a newly made one.

        Raises `Busy` when none became free before the monotonic `deadline_s`, and
        `ConnectionFailed`. A connection that was closed meanwhile does not come back.
        """
        connection = self._take_place(deadline_s)
        try:
            if connection is not None and (fresh or not connection.is_usable()):
                connection.close()
                connection = None
            if connection is None:
                connection = self._connect()
            yield connection
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Close idle connections now, and those in use when they come back. Idempotent."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for connection in idle:
            connection.close()

    def _take_place(self, deadline_s: float) -> Connection | None:
        """Own one of the places: with the idle connection in it, or empty."""
        with self._changed:
            while not self._closed and not self._idle and self._in_use >= self._connections_max:
                if not self._changed.wait(deadline_s - monotonic()):
                    raise Busy(
                        f"all {self._connections_max} connections stayed in use; "
                        "allow more with connections_max or use fewer threads"
                    )
            if self._closed:
                raise BadRequest("this client is closed; make a new one")
            self._in_use += 1
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: Connection | None) -> None:
        with self._changed:
            self._in_use -= 1
            keep = connection is not None and not connection.closed and not self._closed
            if keep and connection is not None:
                self._idle.append(connection)
            self._changed.notify()
        if connection is not None and not keep:
            connection.close()
