"""One client's session: who it is, which protocol it speaks, and the commands about itself.

`HELLO 3` is understood because today's client libraries begin with it: answers that Redis gives as maps
are maps then, everything else has the same bytes in both protocols, which RESP3 parsers accept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fortdb.errors import BadRequest, Discarded, FortError
from fortdb.limits import PATTERN_BYTES_MAX
from fortdb.protocol.commands import TABLE, Command, CommandKind, lookup, unknown_command
from fortdb.protocol.glob import compile_glob
from fortdb.protocol.resp import NIL, OK, PONG, QUEUED, array, bulk, integer, mapping
from fortdb.protocol.transactions import Queue, Queued, Watched, known

REDIS_VERSION = "7.0.15"
"""The version whose commands and answers these are; client libraries look at it."""

Information = Mapping[str, Mapping[str, object]]


_HELP_COLUMN = 48  # usages longer than this push their summary to the right


class NoProtocol(FortError):
    """The client asks for a version of RESP that nobody speaks here."""

    code = "NOPROTO"


class Session:
    """State of one connection."""

    def __init__(self, number: int, address: str) -> None:
        self.number = number
        self.address = address
        self.name = b""
        self.library: dict[bytes, bytes] = {}
        self.resp = 2
        self.quitting = False
        self.queue: Queue | None = None  # between a MULTI and its EXEC
        self.watched = Watched()

    def queue_up(self, command: Command, args: list[bytes]) -> bytes:
        """The answer to a command between MULTI and EXEC."""
        assert self.queue is not None
        try:
            self.queue.add(command, args)
        except FortError as error:
            return error.wire()
        return QUEUED

    def spoil(self) -> None:
        """A command was refused: if it was meant for a transaction, nothing of that is executed."""
        if self.queue is not None:
            self.queue.spoil()

    def end_transaction(self) -> tuple[list[Queued], dict[bytes, bytes]]:
        """EXEC: what is to be executed, and the versions of what was watched. Raises `FortError` if nothing is."""
        queue, self.queue = self.queue, None
        if queue is None:
            raise BadRequest("EXEC without MULTI")
        versions = self.watched.clear()
        if queue.is_spoiled:
            raise Discarded("Transaction discarded because of previous errors.")
        return queue.commands, known(versions)


def answer(
    session: Session,
    args: list[bytes],
    information: Callable[[], Information],
    settings: Callable[[], Mapping[str, str]],
) -> bytes:
    """The answer to a command of kind SESSION, but EXEC and WATCH: these concern the data."""
    command = lookup(args[0])
    assert command is not None and command.kind is CommandKind.SESSION
    try:
        match command.name:
            case "PING":
                return _ping(args)
            case "ECHO":
                return bulk(args[1])
            case "HELP":
                return bulk(_help(args[1:]))
            case "MULTI":
                if session.queue is not None:
                    raise BadRequest("MULTI calls can not be nested")
                session.queue = Queue()
                return OK
            case "DISCARD":
                if session.queue is None:
                    raise BadRequest("DISCARD without MULTI")
                session.queue = None
                session.watched.clear()
                return OK
            case "UNWATCH":
                session.watched.clear()
                return OK
            case "QUIT":
                session.quitting = True
                return OK
            case "RESET":
                session.name, session.resp, session.queue = b"", 2, None
                session.watched.clear()
                return b"+RESET\r\n"
            case "SELECT":
                return _select(args[1])
            case "AUTH":
                raise BadRequest("no users are configured; connect without AUTH")
            case "HELLO":
                return _hello(session, args)
            case "CLIENT":
                return _client(session, args)
            case "COMMAND":
                return _command(session, args)
            case "CONFIG":
                return _config(session, args, settings())
            case _:
                return bulk(
                    information_text(
                        information(),
                        [arg.decode("utf-8", "replace") for arg in args[1:]],
                    )
                )
    except FortError as error:
        return error.wire()


def information_text(sections: Information, wanted: list[str]) -> bytes:
    """`INFO`: `name:value` lines under `# Section` headings."""
    chosen = {word.lower() for word in wanted} - {"all", "everything", "default"}
    parts = [
        f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items())
        for title, fields in sections.items()
        if not chosen or title.lower() in chosen
    ]
    return "\r\n".join(parts).encode()


def _help(words: list[bytes]) -> bytes:
    if words:
        found = lookup(words[0])
        if found is None:
            raise unknown_command(words)
        return f"{found.usage}\n  {found.summary}".encode()
    width = max(len(command.usage) for command in TABLE.values() if len(command.usage) < _HELP_COLUMN)
    lines = [f"{command.usage:{width}}  {command.summary}" for command in TABLE.values()]
    return "\n".join(lines).encode()


def _ping(args: list[bytes]) -> bytes:
    if len(args) > 2:
        raise BadRequest("wrong number of arguments for 'ping' command")
    return bulk(args[1]) if len(args) == 2 else PONG


def _select(index: bytes) -> bytes:
    if index != b"0":
        raise BadRequest("DB index is out of range; there is database 0 only")
    return OK


def _hello(session: Session, args: list[bytes]) -> bytes:
    resp = session.resp
    if len(args) > 1:
        if args[1] not in (b"2", b"3"):
            raise NoProtocol("unsupported protocol version; 2 and 3 are spoken here")
        resp = int(args[1])
    options = iter(args[2:])
    name = session.name
    for option in options:
        match option.upper():
            case b"SETNAME":
                name = _name(next(options, b" "))
            case b"AUTH":
                raise BadRequest("no users are configured; connect without AUTH")
            case _:
                raise BadRequest(f"syntax error in HELLO option '{option.decode('utf-8', 'replace')}'")
    session.name, session.resp = name, resp
    fields = [
        (b"server", bulk(b"fortdb")),
        (b"version", bulk(REDIS_VERSION.encode())),
        (b"proto", integer(resp)),
        (b"id", integer(session.number)),
        (b"mode", bulk(b"standalone")),
        (b"role", bulk(b"master")),
        (b"modules", array([])),
    ]
    return mapping([(bulk(key), value) for key, value in fields], resp)


def _name(name: bytes) -> bytes:
    if any(byte <= 32 or byte > 126 for byte in name):
        raise BadRequest("Client names cannot contain spaces, newlines or special characters.")
    return name


def _client(session: Session, args: list[bytes]) -> bytes:
    match [args[1].upper(), *args[2:]]:
        case [b"ID"]:
            return integer(session.number)
        case [b"GETNAME"]:
            return bulk(session.name) if session.name else NIL
        case [b"SETNAME", name]:
            session.name = _name(name)
            return OK
        case [b"SETINFO", attribute, value]:
            if attribute.upper() not in (b"LIB-NAME", b"LIB-VER"):
                raise BadRequest(f"Unrecognized option '{attribute.decode('utf-8', 'replace')}'")
            session.library[attribute.lower()] = _name(value)
            return OK
        case [b"INFO"] | [b"LIST", *_]:
            return bulk(_describe(session))
        case [b"NO-EVICT" | b"NO-TOUCH", _]:
            return OK
    raise BadRequest("unknown CLIENT subcommand or wrong number of arguments; see COMMAND DOCS CLIENT")


def _describe(session: Session) -> bytes:
    library = b" ".join(b"%b=%b" % pair for pair in sorted(session.library.items()))
    return b"id=%d addr=%b name=%b resp=%d db=0 %b\n" % (
        session.number,
        session.address.encode(),
        session.name,
        session.resp,
        library,
    )


def _command(session: Session, args: list[bytes]) -> bytes:
    if len(args) - 2 > len(TABLE):
        raise BadRequest(f"{len(args) - 2} names; there are {len(TABLE)} commands")
    chosen = [lookup(name) for name in args[2:]] or list(TABLE.values())
    match args[1].upper() if len(args) > 1 else b"INFO":
        case b"COUNT":
            return integer(len(TABLE))
        case b"LIST":
            return array([bulk(name.lower().encode()) for name in TABLE])
        case b"DOCS":
            return mapping(
                [_docs(command, session.resp) for command in chosen if command],
                session.resp,
            )
        case b"INFO":
            return array([_info(command) if command else b"*-1\r\n" for command in chosen])
    raise BadRequest("unknown COMMAND subcommand; COUNT, DOCS, INFO and LIST are known")


def _info(command: Command) -> bytes:
    flag = {CommandKind.WRITE: b"write", CommandKind.ADMIN: b"admin"}.get(command.kind, b"readonly")
    first = command.first_key
    last = -1 if command.many_keys else first
    return array(
        [
            bulk(command.name.lower().encode()),
            integer(command.arity),
            array([b"+%b\r\n" % flag]),
            integer(first),
            integer(last),
            integer(command.step if first else 0),
        ]
    )


def _docs(command: Command, resp: int) -> tuple[bytes, bytes]:
    fields = [
        (bulk(b"summary"), bulk(command.summary.encode())),
        (bulk(b"since"), bulk(b"1.0.0")),
        (bulk(b"group"), bulk(command.kind.value.encode())),
    ]
    return bulk(command.name.lower().encode()), mapping(fields, resp)


def _config(session: Session, args: list[bytes], settings: Mapping[str, str]) -> bytes:
    if args[1].upper() != b"GET" or len(args) < 3:
        raise BadRequest("CONFIG takes GET pattern only; settings are changed in the configuration file")
    if sum(len(pattern) + 1 for pattern in args[2:]) > PATTERN_BYTES_MAX + 1:
        raise BadRequest(f"patterns of more than {PATTERN_BYTES_MAX} bytes together")
    patterns = [compile_glob(pattern.lower()) for pattern in args[2:]]
    found = [
        (bulk(name.encode()), bulk(value.encode()))
        for name, value in settings.items()
        if any(matches(name.encode()) for matches in patterns)
    ]
    return mapping(found, session.resp)
