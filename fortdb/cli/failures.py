"""How a failure leaves the command line: one sentence on stderr and an exit code, no traceback.

The sentence is `fortdb: what was wrong; what to do`. The exit code comes from what the error's
class answers (`FortError.answer`), so that a script can decide without reading the sentence.
"""

from __future__ import annotations

import sys
from typing import IO, Any

import click

from fortdb.client import ConnectionFailed
from fortdb.errors import (
    Answer,
    AuthenticationRequired,
    Busy,
    ConfigError,
    DiskFull,
    FortError,
    NotEnoughReplicas,
    NotLeader,
    OutcomeUnknown,
    PermissionDenied,
    StorageFailed,
    StoreConflict,
    Unavailable,
)

EXIT_REFUSED = 1  # not found, or refused as asked
EXIT_USAGE = 2  # wrong usage or configuration
EXIT_UNAVAILABLE = 3  # not executed: nobody could do it now
EXIT_UNKNOWN = 4  # may or may not have been executed

EXIT_CODES_HELP = """\b
Exit codes:
  0  done
  1  not found, or refused as asked
  2  wrong usage or configuration
  3  unavailable: not executed, try again
  4  outcome unknown: read before trying again"""

_EXIT_BY_ANSWER = {
    Answer.REFUSE: EXIT_REFUSED,
    Answer.RETRY: EXIT_UNAVAILABLE,
    Answer.UNKNOWN: EXIT_UNKNOWN,
    Answer.CRASH: EXIT_UNAVAILABLE,
}
_EXIT_BY_CLASS: dict[type[FortError], int] = {
    ConfigError: EXIT_USAGE,  # starting again is of no use: systemd's RestartPreventExitStatus
    NotEnoughReplicas: EXIT_UNAVAILABLE,  # of no use to correct the request: replicas must come back
    StoreConflict: EXIT_REFUSED,  # sending the same again is of no use: it rests on an old state
}
_ADVICE: dict[type[FortError], str] = {
    ConnectionFailed: "is a router running there? `fortdb local up` starts a ring on this machine",
    Unavailable: "it was not executed, try again; `fortdb status` shows who is missing",
    NotLeader: "leadership is changing, it was not executed: try again",
    NotEnoughReplicas: "the write was refused; `fortdb status` shows which nodes are missing",
    Busy: "it was not executed, try again in a moment",
    OutcomeUnknown: "it may or may not have been applied: read before trying again",
    StorageFailed: "a node's storage failed, see its log; `fortdb status` shows which",
    DiskFull: "free space on the node or add nodes; `fortdb status` shows the disks",
    StoreConflict: "something changed meanwhile: look again and ask again",
    AuthenticationRequired: "say who you are: --user NAME, with the password in FORTDB_PASSWORD or a file",
    PermissionDenied: "`fortdb user check FILE`, of the server's users, shows what each may do",
}
_ADVICE_BY_MESSAGE = {  # what a port says before it knows how the other side speaks has no class of its own
    "this port speaks TLS only": "say --ca FILE, or --tls if this system trusts its authority",
}


def exit_code_of(error: FortError) -> int:
    """The exit code for an error."""
    return _EXIT_BY_CLASS.get(type(error), _EXIT_BY_ANSWER[error.answer])


def sentence_of(error: FortError) -> str:
    """What was wrong and what to do; advice is added unless the message gives some (after `;`)."""
    message = " ".join(str(error).split()) or type(error).__name__
    advice = _ADVICE_BY_MESSAGE.get(message) or _ADVICE.get(type(error))
    return message if advice is None or ";" in message else f"{message.rstrip('.')}; {advice}"


class Failed(click.ClickException):
    """Ends the program with a sentence on stderr and a chosen exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"fortdb: {self.format_message()}", file=file or sys.stderr)


def failed(error: FortError) -> Failed:
    """The end that an error makes of the program."""
    return Failed(sentence_of(error), exit_code_of(error))
