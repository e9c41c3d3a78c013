"""`fortdb config check|reference`: is a file right, and what may stand in one."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.group()
def config() -> None:
    """Configuration files of nodes and routers."""


@config.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--kind", type=click.Choice(["node", "router"]), help="Whose file it is. Default: told from the file."
)
def check(file: Path, kind: str | None) -> None:
    """Check FILE as the process would that reads it; says what is wrong and where."""
    from fortdb.config import kind_of, load_node, load_router

    kind = kind or kind_of(file)
    (load_node if kind == "node" else load_router)(file, os.environ)
    click.echo(f"{file} is a right configuration of a {kind}")


@config.command()
def reference() -> None:
    """Write every setting with its meaning, bounds and default."""
    from fortdb.config import describe

    click.echo(describe())
