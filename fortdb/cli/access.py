"""Who talks to the router, and how: from options, the environment, a file or a question.

A password never stands on the command line, where everybody on the machine can read it and the shell keeps
it: it comes from FORTDB_PASSWORD, a file, or is asked for. One in a typed `--url` is taken with a warning.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import click

from fortdb.client import Access
from fortdb.errors import ConfigError


def choose_access(
    context: click.Context,
    said: Access,
    user: str | None,
    password_file: Path | None,
    tls: bool,
    ca: str | None,
) -> Access:
    """What the options say over what the URL says. Raises `ConfigError` for a file that cannot be read."""
    typed = context.get_parameter_source("url") is click.core.ParameterSource.COMMANDLINE
    if said.password and typed:
        click.echo(
            "fortdb: a password on the command line can be read by everybody on this machine; "
            "use FORTDB_PASSWORD or --password-file",
            err=True,
        )
    access = replace(said, user=user or said.user, tls=tls or said.tls or bool(ca), ca=ca or "")
    password = _read(password_file) if password_file is not None else os.environ.get("FORTDB_PASSWORD", "")
    if not password and not access.password and access.user and sys.stdin.isatty():
        password = click.prompt(f"Password of {access.user}", hide_input=True, err=True)
    return replace(access, password=password or access.password)


def _read(path: Path) -> str:
    try:
        return path.read_text().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{path}: no password can be read from it: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: no password can be read from it: it is no UTF-8") from None
