"""`fortdb why KEY`: where a key lies, who serves it, and what stands in the way of a write now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from fortdb.cli.settings import Settings, json_option
from fortdb.cli.status import empty_table
from fortdb.client import Explanation, WhyReplica

if TYPE_CHECKING:
    from rich.tree import Tree

_EXIT_CODES = {"served": 0, "degraded": 2, "blocked": 3}
_COLORS = {"served": "green", "note": "blue", "degraded": "yellow", "blocked": "red"}


@click.command(
    epilog="Exit codes: 0 reads and writes are served, 2 with less safety than the layout asks for, 3 blocked"
    " (also when the router cannot be reached)."
)
@click.argument("key")
@json_option
@click.pass_context
def why(context: click.Context, key: str) -> None:
    """Explain where KEY lies, who serves it, and what blocks a write."""
    settings = context.ensure_object(Settings)
    with settings.client() as client:
        found = client.why(key)
    if settings.as_json:
        settings.write(json.loads(found.document), "")
    else:
        _write(found)
    context.exit(_EXIT_CODES[found.verdict])


def _write(found: Explanation) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    console.print(_tree(found))
    console.print()
    console.print(_replicas(found))
    console.print()
    for finding in found.findings:
        blocked = f"{finding.blocks} blocked: " if finding.blocks else ""
        console.print(f"[{_COLORS[finding.level]}]-[/] {blocked}{escape(finding.text)}", soft_wrap=True)
    if found.verdict == "served":
        text = "served: nothing stands in the way of a read or a write"
    elif found.verdict == "degraded":
        text = "degraded: reads and writes are served, with less safety than the layout asks for"
    else:
        text = "blocked: " + max((finding.blocks for finding in found.findings), key=len)
    console.print(f"[bold {_COLORS[found.verdict]}]{text}[/]", soft_wrap=True)


def _tree(found: Explanation) -> Tree:
    from rich.markup import escape
    from rich.tree import Tree

    route, record = found.route, found.record
    tag = "" if found.hashed == found.key else f" of the tag {escape(found.hashed)}"
    keyspace = "none" if found.keyspace is None else escape(found.keyspace)
    ranges = " and ".join(f"{first} to {last}" for first, last in found.ranges)
    tree = Tree(f"[bold]{escape(found.key)}[/]")
    tree.add(f"SHA-1{tag}: {found.hash}").add(f"token {found.token}")
    tree.add(f"keyspace {keyspace}, ack {found.ack.value}")
    partition = tree.add(f"partition {escape(found.partition)}: {ranges} ({found.share:.1%} of the keyspace)")
    partition.add(f"layout: {escape(' '.join(found.layout_replicas))}, min_in_sync {found.min_in_sync}")
    if record is None:
        partition.add("record in the coordination store: [red]none[/]")
    else:
        partition.add(
            f"record in the coordination store: leader {escape(record.leader or 'none')}, epoch {record.epoch},"
            f" in sync {escape(' '.join(record.isr))}"
        )
    link = "connected" if route.is_up else "[red]no connection[/]"
    tree.add(
        f"route of this router: {escape(route.leader or 'none')} at {route.address or '?'}, epoch {route.epoch},"
        f" {link}, {route.unanswered} unanswered"
    )
    return tree


def _replicas(found: Explanation) -> object:
    from rich.markup import escape

    shown = empty_table("replica", "state", "role", "in sync", "last offset", "lag", "level")
    for replica in found.replicas:
        shown.add_row(
            escape(replica.node),
            replica.state if replica.state == "serving" else f"[red]{replica.state}[/]",
            ("leader" if replica.is_leader else "follower") + ("" if replica.in_layout else ", to go"),
            "yes" if replica.in_sync else "[red]no[/]",
            "?" if replica.last_offset is None else str(replica.last_offset),
            "?" if replica.lag is None else str(replica.lag),
            _level(replica),
        )
    return shown


def _level(replica: WhyReplica) -> str:
    """When it had all that the leader has."""
    if replica.is_leader:
        return ""
    return "?" if replica.lag_ms is None else f"{replica.lag_ms / 1000:.1f} s ago"
