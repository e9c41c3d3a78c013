"""One connection to a router: commands out, replies in, and what is known when it breaks.

The socket never blocks. One loop sends what the kernel takes and reads what has come, so that a
long pipeline cannot deadlock against a server that stops reading while its answers are not
fetched. Nothing is raised for a broken connection: `Exchange` tells how many replies came and how
many bytes were handed to the kernel, because only the caller knows which commands are safe to
send again. A command whose last byte was never sent cannot have been executed.

Over TLS (`ssl.SSLSocket`) a record counts as sent when the kernel has all of it, and of a record that
was cut the other side understands nothing, so the same holds.

A connection is used by one thread at a time; `pool.py` sees to that.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import hiredis

from fortdb.client.access import OPEN, Access
from fortdb.client.address import Address
from fortdb.client.failures import ConnectionFailed, error_from_reply
from fortdb.errors import FortError, ProtocolError
from fortdb.protocol.resp import pack

Reply = bytes | int | None | FortError | list["Reply"]
"""RESP2 in Python: a status and a bulk string are both bytes; an error is a `FortError` value."""

RECEIVE_BYTES = 64 * 1024
KEEPALIVE_IDLE_S = 60  # below the 350 s after which NAT gateways forget a silent connection

_INCOMPLETE = object()
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came of sending commands: `failure` is None if every reply arrived.

    `sent_bytes` counts what the kernel took; `timed_out` tells a silent server from a broken line.
    """

    replies: list[Reply]
    sent_bytes: int
    failure: FortError | None = None
    timed_out: bool = False


class Connection:
    """A connected socket and its parser. Closed for good after the first failure."""

    def __init__(
        self,
        address: Address,
        timeout_s: float,
        access: Access = OPEN,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Connect and log in within `timeout_s`; raises `ConnectionFailed` and `AuthenticationFailed`.
        `context`: of `access`, which makes one if it is not given."""
        self.address = address
        self.first_byte = b""
        """Of the latest exchange: `+` tells a status from a bulk string, which the parsed value
        no longer does."""
        self.closed = False
        self._reader = hiredis.Reader(
            protocolError=ProtocolError, replyError=error_from_reply, notEnoughData=_INCOMPLETE
        )
        deadline_s = monotonic() + timeout_s
        self._socket = _connected(address, timeout_s, access, context or access.context())
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        if access.login is not None:
            self._log_in(access.login, deadline_s)

    def _log_in(self, login: list[bytes], deadline_s: float) -> None:
        exchange = self.exchange([pack(login)], deadline_s)
        failure = exchange.failure or next(
            (reply for reply in exchange.replies if isinstance(reply, FortError)), None
        )
        if failure is not None:
            self.close()
            raise failure

    def is_usable(self) -> bool:
        """Whether the server has kept an idle connection open; a look, without waiting.

        Bytes that nobody asked for (a farewell error, then the end) make it unusable too.
        """
        if self.closed:
            return False
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.recv(1)  # what TLS says to itself is no sign of an end
            else:
                self._socket.recv(1, socket.MSG_PEEK)
        except _NOT_NOW:
            return True
        except OSError:
            return False
        return False

    def exchange(self, commands: Sequence[bytes], deadline_s: float) -> Exchange:
        """Send packed commands and read one reply each, until the monotonic `deadline_s`."""
        payload = memoryview(b"".join(commands))
        replies: list[Reply] = []
        sent_bytes = 0
        timed_out = False
        self.first_byte = b""
        try:
            while len(replies) < len(commands):
                sent_bytes += self._send(payload[sent_bytes:])
                if not self._wait(sent_bytes < len(payload), deadline_s):
                    timed_out = True
                    raise TimeoutError("it did not answer in time")
                self._receive(replies)
        except (OSError, ProtocolError) as error:
            return Exchange(replies, sent_bytes, self._broken(error), timed_out)
        except BaseException:  # interrupted half-way: what comes next would answer this exchange
            self.close()
            raise
        if len(replies) > len(commands) or self._reader.has_data():
            self.close()  # more than was asked for: it would be taken for the next answer
        return Exchange(replies[: len(commands)], sent_bytes)

    def say(self, command: bytes, deadline_s: float) -> None:
        """Send a packed command whose answer is read by `hear`. Raises `ConnectionFailed`."""
        payload, sent_bytes = memoryview(command), 0
        try:
            while sent_bytes < len(payload):
                sent_bytes += self._send(payload[sent_bytes:])
                if sent_bytes < len(payload) and not self._wait(True, deadline_s):
                    raise TimeoutError("it did not take more in time")
        except OSError as error:
            raise self._broken(error) from error

    def hear(self, deadline_s: float) -> list[Reply]:
        """What has arrived, asked for or not; nothing if nothing has until the monotonic `deadline_s`. Raises
        `ConnectionFailed`."""
        heard: list[Reply] = []
        try:
            if self._wait(False, deadline_s):
                self._receive(heard)
        except (OSError, ProtocolError) as error:
            if not heard:
                raise self._broken(error) from error
        return heard

    def _broken(self, error: Exception) -> ConnectionFailed:
        self.close()
        return ConnectionFailed(f"the connection to {self.address} broke: {_reason(error)}")

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self.closed = True
        self._socket.close()

    def _send(self, payload: memoryview) -> int:
        """Bytes that the kernel took; 0 when its buffer is full or nothing is left."""
        sent = 0
        try:
            while sent < len(payload):
                sent += self._socket.send(payload[sent:])
        except _NOT_NOW:
            pass
        return sent

    def _wait(self, for_writing: bool, deadline_s: float) -> bool:
        """Wait until something can be read (or written); False when the deadline has passed."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if for_writing else 0))
        return bool(poll.poll(max(0.0, deadline_s - monotonic()) * 1000))

    def _receive(self, replies: list[Reply]) -> None:
        """Append the replies that what has arrived completes."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except _NOT_NOW:
            return
        if not data:
            raise ConnectionResetError("the server closed it")
        self.first_byte = self.first_byte or data[:1]
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not _INCOMPLETE:
            replies.append(reply)


def _connected(
    address: Address, timeout_s: float, access: Access, context: ssl.SSLContext | None
) -> socket.socket:
    try:
        plain = socket.create_connection((address.host, address.port), timeout_s)
    except OSError as error:
        raise ConnectionFailed(f"cannot connect to {address}: {_reason(error)}") from error
    if context is None:
        return plain
    try:
        return context.wrap_socket(plain, server_hostname=access.server_name or address.host)
    except OSError as error:
        plain.close()
        raise ConnectionFailed(f"no TLS with {address}: {_reason(error)}{_advice(error)}") from error


def _advice(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "; name the authority that signed its certificate (--ca), and the host as the certificate does"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "; does it speak TLS at all? Without it the address begins with fortdb://"
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
