"""What a load generator needs of a protocol."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class WrongAnswer(Exception):
    """An answer that is an error, or not what was stored."""


class Operation(NamedTuple):
    """One request: write the value, or read it and find exactly it."""

    key: bytes
    value: bytes
    is_write: bool


class Batch(Protocol):
    """Requests that are sent together."""

    @property
    def requests(self) -> int:
        """How many."""
        ...


class Conversation(Protocol):
    """One connection with one batch under way at a time. Made with the address, (host, port)."""

    socket: socket.socket

    @staticmethod
    def batch(operations: Sequence[Operation]) -> Batch:
        """The operations as requests, built before anything is measured."""
        ...

    def begin(self, batch: Any) -> None:
        """Send a batch."""
        ...

    def readable(self) -> bool:
        """Take what has arrived. True once all answers are here. Raises `WrongAnswer`."""
        ...
