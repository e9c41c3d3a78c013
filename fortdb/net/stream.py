"""A non-blocking connection with bounded output, and the listener that makes such connections.

Output collects during a tick and is sent once at its end (`Outbox.flush`): one system call a
connection a tick. What the socket does not take stays, and the socket is watched until it does.

Where TLS lies between (`tls.py`), its stand-in takes the socket's place here, and what works on bare
descriptors (`fortdb.native`) asks it for the bytes instead, told by `is_secured`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from fortdb.clock import steady_ms
from fortdb.errors import ConfigError
from fortdb.limits import RECEIVE_BYTES, TURN_MS_MAX
from fortdb.native import bind, lane
from fortdb.net.loop import READ, WRITE, Loop
from fortdb.net.tls import Handshakes, TlsSocket, Transport

Way = tuple[Callable[..., bool], object, list[int] | None]
"""A function in C that reads from a stream and looks after what is plain, or returns False; the service whose
state it works on; how many GETs and SETs went that way. Called by the loop; see `fortdb.native`."""


class Outbox:
    """The connections of one loop that have something to send."""

    __slots__ = ("dirty",)

    def __init__(self) -> None:
        self.dirty: list[Stream] = []

    def flush(self) -> None:
        """Send what has collected."""
        if lane is not None:
            lane.flush((self,))
            return
        dirty, self.dirty = self.dirty, []
        for stream in dirty:
            stream.flush()


class Stream:
    """One connection. Subclasses take what arrives (`received`) and clean up (`closed`)."""

    __slots__ = (
        *("loop", "outbox", "socket", "descriptor", "is_open", "unsent_bytes", "queued_bytes"),
        *("unsent_since_ms", "output", "is_dirty", "events", "is_paused", "is_closing", "is_last_output"),
        *("is_secured", "has_given_way"),
    )

    def __init__(self, loop: Loop, outbox: Outbox, connection: Transport) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop = loop
        self.outbox = outbox
        self.socket = connection
        self.is_secured = isinstance(connection, TlsSocket)  # the descriptor's bytes are TLS's
        self.descriptor = connection.fileno()
        self.is_open = True
        self.unsent_bytes = 0  # left over after the last flush
        self.queued_bytes = 0  # written and not yet sent
        self.unsent_since_ms = 0
        self.output: list[bytes] = []  # what is to be sent
        self.is_dirty = False
        self.events = READ
        self.is_paused = False  # reads nothing until `resume`
        self.is_closing = False  # reads nothing more
        self.is_last_output = False  # and closes once the output is sent
        self.has_given_way = False  # to the others, in this turn
        loop.register(self.descriptor, self)

    # --- for subclasses ---------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes arrived."""
        raise NotImplementedError

    def closed(self, reason: str) -> None:
        """The connection is gone; called once."""

    def drained(self) -> None:
        """Everything written so far has been handed to the socket."""

    # --- output -------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send at the end of the tick."""
        self.output.append(data)
        self.queued_bytes += len(data)
        if not self.is_dirty:
            self.is_dirty = True
            self.outbox.dirty.append(self)

    def flush(self) -> None:
        """Send what has collected, as far as the socket takes it."""
        self.is_dirty = False
        if not self.is_open or not self.output:
            return
        data = self.output[0] if len(self.output) == 1 else b"".join(self.output)
        self.output.clear()
        if self.events & WRITE:
            sent = 0  # the socket was full a moment ago: it will call
        else:
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.close(f"cannot send: {error}")
                return
        if sent < len(data):
            self.keep(data[sent:] if sent else data, sent)
        elif self.is_last_output:
            self.close("done")
        else:
            self.unsent_bytes = self.queued_bytes = 0
            self.drained()
            self._watch()

    def keep(self, rest: bytes, sent: int) -> None:
        """The socket took `sent` bytes and not the rest: it calls when it takes more."""
        if sent or not self.unsent_bytes:
            self.unsent_since_ms = self.loop.now_ms
        self.output[:] = [rest]
        self.unsent_bytes = self.queued_bytes = len(rest)
        self._watch()

    def close_after_output(self) -> None:
        """Close once everything written has been sent; read nothing more."""
        self.is_closing = self.is_last_output = True
        self.pause()
        if not self.output:
            self.close("done")

    # --- input ----------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read nothing until `resume`."""
        self.is_paused = True
        self._watch()

    def resume(self) -> None:
        """Read again."""
        if not self.is_closing:
            self.is_paused = False
            self._watch()

    def gives_way(self) -> bool:
        """Whether this connection was worked for long enough in this turn: then it reads nothing, and goes on with
        `go_on` when the others had theirs."""
        if steady_ms() - self.loop.now_ms <= TURN_MS_MAX:
            return False
        self.pause()
        if not self.has_given_way:
            self.has_given_way = True
            self.loop.call_later(1, self._begin_turn)
        return True

    def _begin_turn(self) -> None:
        self.has_given_way = False
        self.loop.now_ms = steady_ms()
        if self.is_open:
            self.go_on()

    def go_on(self) -> None:
        """Work on what has arrived."""

    def readable(self) -> None:
        """Called by the loop."""
        if self.is_paused:
            self.close("hung up")  # only a hang-up or an error wakes a paused connection
            return
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(f"cannot receive: {error}")
            return
        if data:
            self.loop.now_ms = steady_ms()  # what arrived, arrived before: see rule 14 in node/requests.py
            self.received(data)
        else:
            self.close("closed by the other side")

    def writable(self) -> None:
        """Called by the loop: the socket takes more."""
        self.events &= ~WRITE
        self.loop.modify(self.descriptor, self.events)
        self.flush()

    # --- end ---------------------------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """Close at once. Idempotent."""
        if not self.is_open:
            return
        self.is_open = False
        self.loop.unregister(self.descriptor)
        self.socket.close()
        self.output.clear()
        self.closed(reason)

    def _watch(self) -> None:
        events = (0 if self.is_paused else READ) | (WRITE if self.unsent_bytes else 0)
        if events != self.events and self.is_open:
            self.events = events
            self.loop.modify(self.descriptor, events)


bind(Outbox)
bind(Stream)


class Listener:
    """Accepts connections for as long as there is room for them."""

    def __init__(
        self,
        loop: Loop,
        host: str,
        port: int,
        setting: str,
        accept: Callable[[Transport, str], None],
        handshakes: Handshakes | None = None,
    ) -> None:
        """With `handshakes`, TLS comes first. Raises `ConfigError` naming `setting` when the address cannot
        be had."""
        self._accept = accept
        self._handshakes = handshakes
        self.socket = _listen(host, port, setting)
        self.port: int = self.socket.getsockname()[1]
        self._loop = loop
        loop.register(self.socket.fileno(), self)

    def readable(self) -> None:
        """Called by the loop."""
        for _ in range(64):
            try:
                connection, address = self.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                return  # out of descriptors: those waiting stay in the kernel's queue
            name = f"{address[0]}:{address[1]}"
            if self._handshakes is None:
                self._accept(connection, name)
            else:
                self._handshakes.begin(connection, name, self._accept)

    def writable(self) -> None:
        """Never asked for."""

    def close(self) -> None:
        """Accept nothing more."""
        if self.socket.fileno() >= 0:
            self._loop.unregister(self.socket.fileno())
            self.socket.close()
            if self._handshakes is not None:
                self._handshakes.close()


def _listen(host: str, port: int, setting: str) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"{setting}: cannot listen on {host}:{port}: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{setting}: cannot listen on {host}:{port}: {error.strerror}; "
            "choose another port or stop the process that holds it"
        ) from None
    listener.setblocking(False)
    return listener
