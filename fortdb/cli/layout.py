"""`fortdb layout plan|apply`: see what a change would move, then do exactly that.

Planning changes nothing and writes the plan to a file; applying takes that file and is refused if
the layout has changed since, so what an operator looked at is what happens.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fortdb.cli.failures import Failed
from fortdb.cli.settings import Settings, json_option, pass_settings
from fortdb.client import Client, LayoutPlan, PlannedMove, RingStatus, read_plan
from fortdb.errors import Answer, BadRequest, FortError, Unavailable

if TYPE_CHECKING:
    from rich.table import Table

LOOK_AGAIN_S = 0.5  # between two looks at a moving ring; a move takes seconds to hours


@click.group()
def layout() -> None:
    """Who ought to hold what: plan a change, then apply the plan."""


@layout.command()
@click.option("--partitions", type=click.IntRange(1), help="How many partitions; only for the first layout.")
@click.option("--replication", type=click.IntRange(1), help="Replicas of each partition.")
@click.option("--min-in-sync", type=click.IntRange(1), help="Replicas a write must reach to be accepted.")
@click.option("--remove", multiple=True, metavar="NODE", help="Move everything off this node; repeatable.")
@click.option(
    "--weight", multiple=True, metavar="NODE=WEIGHT", help="A node's share of the load; repeatable."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the plan for `apply`.")
@json_option
@pass_settings
def plan(
    settings: Settings,
    partitions: int | None,
    replication: int | None,
    min_in_sync: int | None,
    remove: tuple[str, ...],
    weight: tuple[str, ...],
    out: Path | None,
) -> None:
    """Show what a change (or nodes that came) would move. Changes nothing."""
    weights = dict(map(parse_weight, weight))
    with settings.client() as client:
        planned = client.plan_layout(
            partitions=partitions,
            replication=replication,
            min_in_sync=min_in_sync,
            remove=remove,
            weights=weights,
        )
    if out is not None:
        out.write_bytes(planned.document)
    if settings.as_json:
        click.echo(planned.document.decode())
    else:
        _show(planned, out)


@layout.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--no-wait", is_flag=True, help="Return once the layout is stored; moves go on by themselves.")
@json_option
@pass_settings
def apply_plan(settings: Settings, file: Path, no_wait: bool) -> None:
    """Apply exactly the plan in FILE and show the moves until they are done."""
    planned = read_plan(file.read_bytes())
    with settings.client() as client:
        client.apply_layout(planned)
        if not no_wait:
            _wait(client, planned, quiet=settings.as_json)
    state = "applied" if no_wait else "in place"
    settings.write(
        {"layout_version": planned.layout_version, "state": state},
        f"layout {planned.layout_version} is {state}",
    )


@layout.command()
@click.option(
    "--node",
    "nodes",
    multiple=True,
    required=True,
    metavar="NAME=ZONE",
    help="A node of the ring; repeatable.",
)
@click.option("--partitions", type=click.IntRange(1), default=24, show_default=True)
@click.option("--replication", type=click.IntRange(1), default=3, show_default=True)
@click.option("--min-in-sync", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The plan's file."
)
@pass_settings
def draft(
    settings: Settings, nodes: tuple[str, ...], partitions: int, replication: int, min_in_sync: int, out: Path
) -> None:
    """Plan the first layout without a ring: for tools that render it before the nodes are up.

    The same nodes always give the same plan; `apply` takes it once they have joined.
    """
    from fortdb.model import NodeSpec
    from fortdb.ring.moves import plan as plan_of
    from fortdb.ring.moves import plan_to_json
    from fortdb.ring.placement import first_layout

    specs = {name: NodeSpec(zone) for name, zone in map(_parse_node, nodes)}
    target = first_layout(specs, partitions, replication, min_in_sync)
    document = plan_to_json(plan_of(None, target)).encode()
    out.write_bytes(document)
    if not settings.as_json:
        _show(read_plan(document), out)


@layout.command()
@click.option("--node", metavar="NAME", help="Only what this node holds.")
@click.option(
    "--plan",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of this plan. Default: of the live ring.",
)
@pass_settings
def show(settings: Settings, node: str | None, file: Path | None) -> None:
    """Write who ought to hold which partition, as JSON; equal layouts are equal bytes."""
    document = _planned(file) if file is not None else _live(settings)
    if node is not None:
        if node not in document["nodes"]:
            raise BadRequest(f"no node {node!r} in the layout; there are {', '.join(document['nodes'])}")
        document["partitions"] = [one for one in document["partitions"] if node in one["replicas"]]
        document["node"] = node
    click.echo(json.dumps(document, indent=2, sort_keys=True))


def _planned(file: Path) -> dict[str, Any]:
    from fortdb.ring.layouts import layout_fields
    from fortdb.ring.moves import plan_from_json

    _, target = plan_from_json(file.read_text())
    return layout_fields(target)


def _live(settings: Settings) -> dict[str, Any]:
    with settings.client() as client:
        document: dict[str, Any] | None = client.layout()
    if document is None:
        raise Unavailable("the ring has no layout yet; make one: fortdb layout plan, fortdb layout apply")
    return document


def _parse_node(text: str) -> tuple[str, str]:
    name, _, zone = text.partition("=")
    if not name or not zone:
        raise click.BadParameter(f"{text!r} is no node; write NAME=ZONE")
    return name, zone


def parse_weight(text: str) -> tuple[str, float]:
    """`node-1=0.5` -> ("node-1", 0.5)."""
    node, equals, number = text.partition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if not node or not equals or not 0 <= weight < float("inf"):
        raise click.BadParameter(f"{text!r} is no weight; write NODE=NUMBER, the number 0 or more")
    return node, weight


def arrived(move: PlannedMove, ring: RingStatus) -> bool:
    """Whether a planned move is complete: new replicas in sync, old ones gone."""
    for partition in ring.partitions:
        if partition.name == move.partition:
            left = not set(move.remove) & set(partition.replicas)
            return not partition.moving and left and set(move.add) <= set(partition.isr)
    return False


def _wait(client: Client, planned: LayoutPlan, quiet: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task("moving partitions", total=len(planned.moves))
        while True:
            done, description = _look(client, planned)
            progress.update(task, completed=done, description=description)
            if done == len(planned.moves):
                return
            time.sleep(LOOK_AGAIN_S)


def _look(client: Client, planned: LayoutPlan) -> tuple[int, str]:
    """How many moves are complete, and what to write beside the bar."""
    try:
        ring = client.ring()
    except FortError as error:
        if error.answer is Answer.REFUSE:
            raise
        return 0, "no answer, looking again"  # the moves go on without us
    if ring.layout is not None and ring.layout.version > planned.layout_version:
        raise Failed(f"layout {ring.layout.version} was applied meanwhile; `fortdb status` shows its moves")
    return sum(arrived(move, ring) for move in planned.moves), "moving partitions"


def _show(planned: LayoutPlan, out: Path | None) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if planned.moves:
        console.print(_moves_table(planned.moves))
    console.print(
        f"layout {planned.base_version} -> {planned.layout_version}: {len(planned.moves)} partitions change, "
        + (
            f"{planned.share_moved:.1%} of the keyspace is copied"
            if planned.base_version
            else "the first layout"
        ),
        soft_wrap=True,
    )
    hint = (
        f"fortdb layout apply {out}" if out else "add --out FILE to write the plan for `fortdb layout apply`"
    )
    console.print(f"Nothing has changed yet; {hint}", soft_wrap=True, markup=False)


def _moves_table(moves: tuple[PlannedMove, ...]) -> Table:
    from rich.table import Table

    table = Table("partition", "share", "add", "remove", "leader before", "leader after")
    for move in moves:
        table.add_row(
            move.partition,
            f"{move.share:.1%}",
            " ".join(move.add),
            " ".join(move.remove),
            move.leader_before or "-",
            move.leader_after or "-",
        )
    return table
