"""`fortdb user hash|check`: what stands in a file of users."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fortdb.errors import BadRequest
from fortdb.limits import PASSWORD_BYTES_MAX


@click.group()
def user() -> None:
    """Users of the servers: their passwords and rights."""


@user.command("hash")
def hash_() -> None:
    """Write the hash of a password, a line for `passwords` in users.toml.

    The password is asked for, or read from standard input.
    """
    from fortdb.access.passwords import hash_password

    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.read().removesuffix("\n")
    if not password or len(password.encode()) > PASSWORD_BYTES_MAX:
        raise BadRequest(f"a password has from 1 to {PASSWORD_BYTES_MAX} bytes")
    click.echo(hash_password(password))


@user.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(file: Path) -> None:
    """Check FILE as a server would that reads it, and list who may do what."""
    from fortdb.net.security import load_users

    for one in load_users(str(file)):
        spaces = sorted(space.decode() for space in one.keyspaces) if one.keyspaces is not None else ["*"]
        limits = [
            text
            for number, text in (
                (one.commands_per_second, f"{one.commands_per_second} commands/s"),
                (one.value_bytes_max, f"values of {one.value_bytes_max} bytes"),
            )
            if number
        ]
        rights = sorted(right.value for right in one.rights)
        click.echo(
            f"{one.name}: {len(one.passwords)} password(s); {', '.join(rights)}; "
            f"keyspaces {', '.join(spaces)}{'; at most ' + ' and '.join(limits) if limits else ''}"
        )
