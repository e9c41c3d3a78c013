"""Batches for etcd: just enough of gRPC on HTTP/2 to call Put and Range, by hand.

A gRPC library would cost the generator more than a request to Redis does, and etcd's JSON gateway is a
gRPC client inside etcd, whose cost would count as etcd's own. Neither would be fair. So requests
are built beforehand, with headers that need no compression state, and answers are cut into frames. A
call that succeeded has a message in a DATA frame; one that failed has only trailers. A batch of several
requests is as many streams at once.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), gRPC over HTTP/2 (PROTOCOL-HTTP2.md), etcd's rpc.proto.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from struct import Struct

from bench.conversation import Operation, WrongAnswer

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_FRAME = Struct(">HBBBI")  # length (3 bytes, as 2 + 1), type, flags, stream
_WINDOW_BYTES = 65_535  # what either side may send before it is told that it may send more
_WINDOW_MAX = (1 << 31) - 1
_RECEIVE_BYTES = 256 * 1024


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return _FRAME.pack(len(body) >> 8, len(body) & 0xFF, kind, flags, stream) + body


def _string(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def _headers(method: bytes) -> bytes:
    """Indexed where HPACK's static table has it, else literal and never indexed: the same every time."""
    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _string(method),  # :path
            b"\x01" + _string(b"etcd"),  # :authority
            b"\x0f\x10" + _string(b"application/grpc"),  # content-type
            b"\x00" + _string(b"te") + _string(b"trailers"),
        )
    )


_PUT = _headers(b"/etcdserverpb.KV/Put")
_RANGE = _headers(b"/etcdserverpb.KV/Range")


def varint(number: int) -> bytes:
    """Protobuf's variable-length integer."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _field(tag: int, value: bytes) -> bytes:
    return varint(tag << 3 | 2) + varint(len(value)) + value


def message(operation: Operation) -> bytes:
    """A PutRequest, or a RangeRequest for one key (linearizable, etcd's default), with gRPC's prefix."""
    body = _field(1, operation.key)
    if operation.is_write:
        body += _field(2, operation.value)
    return b"\0" + len(body).to_bytes(4, "big") + body


class GrpcBatch:
    """Headers, message and the bytes that the answer must contain, for each call."""

    __slots__ = ("calls", "requests")

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.requests = len(operations)
        self.calls = [
            (_PUT if each.is_write else _RANGE, message(each), b"" if each.is_write else each.value)
            for each in operations
        ]


class GrpcConversation:
    """One connection with one batch under way at a time, each request a stream."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        window = (_WINDOW_MAX - _WINDOW_BYTES).to_bytes(4, "big")
        settings = b"\0\1" + bytes(4) + b"\0\4" + _WINDOW_MAX.to_bytes(4, "big")  # no table; streams' windows
        self.socket.sendall(
            _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, window)
        )
        self._next_stream = 1
        self._may_send = _WINDOW_BYTES
        self._taken = 0  # of the window that we gave
        self._input = b""
        self._waiting: list[tuple[bytes, bytes, bytes]] = []  # calls for which there was no window
        self._awaited: dict[int, bytes] = {}
        self._heard: dict[int, bytes] = {}

    @staticmethod
    def batch(operations: Sequence[Operation]) -> GrpcBatch:
        """The operations as calls."""
        return GrpcBatch(operations)

    def begin(self, batch: GrpcBatch) -> None:
        """Send a batch."""
        self._send(batch.calls)

    def _send(self, calls: list[tuple[bytes, bytes, bytes]]) -> None:
        out: list[bytes] = []
        for at, (headers, body, awaited) in enumerate(calls):
            if len(body) > self._may_send:
                self._waiting = calls[at:]
                break
            stream = self._next_stream
            self._next_stream += 2
            self._may_send -= len(body)
            self._awaited[stream] = awaited
            size = len(headers)
            out.append(_FRAME.pack(size >> 8, size & 0xFF, _HEADERS, _END_HEADERS, stream))
            out.append(headers)
            size = len(body)
            out.append(_FRAME.pack(size >> 8, size & 0xFF, _DATA, _END_STREAM, stream))
            out.append(body)
        else:
            self._waiting = []
        if out:
            self.socket.sendall(b"".join(out))

    def readable(self) -> bool:
        """Take what has arrived. True once all answers are here. Raises `WrongAnswer`."""
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise WrongAnswer("the connection was closed")
        if self._input:
            data = self._input + data
        at, end = 0, len(data)
        while end - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            stop = at + 9 + (high << 8 | low)
            if stop > end:
                break
            if kind == _DATA:
                self._taken += stop - at - 9
                self._heard[stream] = self._heard.get(stream, b"") + data[at + 9 : stop]
            if kind in (_DATA, _HEADERS):
                if flags & _END_STREAM:
                    self._ended(stream)
            else:
                self._control(kind, flags, stream, data[at + 9 : stop])
            at = stop
        self._input = data[at:]
        if self._taken > _WINDOW_MAX // 2:
            self.socket.sendall(_frame(_WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big")))
            self._taken = 0
        return not self._awaited and not self._waiting

    def _ended(self, stream: int) -> None:
        heard = self._heard.pop(stream, None)
        awaited = self._awaited.pop(stream)
        if heard is None:
            raise WrongAnswer("the call failed: trailers without a message")
        if awaited not in heard:
            raise WrongAnswer(f"answered {heard[:200]!r} instead of {awaited[:60]!r}")

    def _control(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self.socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(_frame(_PING, _ACK, 0, body))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._may_send += int.from_bytes(body, "big")
            if self._waiting:
                self._send(self._waiting)
        elif kind in (_RST_STREAM, _GOAWAY):
            raise WrongAnswer(f"the server gave up: frame {kind}, {body!r}")
