"""`fortdb local`: a whole ring on this machine, to try things out and to break."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fortdb.client import RingStatus
    from fortdb.local.ring import LocalRing, Progress

DIRECTORY = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="FORTDB_LOCAL_DIRECTORY",
    default=Path(".fortdb"),
    show_default=True,
    help="Where the ring lives.",
)


@click.group()
def local() -> None:
    """A whole ring on this machine, every node a process."""


@local.command()
@DIRECTORY
@click.option("--nodes", type=int, help="Data nodes. [default: 3]")
@click.option("--partitions", type=int, help="Partitions of a new ring. [default: 24]")
@click.option("--routers", type=int, help="Routers. [default: 1]")
@click.option(
    "--port", type=int, help="The first router's port; all others count up from it. [default: 5000]"
)
@click.option("--etcd", metavar="URL[,URL]", help="Use this etcd. [default: a SQLite file]")
@click.option("--tls/--no-tls", default=None, help="Give a new ring certificates and a user. [default: no]")
def up(
    directory: Path,
    nodes: int | None,
    partitions: int | None,
    routers: int | None,
    port: int | None,
    etcd: str | None,
    tls: bool | None,
) -> None:
    """Start the ring, or what of it does not run, and wait until it serves."""
    from dataclasses import replace

    from fortdb.local.ring import LocalRing, Shape

    known = LocalRing(directory).shape if LocalRing.exists(directory) else Shape()
    asked: dict[str, Any] = {
        "nodes": nodes,
        "partitions": partitions,
        "routers": routers,
        "port": port,
        "tls": tls,
    }
    shape = replace(known, **{name: value for name, value in asked.items() if value is not None})
    if etcd is not None:
        shape = replace(shape, etcd=tuple(etcd.split(",")))
    ring = LocalRing(directory, shape)
    already = len(ring.running) == len(ring.processes)
    with progress_lines() as progress:
        status = ring.up(progress)
    _show(ring, status, already)


@local.command()
@DIRECTORY
def down(directory: Path) -> None:
    """Stop the ring; its data stays."""
    from fortdb.local.ring import LocalRing

    ring = LocalRing(directory)
    if not ring.running:
        click.echo(f"nothing runs in {directory}")
        return
    with progress_lines() as progress:
        ring.down(progress)
    click.echo(f"stopped; the data stays in {directory}")


@local.command()
@DIRECTORY
def processes(directory: Path) -> None:
    """List the ring's processes, their ids and their logs."""
    from fortdb.local.ring import LocalRing

    for name, process in LocalRing(directory).processes.items():
        pid = process.pid
        click.echo(f"{name:12} {'down' if pid is None else pid:>8}  {_short(process.log_path)}")


def _one(action: str, meaning: str) -> click.Command:
    @click.command(action, help=meaning)
    @DIRECTORY
    @click.argument("name")
    def command(directory: Path, name: str) -> None:
        from fortdb.local.ring import LocalRing

        process = LocalRing(directory).process(name)
        if action != "start" and process.pid is None:
            raise click.ClickException(f"{name} does not run")
        getattr(process, action)()
        click.echo(f"{name}: {action} done")

    return command


for _action, _meaning in {
    "start": "Start one process.",
    "stop": "Let one process drain and end.",
    "kill": "End one process at once (SIGKILL).",
    "pause": "Let one process stand still (SIGSTOP).",
    "resume": "Let a paused process go on.",
}.items():
    local.add_command(_one(_action, _meaning))


@contextmanager
def progress_lines() -> Iterator[Progress]:
    """A line that says what is being done, gone when it is done."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as line:
        yield lambda step: line.update(step) if console.is_terminal else console.print(step, highlight=False)


def _show(ring: LocalRing, status: RingStatus, already: bool) -> None:
    from rich.console import Console

    from fortdb.cli.picture import ring_text

    console = Console(highlight=False)
    console.print(ring_text(status, console.width))
    port = ring.shape.port
    command = "fortdb" if shutil.which("fortdb") else os.path.relpath(sys.argv[0])
    command += "" if port == 5000 else f" --port {port}"
    tool, text = f"redis-cli -p {port}", f"nc 127.0.0.1 {port}"
    if ring.shape.tls:
        files = _short(ring.tls_directory)
        command += f" --ca {files}/ca.pem --user admin --password-file {files}/admin.password"
        tool += f" --tls --cacert {files}/ca.pem --user admin --askpass"
        text = f"openssl s_client -quiet -CAfile {files}/ca.pem 127.0.0.1:{port}"
    width = max(len(command), len(tool), len(text))
    console.print(
        f"\n[bold green]{'The ring was up already' if already else 'The ring is up'}[/] on 127.0.0.1:{port}. "
        "Connect with\n"
        f"  {command:{width}}   an interactive prompt (make cli)\n"
        f"  {tool:{width}}   or any Redis client\n"
        f"  {text:{width}}   plain text: {'AUTH admin password, ' if ring.shape.tls else ''}PUT key value, GET key, DELETE key, HELP, EXIT\n"
        f"Logs and data are in {_short(ring.directory)}.",
        soft_wrap=True,
    )


def _short(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
