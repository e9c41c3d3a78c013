"""`fortdb ring`: a picture of who leads and who holds what, in the terminal or as SVG."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from fortdb.cli.settings import Settings, json_option, pass_settings
from fortdb.client import RingStatus
from fortdb.client.health import Level, health_of


@click.command(epilog="Exit codes: 0 drawn, 3 there is no layout to draw (as `fortdb status` says it).")
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the picture to this file instead, as SVG.",
)
@json_option
@click.pass_context
@pass_settings
def ring(settings: Settings, context: click.Context, svg: Path | None) -> None:
    """Draw the ring: partitions as arcs by token, colored by the node that leads them."""
    with settings.client() as client:
        status = client.ring()
    if settings.as_json:
        click.echo(status.document)
    if status.layout is None:
        for finding in health_of(status).findings:
            click.echo(finding.text, err=settings.as_json)
        context.exit(Level.UNAVAILABLE)
    if svg is not None:
        _write_svg(status, svg)
        click.echo(f"wrote {svg}", err=settings.as_json)
    elif not settings.as_json:
        _print(status)


def _print(status: RingStatus) -> None:
    from rich.console import Console

    from fortdb.cli.picture import ring_text

    console = Console(highlight=False)
    console.print(ring_text(status, console.width))


def _write_svg(status: RingStatus, path: Path) -> None:
    from fortdb.cli.picture import ring_svg

    write_atomically(path, ring_svg(status))


def write_atomically(path: Path, text: str) -> None:
    """The whole text or, if something goes wrong, what was there before. A pipe is simply written."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    target = path.resolve()  # a symbolic link stays one
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
