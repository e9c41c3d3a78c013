"""`python -m rehearsal run | up | down | ssh NAME | hosts-up`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from rehearsal.base import make_base
from rehearsal.hosts import Access, forget, host_from, tear_down
from rehearsal.network import Network
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


@main.command("hosts-up")
@click.option("--hosts", multiple=True, required=True, metavar="NAME=ADDRESS:ZONE", help="Once for each host.")
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
    base = make_base(cache, control_group(network.tag, "base"))
    network.up()
    for machine in machines:
        machine.create()
        machine.power_on(base)
    for machine in machines:
        machine.wait()
        click.echo(f"{machine.name} {machine.address} {machine.zone}: {machine.state()}")
    for name, value in access.environment.items():
        click.echo(f"export {name}='{value}'")


@main.command()
@directory_option
@vpc_option
def down(directory: Path, vpc: str) -> None:
    """End everything, also what a crashed run left."""
    require(missing())
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


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    try:
        main(prog_name="python -m rehearsal")
    except RehearsalError as error:
        click.echo(f"rehearsal: {error}", err=True)
        sys.exit(1)
