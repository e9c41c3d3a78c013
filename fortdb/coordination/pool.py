"""What a store has open and closes when it is closed: connections, lent out, and watches.

Neither `requests.Session` nor a SQLite connection with a transaction under way may be shared by
threads. A stack of idle ones keeps at most as many open as threads ever worked at once, whichever
threads come and go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

from fortdb.coordination.store import Watch
from fortdb.errors import FortError, StoreUnavailable


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Pool(Generic[C]):
    """Lends connections made by `connect`.

    A `FortError` raised while one is lent is our own verdict on an answer; after any other
    exception the connection is closed and never lent again: nobody knows what state it is in.
    """

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._idle: list[C] = []
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[C]:
        """A connection for the length of a `with`. Raises `StoreUnavailable` after `close`."""
        with self._lock:
            if self._closed:
                raise StoreUnavailable("this process has closed its coordination store")
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connect()
        try:
            yield connection
        except FortError:
            self._take_back(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._take_back(connection)

    def _take_back(self, connection: C) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close what is idle now, and what is lent once it comes back. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class Watches:
    """The watches of a store that somebody still holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakSet[Watch] = WeakSet()
        self._closed = False

    def add(self, watch: Watch) -> None:
        with self._lock:
            if not self._closed:
                self._open.add(watch)
                return
        watch.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            watches = list(self._open)
        for watch in watches:
            watch.close()
