"""Connections between our own processes: frames both ways, a greeting first.

`Link` is the side that dials and keeps dialling; `Peer` is the side that was dialled. Who the other
is (its name and the life of its process) is known from the greeting on; nothing else is accepted
before it. With TLS both show a certificate, and the name in the greeting must be one that it names.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from fortdb.errors import BadRequest, FortError
from fortdb.limits import PEER_OUTPUT_BYTES
from fortdb.native import bind
from fortdb.net.loop import WRITE, Loop
from fortdb.net.stream import Outbox, Stream, Way
from fortdb.net.tls import Context, Handshake, TlsSocket, Transport
from fortdb.replication.messages import (
    PROTOCOL_VERSION,
    FrameReader,
    Type,
    decode_json,
    encode_json,
)

log = structlog.get_logger(__name__)

_GREETING_MS_MAX = 2_000  # a connection without a greeting by then is given up
_UNACKNOWLEDGED_MS_MAX = 5_000  # what TCP could not deliver by then breaks the connection
_DIAL_AGAIN_MS = (
    20,
    50,
    100,
    200,
    400,
)  # a peer that restarts is found quickly, a dead one cheaply


@dataclass(frozen=True, slots=True)
class Greeting:
    """Who is at the other end. `incarnation` is empty for a router; `session` is 0 for a node."""

    cluster: str
    name: str
    incarnation: str = ""
    session: int = 0

    def encode(self) -> bytes:
        """As a frame."""
        fields: dict[str, object] = {
            "protocol": PROTOCOL_VERSION,
            "cluster": self.cluster,
            "name": self.name,
            "incarnation": self.incarnation,
            "session": self.session,
        }
        return encode_json(Type.HELLO, fields)

    @staticmethod
    def decode(body: bytes, cluster: str) -> Greeting:
        """Raises `BadRequest` when the other is no FortDB process of this cluster and protocol."""
        fields = decode_json(body)
        if fields.get("protocol") != PROTOCOL_VERSION:
            raise BadRequest(f"speaks protocol {fields.get('protocol')!r}, not {PROTOCOL_VERSION}")
        if fields.get("cluster") != cluster:
            raise BadRequest(f"belongs to cluster {fields.get('cluster')!r}, not {cluster!r}")
        name, incarnation, session = (fields.get(key) for key in ("name", "incarnation", "session"))
        if not (isinstance(name, str) and isinstance(incarnation, str) and isinstance(session, int)):
            raise BadRequest("greeting without name, incarnation or session")
        if not 0 <= session < 1 << 64:
            raise BadRequest(f"greeting with session {session}")
        return Greeting(cluster, name, incarnation, session)


bind(Greeting)


class FrameStream(Stream):
    """A connection on which frames arrive, the greeting first."""

    __slots__ = ("_cluster", "_frames", "_names", "_reader", "is_special", "other", "tail", "way")

    def __init__(
        self,
        loop: Loop,
        outbox: Outbox,
        connection: Transport,
        cluster: str,
        way: Way | None,
    ) -> None:
        super().__init__(loop, outbox, connection)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS_MAX)
        self.other: Greeting | None = None
        self.tail = b""  # the beginning of a frame that the short way has read
        self.is_special = True  # what comes next needs the long way: at first, it is the greeting
        self._cluster = cluster
        self._names = connection.names if isinstance(connection, TlsSocket) else None
        self._reader = FrameReader()
        self._frames: deque[tuple[int, bytes]] = deque()
        self.way = way
        loop.call_later(_GREETING_MS_MAX, self._look_for_greeting)

    def received(self, data: bytes) -> None:
        self.take(data)

    def take(self, data: bytes) -> None:
        """What arrived, as far as it was not heard the short way."""
        try:
            self._frames.extend(self._reader.feed(data))
        except BadRequest as error:
            self._refuse(error)
        else:
            self._work()

    def drained(self) -> None:
        if self.is_paused:
            self.loop.call_next(self._work)

    def go_on(self) -> None:
        self._work()

    def _work(self) -> None:
        """Take frames for as long as there is room for what they are answered with."""
        frames = self._frames
        try:
            while frames and self.is_open:
                if self.queued_bytes > PEER_OUTPUT_BYTES:
                    self.pause()
                    return
                if self.gives_way():
                    return
                kind, body = frames.popleft()
                if self.other is not None:
                    self.heard(kind, body)
                elif kind == Type.HELLO:
                    self._hear_greeting(body)
                else:
                    raise BadRequest(f"frame of type {kind} before the greeting")
        except BadRequest as error:
            self._refuse(error)
            return
        self.is_special = bool(frames) or self.other is None or not self._reader.is_between_frames
        if self.is_paused and self.is_open:
            self.resume()

    def _hear_greeting(self, body: bytes) -> None:
        other = Greeting.decode(body, self._cluster)
        if self._names is not None and other.name not in self._names:
            known = ", ".join(sorted(self._names)) or "nobody"
            raise BadRequest(f"calls itself {other.name!r} with a certificate for {known}")
        self.other = other
        self.greeted(other)

    def _look_for_greeting(self) -> None:
        if self.other is None:
            self.close("no greeting")

    def _refuse(self, error: BadRequest) -> None:
        log.warning("peer_refused", reason=str(error), peer=self.other.name if self.other else "")
        self.close(str(error))

    def greeted(self, other: Greeting) -> None:
        raise NotImplementedError

    def heard(self, kind: int, body: bytes) -> None:
        raise NotImplementedError


bind(FrameStream)


class Peer(FrameStream):
    """The dialled side. `heard` gets (peer, frame type, body) for every frame after the greeting but those
    that went the short way."""

    __slots__ = ("_closed", "_heard", "_own")

    def __init__(
        self,
        loop: Loop,
        outbox: Outbox,
        connection: Transport,
        own: Greeting,
        heard: Callable[[Peer, int, bytes], None],
        closed: Callable[[Peer], None],
        way: Way | None = None,
    ) -> None:
        super().__init__(loop, outbox, connection, own.cluster, way)
        self._own = own
        self._heard = heard
        self._closed = closed

    def greeted(self, other: Greeting) -> None:
        self.write(self._own.encode())

    def heard(self, kind: int, body: bytes) -> None:
        self._heard(self, kind, body)

    def closed(self, reason: str) -> None:
        self._closed(self)


class _Dialled(FrameStream):
    """One connection of a `Link`."""

    __slots__ = ("_connecting", "_link")

    def __init__(self, link: Link, connection: Transport) -> None:
        super().__init__(link.loop, link.outbox, connection, link.own.cluster, link.way)
        self._link = link
        self._connecting = True
        self.loop.modify(self.descriptor, WRITE)
        self.events = WRITE

    def writable(self) -> None:
        if self._connecting:
            failure = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                self.close(errno.errorcode.get(failure, str(failure)))
                return
            self._connecting = False
            self.write(self._link.own.encode())
        super().writable()
        self._watch()

    def readable(self) -> None:
        if not self._connecting:
            super().readable()

    def greeted(self, other: Greeting) -> None:
        self._link.greeted(self, other)

    def heard(self, kind: int, body: bytes) -> None:
        self._link.heard(self._link, kind, body)

    def closed(self, reason: str) -> None:
        self._link.lost(self, reason)


class Link:
    """A lasting connection to one other process, dialled again whenever it breaks.

    `up(link, greeting)` and `down(link)` alternate; `heard(link, type, body)` comes in between, for the
    frames that did not go the short way.
    """

    __slots__ = ("__dict__", "is_up", "stream")

    def __init__(
        self,
        loop: Loop,
        outbox: Outbox,
        own: Greeting,
        name: str,
        address: str,
        *,
        up: Callable[[Link, Greeting], None],
        down: Callable[[Link], None],
        heard: Callable[[Link, int, bytes], None],
        way: Way | None = None,
        secure: Context | None = None,
    ) -> None:
        """With `secure`, TLS comes first."""
        self.loop = loop
        self.outbox = outbox
        self.own = own
        self.name = name
        self.address = address
        self.heard = heard
        self.way = way
        self.is_up = False
        self._up = up
        self._down = down
        self.stream: _Dialled | None = None
        self._secure = secure
        self._handshake: Handshake | None = None
        self._not_secured_why = ""
        self._attempts = 0
        self._closed = False
        self._dial()

    @property
    def unsent_bytes(self) -> int:
        """Output that the other side has not taken yet."""
        return self.stream.unsent_bytes if self.stream is not None else 0

    def write(self, data: bytes) -> None:
        """Send a frame; dropped when the link is down (its user starts over when it is up)."""
        if self.is_up:
            assert self.stream is not None
            self.stream.write(data)

    def readdress(self, address: str) -> None:
        """The other process is to be found elsewhere from now on."""
        if address != self.address:
            self.address = address
            self._attempts = 0
            self.break_off("moved")

    def close(self) -> None:
        """Hang up for good."""
        self._closed = True
        self.break_off("closed")

    def break_off(self, reason: str) -> None:
        """Hang up and dial again: the other side has stopped answering."""
        if self.stream is not None:
            self.stream.close(reason)
        elif self._handshake is not None:
            self._handshake.fail(reason)

    def greeted(self, stream: _Dialled, other: Greeting) -> None:
        """Called by the connection."""
        if other.name != self.name:
            raise BadRequest(f"{self.address} is {other.name!r}, not {self.name!r}")
        self.is_up = True
        self._attempts = 0
        self._not_secured_why = ""
        log.info("link_up", peer=self.name, address=self.address)
        self._up(self, other)

    def lost(self, stream: _Dialled, reason: str) -> None:
        """Called by the connection."""
        was_up, self.is_up, self.stream = self.is_up, False, None
        if was_up:
            log.info("link_down", peer=self.name, address=self.address, reason=reason)
            self._down(self)
        else:
            self._tell_once(reason)
        self._dial_later()

    def _dial_later(self) -> None:
        if not self._closed:
            delay_ms = _DIAL_AGAIN_MS[min(self._attempts, len(_DIAL_AGAIN_MS) - 1)]
            self._attempts += 1
            self.loop.call_later(delay_ms, self._dial)

    def _dial(self) -> None:
        if self._closed or self.stream is not None or self._handshake is not None:
            return
        host, _, port = self.address.rpartition(":")
        connection: socket.socket | None = None
        try:
            family, *_, target = socket.getaddrinfo(
                host.strip("[]"),
                int(port),
                type=socket.SOCK_STREAM,
                flags=socket.AI_NUMERICHOST,
            )[0]
            connection = socket.socket(family, socket.SOCK_STREAM)
            connection.setblocking(False)
            failure = connection.connect_ex(target)
            if failure not in (0, errno.EINPROGRESS):
                raise OSError(failure, errno.errorcode.get(failure, "?"))
        except (OSError, ValueError, FortError) as error:
            if connection is not None:
                connection.close()
            log.debug("dial_failed", peer=self.name, address=self.address, reason=str(error))
            self._dial_later()
            return
        if self._secure is None:
            self._greet(connection)
        else:
            self._handshake = Handshake(
                self.loop,
                connection,
                self._secure(),
                is_server=False,
                done=self._secured,
                failed=self._not_secured,
            )

    def _secured(self, connection: TlsSocket) -> None:
        self._handshake = None
        self._greet(connection)

    def _not_secured(self, reason: str) -> None:
        self._handshake = None
        self._tell_once(reason)
        self._dial_later()

    def _tell_once(self, reason: str) -> None:
        """A certificate that is wrong stays wrong however often this dials."""
        if self._secure is not None and reason != self._not_secured_why:
            log.warning("link_not_secured", peer=self.name, address=self.address, reason=reason)
        self._not_secured_why = reason

    def _greet(self, connection: Transport) -> None:
        self.stream = _Dialled(self, connection)


bind(Link)
