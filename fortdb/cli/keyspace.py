"""`fortdb keyspace create|list|drop`: named sets of keys with a policy."""

from __future__ import annotations

import click

from fortdb.cli.settings import Settings, json_option, pass_settings
from fortdb.model import Ack


@click.group()
def keyspace() -> None:
    """Policies for keys by name: key orders/17 belongs to keyspace orders."""


@keyspace.command()
@click.argument("name")
@click.option("--ack", type=click.Choice([ack.value for ack in Ack]), help="When its writes count as done.")
@json_option
@pass_settings
def create(settings: Settings, name: str, ack: str | None) -> None:
    """Make a keyspace."""
    with settings.client() as client:
        client.create_keyspace(name, None if ack is None else Ack(ack))
    settings.write({"created": name}, f"created keyspace {name}")


@keyspace.command("list")
@json_option
@pass_settings
def list_keyspaces(settings: Settings) -> None:
    """Write every keyspace and its policy."""
    with settings.client() as client:
        keyspaces = client.keyspaces()
    settings.write(
        [{"name": one.name, "ack": one.ack.value} for one in keyspaces],
        "\n".join(f"{one.name}\tack={one.ack.value}" for one in keyspaces) or "there are no keyspaces",
    )


@keyspace.command()
@click.argument("name")
@json_option
@pass_settings
def drop(settings: Settings, name: str) -> None:
    """Forget a keyspace's policy; its keys stay."""
    with settings.client() as client:
        client.drop_keyspace(name)
    settings.write({"dropped": name}, f"dropped keyspace {name}")
