"""What a command needs, and whether a user may send it; values in, values out.

What is not known here is refused: a command of a kind that has no class needs `admin`. A command that
changes a key and answers with what it held needs `read` beside `write`, as Redis 7 has it. Every key of a
command is looked at. Commands over all keys know no keyspaces: a user who may not see all of them is
refused, rather than shown how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from fortdb.access.users import DEFAULT_KEYSPACE, Right, User
from fortdb.errors import BadRequest, FortError, PermissionDenied
from fortdb.protocol.commands import Command, CommandKind, keys_of
from fortdb.protocol.feeds import Scope, selection_of

_RIGHT_OF_KIND = {
    CommandKind.READ: Right.READ,
    CommandKind.WRITE: Right.WRITE,
    CommandKind.RING: Right.SCAN,
    CommandKind.ADMIN: Right.ADMIN,
    CommandKind.FEED: Right.READ,
}
_TELLS_WHAT_IT_HELD = frozenset(
    {"GETDEL", "GETEX", "GETSET", "INCR", "DECR", "INCRBY", "DECRBY"}  # flags RW ACCESS in Redis' table
)
_HOLDS = frozenset({"HOLD", "RELEASE"})
_MAY_BYPASS = frozenset({"REMOVE", "RETAIN"})
_SET_TELLS = frozenset({b"GET", b"IFEQ"})
_VIEWS = frozenset({("LAYOUT", b"SHOW"), ("LAYOUT", b"PLAN"), ("KEYSPACE", b"LIST"), ("KEYSPACE", b"SHOW")})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command is refused, and what of it may be written down."""

    error: FortError
    needs: str
    keyspace: str = ""


def needs(command: Command, args: list[bytes]) -> tuple[Right, ...]:
    """The classes that a command is of; none for what concerns the connection alone."""
    name = command.name
    if command.kind is CommandKind.SESSION:
        return (Right.READ,) if command.first_key else ()
    if name in ("RING", "WHY") or (name, args[1].upper() if len(args) > 1 else b"") in _VIEWS:
        return (Right.VIEW,)
    if name in _HOLDS:
        return (Right.GOVERN,)
    if name in _MAY_BYPASS and any(option.upper() == b"BYPASS" for option in args[3:]):
        return (Right.WRITE, Right.GOVERN)
    right = _RIGHT_OF_KIND.get(command.kind, Right.ADMIN)
    tells = name in _TELLS_WHAT_IT_HELD or (
        name == "SET" and any(option.upper() in _SET_TELLS for option in args[3:])
    )
    return (right, Right.READ) if tells else (right,)


def event_of(command: Command, args: list[bytes]) -> str | None:
    """Under which name the audit log has a command that is let through, None if it does not."""
    if command.kind is CommandKind.ADMIN and Right.ADMIN in needs(command, args):
        return "audit_admin"
    if command.kind is CommandKind.WRITE and Right.GOVERN in needs(command, args):
        return "audit_govern"
    if command.kind is CommandKind.FEED:
        return "audit_feed"
    return None


def keyspace_of(key: bytes) -> bytes:
    """The keyspace that a key is in, by its name alone."""
    name, slash, _ = key.partition(b"/")
    return name if slash else DEFAULT_KEYSPACE.encode()


def refusal(user: User, command: Command, args: list[bytes]) -> Refusal | None:
    """Why the user may not send this, None if it may. `args[0]` is the command's name."""
    wanted = needs(command, args)
    for right in wanted:
        if right not in user.rights:
            error = PermissionDenied(
                f"User {user.name} has no permissions to run the '{command.name.lower()}' command "
                f"(it needs {right.value})"
            )
            return Refusal(error, right.value)
    if not wanted:
        return None
    if user.keyspaces is not None:
        if wanted == (Right.SCAN,):
            error = PermissionDenied(
                f"User {user.name} may not see all keyspaces and so cannot run '{command.name.lower()}', "
                "which walks over all keys"
            )
            return Refusal(error, Right.SCAN.value)
        if _may_meet_all(command, args):
            error = PermissionDenied(
                f"User {user.name} may not see all keyspaces, and this shows keys of any; name the keyspace, as in"
                " orders/{17} or KEYSPACE orders"
            )
            return Refusal(error, Right.READ.value)
        for key in _all_keys_of(command, args):
            space = keyspace_of(key)
            if space not in user.keyspaces:
                return Refusal(
                    PermissionDenied("No permissions to access a key"),
                    wanted[0].value,
                    space.decode("utf-8", "backslashreplace")[:64],
                )
    if user.value_bytes_max and wanted[0] is Right.WRITE:
        longest = max(map(len, _values_of(command, args)), default=0)
        if longest > user.value_bytes_max:
            return Refusal(
                BadRequest(f"value of {longest} bytes; user {user.name} may write {user.value_bytes_max}"),
                wanted[0].value,
            )
    return None


def _may_meet_all(command: Command, args: list[bytes]) -> bool:
    """Whether a command shows keys that it does not name, of whatever keyspace."""
    if command.name == "RANGE":
        return b"/" not in b"".join(args[1:2])
    selection = selection_of(args) if command.name == "FEED" else None
    if selection is None:
        return False
    if selection.scope is Scope.PREFIX:
        return b"/" not in selection.name
    return selection.scope in (Scope.ALL, Scope.PARTITION)


def _all_keys_of(command: Command, args: list[bytes]) -> list[bytes]:
    selection = selection_of(args) if command.name == "FEED" else None
    if selection is not None:
        return [selection.name + b"/" if selection.scope is Scope.KEYSPACE else selection.name]
    if command.first_key:
        return keys_of(command, args)
    return args[1:2] if command.name == "WHY" else []  # told about a key, not sent to where it lies


def _values_of(command: Command, args: list[bytes]) -> list[bytes]:
    """What may be a value: all that is no key."""
    if command.many_keys:
        return args[command.first_key + 1 :: command.step] if command.step > 1 else []
    return args[command.first_key + 1 :]
