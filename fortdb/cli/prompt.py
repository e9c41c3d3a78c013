"""The interactive prompt, and its plain sister that reads commands from standard input.

At a terminal: history over sessions, completion, a line at the bottom with address and latency.
Without one: one answer a line on standard output, news on standard error, and exit code 1 if any
command failed, so that a file of commands can be piped in.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fortdb.cli.failures import EXIT_REFUSED, sentence_of
from fortdb.cli.replies import json_line, rendered, rendered_line
from fortdb.cli.session import Session
from fortdb.cli.settings import Settings
from fortdb.client import Reply
from fortdb.errors import FortError
from fortdb.protocol.text import split_line

if TYPE_CHECKING:
    from prompt_toolkit.history import History

LEAVING = frozenset({b"EXIT", b"QUIT"})
AS_DOCUMENT = frozenset({b"RING", b"LAYOUT", b"KEYSPACE", b"INFO"})
"""Commands whose answer is a document: shown as it is, not as a quoted string."""


def run(settings: Settings) -> int:
    """Talk until the end of input; the program's exit code."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return _interactive(settings)
    return _piped(settings)


def _piped(settings: Settings) -> int:
    session = Session(
        settings.address,
        settings.timeout_s,
        lambda news: click.echo(f"fortdb: {news}", err=True),
        settings.access,
    )
    any_failed = False
    for line in sys.stdin.buffer:
        if not line.strip():
            continue
        reply, leaving = _answer(session, line)
        if leaving:
            break
        any_failed = any_failed or isinstance(reply, FortError)
        text = json_line(reply) if settings.as_json else rendered_line(reply, session.answer_is_status)
        click.echo(text)
    session.close()
    return EXIT_REFUSED if any_failed else 0


def _interactive(settings: Settings) -> int:
    from prompt_toolkit import PromptSession

    from fortdb.cli.completion import CommandCompleter

    session = Session(
        settings.address, settings.timeout_s, lambda news: click.echo(f"({news})"), settings.access
    )
    prompt: PromptSession[str] = PromptSession(
        history=_history(),
        completer=CommandCompleter(settings.address, settings.access),
        complete_in_thread=True,
        complete_while_typing=False,  # on TAB, as in psql and bash: nothing pops up by itself
        bottom_toolbar=lambda: _toolbar(session),
    )
    click.echo(f"FortDB at {session.address}. HELP lists the commands, EXIT or ctrl-D leaves.")
    # Whoever started us may ignore it (a shell does for what it runs in the background): not at a prompt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        session.connect()
    except FortError as error:
        click.echo(f"(error) {sentence_of(error)}")
    while True:
        try:
            line = prompt.prompt(_prompt(session))
        except KeyboardInterrupt:
            continue  # ctrl-C drops the line, as shells do
        except EOFError:
            break
        if line.strip() and _converse(session, settings, line):
            break
    session.close()
    return 0


def _prompt(session: Session) -> str:
    """What stands before the line that is typed."""
    if not session.connected:
        return "not connected> "
    return f"{session.address}{' (tx)' if session.in_transaction else ''}> "


def _converse(session: Session, settings: Settings, line: str) -> bool:
    """One line of an interactive prompt; whether it was the last."""
    if line.strip().upper() == "HELP":
        from fortdb.cli.completion import help_text

        click.echo(help_text())
        return False
    try:
        reply, leaving = _answer(session, line.encode())
    except KeyboardInterrupt:
        click.echo("(stopped waiting; a write may have been applied: read before trying again)")
        return False
    if leaving:
        return True
    if settings.as_json:
        click.echo(json_line(reply))
    elif isinstance(reply, bytes) and line.split()[0].upper().encode() in AS_DOCUMENT:
        click.echo(reply.decode("utf-8", "backslashreplace"))
    else:
        click.echo(rendered(reply, session.answer_is_status))
    return False


def _answer(session: Session, line: bytes) -> tuple[Reply, bool]:
    """The answer to a typed line, and whether it asks to leave."""
    try:
        words = split_line(line.strip())
    except FortError as error:
        return error, False
    if not words or words[0].upper() in LEAVING:
        return None, bool(words)
    return session.ask(words), False


def _toolbar(session: Session) -> str:
    latency = "" if session.latency_ms is None else f"   last answer {session.latency_ms:.2f} ms"
    return f" {session.address}{'' if session.connected else ' (not connected)'}{latency}"


def _history() -> History:
    """The history file in the user's state directory, or one in memory if that cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class _Discreet(FileHistory):
        """Remembers no line with a password in it."""

        def store_string(self, string: str) -> None:
            words = string.upper().split()
            if "AUTH" not in words[:1] and not ("HELLO" in words[:1] and "AUTH" in words):
                super().store_string(string)

    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fortdb"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = state / "history"
        file.touch(mode=0o600)  # values are typed here
        return _Discreet(file)
    except OSError:
        return InMemoryHistory()
