"""What goes wrong between a client and a router, and how error replies become exceptions.

An error reply starts with a code word (`-NOREPLICAS ...`). The table below turns the word into the
class that carries it, so that a caller decides by class (or by `FortError.answer`) and never by
reading a message. A word that is not in the table (another server, a newer router) is a
`BadRequest` that keeps the word in its message.
"""

from __future__ import annotations

from fortdb.errors import (
    Answer,
    AuthenticationFailed,
    AuthenticationRequired,
    BadRequest,
    Busy,
    CrossPartition,
    Discarded,
    DiskFull,
    FeedLost,
    FortError,
    Immutable,
    NotEnoughReplicas,
    NotLeader,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    StorageFailed,
    StoreConflict,
    Unavailable,
    WrongType,
)


class ConnectionFailed(FortError):
    """No connection could be made, or it broke before the request could have been executed."""

    code = "UNAVAILABLE"
    answer = Answer.RETRY


class Conflict(FortError):
    """Somebody wrote a key that the transaction watched: nothing of it was executed, begin it anew."""

    code = "CONFLICT"
    answer = Answer.RETRY


_CLASSES: dict[str, type[FortError]] = {
    "ERR": BadRequest,
    "NOTLEADER": NotLeader,
    "NOREPLICAS": NotEnoughReplicas,
    "UNAVAILABLE": Unavailable,
    "BUSY": Busy,
    "TIMEOUT": OutcomeUnknown,
    "IOERR": StorageFailed,
    "DISKFULL": DiskFull,
    "CONFLICT": StoreConflict,
    "CROSSSLOT": CrossPartition,
    "EXECABORT": Discarded,
    "WRONGTYPE": WrongType,
    "IMMUTABLE": Immutable,
    "NOAUTH": AuthenticationRequired,
    "WRONGPASS": AuthenticationFailed,
    "NOPERM": PermissionDenied,
    "FEEDLOST": FeedLost,
}

_PROTOCOL_ERROR = "Protocol error"


def error_from_reply(text: str) -> FortError:
    """The exception for an error reply without its leading `-` and line end."""
    code, _, message = text.partition(" ")
    if code == "ERR" and message.startswith(_PROTOCOL_ERROR):
        return ProtocolError(message)
    found = _CLASSES.get(code)
    return found(message) if found is not None else BadRequest(text)
