"""TLS for connections that do not block: a socket's stand-in, and the handshake before it.

`TlsSocket` offers what a `Stream` asks of its socket (`recv`, `send`, `close`) and does TLS in memory
(`ssl.MemoryBIO`), so that nothing decrypted ever waits where epoll does not see it: each `recv` decrypts
all that has come. Writing is bounded by the socket, too: one chunk at a time is encrypted, and its bytes
count as sent when all of its ciphertext is with the kernel. Until then `send` must be called with the
same bytes again, as `Stream.keep` does.

A `Handshake` owns the connection until it is done; streams never see an unfinished one. It has a
deadline, their number has a bound, and one that fails is logged with its reason. Whoever speaks plain
text to a TLS port is told so, in plain text.

Versions: TLS 1.2 and 1.3 (RFC 5246, RFC 8446), without renegotiation: reading never makes writing wait.
An end without `close_notify` is an end like any other: requests and frames carry their lengths, so a
connection that was cut cannot be taken for a shorter message.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fortdb.limits import HANDSHAKE_MS_MAX, HANDSHAKES_MAX, RECEIVE_BYTES
from fortdb.net.loop import READ, WRITE, Loop

_CHUNK_BYTES = 64 * 1024  # encrypted at a time: what is encrypted can no longer be dropped
_RECORD_BYTES_MAX = 32 * 1024  # a record of the longest kind, of which the beginning may wait from before
_TLS_HANDSHAKE = 0x16  # the first byte of whoever speaks TLS (RFC 8446, 5.1)

Context = Callable[[], ssl.SSLContext]
"""The present context for new connections; another one after the certificates were replaced."""


class Transport(Protocol):
    """What a stream needs of its socket, or of what stands in for one."""

    def recv(self, bufsize: int, /) -> bytes: ...

    def send(self, data: bytes, /) -> int: ...

    def close(self) -> None: ...

    def fileno(self) -> int: ...

    def setblocking(self, flag: bool, /) -> None: ...

    def setsockopt(self, level: int, optname: int, value: int, /) -> None: ...

    def getsockopt(self, level: int, optname: int, /) -> int: ...


class TlsSocket:
    """A connection whose handshake is done. Errors are `OSError`s, as those of a socket."""

    __slots__ = (
        "_ciphertext",
        "_connection",
        "_covered",
        "_failure",
        "_incoming",
        "_outgoing",
        "_tls",
        "names",
    )

    def __init__(
        self,
        connection: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        self._connection = connection
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._ciphertext = b""  # encrypted and not yet taken by the socket
        self._covered = 0  # bytes of the plain text that it stands for
        self._failure: OSError | None = None
        self.names = names_of(tls.getpeercert())
        """Whom the other side's certificate names; empty if none was asked for."""

    def recv(self, bufsize: int) -> bytes:
        """What has come, decrypted; empty at the end. Raises `BlockingIOError` when nothing has."""
        assert bufsize >= 2 * _RECORD_BYTES_MAX
        if self._failure is not None:
            return self._ended()
        parts = self._decrypted()
        try:
            data = self._connection.recv(bufsize - _RECORD_BYTES_MAX)
        except BlockingIOError:
            if not parts:
                raise
            return b"".join(parts)
        if data:
            self._incoming.write(data)
            parts += self._decrypted()
        elif not parts:
            return b""
        if self._failure is not None:
            if not parts:
                return self._ended()
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RD)  # the loop wakes the stream again, for its end
        if not parts:
            self._send_own()
            raise BlockingIOError(errno.EAGAIN, "no whole record has arrived")
        return b"".join(parts)

    def send(self, data: bytes) -> int:
        """How many bytes are on their way. Raises `BlockingIOError` when the socket is full."""
        view = memoryview(data)
        sent = 0
        while True:
            if not self._ciphertext:
                if sent == len(data):
                    return sent
                chunk = view[sent : sent + _CHUNK_BYTES]
                self._tls.write(chunk)
                self._ciphertext, self._covered = self._outgoing.read(), len(chunk)
            try:
                taken = self._connection.send(self._ciphertext)
            except BlockingIOError:
                if not sent:
                    raise
                return sent
            if taken < len(self._ciphertext):
                self._ciphertext = self._ciphertext[taken:]
                return sent
            self._ciphertext = b""
            sent += self._covered
            self._covered = 0

    def close(self) -> None:
        """Say goodbye, if that goes without waiting, and hang up."""
        if not self._ciphertext:
            with contextlib.suppress(OSError, ValueError):
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.unwrap()
                self._connection.send(self._outgoing.read())
        self._connection.close()

    def fileno(self) -> int:
        return self._connection.fileno()

    def setblocking(self, flag: bool) -> None:
        self._connection.setblocking(flag)

    def setsockopt(self, level: int, optname: int, value: int) -> None:
        self._connection.setsockopt(level, optname, value)

    def getsockopt(self, level: int, optname: int) -> int:
        return self._connection.getsockopt(level, optname)

    def _decrypted(self) -> list[bytes]:
        parts: list[bytes] = []
        if self._failure is None:
            try:
                while True:
                    part = self._tls.read(RECEIVE_BYTES)
                    if not part:
                        raise ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "closed")
                    parts.append(part)
            except ssl.SSLWantReadError:
                pass
            except OSError as error:
                self._failure = error
        return parts

    def _ended(self) -> bytes:
        """Said as often as it is asked for."""
        if self._failure is not None and not isinstance(self._failure, ssl.SSLZeroReturnError):
            raise self._failure
        return b""

    def _send_own(self) -> None:
        """What the protocol itself answers (an update of keys), as soon as nothing stands before it."""
        if self._outgoing.pending and not self._ciphertext:
            self._ciphertext, self._covered = self._outgoing.read(), 0
            with contextlib.suppress(OSError):
                taken = self._connection.send(self._ciphertext)
                self._ciphertext = self._ciphertext[taken:]


class Handshake:
    """One connection until TLS is set up on it, on either side.

    `done` gets the socket's stand-in, `failed` the reason; one of the two is called, once. A dialled
    connection may still be connecting.
    """

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        context: ssl.SSLContext,
        *,
        is_server: bool,
        done: Callable[[TlsSocket], None],
        failed: Callable[[str], None],
    ) -> None:
        connection.setblocking(False)
        self._loop = loop
        self._connection = connection
        self._descriptor = connection.fileno()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._unsent = b""
        self._is_server = is_server
        self._is_first = True
        self._is_over = False
        self._done = done
        self._failed = failed
        if is_server:
            loop.register(self._descriptor, self)
        else:
            loop.register(self._descriptor, self, WRITE)  # once it is connected
        here = weakref.ref(self)  # the timer keeps alive nothing that is done long before

        def give_up() -> None:
            if (late := here()) is not None:
                late.fail("no handshake in time")

        loop.call_later(HANDSHAKE_MS_MAX, give_up)

    def readable(self) -> None:
        """Called by the loop."""
        try:
            data = self._connection.recv(_RECORD_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(str(error))
            return
        if not data:
            self.fail("closed by the other side")
        elif self._is_first and self._is_server and data[0] != _TLS_HANDSHAKE:
            with contextlib.suppress(OSError):
                self._connection.send(b"-ERR this port speaks TLS only\r\n")
            self.fail("speaks no TLS")
        else:
            self._is_first = False
            self._incoming.write(data)
            self._go_on()

    def writable(self) -> None:
        """Called by the loop: connected, or there is room for more."""
        failure = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self.fail(errno.errorcode.get(failure, str(failure)))
        else:
            self._go_on()

    def fail(self, reason: str) -> None:
        """Give up. Idempotent."""
        if not self._is_over:
            self._leave()
            self._connection.close()
            self._failed(reason)

    def _go_on(self) -> None:
        finished, reason = False, ""
        try:
            self._tls.do_handshake()
            finished = True
        except ssl.SSLWantReadError:
            pass
        except OSError as error:
            reason = reason_of(error)
        try:
            self._send()
        except OSError as error:
            reason = reason or str(error)
        if reason:
            self.fail(reason)
        elif finished and not self._unsent:
            self._finish()
        else:
            self._loop.modify(self._descriptor, WRITE if self._unsent else READ)

    def _send(self) -> None:
        self._unsent += self._outgoing.read()
        if self._unsent:
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[self._connection.send(self._unsent) :]

    def _finish(self) -> None:
        self._leave()
        self._done(TlsSocket(self._connection, self._tls, self._incoming, self._outgoing))
        handler = self._loop.handlers.get(self._descriptor)
        if handler is not None and self._incoming.pending:
            handler.readable()  # what came with the last of the handshake does not wake the loop again

    def _leave(self) -> None:
        self._is_over = True
        self._loop.unregister(self._descriptor)


class Handshakes:
    """Those of the connections that a listener accepted, a bounded number at a time."""

    def __init__(self, loop: Loop, context: Context, refused: Callable[[str, str], None]) -> None:
        """`refused` gets the address and the reason of each that fails."""
        self._loop = loop
        self._context = context
        self._open: set[Handshake] = set()
        self._refused = refused

    def begin(
        self, connection: socket.socket, address: str, accept: Callable[[TlsSocket, str], None]
    ) -> None:
        """`accept` gets the connection when TLS is set up on it."""
        if len(self._open) >= HANDSHAKES_MAX:
            connection.close()
            self._refused(address, "too many handshakes at once")
            return

        def done(secured: TlsSocket) -> None:
            self._open.discard(handshake)
            accept(secured, address)

        def failed(reason: str) -> None:
            self._open.discard(handshake)
            self._refused(address, reason)

        handshake = Handshake(
            self._loop, connection, self._context(), is_server=True, done=done, failed=failed
        )
        self._open.add(handshake)

    def close(self) -> None:
        """Hang up on those who are not done."""
        for handshake in list(self._open):
            handshake.fail("shutting down")


def reason_of(error: OSError) -> str:
    """Why TLS could not be set up, in OpenSSL's words without its file names."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)


def names_of(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The names in a certificate, as `getpeercert` gives it: the DNS names of subjectAltName (RFC 6125), or
    the common name if it has none."""
    if not certificate:
        return frozenset()
    alternatives = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    if alternatives:
        return frozenset(alternatives)
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    return frozenset(value for key, value in subject if key == "commonName")
