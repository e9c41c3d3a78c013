"""The `fortdb` command. Without a sub-command it is an interactive prompt.

Sub-commands are looked up in a table and imported when they are run, and what is heavy in them
(rich, prompt_toolkit, the servers) when it is needed: `fortdb ping` in a script's loop should cost
no more than Python's own start.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from fortdb.cli.access import choose_access
from fortdb.cli.failures import EXIT_CODES_HELP, Failed, failed
from fortdb.cli.settings import Settings, choose_address
from fortdb.client import PORT_DEFAULT
from fortdb.errors import FortError

COMMANDS = {
    "put": "fortdb.cli.keys",
    "get": "fortdb.cli.keys",
    "delete": "fortdb.cli.keys",
    "add": "fortdb.cli.records",
    "records": "fortdb.cli.records",
    "remove": "fortdb.cli.records",
    "history": "fortdb.cli.records",
    "purge": "fortdb.cli.records",
    "feed": "fortdb.cli.feed",
    "ping": "fortdb.cli.keys",
    "status": "fortdb.cli.status",
    "why": "fortdb.cli.why",
    "leader": "fortdb.cli.leader",
    "layout": "fortdb.cli.layout",
    "keyspace": "fortdb.cli.keyspace",
    "local": "fortdb.cli.local",
    "hold": "fortdb.cli.worm",
    "release": "fortdb.cli.worm",
    "retain": "fortdb.cli.worm",
    "verify": "fortdb.cli.worm",
    "ring": "fortdb.cli.ring",
    "config": "fortdb.cli.config",
    "user": "fortdb.cli.user",
    "endpoint": "fortdb.cli.endpoint",
    "torture": "fortdb.cli.torture",
    "node": "fortdb.cli.serve",
    "router": "fortdb.cli.serve",
}
"""Where each sub-command lives: the attribute of its own name in that module."""


CLICKS_OWN = (click.ClickException, click.Abort, click.exceptions.Exit)


class LazyGroup(click.Group):
    """A group that imports a sub-command when it is asked for, and the edge where errors end."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FortError as error:
            raise failed(error) from error
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise  # click ends quietly when a pipe's reader is gone
            raise Failed(f"{error.filename or 'system call'}: {error.strerror or error}") from error
        except Exception as error:
            if isinstance(error, CLICKS_OWN) or "FORTDB_TRACEBACK" in os.environ:
                raise
            what = f"{type(error).__name__}: {error}"
            raise Failed(f"this is a fault in fortdb ({what}); FORTDB_TRACEBACK=1 shows where") from error


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"fortdb {version('fortdb')}")
        context.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES_HELP,
)
@click.option(
    "--host",
    envvar="FORTDB_HOST",
    show_envvar=True,
    default="127.0.0.1",
    show_default=True,
    help="The router's host.",
)
@click.option(
    "--port",
    envvar="FORTDB_PORT",
    show_envvar=True,
    type=click.IntRange(1, 65535),
    default=PORT_DEFAULT,
    show_default=True,
    help="The router's port.",
)
@click.option(
    "--url",
    envvar="FORTDB_URL",
    show_envvar=True,
    help="The router as fortdb://host:port (fortdbs:// with TLS); before host and port.",
)
@click.option(
    "--user",
    envvar="FORTDB_USER",
    show_envvar=True,
    help="Log in as this user; FORTDB_PASSWORD has the password, or it is asked for.",
)
@click.option(
    "--password-file",
    envvar="FORTDB_PASSWORD_FILE",
    show_envvar=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file with the password.",
)
@click.option(
    "--tls",
    envvar="FORTDB_TLS",
    show_envvar=True,
    is_flag=True,
    help="Speak TLS, and verify the router's certificate.",
)
@click.option(
    "--ca",
    envvar="FORTDB_CA",
    show_envvar=True,
    type=click.Path(dir_okay=False),
    help="PEM file of the authority that signed it; implies --tls. [default: those that the system trusts]",
)
@click.option(
    "--ssh", metavar="USER@HOST", help="Go through SSH; host and port are then the router's as HOST sees it."
)
@click.option(
    "--timeout-s", type=click.FloatRange(0.01), default=15.0, show_default=True, help="Bound on one request."
)
@click.option("--json", "as_json", is_flag=True, help="Write answers as JSON.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version)
@click.pass_context
def main(
    context: click.Context,
    host: str,
    port: int,
    url: str | None,
    user: str | None,
    password_file: Path | None,
    tls: bool,
    ca: str | None,
    ssh: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """FortDB, a replicated key-value database.

    Without a command: an interactive prompt (or commands from standard input, one a line).
    """
    address, said = choose_address(context, host, port, url)
    access = choose_access(context, said, user, password_file, tls, ca)
    if ssh is not None:
        from fortdb.cli.tunnel import SshTarget, Tunnel

        access = replace(access, server_name=address.host)
        address = context.with_resource(Tunnel(SshTarget.parse(ssh), address)).address
    context.obj = Settings(address, timeout_s, as_json, access)
    if context.invoked_subcommand is None:
        from fortdb.cli.prompt import run

        context.exit(run(context.obj))
