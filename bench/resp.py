"""Batches for what speaks RESP. An answer is compared as bytes: nothing is cheaper, nothing stricter."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from bench.conversation import Operation, WrongAnswer

_RECEIVE_BYTES = 256 * 1024


class RespBatch:
    """Requests that are sent together, and the bytes that must come back."""

    __slots__ = ("answer", "payload", "requests")

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.requests = len(operations)
        self.payload = b"".join(map(_request, operations))
        self.answer = b"".join(map(_answer, operations))


class RespConversation:
    """One connection with one batch under way at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._awaited = b""
        self._heard = b""

    @staticmethod
    def batch(operations: Sequence[Operation]) -> RespBatch:
        """The operations as requests."""
        return RespBatch(operations)

    def begin(self, batch: RespBatch) -> None:
        """Send a batch."""
        self._awaited = batch.answer
        self.socket.sendall(batch.payload)

    def readable(self) -> bool:
        """Take what has arrived. True once all answers are here. Raises `WrongAnswer`."""
        data = self.socket.recv(_RECEIVE_BYTES)
        if data == self._awaited:
            return True
        if not data:
            raise WrongAnswer("the connection was closed")
        self._heard += data
        if not self._awaited.startswith(self._heard[: len(self._awaited)]):
            raise WrongAnswer(f"answered {_difference(self._heard, self._awaited)}")
        if len(self._heard) < len(self._awaited):
            return False
        if len(self._heard) > len(self._awaited):
            raise WrongAnswer(f"answered {self._heard[len(self._awaited) :][:200]!r} without being asked")
        self._heard = b""
        return True


def _request(operation: Operation) -> bytes:
    key, value, is_write = operation
    if is_write:
        return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)


def _answer(operation: Operation) -> bytes:
    return b"+OK\r\n" if operation.is_write else b"$%d\r\n%b\r\n" % (len(operation.value), operation.value)


def _difference(heard: bytes, awaited: bytes) -> str:
    at = next(
        (at for at, (ours, theirs) in enumerate(zip(heard, awaited, strict=False)) if ours != theirs), 0
    )
    start = heard.rfind(b"\r\n", 0, at) + 2 if b"\r\n" in heard[:at] else 0
    return f"{heard[start : start + 200]!r} instead of {awaited[start : start + 60]!r}"
