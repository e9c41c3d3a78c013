"""Calls to nodes: commands to a node itself instead of to a partition's leader, and who waits for their answers.

A call has no request id. Whoever makes one may make it again, because it changes nothing, or nothing more when it
is repeated. It is answered once: by the node, or with an error when the connection breaks or time is up.
"""

from __future__ import annotations

from functools import partial

from fortdb.errors import Unavailable
from fortdb.net.gather import Completes
from fortdb.net.loop import Loop
from fortdb.net.peer import Link
from fortdb.protocol.resp import pack
from fortdb.replication.messages import decode_call, encode_call


class PendingCalls:
    """The calls of a process that have no answer yet."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._pending: dict[int, tuple[str, Completes]] = {}  # number -> node and slot
        self._next = 1

    def __len__(self) -> int:
        return len(self._pending)

    def call(self, node: str, link: Link | None, args: list[bytes], slot: Completes, within_ms: int) -> None:
        """`slot` gets the node's answer, or an error if the link breaks or there is none in time."""
        number = self.ask(node, link, args, slot)
        if number:
            self._loop.call_later(within_ms, partial(self._time_out, number))

    def ask(self, node: str, link: Link | None, args: list[bytes], slot: Completes) -> int:
        """A call whose caller looks after the time. Its number, 0 if the node cannot be reached and `slot` knows
        it."""
        if link is None or not link.is_up:
            slot.complete(Unavailable(f"{node} cannot be reached").wire())
            return 0
        number = self._next
        self._next += 1
        self._pending[number] = (node, slot)
        link.write(encode_call(number, pack(args)))
        return number

    def forget(self, number: int) -> None:
        """Nobody waits for the answer any more."""
        self._pending.pop(number, None)

    def returned(self, body: bytes) -> None:
        """A `RETURN` frame. Raises `BadRequest`."""
        number, reply = decode_call(body)
        _, slot = self._pending.pop(number, ("", None))
        if slot is not None:
            slot.complete(reply)

    def link_down(self, node: str) -> None:
        """The connection to a node broke: what was asked on it gets no answer."""
        for number, (asked, slot) in list(self._pending.items()):
            if asked == node and self._pending.pop(number, None) is not None:
                slot.complete(Unavailable(f"the connection to {node} broke").wire())

    def _time_out(self, number: int) -> None:
        node, slot = self._pending.pop(number, ("", None))
        if slot is not None:
            slot.complete(Unavailable(f"{node} did not answer in time").wire())
