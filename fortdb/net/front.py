"""The side that faces clients: connections that parse, keep answers in order and stay bounded.

Requests are executed in the order in which they come; answers may become ready in any order and are
sent in the order of the requests (`Slot`). A connection that has too many unanswered requests, or
does not read its answers, is not read from until that changes, so one client's greed costs the
others nothing. Where there are users, a `Gate` is asked before each command.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import structlog

from fortdb.access.users import User
from fortdb.errors import BadRequest, Fault, FortError, ProtocolError
from fortdb.limits import (
    INPUT_SOFT_BYTES,
    OUTPUT_HARD_BYTES,
    OUTPUT_SOFT_BYTES,
    OUTPUT_STUCK_MS,
    PENDING_COMMANDS_MAX,
    STRANGER_BYTES_MAX,
    STRANGER_MS_MAX,
)
from fortdb.native import bind
from fortdb.net.feeds import Feed
from fortdb.net.gate import Gate
from fortdb.net.gather import Completes, Gather, Part
from fortdb.net.loop import Loop
from fortdb.net.stream import Listener, Outbox, Stream, Way
from fortdb.net.tls import Handshakes, Transport
from fortdb.protocol.commands import (
    Command,
    CommandKind,
    check_arity,
    lookup,
    unknown_command,
)
from fortdb.protocol.resp import NIL_ARRAY, OK, RequestParser, array, payload_of_bulk
from fortdb.protocol.session import Session, answer
from fortdb.protocol.transactions import AT_ONCE, Bundle, Queued, elements, interleave

log = structlog.get_logger(__name__)

_SWEEP_MS = 1_000
IN_FEED = frozenset({"FEED", "PING", "QUIT"})
"""What a connection with a feed may say."""
_IN_FEED = BadRequest("this connection has a feed: only FEED UNSUBSCRIBE, PING and QUIT are allowed on it")
_FIRST_WINDOW = 64  # commands under way on a connection before the size of its answers is known


class Slot:
    """A place in a connection's answers, filled once."""

    __slots__ = ("connection", "reply")

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.reply: bytes | None = None

    def complete(self, reply: bytes) -> None:
        """Give the answer; what is ready up to here is sent."""
        if self.reply is None:
            self.reply = reply
            self.connection.completed(self, reply)

    def refuse(self, error: FortError, epoch: int, leader: str | None) -> None:
        """Not executed."""
        self.complete(error.wire())

    def abandon(self, error: FortError, epoch: int, leader: str | None) -> None:
        """Perhaps executed; the error says so."""
        self.complete(error.wire())

    def drop(self) -> None:
        """Clients give no request ids, so there is never a late copy."""


bind(Slot)


class Service(Protocol):
    """What executes the commands of clients. Raises `Fault` for a defect that leaves nothing half done; any other
    exception ends the process."""

    def execute(self, connection: ClientConnection, command: Command, args: list[bytes]) -> bytes | Slot:
        """Answer at once, or return a slot (made by `connection.slot()`) to be completed later."""
        ...

    def watch(self, slot: Completes, keys: list[bytes]) -> None:
        """Complete `slot` with an array of the versions of these keys, or with an error."""
        ...

    def transact(self, slot: Part, bundle: Bundle) -> None:
        """Complete `slot` with an array of the replies to a transaction's commands, with nil if a key that it
        watches was written, or with an error."""
        ...

    def information(self) -> Mapping[str, Mapping[str, object]]:
        """The sections of `INFO`."""
        ...

    def settings(self) -> Mapping[str, str]:
        """What `CONFIG GET` shows."""
        ...


class ClientConnection(Stream):
    """One client. The front owns the bounds."""

    __slots__ = (
        *("session", "last_active_ms", "slots", "held_bytes", "taken_bytes", "reply_bytes", "window"),
        *("tail", "is_special", "way", "user", "credential", "is_waiting", "began_ms", "feed"),
        *("_front", "_parser", "_backlog", "_awaited"),
    )

    def __init__(self, front: Front, connection: Transport, address: str) -> None:
        super().__init__(front.loop, front.outbox, connection)
        self.session = Session(next(front.numbers), address)
        self.last_active_ms = front.loop.now_ms
        self.slots: deque[Slot] = deque()
        self.tail = b""  # the beginning of a request that the short way has read
        self.is_special = True  # what comes next needs the parser: at first, it decides how the client speaks
        self.way = front.way if front.gate is None else None
        self.user: User | None = None  # who has logged in
        self.credential = ""  # with which of its password hashes
        self.is_waiting = False  # for a password to be verified
        self.began_ms = front.loop.now_ms
        self.feed: Feed | None = None  # of changes; then there are no other commands
        self._front = front
        self._parser = RequestParser()
        self._backlog: deque[list[bytes] | FortError] = deque()
        self._awaited: Slot | None = None  # nothing is executed before it has its answer
        self.held_bytes = 0  # in slots that are filled and wait for those before them
        self.taken_bytes = 0  # of requests, since nothing was unanswered
        self.reply_bytes = OUTPUT_SOFT_BYTES // _FIRST_WINDOW  # how large answers have been of late
        self.window = _FIRST_WINDOW  # commands that may be under way, given that

    def received(self, data: bytes) -> None:
        self.last_active_ms = self.loop.now_ms
        self.taken_bytes = self.taken_bytes + len(data) if self.slots else len(data)
        self.take(data)

    def take(self, data: bytes) -> None:
        """What arrived, as far as it was not answered the short way."""
        self._backlog.extend(self._parser.feed(data))
        self._work()
        if self.user is None and self._front.gate is not None and self.is_open:
            self._bound_stranger()

    def _bound_stranger(self) -> None:
        """Nobody makes this process keep much before a login."""
        if self._parser.unfinished_bytes > STRANGER_BYTES_MAX and not (self.is_waiting or self.is_closing):
            self.reply(ProtocolError("unauthenticated command is too long").wire())
            self.quit()

    @property
    def host(self) -> str:
        """The other side's address without its port."""
        return self.session.address.rpartition(":")[0]

    def go_way(self, way: Way | None) -> None:
        """Take the short way from now on, or leave it."""
        self.way = way
        if way is None and self.tail:
            tail, self.tail = self.tail, b""
            self._backlog.extend(self._parser.feed(tail))  # the beginning of a request: it makes none
            self.is_special = True  # whose rest belongs to the parser, too

    def go_on(self) -> None:
        """A login, or the turn of the others, is over: execute what has come."""
        if self.is_open and not self.is_closing:
            self._work()

    def slot(self) -> Slot:
        """A new place at the end of this connection's answers."""
        slot = Slot(self)
        self.slots.append(slot)
        return slot

    def awaited_slot(self) -> Slot:
        """The same, and nothing that comes after is executed before it is filled."""
        self._awaited = slot = self.slot()
        return slot

    def completed(self, slot: Slot, reply: bytes) -> None:
        """Called by a slot."""
        slots, size = self.slots, len(reply)
        if size != self.reply_bytes:
            self.reply_bytes = max(size, self.reply_bytes - (self.reply_bytes - size) // 8)
            self.window = min(PENDING_COMMANDS_MAX, OUTPUT_SOFT_BYTES // (self.reply_bytes + 1) + 1)
        if not self.is_open or slots[0] is not slot:
            self.held_bytes += size
            return
        slots.popleft()
        self.write(reply)
        while slots and (ready := slots[0].reply) is not None:
            slots.popleft()
            self.held_bytes -= len(ready)
            self.write(ready)
        self.settle(size)

    def settle(self, size: int) -> None:
        """An answer of `size` bytes was written: close or go on reading, if that is due."""
        if self.queued_bytes + self.held_bytes > OUTPUT_HARD_BYTES and self.queued_bytes > size:
            self.close("asks for more than it reads")
        elif self.is_closing:
            if not self.slots:
                self.close_after_output()
        elif self.is_paused and not self._is_full():
            self.loop.call_next(self._work)

    def drained(self) -> None:
        if self.is_paused and not self.is_closing:
            self.loop.call_next(self._work)

    def closed(self, reason: str) -> None:
        if self.feed is not None:
            self.feed.close()
        self.slots.clear()
        self._backlog.clear()
        self._front.closed(self)

    def _is_full(self) -> bool:
        """Whether to ask for no more on behalf of this client. The answers under way are counted as being
        as large as those before: a pipeline of small reads is long, one of large values short."""
        if self.is_waiting:
            return True
        if self.queued_bytes + self.held_bytes > OUTPUT_SOFT_BYTES:
            return True
        pending = len(self.slots)
        return pending > 0 and (pending >= self.window or self.taken_bytes > INPUT_SOFT_BYTES)

    def _work(self) -> None:
        """Execute what has arrived, as long as the answers find room."""
        backlog, execute = self._backlog, self._front.execute
        while backlog and self.is_open and not self.is_closing:
            if self._is_full() or (self._has_order() and self._must_wait(backlog[0])):
                self.pause()
                return
            if self.gives_way():
                return
            request = backlog.popleft()
            if isinstance(request, list):
                execute(self, request)
            else:
                self.reply(request.wire())
                if isinstance(request, ProtocolError):
                    self.quit()
        self.is_special = (
            bool(backlog)
            or self._has_order()
            or self.is_waiting
            or self.feed is not None
            or not self._parser.is_between_arrays
        )
        if self.is_paused and self.is_open:
            self.resume()

    def _has_order(self) -> bool:
        """Whether commands are queued, or wait for the answer to one before them."""
        return self._awaited is not None or self.session.queue is not None

    def _must_wait(self, request: list[bytes] | FortError) -> bool:
        """Whether a request is executed only after those before it. EXEC and what follows it may concern
        partitions that know nothing of each other, so that only the answers tell in which order they come."""
        if self._awaited is not None:
            if self._awaited.reply is None:
                return True
            self._awaited = None
        return bool(self.slots) and isinstance(request, list) and request[0].upper() == b"EXEC"

    def reply(self, reply: bytes) -> None:
        """Answer the newest request at once."""
        if self.slots:
            self.slot().complete(reply)
        else:
            self.write(reply)

    def quit(self) -> None:
        """Close after everything asked before has been answered."""
        if self.feed is not None:
            self.feed.close()
        self._backlog.clear()
        self.is_closing = True
        self.pause()
        if not self.slots:
            self.close_after_output()


bind(ClientConnection)


class Front:
    """Listens for clients, counts them and sends their commands to the service."""

    def __init__(
        self,
        loop: Loop,
        outbox: Outbox,
        service: Service,
        *,
        host: str,
        port: int,
        connections_max: int,
        idle_ms_max: int,
        way: Callable[[list[int]], Way | None] = lambda counts: None,
        gate: Gate | None = None,
        handshakes: Handshakes | None = None,
    ) -> None:
        self.loop = loop
        self.outbox = outbox
        self.connections: set[ClientConnection] = set()
        self.numbers = itertools.count(1)
        self.commands_total = 0  # that went the long way
        self.plain_counts = [0, 0]  # GETs and SETs that went the short way
        self.connections_total = 0
        self.refused_total = 0
        self.faults_total = 0
        self._service = service
        self.way = way(self.plain_counts)
        self.connections_max = connections_max
        self.idle_ms_max = idle_ms_max
        self.gate = gate
        if gate is not None:
            gate.front = self
        self.listener = Listener(loop, host, port, "client.port", self._accept, handshakes)
        loop.call_every(_SWEEP_MS, self._sweep)

    def execute(self, connection: ClientConnection, args: list[bytes]) -> None:
        """One command of one client. Whatever goes wrong in understanding it is told to that client, who is hung up on,
        and logged; the others hear nothing of it. What a service does with it is the service's to judge: it raises a
        `Fault` where it knows that nothing is half done, and everything else ends the process."""
        self.commands_total += 1
        waiting = len(connection.slots)
        try:
            go = self._understand(connection, args)
        except FortError:
            raise
        except Exception as error:  # noqa: BLE001  told and logged there
            self._give_up(connection, waiting, args, Fault(error))
            return
        if go is None:
            return
        try:
            go()
        except Fault as fault:
            self._give_up(connection, waiting, args, fault)

    def _give_up(self, connection: ClientConnection, waiting: int, args: list[bytes], fault: Fault) -> None:
        """Tell a client of the fault that its command met, behind `waiting` answers to those before it, and hang up."""
        command = lookup(args[0])
        log.exception("request_failed", command=command.name if command is not None else "")
        self.faults_total += 1
        begun = list(connection.slots)[waiting:]
        for slot in begun:
            slot.complete(fault.wire())
        if not begun:
            connection.reply(fault.wire())
        connection.quit()

    def _understand(self, connection: ClientConnection, args: list[bytes]) -> Callable[[], None] | None:
        """What is to be done for a command, if it was not answered here."""
        command, session = lookup(args[0]), connection.session
        if connection.feed is not None and (command is None or command.name not in IN_FEED):
            connection.reply(_IN_FEED.wire())
            return None
        wrong = None if command is None else check_arity(command, args)
        if self.gate is not None and self.gate.stops(connection, command, args, wrong is None):
            return None
        if command is None or wrong is not None:
            self._refuse(connection, wrong or unknown_command(args))
        elif session.queue is not None and command.name not in AT_ONCE:
            connection.reply(session.queue_up(command, args))
        elif command.kind is CommandKind.SESSION:
            return self._answer_session(connection, command, args)
        else:
            return partial(self._serve, connection, command, args)
        return None

    def _serve(self, connection: ClientConnection, command: Command, args: list[bytes]) -> None:
        reply = self._service.execute(connection, command, args)
        if type(reply) is bytes:
            connection.reply(reply)

    def _refuse(self, connection: ClientConnection, error: FortError) -> None:
        """A command that is not executed, whatever the data holds."""
        connection.session.spoil()
        connection.reply(error.wire())

    def _answer_session(
        self, connection: ClientConnection, command: Command, args: list[bytes]
    ) -> Callable[[], None] | None:
        """Answer a command of kind SESSION, or return what is to be done for it."""
        try:
            if command.name == "WATCH":
                return self._watch(connection, args[1:])
            if command.name == "EXEC":
                return self._execute_all(connection)
            connection.reply(self.session_reply(connection, args))
        except FortError as error:
            connection.reply(error.wire())
        if connection.session.quitting:
            connection.quit()
        return None

    def session_reply(self, connection: ClientConnection, args: list[bytes]) -> bytes:
        """The answer to a command of kind SESSION."""
        return answer(connection.session, args, self._service.information, self._service.settings)

    def _watch(self, connection: ClientConnection, keys: list[bytes]) -> Callable[[], None] | None:
        """Ask for the versions of keys, and go on when they are known."""
        session = connection.session
        if session.queue is not None:
            raise BadRequest("WATCH inside MULTI is not allowed")
        new = session.watched.add(keys)
        if not new:
            connection.reply(OK)
            return None

        def noted(replies: list[bytes]) -> bytes:
            if replies[0][:1] != b"*":
                return replies[0]
            versions = [payload_of_bulk(version) for version in elements(replies[0])]
            session.watched.versions.update(zip(new, versions, strict=True))
            return OK

        return partial(self._service.watch, Gather(connection.awaited_slot(), 1, noted).part(0), new)

    def _execute_all(self, connection: ClientConnection) -> Callable[[], None] | None:
        """EXEC: one request for all that concerns the data; the connection answers the rest by itself."""
        queued, watched = connection.session.end_transaction()
        if self.gate is not None and self.gate.stops_transaction(connection, queued):
            return None
        bundle = Bundle([one.args for one in queued if not one.is_local], watched)
        if not bundle.commands and not watched:
            connection.reply(array(self._answer_local(connection, queued)))
            return None

        def joined(replies: list[bytes]) -> bytes:
            if replies[0] == NIL_ARRAY or replies[0][:1] != b"*":
                return replies[0]
            return interleave(replies[0], queued, self._answer_local(connection, queued))

        return partial(self._service.transact, Gather(connection.awaited_slot(), 1, joined).part(0), bundle)

    def _answer_local(self, connection: ClientConnection, queued: list[Queued]) -> list[bytes]:
        return [self.session_reply(connection, one.args) for one in queued if one.is_local]

    def stop_listening(self) -> None:
        """Take no new clients; those who are here go on."""
        self.listener.close()

    def close(self) -> None:
        """Send what is ready, then hang up on everybody."""
        self.listener.close()
        for connection in list(self.connections):
            connection.flush()
            connection.close("shutting down")

    def closed(self, connection: ClientConnection) -> None:
        """Called by a connection."""
        self.connections.discard(connection)

    def _accept(self, connection: Transport, address: str) -> None:
        self.connections_total += 1
        if len(self.connections) >= self.connections_max:
            self.refused_total += 1
            with contextlib.suppress(OSError):
                connection.setblocking(False)
                connection.send(b"-ERR max number of clients reached\r\n")
            connection.close()
            return
        self.connections.add(ClientConnection(self, connection, address))

    def _sweep(self) -> None:
        now_ms = self.loop.now_ms
        for connection in list(self.connections):
            if connection.unsent_bytes and now_ms - connection.unsent_since_ms > OUTPUT_STUCK_MS:
                log.info(
                    "client_stuck",
                    client=connection.session.address,
                    unsent=connection.unsent_bytes,
                )
                connection.close("does not read its answers")
            elif (
                self.gate is not None
                and connection.user is None
                and now_ms - connection.began_ms > STRANGER_MS_MAX
            ):
                connection.close("has not logged in")
            elif (
                self.idle_ms_max
                and not connection.slots
                and connection.feed is None
                and now_ms - connection.last_active_ms > self.idle_ms_max
            ):
                connection.close("idle for too long")
