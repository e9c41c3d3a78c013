"""`fortdb leader move`: choose who leads a partition."""

from __future__ import annotations

import click

from fortdb.cli.settings import Settings, json_option, pass_settings


@click.group()
def leader() -> None:
    """Who leads a partition."""


@leader.command()
@click.argument("partition")
@click.argument("node")
@json_option
@pass_settings
def move(settings: Settings, partition: str, node: str) -> None:
    """Let NODE, which must be in sync, lead PARTITION. No write is lost; it takes a moment."""
    with settings.client() as client:
        client.move_leader(partition, node)
    settings.write({"partition": partition, "leader": node}, f"{node} leads {partition}")
