"""What nodes and routers say to each other: frames on a stream, encoded by hand for speed.

    frame = body length (4) | type (1) | body

A leader dials each of its followers; appends, alignments, heartbeats and snapshots go out on that
connection, positions, acknowledgements and refusals come back. A router dials nodes; requests go
out and replies come back. The first frame either way is `HELLO` with a JSON body.

Every message about a partition carries the leader's epoch (rule 2). All numbers are little-endian;
`partition` is the partition's id.
"""

from __future__ import annotations

import json
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from fortdb.errors import BadRequest
from fortdb.limits import FRAME_BYTES_MAX
from fortdb.native import bind
from fortdb.replication.epochs import LogShape

PROTOCOL_VERSION = 2
EPOCH_MAX = (1 << 63) - 1  # what C counts with


class Type(IntEnum):
    """The type byte of a frame."""

    HELLO = 1
    QUERY = 2
    POSITION = 3
    ALIGN = 4
    APPEND = 5
    ACK = 6
    REFUSE = 7
    HEARTBEAT = 8
    HEARTBEAT_ACK = 9
    SNAPSHOT_BEGIN = 10
    SNAPSHOT_CHUNK = 11
    SNAPSHOT_END = 12
    SNAPSHOT_ACK = 13
    REQUEST = 20
    REPLY = 21
    CALL = 22
    RETURN = 23


class Status(IntEnum):
    """How a node answers a router's request."""

    DONE = 0  # the body is the reply for the client
    NOT_LEADER = 1  # not executed; the body is a `Leader` hint
    DROPPED = 2  # a late copy of an answered request; nobody waits for this


FRAME = Struct("<IB")
_PARTITION_EPOCH = Struct("<HQ")
_QUERY = Struct("<HQI")
_ALIGN = Struct("<HQQQ")
_APPEND = Struct("<HQQQQI")
_ACK = Struct("<HQQ")
_HEARTBEAT = Struct("<QIH")
_CLAIM = Struct("<HQQ")
_SENT = Struct("<QH")
_REQUEST = Struct("<HQQQ")
_REPLY = Struct("<HQQB")
_CALL = Struct("<Q")
_LENGTH = Struct("<I")
_SNAPSHOT = Struct("<HQI")


class Query(NamedTuple):
    """Leader to follower: I lead in this epoch; where does your log end? `attempt` counts the
    questions, so that an answer to an earlier one is told apart."""

    partition: int
    epoch: int
    attempt: int


class Position(NamedTuple):
    """Follower to leader: the outline of my log. `attempt` is the question's, or 0 when nobody
    asked and the leader should."""

    partition: int
    epoch: int
    attempt: int
    shape: LogShape


class Align(NamedTuple):
    """Leader to follower: our logs are the same up to `offset`; drop what you have after it."""

    partition: int
    epoch: int
    offset: int
    offset_epoch: int


class Append(NamedTuple):
    """Leader to follower: entries that follow `previous_offset`, and how far is committed."""

    partition: int
    epoch: int
    previous_offset: int
    previous_epoch: int
    commit: int
    entries: list[bytes]


class Ack(NamedTuple):
    """Follower to leader: everything up to `offset` is on my disk, in this epoch."""

    partition: int
    epoch: int
    offset: int


bind(Ack)


class Refuse(NamedTuple):
    """Follower to leader: I have seen this higher epoch; you are deposed."""

    partition: int
    epoch: int


class Claim(NamedTuple):
    """One line of a heartbeat: I lead the partition in this epoch, committed up to `commit`."""

    partition: int
    epoch: int
    commit: int


class Heartbeat(NamedTuple):
    """Leader to follower, for all its partitions at once. By acknowledging a claim the follower
    promises to serve nothing as another leader for `lease_ms` from receipt; the leader counts from
    `sent_ms`, its own clock (rules 11 and 14; leader leases, Raft dissertation, section 6.4.1)."""

    sent_ms: int
    lease_ms: int
    claims: list[Claim]


class HeartbeatAck(NamedTuple):
    """Follower to leader: the (partition, epoch) claims that it accepted."""

    sent_ms: int
    accepted: list[tuple[int, int]]


class SnapshotBegin(NamedTuple):
    """Leader to follower: your log is too far behind; forget it and take the data as of the
    base of `shape`."""

    partition: int
    epoch: int
    shape: LogShape


class SnapshotChunk(NamedTuple):
    """Data keys and values; `number` counts from 0."""

    partition: int
    epoch: int
    number: int
    pairs: list[tuple[bytes, bytes]]


class SnapshotEnd(NamedTuple):
    """All `chunks` were sent; `history` are the last log entries up to the snapshot's offset, and `memory`
    is what is remembered of requests before these (`RequestMemory.encode`)."""

    partition: int
    epoch: int
    chunks: int
    memory: bytes
    history: list[bytes]


class SnapshotAck(NamedTuple):
    """Follower to leader: this many chunks are taken in (flow control)."""

    partition: int
    epoch: int
    chunks: int


Message = (
    Query
    | Position
    | Align
    | Append
    | Ack
    | Refuse
    | Heartbeat
    | HeartbeatAck
    | SnapshotBegin
    | SnapshotChunk
    | SnapshotEnd
    | SnapshotAck
)


def frame(kind: int, body: bytes) -> bytes:
    """A whole frame."""
    return FRAME.pack(len(body), kind) + body


def encode(message: Message) -> bytes:
    """A message as a frame."""
    match message:
        case Append(partition, epoch, previous_offset, previous_epoch, commit, entries):
            head = _APPEND.pack(partition, epoch, previous_offset, previous_epoch, commit, len(entries))
            return frame(Type.APPEND, head + _pack_many(entries))
        case Ack():
            return frame(Type.ACK, _ACK.pack(*message))
        case Heartbeat(sent_ms, lease_ms, claims):
            body = _HEARTBEAT.pack(sent_ms, lease_ms, len(claims))
            return frame(Type.HEARTBEAT, body + b"".join(_CLAIM.pack(*claim) for claim in claims))
        case HeartbeatAck(sent_ms, accepted):
            body = _SENT.pack(sent_ms, len(accepted))
            return frame(
                Type.HEARTBEAT_ACK,
                body + b"".join(_PARTITION_EPOCH.pack(*pair) for pair in accepted),
            )
        case Query():
            return frame(Type.QUERY, _QUERY.pack(*message))
        case Refuse():
            return frame(Type.REFUSE, _PARTITION_EPOCH.pack(*message))
        case Align():
            return frame(Type.ALIGN, _ALIGN.pack(*message))
        case Position(partition, epoch, attempt, shape):
            return frame(
                Type.POSITION,
                _QUERY.pack(partition, epoch, attempt) + _shape_to_bytes(shape),
            )
        case SnapshotBegin(partition, epoch, shape):
            return frame(
                Type.SNAPSHOT_BEGIN,
                _PARTITION_EPOCH.pack(partition, epoch) + _shape_to_bytes(shape),
            )
        case SnapshotChunk(partition, epoch, number, pairs):
            flat = [part for pair in pairs for part in pair]
            return frame(
                Type.SNAPSHOT_CHUNK,
                _SNAPSHOT.pack(partition, epoch, number) + _pack_many(flat),
            )
        case SnapshotEnd(partition, epoch, chunks, memory, history):
            return frame(
                Type.SNAPSHOT_END,
                _SNAPSHOT.pack(partition, epoch, chunks) + _pack_many([memory, *history]),
            )
        case SnapshotAck():
            return frame(Type.SNAPSHOT_ACK, _SNAPSHOT.pack(*message))


def decode(kind: int, body: bytes) -> Message:
    """A replication message from the body of its frame. Raises `BadRequest` on nonsense."""
    message = _decode(kind, body)
    claims = message.claims if isinstance(message, Heartbeat) else ()
    epochs = [claim.epoch for claim in claims] or [getattr(message, "epoch", 0)]
    if max(epochs) > EPOCH_MAX:
        raise BadRequest(
            f"frame of type {kind} with the epoch {max(epochs)}; nobody counts beyond {EPOCH_MAX}"
        )
    return message


def _decode(kind: int, body: bytes) -> Message:
    try:
        match kind:
            case Type.APPEND:
                partition, epoch, previous_offset, previous_epoch, commit, count = _APPEND.unpack_from(body)
                entries = _unpack_many(body, _APPEND.size)
                if len(entries) != count:
                    raise ValueError("entry count")
                return Append(partition, epoch, previous_offset, previous_epoch, commit, entries)
            case Type.ACK:
                return Ack(*_ACK.unpack(body))
            case Type.HEARTBEAT:
                sent_ms, lease_ms, count = _HEARTBEAT.unpack_from(body)
                claims = [Claim(*fields) for fields in _CLAIM.iter_unpack(body[_HEARTBEAT.size :])]
                return Heartbeat(sent_ms, lease_ms, claims)
            case Type.HEARTBEAT_ACK:
                sent_ms, count = _SENT.unpack_from(body)
                return HeartbeatAck(sent_ms, list(_PARTITION_EPOCH.iter_unpack(body[_SENT.size :])))
            case Type.QUERY:
                return Query(*_QUERY.unpack(body))
            case Type.REFUSE:
                return Refuse(*_PARTITION_EPOCH.unpack(body))
            case Type.ALIGN:
                return Align(*_ALIGN.unpack(body))
            case Type.POSITION:
                partition, epoch, attempt = _QUERY.unpack_from(body)
                return Position(partition, epoch, attempt, _shape_of(body[_QUERY.size :]))
            case Type.SNAPSHOT_BEGIN:
                partition, epoch = _PARTITION_EPOCH.unpack_from(body)
                return SnapshotBegin(partition, epoch, _shape_of(body[_PARTITION_EPOCH.size :]))
            case Type.SNAPSHOT_CHUNK:
                partition, epoch, number = _SNAPSHOT.unpack_from(body)
                flat = _unpack_many(body, _SNAPSHOT.size)
                return SnapshotChunk(
                    partition,
                    epoch,
                    number,
                    list(zip(flat[::2], flat[1::2], strict=True)),
                )
            case Type.SNAPSHOT_END:
                partition, epoch, number = _SNAPSHOT.unpack_from(body)
                memory, *history = _unpack_many(body, _SNAPSHOT.size)
                return SnapshotEnd(partition, epoch, number, memory, history)
            case Type.SNAPSHOT_ACK:
                return SnapshotAck(*_SNAPSHOT.unpack(body))
    except Exception as error:  # noqa: BLE001  whatever unpacking raises
        raise BadRequest(f"frame of type {kind} cannot be decoded: {error}") from None
    raise BadRequest(f"frame of unknown type {kind}")


class Request(NamedTuple):
    """Router to leader: a command of a client, RESP-encoded. `epoch` is the one the router believes
    in: a node executes a request only in that very epoch, which keeps a client's pipelined
    requests in order when leadership moves."""

    partition: int
    epoch: int
    sequence: int
    watermark: int
    command: bytes


def _check_length(body: bytes, head: Struct) -> None:
    if len(body) < head.size:
        raise BadRequest(f"frame with a body of {len(body)} bytes, of which {head.size} are the head")


def encode_request(partition: int, epoch: int, sequence: int, watermark: int, command: bytes) -> bytes:
    """A `Request` frame."""
    body = _REQUEST.pack(partition, epoch, sequence, watermark)
    return FRAME.pack(len(body) + len(command), Type.REQUEST) + body + command


def decode_request(body: bytes) -> Request:
    """A `Request` from the body of its frame. Raises `BadRequest`."""
    _check_length(body, _REQUEST)
    partition, epoch, sequence, watermark = _REQUEST.unpack_from(body)
    return Request(partition, epoch, sequence, watermark, body[_REQUEST.size :])


def encode_reply(partition: int, epoch: int, sequence: int, status: int, reply: bytes) -> bytes:
    """A `REPLY` frame: to which request, sent in which epoch, how it went, and the RESP reply."""
    body = _REPLY.pack(partition, epoch, sequence, status)
    return FRAME.pack(len(body) + len(reply), Type.REPLY) + body + reply


def decode_reply(body: bytes) -> tuple[int, int, int, int, bytes]:
    """(partition, epoch, sequence, status, reply). Raises `BadRequest`."""
    _check_length(body, _REPLY)
    partition, epoch, sequence, status = _REPLY.unpack_from(body)
    return partition, epoch, sequence, status, body[_REPLY.size :]


def encode_call(number: int, payload: bytes, kind: Type = Type.CALL) -> bytes:
    """A `CALL` (or its `RETURN`): a command to a node itself instead of to a partition's leader."""
    return frame(kind, _CALL.pack(number) + payload)


def decode_call(body: bytes) -> tuple[int, bytes]:
    """(number, payload). Raises `BadRequest`."""
    _check_length(body, _CALL)
    return _CALL.unpack_from(body)[0], body[_CALL.size :]


def encode_json(kind: Type, fields: dict[str, object]) -> bytes:
    """A frame whose body is a JSON object."""
    return frame(kind, json.dumps(fields, separators=(",", ":")).encode())


def decode_json(body: bytes) -> dict[str, object]:
    """The JSON object in a frame's body. Raises `BadRequest`."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"frame is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadRequest("frame is no JSON object")
    return fields


class FrameReader:
    """Cuts a stream into (type, body) frames; refuses oversize ones at their header."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._wanted_bytes = FRAME.size  # until the next frame can be cut: a large one is joined once

    @property
    def is_between_frames(self) -> bool:
        """Whether nothing of an unfinished frame is held."""
        return not self._held_bytes

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames completed by `data`. Raises `BadRequest` when one is larger than allowed."""
        self._chunks.append(data)
        self._held_bytes += len(data)
        if self._held_bytes < self._wanted_bytes:
            return []
        buffer = data if len(self._chunks) == 1 else b"".join(self._chunks)
        frames: list[tuple[int, bytes]] = []
        at, end, wanted = 0, len(buffer), FRAME.size
        while end - at >= FRAME.size:
            length, kind = FRAME.unpack_from(buffer, at)
            if length > FRAME_BYTES_MAX:
                raise BadRequest(f"frame of {length} bytes is larger than {FRAME_BYTES_MAX}")
            stop = at + FRAME.size + length
            if stop > end:
                wanted = stop - at
                break
            frames.append((kind, buffer[at + FRAME.size : stop]))
            at = stop
        self._chunks = [buffer[at:]] if at < end else []
        self._held_bytes, self._wanted_bytes = end - at, wanted
        return frames


def _pack_many(parts: list[bytes]) -> bytes:
    return b"".join([piece for part in parts for piece in (_LENGTH.pack(len(part)), part)])


def _unpack_many(body: bytes, at: int) -> list[bytes]:
    parts: list[bytes] = []
    end = len(body)
    while at < end:
        (length,) = _LENGTH.unpack_from(body, at)
        at += 4
        if at + length > end:
            raise ValueError("length of a part")
        parts.append(body[at : at + length])
        at += length
    return parts


def _shape_to_bytes(shape: LogShape) -> bytes:
    return json.dumps([shape.base_offset, shape.base_epoch, shape.epochs, shape.last_offset]).encode()


def _shape_of(body: bytes) -> LogShape:
    base_offset, base_epoch, epochs, last_offset = json.loads(body)
    return LogShape(
        base_offset,
        base_epoch,
        tuple((epoch, first) for epoch, first in epochs),
        last_offset,
    )
