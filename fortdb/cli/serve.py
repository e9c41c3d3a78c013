"""`fortdb node` and `fortdb router`: the server processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click

from fortdb.errors import FortError

EXIT_CRASHED = 70  # EX_SOFTWARE of sysexits.h

CONFIG_OPTION = click.option(
    "--config",
    "path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The configuration file; `fortdb config reference` explains it.",
)


@click.command()
@CONFIG_OPTION
@click.pass_context
def node(context: click.Context, path: Path) -> None:
    """Run a data node until it is told to stop."""
    from fortdb.config import load_node
    from fortdb.node.main import run

    context.exit(_served(lambda: run(load_node(path, os.environ))))


@click.command()
@CONFIG_OPTION
@click.pass_context
def router(context: click.Context, path: Path) -> None:
    """Run a router until it is told to stop."""
    from fortdb.config import load_router
    from fortdb.router.main import run

    context.exit(_served(lambda: run(load_router(path, os.environ))))


def _served(serve: Callable[[], int]) -> int:
    """What ends a server that is not its own doing goes to its log, with the place where it happened."""
    import structlog

    try:
        return serve()
    except FortError:
        raise
    except Exception:  # noqa: BLE001  the edge of the process
        structlog.get_logger("fortdb").exception("crashed")
        return EXIT_CRASHED
