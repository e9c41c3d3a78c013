"""`python -m rehearsal run | up | down | ssh NAME | hosts-up`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

import click

from rehearsal.base import make_base
from rehearsal.hosts import Access, forget, host_from, tear_down
from rehearsal.network import Network
from rehearsal.phases import ALL, DEPLOYED, SHOWN, Rehearsal
from rehearsal.progress import Progress
from rehearsal.tools import RehearsalError, control_group, missing, require

directory_option = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
    default=Path(".rehearsal"),
    show_default=True,
    help="Logs, keys, and the hosts' disks.",
)
cache_option = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
    envvar="FORTDB_REHEARSAL_CACHE",
    default=Path("/var/cache/fortdb-rehearsal"),
    show_default=True,
    help="Where the hosts' base system is kept between runs.",
)
vpc_option = click.option(
    "--vpc",
    envvar="FORTDB_REHEARSAL_VPC",
    default="10.20.0.0/16",
    show_default=True,
    help="10.N.0.0/16; another N for a second rehearsal beside the first.",
)


def _prepare(directory: Path) -> Access:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".gitignore").write_text("*\n")
    access = Access(directory / "access")
    access.make()
    return access


@click.group()
def main() -> None:
    """Rehearse the whole deployment on this machine."""


keep_option = click.option(
    "--keep", is_flag=True, help="Leave all as it is when a phase fails, to look at it."
)


@main.command()
@directory_option
@cache_option
@vpc_option
@keep_option
def run(directory: Path, cache: Path, vpc: str, keep: bool) -> None:
    """Everything, faults and destruction included; torn down at the end, however it ends."""
    require(missing())
    progress = Progress()
    rehearsal = Rehearsal(directory, cache, vpc, progress)
    _play(rehearsal, ALL, keep)
    with progress.phase("tear down"):
        rehearsal.end()
    progress.table()


@main.command()
@directory_option
@cache_option
@vpc_option
@keep_option
def up(directory: Path, cache: Path, vpc: str, keep: bool) -> None:
    """Deploy, and leave it running to play with, until `down`."""
    require(missing())
    progress = Progress()
    rehearsal = Rehearsal(directory, cache, vpc, progress)
    _play(rehearsal, DEPLOYED, keep)
    progress.table()
    progress.console.print(
        f"clients: fortdb --host {rehearsal.state.elastic_ip}   hosts: make ssh HOST=node-01"
    )


@main.command("play")
@directory_option
@cache_option
@click.argument("phases", nargs=-1, required=True, type=click.Choice([phase.__name__ for _, phase in SHOWN]))
def play_phases(directory: Path, cache: Path, phases: tuple[str, ...]) -> None:
    """Play phases on what `up` left running, say kill_node."""
    require(missing())
    progress = Progress()
    rehearsal = Rehearsal.resume(directory, cache, progress)
    for name in phases:
        with progress.phase(name):
            getattr(rehearsal, name)()


def _play(
    rehearsal: Rehearsal, phases: Iterable[tuple[str, Callable[[Rehearsal], None]]], keep: bool
) -> None:
    """One phase after the other. If one fails, or we are interrupted, everything is torn down."""
    try:
        for title, phase in phases:
            with rehearsal.progress.phase(title):
                phase(rehearsal)
    except BaseException as error:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it
        if not (keep and isinstance(error, RehearsalError)):
            with rehearsal.progress.phase("tear down"):
                rehearsal.end()
        rehearsal.progress.table()
        raise


@main.command("hosts-up")
@click.option(
    "--hosts", multiple=True, required=True, metavar="NAME=ADDRESS:ZONE", help="Once for each host."
)
@directory_option
@cache_option
@vpc_option
def hosts_up(hosts: tuple[str, ...], directory: Path, cache: Path, vpc: str) -> None:
    """Boot hosts from a list, without Terraform: to try roles on. They run until `down`."""
    require(missing())
    network = Network(vpc)
    access = _prepare(directory)
    tear_down(network)
    forget(directory)
    machines = [host_from(words, network, directory, access) for words in hosts]
    try:
        base = make_base(cache, control_group(network.tag, "base"))
        network.up()
        for machine in machines:
            machine.create()
            machine.power_on(base)
        for machine in machines:
            machine.wait()
            click.echo(f"{machine.name} {machine.address} {machine.zone}: {machine.state()}")
    except BaseException:
        tear_down(network)
        raise
    for name, value in access.environment.items():
        click.echo(f"export {name}='{value}'")


@main.command()
@directory_option
@vpc_option
def down(directory: Path, vpc: str) -> None:
    """End everything, also what a crashed run left."""
    if os.geteuid() != 0:
        raise RehearsalError("hosts and networks are root's: run it as root")
    left = tear_down(Network(vpc))
    forget(directory)
    if left:
        raise RehearsalError(f"still there: {', '.join(left)}")
    click.echo("nothing of the rehearsal is left")


@main.command(context_settings={"ignore_unknown_options": True})
@directory_option
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(directory: Path, host: str, command: tuple[str, ...]) -> None:
    """Log in on a host, or run a command there."""
    config = directory / "access/ssh_config"
    if not config.exists():
        raise RehearsalError(f"no rehearsal is in {directory}: make rehearsal-up")
    os.execvp("ssh", ["ssh", "-F", str(config), host, *command])


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for ending in _ENDING:
        signal.signal(ending, _end)
    try:
        main(prog_name="python -m rehearsal", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("rehearsal: interrupted", err=True)
        sys.exit(130)
    except RehearsalError as error:
        click.echo(f"rehearsal: {error}", err=True)
        sys.exit(1)
