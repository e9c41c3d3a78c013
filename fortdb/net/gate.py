"""The gate between clients and commands: nothing of a client is executed before it was asked.

A connection belongs to nobody until `AUTH` or `HELLO ... AUTH` names a user; until then it may say nothing
else but HELLO, RESET and QUIT, and only little at a time. While a password is verified the connection is
not read from, so what was sent behind it is executed as the user that it makes, in order, or refused.

Rights are looked up at each command in the user that the connection holds, and a new file of users
replaces it there at once. Who was taken out, or whose password was, has its last answers sent and is
hung up on. The short way of C asks nobody: a connection has it only while its user may do all that can be done there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fortdb.access.pace import Bucket
from fortdb.access.rights import event_of, keyspace_of, refusal
from fortdb.access.users import DEFAULT_USER, User, Users
from fortdb.errors import AuthenticationFailed, AuthenticationRequired, BadRequest, Busy, FortError
from fortdb.net.audit import Audit
from fortdb.net.logins import Logins
from fortdb.net.loop import Loop
from fortdb.protocol.commands import Command, CommandKind
from fortdb.protocol.feeds import Scope, Selection, selection_of
from fortdb.protocol.transactions import Queued

if TYPE_CHECKING:
    from fortdb.net.front import ClientConnection, Front

_NOBODY = AuthenticationRequired("Authentication required.").wire()
_NOBODY_GREETS = AuthenticationRequired(
    "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> "
    "<pass> option can be used to authenticate the client and select the RESP protocol version at the same "
    "time"
).wire()
_WRONG = AuthenticationFailed("invalid username-password pair or user is disabled.").wire()
_WORDS_MAX = 200  # of an operator's command, in the audit log


class Gate:
    """The users of one process and their connections."""

    def __init__(self, loop: Loop, users: Users, audit: Audit) -> None:
        self._loop = loop
        self._users = users
        self._audit = audit
        self._logins = Logins(loop)
        self._buckets: dict[str, Bucket] = {}
        self.front: Front | None = None  # says so itself
        self.refused_total = 0
        self.failed_logins_total = 0

    # --- users --------------------------------------------------------------------------------

    def see(self, users: Users) -> None:
        """Other users, or the same with other rights, from now on."""
        self._users = users
        self._logins.forget_but(users)
        self._buckets = {}
        for connection in list(self.front.connections) if self.front is not None else []:
            if connection.user is None:
                continue
            user = users.get(connection.user.name)
            if user is None or connection.credential not in user.passwords:
                self._audit.event("audit_user_removed", **_who(connection))
                self.forget(connection)
                connection.quit()
            else:
                self._let_in(connection, user, connection.credential)
                self._look_at_feed(connection, user)

    def _look_at_feed(self, connection: ClientConnection, user: User) -> None:
        """A feed ends that its user may not have any more."""
        feed = connection.feed
        problem = None if feed is None else refusal(user, feed.command, feed.args)
        if feed is not None and problem is not None:
            self.refused_total += 1
            self._audit.refusal(
                "audit_refused", command=feed.command.name, needs=problem.needs, **_who(connection)
            )
            feed.end(problem.error)

    def close(self) -> None:
        """Verify nothing more."""
        self._logins.close()

    # --- commands -----------------------------------------------------------------------------

    def stops(
        self, connection: ClientConnection, command: Command | None, args: list[bytes], is_whole: bool
    ) -> bool:
        """Whether a command ends here: it was refused, or it was a login. One that lacks arguments (not
        `is_whole`) needs no rights: it will not be executed."""
        name = command.name if command is not None else ""
        if name == "AUTH" or (name == "HELLO" and _has_credentials(args)):
            if connection.session.queue is not None:
                self._refuse(connection, BadRequest("Command not allowed inside a transaction"), command=name)
                return True
            self._log_in(connection, args)
            return True
        user = connection.user
        if user is None:
            return self._stops_stranger(connection, name)
        if name == "RESET":
            self.forget(connection)
            return False
        if user.commands_per_second and not self._bucket(user).take(self._loop.now_ms):
            self._refuse(
                connection,
                Busy(f"user {user.name} sends more than {user.commands_per_second} commands a second"),
                command=name,
            )
            return True
        if command is None or not is_whole:
            return False
        problem = refusal(user, command, args)
        if problem is not None:
            self._refuse(
                connection, problem.error, command=name, needs=problem.needs, keyspace=problem.keyspace
            )
            return True
        if (event := event_of(command, args)) is not None:
            self._audit.event(event, command=_words(command, args), **_who(connection))
        return False

    def stops_transaction(self, connection: ClientConnection, queued: list[Queued]) -> bool:
        """Whether EXEC ends here: the user, or its rights, may be others than when the commands were queued."""
        user = connection.user
        for one in queued:
            problem = refusal(user, one.command, one.args) if user is not None else None
            if problem is not None:
                self._refuse(
                    connection,
                    problem.error,
                    command=one.command.name,
                    needs=problem.needs,
                    keyspace=problem.keyspace,
                )
                return True
        return False

    def forget(self, connection: ClientConnection) -> None:
        """The connection belongs to nobody."""
        connection.user, connection.credential = None, ""
        connection.go_way(None)

    def _stops_stranger(self, connection: ClientConnection, name: str) -> bool:
        if name in ("QUIT", "RESET"):
            return False
        self.refused_total += 1
        self._audit.refusal("audit_refused", command=name, needs="a login", **_who(connection))
        connection.reply(_NOBODY_GREETS if name == "HELLO" else _NOBODY)
        return True

    def _refuse(self, connection: ClientConnection, error: FortError, **fields: str) -> None:
        self.refused_total += 1
        self._audit.refusal("audit_refused", error=error.code, **fields, **_who(connection))
        connection.session.spoil()
        connection.reply(error.wire())

    def _bucket(self, user: User) -> Bucket:
        bucket = self._buckets.get(user.name)
        if bucket is None:
            bucket = self._buckets[user.name] = Bucket(user.commands_per_second, self._loop.now_ms)
        return bucket

    # --- logins -------------------------------------------------------------------------------

    def _log_in(self, connection: ClientConnection, args: list[bytes]) -> None:
        try:
            name, password, rest = _credentials(args)
            slot = connection.slot()
        except FortError as error:
            connection.reply(error.wire())
            return
        connection.is_waiting = True

        def done(line: str | None) -> None:
            connection.is_waiting = False
            if not connection.is_open:
                return
            user = self._users.get(name)  # of now: the file may have changed meanwhile
            if line is None or user is None or line not in user.passwords or connection.is_closing:
                self._failed(connection, name, "wrong name or password")
                slot.complete(_WRONG)
            else:
                self._let_in(connection, user, line)
                self._audit.event("audit_login", **_who(connection))
                assert self.front is not None
                slot.complete(self.front.session_reply(connection, rest) if rest else b"+OK\r\n")
            self._loop.call_next(connection.go_on)

        try:
            self._logins.verify(self._users, name, password, connection.host, done)
        except FortError as error:
            connection.is_waiting = False
            self._failed(connection, name, str(error))
            slot.complete(error.wire())

    def _failed(self, connection: ClientConnection, name: str, reason: str) -> None:
        self.failed_logins_total += 1
        who = {**_who(connection), "user": name[:_WORDS_MAX]}
        self._audit.refusal("audit_login_failed", reason=reason, **who)

    def _let_in(self, connection: ClientConnection, user: User, line: str) -> None:
        connection.user, connection.credential = user, line
        assert self.front is not None
        connection.go_way(self.front.way if user.is_unrestricted else None)


def _who(connection: ClientConnection) -> dict[str, str]:
    return {
        "user": connection.user.name if connection.user is not None else "",
        "address": connection.session.address,
    }


def _words(command: Command, args: list[bytes]) -> str:
    """What an operator asked for; plans are long, and stored by the coordination store anyway."""
    words = args[1:2] if command.name == "LAYOUT" else args[1:]
    if command.kind is CommandKind.FEED:
        selection = selection_of(args) if command.name == "FEED" else Selection(Scope.KEY, args[1])
        words = args[1:2] if command.name == "FEED" else []
        if selection is not None:
            words += [selection.scope.value.encode(), _shown(selection)]
    return " ".join([command.name, *(word.decode("utf-8", "backslashreplace") for word in words)])[
        :_WORDS_MAX
    ]


def _shown(selection: Selection) -> bytes:
    """What a feed is of, without keys."""
    if selection.scope in (Scope.KEY, Scope.PREFIX):
        return keyspace_of(selection.name) + b"/..."
    return selection.name


def _has_credentials(args: list[bytes]) -> bool:
    return any(option.upper() == b"AUTH" for option, _ in _options(args))


def _options(args: list[bytes]) -> list[tuple[bytes, int]]:
    """The options of HELLO and where they stand; a name or a password is not taken for one."""
    found, at = [], 2
    while at < len(args):
        found.append((args[at], at))
        at += 3 if args[at].upper() == b"AUTH" else 2
    return found


def _credentials(args: list[bytes]) -> tuple[str, bytes, list[bytes]]:
    """User, password, and what is left of a HELLO. Raises `BadRequest`."""
    if args[0].upper() == b"HELLO":
        at = next(at for option, at in _options(args) if option.upper() == b"AUTH")
        if len(args) < at + 3:
            raise BadRequest("syntax error in HELLO option 'AUTH'; write AUTH user password")
        return args[at + 1].decode("utf-8", "replace"), args[at + 2], [*args[:at], *args[at + 3 :]]
    if len(args) not in (2, 3):
        raise BadRequest("wrong number of arguments for 'auth' command; usage: AUTH [user] password")
    return args[1].decode("utf-8", "replace") if len(args) == 3 else DEFAULT_USER, args[-1], []
