"""Commands that are executed at one moment, or not at all.

    with client.transaction("{cart:7}:items", "{cart:7}:total") as tx:  # these are watched
        total = int(tx.read("{cart:7}:total") or 0)  # read now
        tx.append("{cart:7}:items", "pen,")  # collected
        paid = tx.put("{cart:7}:total", str(total + 3))
    paid.value  # its answer

Leaving the block sends what was collected between MULTI and EXEC. If somebody wrote a watched key since it was
watched, nothing is executed and `Conflict` is raised: read again and decide again, or let `Client.transact` do
so. An error of one command undoes no other; the first one is raised when all have been executed. When the
connection breaks before EXEC was answered, `OutcomeUnknown` says so, unless EXEC was never sent.

A transaction keeps a connection of the pool from beginning to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any, TypeVar

from fortdb.client import requests
from fortdb.client.connection import Connection, Reply
from fortdb.client.failures import Conflict
from fortdb.client.pipeline import Later, Pipeline
from fortdb.client.requests import Request
from fortdb.errors import FortError, ProtocolError

T = TypeVar("T")


class Transaction(Pipeline):
    """Made by `Client.transaction`. For one thread."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        super().__init__(self._exchange_all)
        self._connection = connection
        self._timeout_s = timeout_s
        self._has_state = False  # in the connection, that must not meet the next caller
        self._done: list[Later[Any]] = []

    def watch(self, *keys: bytes | str) -> None:
        """Let nothing be executed if one of these is written from now on."""
        if keys:
            self._has_state = True
            self.now(requests.raw([b"WATCH", *keys]))

    def read(self, key: bytes | str) -> bytes | None:
        """The value now; what is collected is not seen. It can be relied upon if the key is watched."""
        return self.now(requests.get(key))

    def read_many(self, keys: Sequence[bytes | str]) -> list[bytes | None]:
        """Several values now, in the order of the keys."""
        return self.now(requests.get_many(keys))

    def now(self, request: Request[T]) -> T:
        """Send any request of `fortdb.client.requests` before the others; raises its error."""
        reply = self._exchange_all([request])[0]
        if isinstance(reply, FortError):
            raise reply
        return request.decode(reply)

    def execute(self) -> None:
        """Execute what was collected; called when the block is left."""
        self._done = self.run()

    def run(self) -> list[Later[Any]]:
        """Execute what was collected, at one moment. Raises `Conflict`, or the error of the whole."""
        batch, self._waiting = self._waiting, []
        words = [requests.raw([b"MULTI"]), *(one._request for one in batch), requests.raw([b"EXEC"])]
        self._has_state = True
        *queued, reply = self._exchange_all(words)
        self._has_state = isinstance(reply, FortError)
        if reply is None:
            reply = Conflict("a watched key was written meanwhile; nothing was executed, begin anew")
        if isinstance(reply, FortError):
            refusals = [one for one in queued[1:] if isinstance(one, FortError)]
            for later in batch:
                later._reply = reply
            raise reply from (refusals[0] if refusals else None)
        if not isinstance(reply, list) or len(reply) != len(batch):
            raise ProtocolError("EXEC was not answered with one answer for each command; is this a router?")
        for later, answer in zip(batch, reply, strict=True):
            later._reply = answer
        return batch

    def raise_first_error(self) -> None:
        """Raise the first error among the answers, if there is one."""
        for later in self._done:
            if later.error is not None:
                raise later.error

    def leave(self) -> None:
        """Leave nothing behind in the connection: one that may still watch or queue is closed."""
        if self._has_state:
            self._connection.close()

    def _exchange_all(self, batch: Sequence[Request[Any]]) -> list[Reply]:
        exchange = self._connection.exchange(
            [request.packed for request in batch], monotonic() + self._timeout_s
        )
        if exchange.failure is None:
            return exchange.replies
        return exchange.replies + requests.without_reply(batch, exchange, self._timeout_s)
