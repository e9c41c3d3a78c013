"""Calls to nodes: commands to a node itself instead of to a partition's leader, and who waits for their answers.

A call has no request id. Whoever makes one may make it again, because it changes nothing, or nothing more when it
is repeated. It is answered once: by the node, or with an error when the connection breaks or time is up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fortdb.errors import Unavailable
from fortdb.net.gather import Completes
from fortdb.net.loop import Loop
from fortdb.net.peer import Link
from fortdb.protocol.resp import pack
from fortdb.replication.messages import decode_call, encode_call


@dataclass(slots=True)
class _Call:
    """One that has no answer yet. `unsent` is its frame while the link that it waits for is down."""

    node: str
    slot: Completes
    unsent: bytes = b""


class PendingCalls:
    """The calls of a process that have no answer yet."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._pending: dict[int, _Call] = {}  # by number, in the order in which they were made
        self._next = 1

    def __len__(self) -> int:
        return len(self._pending)

    def call(
        self,
        node: str,
        link: Link | None,
        args: list[bytes],
        slot: Completes,
        within_ms: int,
        *,
        waits: bool = False,
    ) -> None:
        """`slot` gets the node's answer, or an error if the link breaks or there is none in time. A link that is down
        is an error too, or, with `waits`, has the same time to come up: a node that has just started is dialled
        within a moment."""
        number = self._make(node, link, args, slot, waits)
        if number:
            self._loop.call_later(within_ms, partial(self._time_out, number))

    def ask(self, node: str, link: Link | None, args: list[bytes], slot: Completes) -> int:
        """A call whose caller looks after the time. Its number, 0 if the node cannot be reached and `slot` knows
        it."""
        return self._make(node, link, args, slot, waits=False)

    def _make(self, node: str, link: Link | None, args: list[bytes], slot: Completes, waits: bool) -> int:
        if link is None or not (link.is_up or waits):
            slot.complete(_unreachable(node))
            return 0
        number = self._next
        self._next += 1
        call = self._pending[number] = _Call(node, slot, encode_call(number, pack(args)))
        if link.is_up:
            _send(call, link)
        return number

    def forget(self, number: int) -> None:
        """Nobody waits for the answer any more."""
        self._pending.pop(number, None)

    def returned(self, body: bytes) -> None:
        """A `RETURN` frame. Raises `BadRequest`."""
        number, reply = decode_call(body)
        call = self._pending.pop(number, None)
        if call is not None:
            call.slot.complete(reply)

    def link_up(self, link: Link) -> None:
        """There is a connection to a node: send what waited for it."""
        for call in self._pending.values():
            if call.node == link.name and call.unsent:
                _send(call, link)

    def link_down(self, node: str) -> None:
        """The connection to a node broke: what was asked on it gets no answer."""
        for number, call in list(self._pending.items()):
            if call.node == node and self._pending.pop(number, None) is not None:
                call.slot.complete(Unavailable(f"the connection to {node} broke").wire())

    def _time_out(self, number: int) -> None:
        call = self._pending.pop(number, None)
        if call is not None:
            late = Unavailable(f"{call.node} did not answer in time").wire()
            call.slot.complete(_unreachable(call.node) if call.unsent else late)


def _send(call: _Call, link: Link) -> None:
    frame, call.unsent = call.unsent, b""
    link.write(frame)


def _unreachable(node: str) -> bytes:
    return Unavailable(f"{node} cannot be reached").wire()
