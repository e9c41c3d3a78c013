"""A batch of commands in one exchange, answered in order.

    with client.pipeline() as batch:
        batch.put("user:1", "ada")
        visits = batch.increment("visits")
    visits.value  # what increment answered

Leaving the block sends the batch and raises the first error among the answers. A batch is no
transaction (`transaction.py`): each command stands alone. When the connection breaks, the answers that had come are
kept; a write without one holds `OutcomeUnknown`, and is never sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from fortdb.client import requests
from fortdb.client.connection import Reply
from fortdb.client.requests import Argument, Request
from fortdb.errors import BadRequest, FortError
from fortdb.model import Ack

T = TypeVar("T")


class Later(Generic[T]):
    """An answer that is there once the batch has run."""

    def __init__(self, request: Request[T]) -> None:
        self._request = request
        self._reply: Reply = BadRequest("the batch has not run yet; leave its block or call run()")

    @property
    def value(self) -> T:
        """The command's answer; raises the command's own error."""
        if isinstance(self._reply, FortError):
            raise self._reply
        return self._request.decode(self._reply)

    @property
    def error(self) -> FortError | None:
        return self._reply if isinstance(self._reply, FortError) else None


class Pipeline:
    """Collects commands; made by `Client.pipeline`. For one thread."""

    def __init__(self, exchange: Callable[[Sequence[Request[Any]]], list[Reply]]) -> None:
        self._exchange = exchange
        self._waiting: list[Later[Any]] = []

    def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        expire_ms: int | None = None,
        only_if_absent: bool = False,
        only_if_present: bool = False,
        only_if_equal: bytes | str | None = None,
        ack: Ack | None = None,
    ) -> Later[bool]:
        return self.add(
            requests.put(
                key,
                value,
                expire_ms=expire_ms,
                only_if_absent=only_if_absent,
                only_if_present=only_if_present,
                only_if_equal=only_if_equal,
                ack=ack,
            )
        )

    def get(self, key: bytes | str, *, stale: bool = False) -> Later[bytes | None]:
        return self.add(requests.get(key, stale=stale))

    def delete(self, *keys: bytes | str) -> Later[int]:
        return self.add(requests.delete(keys))

    def increment(self, key: bytes | str, by: int = 1) -> Later[int]:
        return self.add(requests.increment(key, by))

    def append(self, key: bytes | str, value: bytes | str) -> Later[int]:
        return self.add(requests.append(key, value))

    def expire(self, key: bytes | str, expire_ms: int) -> Later[bool]:
        return self.add(requests.expire(key, expire_ms))

    def command(self, *arguments: Argument) -> Later[Reply]:
        """Any command, its reply as it came."""
        return self.add(requests.raw(arguments))

    def add(self, request: Request[T]) -> Later[T]:
        """Any request of `fortdb.client.requests`."""
        later = Later(request)
        self._waiting.append(later)
        return later

    def run(self) -> list[Later[Any]]:
        """Send what was collected; every answer in order, errors inside them. Starts anew after."""
        batch, self._waiting = self._waiting, []
        if batch:
            for later, reply in zip(batch, self._exchange([one._request for one in batch]), strict=True):
                later._reply = reply
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return  # the block failed: nothing of it is sent
        for later in self.run():
            if later.error is not None:
                raise later.error
