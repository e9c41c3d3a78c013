"""`fortdb leader move|seize`: choose who leads a partition."""

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


@leader.command()
@click.argument("partition")
@click.argument("node")
@click.option(
    "--accept-data-loss",
    is_flag=True,
    required=True,
    help="Acknowledged writes that NODE lacks will be gone.",
)
@json_option
@pass_settings
def seize(settings: Settings, partition: str, node: str, accept_data_loss: bool) -> None:
    """Let NODE lead PARTITION though it is not in sync: when every node that was is lost for good."""
    if not accept_data_loss:
        raise click.UsageError("say --accept-data-loss: what NODE lacks will be gone")
    with settings.client() as client:
        client.seize_leader(partition, node)
    settings.write({"partition": partition, "leader": node}, f"{node} leads {partition} now")
