"""`fortdb ring`: a picture of who holds what, in the terminal or as SVG."""

from __future__ import annotations

from pathlib import Path

import click

from fortdb.cli.settings import Settings, json_option, pass_settings


@click.command()
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Write the picture to this file."
)
@json_option
@pass_settings
def ring(settings: Settings, svg: Path | None) -> None:
    """Draw the ring: partitions by token, colored by the node that leads them."""

    with settings.client() as client:
        status = client.ring()
    if settings.as_json:
        click.echo(status.document.decode())
