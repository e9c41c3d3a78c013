"""The prompt's conversation with a router: one connection that is made again when it breaks.

Unlike `Client` it keeps to one connection, since MULTI and its like live in a connection. A lost
connection is told, never hidden: a transaction that was open is gone with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from fortdb.client import OPEN, Access, Address, Connection, Reply, requests
from fortdb.errors import BadRequest, FortError

CONNECT_TIMEOUT_S = 3.0


class Session:
    """Asks one command after the other. `tell` gets news of the connection."""

    def __init__(
        self, address: Address, timeout_s: float, tell: Callable[[str], None], access: Access = OPEN
    ) -> None:
        self.address = address
        self._access = access
        self.latency_ms: float | None = None
        self.answer_is_status = False
        self.in_transaction = False  # between a MULTI and its EXEC
        self._timeout_s = timeout_s
        self._tell = tell
        self._connection: Connection | None = None
        self._was_connected = False

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.closed

    def ask(self, words: Sequence[bytes]) -> Reply:
        """The answer to one command; what goes wrong is an answer too, a `FortError` value."""
        if [word.upper() for word in words[:2]] == [b"FEED", b"SUBSCRIBE"] or words[0].upper() == b"WATCHKEY":
            return BadRequest("this prompt shows one answer to each command; see changes with: fortdb feed")
        try:
            request = requests.raw(words)
            connection = self.connect()
        except FortError as error:
            return error
        started_s = monotonic()
        exchange = connection.exchange([request.packed], started_s + self._timeout_s)
        if exchange.failure is not None:
            return requests.without_reply([request], exchange, self._timeout_s)[0]
        self.latency_ms = (monotonic() - started_s) * 1000
        self.answer_is_status = connection.first_byte == b"+"
        self._note_transaction(words[0].upper(), exchange.replies[0])
        return exchange.replies[0]

    def _note_transaction(self, name: bytes, reply: Reply) -> None:
        if name == b"MULTI" and not isinstance(reply, FortError):
            self.in_transaction = True
        elif name in (b"EXEC", b"DISCARD", b"RESET"):
            self.in_transaction = False

    def connect(self) -> Connection:
        """The connection, made anew if the old one is gone; raises `ConnectionFailed`."""
        if self._connection is not None and self._connection.is_usable():
            return self._connection
        self.close()
        self._connection = Connection(self.address, CONNECT_TIMEOUT_S, self._access)
        self.in_transaction = False
        if self._was_connected:
            self._tell(f"the connection was lost; connected to {self.address} again, an open MULTI is gone")
        self._was_connected = True
        return self._connection

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
