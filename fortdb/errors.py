"""Every error FortDB raises, under one root, each answering one question.

What should the one who catches it do: try again, correct the request, treat the outcome as
unknown, or stop the process? The answer is `FortError.answer`; the word that a client sees first
on the wire (`-NOREPLICAS ...`) is `FortError.code`. Both belong to the class, so that no caller
has to read a message to decide.
"""

from __future__ import annotations

from enum import Enum


class Answer(Enum):
    """What the one who catches an error does next."""

    RETRY = "retry"  # it was not applied: safe to send again
    REFUSE = "refuse"  # it was not applied and never will be as asked: correct the request
    UNKNOWN = "unknown"  # it may or may not have been applied: never send it again blindly
    CRASH = "crash"  # this process cannot go on: stop serving and say so


class FortError(Exception):
    """The root. `str(error)` is a sentence for a person: what was wrong and what to do."""

    code = "ERR"
    answer = Answer.REFUSE

    def wire(self) -> bytes:
        """The RESP2 error reply, `-CODE message\\r\\n`; line breaks in the message are folded."""
        message = " ".join(str(self).split())
        return f"-{self.code} {message}\r\n".encode("utf-8", "backslashreplace")


class BadRequest(FortError):
    """The request cannot be understood or breaks a bound."""


class Fault(FortError):
    """A defect of FortDB itself, met where nothing was changed yet: it costs the request, and the connection that it
    came on, but not the process."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"this is a fault in fortdb ({type(error).__name__}); the process's log has more of it"
        )


class CrossPartition(FortError):
    """The keys of a transaction lie in several partitions; nothing of it was executed."""

    code = "CROSSSLOT"


class Aborted(FortError):
    """A transaction over several partitions that was given up before it was decided; nothing was executed."""

    code = "ABORTED"
    answer = Answer.RETRY


class Discarded(FortError):
    """A transaction of which nothing was executed, because something before its EXEC had failed."""

    code = "EXECABORT"


class WrongType(BadRequest):
    """The key holds, or its keyspace keeps, another kind of value than the command works on."""

    code = "WRONGTYPE"


class Immutable(BadRequest):
    """A WORM record that is held, or whose retention has not passed; it stays as it is."""

    code = "IMMUTABLE"


class ProtocolError(FortError):
    """The bytes on the connection are no request at all; the connection cannot go on."""

    code = "ERR Protocol error:"


class ConfigError(FortError):
    """A setting is missing, unknown or out of range; names the key and what is allowed."""


class AuthenticationRequired(FortError):
    """The server has users, and this connection has not said which one it is."""

    code = "NOAUTH"


class AuthenticationFailed(FortError):
    """There is no such user, or the password is not this user's."""

    code = "WRONGPASS"


class PermissionDenied(FortError):
    """The user may not do this; not executed."""

    code = "NOPERM"


class LayoutError(FortError):
    """A layout cannot be made or applied as asked."""


class RecordError(FortError):
    """A record in the coordination store cannot be understood: written by hand, or by a newer FortDB."""


class NotLeader(FortError):
    """This node does not lead the partition in the epoch the request names; not executed."""

    code = "NOTLEADER"
    answer = Answer.RETRY


class NotEnoughReplicas(FortError):
    """The committed in-sync set is smaller than `min_in_sync`; the write was not begun."""

    code = "NOREPLICAS"


class Unavailable(FortError):
    """Nobody can serve the partition within the deadline; the request was not executed."""

    code = "UNAVAILABLE"
    answer = Answer.RETRY


class Busy(FortError):
    """A bound on waiting work was reached; the request was not executed."""

    code = "BUSY"
    answer = Answer.RETRY


class OutcomeUnknown(FortError):
    """The deadline passed, or the connection broke, while a write was under way."""

    code = "TIMEOUT"
    answer = Answer.UNKNOWN


class FeedLost(FortError):
    """A feed cannot go on from the position: changes behind it are no longer in the log."""

    code = "FEEDLOST"


class StorageFailed(FortError):
    """The engine refused a read or a write (checksum, full disk, I/O); never a wrong answer."""

    code = "IOERR"
    answer = Answer.CRASH


class DiskFull(StorageFailed):
    """The data directory's file system has less room than the node needs to be safe."""

    code = "DISKFULL"


class StoreUnavailable(FortError):
    """The coordination store gave no answer. A change that was asked for may have been made."""

    code = "UNAVAILABLE"
    answer = Answer.UNKNOWN


class StoreConflict(FortError):
    """Compare-and-set found another revision than expected; nothing was changed."""

    code = "CONFLICT"
    answer = Answer.RETRY


class LeaseLost(FortError):
    """The coordination store no longer knows the lease; its keys are gone."""

    code = "UNAVAILABLE"
    answer = Answer.RETRY


class WatchLost(FortError):
    """A watch cannot go on from where it was (compacted history): read everything again."""

    code = "UNAVAILABLE"
    answer = Answer.RETRY
