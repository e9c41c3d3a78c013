"""Calls to a node on a real link: answered once, by the node or with what stood in the way."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fortdb.net.calls import PendingCalls
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting, Link
from fortdb.net.stream import Outbox
from fortdb.protocol.resp import pack
from fortdb.replication.messages import FrameReader, Type, decode_call, encode_call
from tests.support.waiting import eventually

_PATIENCE_MS = 10_000


class Answer:
    """Where the answer to a call goes."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []

    def complete(self, reply: bytes) -> None:
        self.replies.append(reply)


class Caller:
    """A process that calls the node `n`, turned by hand. The node's port is its own from the beginning, but nobody
    listens on it before `listen`."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.outbox = Outbox()
        self.calls = PendingCalls(self.loop)
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.node: socket.socket | None = None
        self.link = Link(
            self.loop,
            self.outbox,
            Greeting("c", "router", session=7),
            "n",
            f"127.0.0.1:{self.listener.getsockname()[1]}",
            up=lambda link, other: self.calls.link_up(link),
            down=lambda link: self.calls.link_down(link.name),
            heard=lambda link, kind, body: self.calls.returned(body),
        )

    def call(self, within_ms: int = _PATIENCE_MS, *, waits: bool) -> Answer:
        answer = Answer()
        self.calls.call("n", self.link, [b"ONE"], answer, within_ms, waits=waits)
        return answer

    def turn_until(self, is_so: Callable[[], bool]) -> None:
        """Let the loop go round until something is so."""

        def tick() -> None:
            self.outbox.flush()
            self.loop.stop()

        def turned() -> bool:
            self.loop.tick_again()
            self.loop.run(tick)
            return is_so()

        eventually("as the story goes on", turned)

    def listen(self) -> None:
        """The node has started; the link will find it."""
        self.listener.listen()
        self.listener.setblocking(False)

    def greet(self) -> None:
        """As the node, once it is dialled."""
        self.turn_until(self._is_dialled)
        assert self.node is not None
        self.node.settimeout(_PATIENCE_MS / 1000)
        self.node.sendall(Greeting("c", "n", "life").encode())
        self.turn_until(lambda: self.link.is_up)

    def _is_dialled(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self.node, _ = self.listener.accept()
        return self.node is not None

    def heard(self) -> tuple[int, bytes]:
        """The number and the command of the first call that the node got."""
        assert self.node is not None
        self.outbox.flush()
        reader = FrameReader()
        while True:
            for kind, body in reader.feed(self.node.recv(65_536)):
                if kind == Type.CALL:
                    return decode_call(body)

    def answer(self, number: int, reply: bytes) -> None:
        assert self.node is not None
        self.node.sendall(encode_call(number, reply, Type.RETURN))


@contextmanager
def caller() -> Iterator[Caller]:
    made = Caller()
    try:
        yield made
    finally:
        made.link.close()
        made.listener.close()
        if made.node is not None:
            made.node.close()
        made.loop.close()


def test_a_call_that_waits_is_sent_when_the_link_comes_up() -> None:
    with caller() as made:
        waiting, at_once = made.call(waits=True), made.call(waits=False)
        assert at_once.replies == [b"-UNAVAILABLE n cannot be reached\r\n"]
        assert waiting.replies == [] and len(made.calls) == 1
        made.listen()
        made.greet()
        number, command = made.heard()
        assert command == pack([b"ONE"])
        made.answer(number, b"+DONE\r\n")
        made.turn_until(lambda: bool(waiting.replies))
        assert waiting.replies == [b"+DONE\r\n"] and len(made.calls) == 0


def test_a_call_waits_no_longer_than_its_time() -> None:
    with caller() as made:
        waiting = made.call(30, waits=True)
        made.turn_until(lambda: bool(waiting.replies))
        assert waiting.replies == [b"-UNAVAILABLE n cannot be reached\r\n"]
        made.listen()
        made.greet()
        later = made.call(waits=True)
        assert made.heard()[0] == 2, "what timed out is not sent any more"
        made.node.close()  # type: ignore[union-attr]
        made.turn_until(lambda: bool(later.replies))
        assert later.replies == [b"-UNAVAILABLE the connection to n broke\r\n"]


def test_a_node_that_keeps_silent_did_not_answer() -> None:
    with caller() as made:
        made.listen()
        made.greet()
        asked = made.call(30, waits=True)
        made.turn_until(lambda: bool(asked.replies))
        assert asked.replies == [b"-UNAVAILABLE n did not answer in time\r\n"]
