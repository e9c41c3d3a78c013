"""`fortdb status`: nodes, partitions and a health line. `!` marks a follower that is not in sync."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fortdb.cli.settings import Settings, json_option
from fortdb.client.health import Health, Level, health_of
from fortdb.client.status import NodeStatus, PartitionStatus, RingStatus

if TYPE_CHECKING:
    from rich.table import Table

STATUS_COLORS = {Level.HEALTHY: "green", Level.DEGRADED: "yellow", Level.UNAVAILABLE: "red"}
PARTITIONS_SHOWN_MAX = 64  # more than a screen or two; --all shows every one


@click.command(epilog="Exit codes: 0 healthy, 2 degraded, 3 unavailable (also when the router is).")
@click.option("--all", "show_all", is_flag=True, help="Every partition, however many.")
@json_option
@click.pass_context
def status(context: click.Context, show_all: bool) -> None:
    """Show who is up, who leads what, and whether all is well."""
    settings = context.ensure_object(Settings)
    with settings.client() as client:
        ring = client.ring()
    health = health_of(ring)
    if settings.as_json:
        _write_json(settings, ring, health)
    else:
        _write_tables(ring, health, show_all)
    context.exit(health.level)


def _write_json(settings: Settings, ring: RingStatus, health: Health) -> None:
    import json

    findings = [finding.text for finding in health.findings]
    settings.write(
        {"health": health.level.name.lower(), "findings": findings, "ring": json.loads(ring.document)}, ""
    )


def _write_tables(ring: RingStatus, health: Health, show_all: bool) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    console.print(_nodes_table(ring.nodes))
    console.print()
    shown = ring.partitions if show_all else _worst_first(ring)[:PARTITIONS_SHOWN_MAX]
    console.print(_partitions_table(shown))
    console.print()
    if len(shown) < len(ring.partitions):
        console.print(f"... and {len(ring.partitions) - len(shown)} more partitions; --all shows them")
    color = STATUS_COLORS[health.level]
    for finding in health.findings:
        console.print(f"[{STATUS_COLORS[finding.level]}]-[/] {escape(finding.text)}", soft_wrap=True)
    if ring.layout is not None:
        console.print(
            f"{escape(ring.cluster)}: layout {ring.layout.version}, replication {ring.layout.replication}, "
            f"min_in_sync {ring.layout.min_in_sync}, controller {escape(ring.controller or 'none')}",
            soft_wrap=True,
        )
    console.print(f"[bold {color}]{escape(health.summary(ring))}[/]", soft_wrap=True)


def _worst_first(ring: RingStatus) -> tuple[PartitionStatus, ...]:
    """Those without a leader or with a short in-sync set before the others."""
    return tuple(sorted(ring.partitions, key=lambda one: (one.leader is not None, len(one.isr), one.token)))


def _nodes_table(nodes: tuple[NodeStatus, ...]) -> object:
    from rich.markup import escape

    versions = {node.version for node in nodes if node.version}
    mixed = len(versions) > 1  # in the middle of an upgrade, say
    columns = ("node", "zone", "state", "leads", "holds", "disk", "free", "clients at")
    table = empty_table(*columns, *(("version",) if mixed else ()))
    for node in nodes:
        color = (
            "green" if node.state == "serving" else "red" if node.state in ("down", "failed") else "yellow"
        )
        table.add_row(
            escape(node.name),
            escape(node.zone),
            f"[{color}]{node.state}[/]",
            str(node.leads),
            str(node.holds),
            bytes_text(node.bytes_on_disk),
            bytes_text(node.bytes_free),
            node.client_address,
            *((node.version,) if mixed else ()),
        )
    return table


def _partitions_table(partitions: tuple[PartitionStatus, ...]) -> object:
    """Followers that are not in sync are red, and told by how many entries they lag."""
    from rich.markup import escape

    table = empty_table("partition", "from token", "share", "epoch", "leader", "followers", "")
    for partition in partitions:
        table.add_row(
            escape(partition.name),
            f"{partition.token:016x}",
            f"{partition.share:.1%}",
            str(partition.epoch),
            escape(partition.leader) if partition.leader else "[red]none[/]",
            " ".join(_follower(name, partition) for name in partition.followers),
            "moving" if partition.moving else "",
        )
    return table


def _follower(name: str, partition: PartitionStatus) -> str:
    from rich.markup import escape

    lag = partition.lag.get(name)
    text = escape(name) + (f"(-{lag})" if lag else "")
    return text if name in partition.isr else f"[red]{text}![/]"


def empty_table(*columns: str) -> Table:
    """A table as FortDB's commands show them."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold underline")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def bytes_text(size_bytes: int | None) -> str:
    """1536 -> 1.5 KiB; None -> ?"""
    if size_bytes is None:
        return "?"
    size, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
