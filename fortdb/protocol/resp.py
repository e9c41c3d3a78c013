"""RESP2, the protocol of Redis, without any I/O: bytes to requests, answers to bytes.

The C parser of `hiredis` does the work, on whole commands only. It has no bounds of its own and
buffers silently, so it is never shown a command that is unfinished or whose headers are unusually
large: those are walked in Python (`_Walk`), header by header as they arrive, and refused at the
header that goes too far. In the ordinary case, whole commands of ordinary size in one read, the guard
costs a few scans for unlikely bytes and the sum of the lengths. Whatever the client sends, a byte is
looked at a fixed number of times.

The first byte of a connection decides how it speaks, for good: `*` for RESP, anything else for text
lines (see `text.py`). So what a client sends means the same however the network cuts it.

Source: the RESP specification (redis.io/docs/reference/protocol-spec), inline commands included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from hiredis import ProtocolError as HiredisError
from hiredis import Reader, pack_command

from fortdb.errors import BadRequest, FortError, ProtocolError
from fortdb.limits import (
    ARGUMENTS_MAX,
    COMMAND_BYTES_MAX,
    LINE_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from fortdb.protocol.text import split_line

OK = b"+OK\r\n"
PONG = b"+PONG\r\n"
QUEUED = b"+QUEUED\r\n"
NIL = b"$-1\r\n"
NIL_ARRAY = b"*-1\r\n"
EMPTY_ARRAY = b"*0\r\n"

Request = list[bytes] | FortError
"""A command and its arguments; or `BadRequest` in the place of one that makes no sense; or, as the
last of all, `ProtocolError`: the connection cannot go on."""

_LARGE_COUNT = re.compile(rb"\*\d{5}").search
_LARGE_LENGTH = re.compile(rb"\$\d{7}").search
_LARGE_OTHER = re.compile(rb"[%~>|]\d{5}").search  # RESP3's maps, sets, pushes, attributes: no commands
_HEADER_BYTES_MAX = 32
_TLS_HANDSHAKE = 0x16  # how TLS begins (RFC 8446, 5.1): waiting for the end of such a line would be in vain
_CRLF = b"\r\n"


def integer(value: int) -> bytes:
    """An integer reply."""
    return b":%d\r\n" % value


def bulk(value: bytes) -> bytes:
    """A bulk string reply."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def pack(arguments: Sequence[bytes]) -> bytes:
    """A request as a RESP array."""
    packed: bytes = pack_command(tuple(arguments))  # type: ignore[arg-type]  # its stub says one-tuple
    return packed


def array(items: list[bytes]) -> bytes:
    """An array of replies that are encoded already."""
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def mapping(pairs: list[tuple[bytes, bytes]], resp: int) -> bytes:
    """A map of encoded replies: a map in RESP3, a flat array in RESP2."""
    flat = b"".join([part for pair in pairs for part in pair])
    return b"%c%d\r\n%b" % (
        b"%" if resp >= 3 else b"*",
        len(pairs) * (1 if resp >= 3 else 2),
        flat,
    )


def payload_of_bulk(reply: bytes) -> bytes | None:
    """What a bulk string reply holds; None for any other reply."""
    if reply[:1] != b"$" or reply == NIL:
        return None
    return reply[reply.index(_CRLF) + 2 : -2]


def _encoded_bytes(length: int) -> int:
    """How many bytes a bulk string of `length` takes on the wire."""
    return length + len(str(length)) + 5


_ENCODED_BYTES = [_encoded_bytes(length) for length in range(8192)]


def _looks_large(data: bytes) -> bool:
    """Whether something in it may be a header that declares much; most often it is but a value."""
    if _LARGE_COUNT(data) is not None or _LARGE_LENGTH(data) is not None:
        return True
    # The four bytes are far faster to look for than the pattern.
    any_other = b"%" in data or b"~" in data or b">" in data or b"|" in data
    return any_other and _LARGE_OTHER(data) is not None


class RequestParser:
    """Turns what a client sends into requests, in order."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._unfinished: _Walk | None = None  # the unfinished command at the end of the input
        self._line = bytearray()  # the unfinished text line
        self._speaks_text: bool | None = None

    @property
    def is_between_arrays(self) -> bool:
        """Whether the client speaks RESP, and nothing of an unfinished command is held."""
        return self._speaks_text is False and self._unfinished is None

    @property
    def unfinished_bytes(self) -> int:
        """What is held of an unfinished command."""
        return len(self._line) if self._unfinished is None else self._unfinished.size

    def feed(self, data: bytes) -> list[Request]:
        """The requests that `data` completes. After a `ProtocolError` feed nothing more."""
        if self._speaks_text is None:
            self._speaks_text = data[0] != 42  # '*'
            if data[0] == _TLS_HANDSHAKE:
                return [ProtocolError("this port does not speak TLS")]
        requests: list[Request] = []
        try:
            if self._speaks_text:
                self._read_lines(data, requests)
            else:
                self._read_arrays(data, requests)
        except ProtocolError as error:
            requests.append(error)
        return requests

    # --- arrays ---------------------------------------------------------------------------

    def _read_arrays(self, data: bytes, requests: list[Request]) -> None:
        if self._unfinished is not None:
            self._unfinished.feed(data)
            if not self._unfinished.next():
                return
            whole, data = self._unfinished.taken(), self._unfinished.rest()
            self._unfinished = None
            self._read_ordinary(whole, requests)
        if data and not _looks_large(data):
            data = self._read_ordinary(data, requests)
        if not data:
            return
        walk = _Walk(data)
        try:
            while walk.next():
                pass
        finally:  # what stands before a fault is still a request
            self._read_ordinary(walk.taken(), requests)
        if walk:
            self._unfinished = walk

    def _read_ordinary(self, data: bytes, requests: list[Request]) -> bytes:
        """Parse from a command's beginning; returns what is left of `data`: an unfinished command."""
        reader = self._reader
        reader.feed(data)
        found: list[list[bytes]] = []
        used = 0
        gets = reader.gets
        try:
            command = gets()
            while command is not False:
                if data[used] != 42:  # '*': a map, a set or a push is no command
                    raise TypeError
                b"".join(command)  # a TypeError unless all of them are strings
                try:
                    used += sum([_ENCODED_BYTES[len(argument)] for argument in command])
                except IndexError:
                    used += sum([_encoded_bytes(len(argument)) for argument in command])
                used += 4 if len(command) < 10 else 3 + len(str(len(command)))
                if command:
                    found.append(command)
                command = gets()
        except (HiredisError, TypeError, IndexError):
            used = -1
        if used == len(data):
            requests += found
            return b""
        self._reader = Reader()
        if not 0 <= used < len(data) or data[used] != 42:
            self._read_faulty(data, requests)
        requests += found
        return data[used:]

    def _read_faulty(self, data: bytes, requests: list[Request]) -> NoReturn:
        """Read up to the fault, which is named alike in whatever pieces it came."""
        walk = _Walk(data)
        try:
            while walk.next():
                pass
        finally:
            reader = Reader()
            reader.feed(walk.taken())
            with suppress(HiredisError):
                while (command := reader.gets()) is not False:
                    if command:
                        requests.append(command)
        raise ProtocolError("expected an array of bulk strings")

    # --- lines ----------------------------------------------------------------------------

    def _read_lines(self, data: bytes, requests: list[Request]) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            if len(line) > LINE_BYTES_MAX:
                raise ProtocolError("too big inline request")
            try:
                words = split_line(line)
            except BadRequest as error:
                requests.append(error)
            else:
                if words:
                    requests.append(words)
        self._line += rest
        if len(self._line) > LINE_BYTES_MAX:
            raise ProtocolError("too big inline request")


class _Walk:
    """Walks over commands that did not arrive whole or look large, from header to header."""

    def __init__(self, data: bytes) -> None:
        self._buffer = bytearray(data)
        self._whole = 0  # where the last whole command ends
        self._at = 0  # where the next header begins
        self._left: int | None = None  # arguments still to come, None before the command's own header
        self._total = 0

    def __bool__(self) -> bool:
        return len(self._buffer) > 0

    @property
    def size(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self._buffer += data

    def next(self) -> bool:
        """Walk over one more command; False if it is not whole yet.

        Raises `ProtocolError` at the first header that declares too much or is none.
        """
        buffer = self._buffer
        while self._left is None or self._left:
            if self._at >= len(buffer):
                return False
            if buffer[self._at] != (42 if self._left is None else 36):  # '*', '$'
                self._header(bytes(buffer[self._at : self._at + 1]), self._at)
            end = buffer.find(_CRLF, self._at, self._at + _HEADER_BYTES_MAX)
            if end < 0:
                if len(buffer) - self._at >= _HEADER_BYTES_MAX:
                    raise ProtocolError("too long a length")
                return False
            self._header(bytes(buffer[self._at : end]), end + 2)
        if self._at > len(buffer):
            return False
        self._whole, self._left, self._total = self._at, None, 0
        return True

    def taken(self) -> bytes:
        """The whole commands walked over, which are then forgotten."""
        commands = bytes(self._buffer[: self._whole])
        del self._buffer[: self._whole]
        self._at -= self._whole
        self._whole = 0
        return commands

    def rest(self) -> bytes:
        """What has not been walked over."""
        return bytes(self._buffer)

    def _header(self, header: bytes, after: int) -> None:
        digits = header[1:]
        number = int(digits) if digits.isdigit() and (digits[:1] != b"0" or digits == b"0") else -1
        if self._left is None:
            if header[:1] != b"*" or number < 0 or number > ARGUMENTS_MAX:
                raise ProtocolError(f"invalid multibulk length; at most {ARGUMENTS_MAX} arguments")
            self._left, self._at = number, after
            return
        if header[:1] != b"$":
            raise ProtocolError(f"expected '$', got '{header[:1].decode('latin-1')}'")
        if number < 0 or number > VALUE_BYTES_MAX:
            raise ProtocolError(f"invalid bulk length; at most {VALUE_BYTES_MAX} bytes")
        self._total += number
        if self._total > COMMAND_BYTES_MAX:
            raise ProtocolError(f"command is too large; at most {COMMAND_BYTES_MAX} bytes")
        self._left -= 1
        self._at = after + number + 2
