"""A layout as JSON: the form in which it is stored, planned and looked at.

Tokens are 16 hex digits: a JSON number does not carry 64 bits through every tool.
"""

from __future__ import annotations

from fortdb.fields import Fields
from fortdb.model import Layout, NodeSpec, Partition


def layout_fields(layout: Layout) -> dict[str, object]:
    """A layout as a JSON object; partitions are sorted by token."""
    return {
        "version": layout.version,
        "replication": layout.replication,
        "min_in_sync": layout.min_in_sync,
        "nodes": {name: {"zone": spec.zone, "weight": spec.weight} for name, spec in layout.nodes.items()},
        "partitions": [
            {"id": p.id, "name": p.name, "token": f"{p.token:016x}", "replicas": list(p.replicas)}
            for p in sorted(layout.partitions, key=lambda partition: partition.token)
        ],
    }


def layout_of(fields: Fields) -> Layout:
    """The layout that a JSON object is. Raises the error of `fields` for what is no sound layout:
    two partitions with one token, replicas on nodes that it does not name, too few of them."""
    partitions = tuple(_partition_of(item) for item in fields.objects("partitions"))
    layout = Layout(
        version=fields.number("version", 1),
        replication=fields.number("replication", 1),
        min_in_sync=fields.number("min_in_sync", 1),
        nodes={
            name: NodeSpec(zone=item.text("zone"), weight=item.weight("weight"))
            for name, item in fields.named_objects("nodes").items()
        },
        partitions=tuple(sorted(partitions, key=lambda partition: partition.token)),
    )
    if problem := problem_of(layout):
        raise fields.wrong(problem)
    return layout


def problem_of(layout: Layout) -> str | None:
    """What is wrong with a layout, None for a sound one."""
    partitions = layout.partitions
    if not partitions:
        return "has no partitions"
    for word in ("id", "name", "token"):
        if len({getattr(partition, word) for partition in partitions}) < len(partitions):
            return f"has two partitions with one {word}"
    if layout.min_in_sync > layout.replication:
        return f"asks for {layout.min_in_sync} in sync, but has {layout.replication} replicas"
    for partition in partitions:
        if unknown := set(partition.replicas) - layout.nodes.keys():
            return f"puts {partition.name} on {', '.join(sorted(unknown))}, which it does not name"
        if len(partition.replicas) != layout.replication:
            return f"gives {partition.name} {len(partition.replicas)} replicas, not {layout.replication}"
    return None


def _partition_of(fields: Fields) -> Partition:
    return Partition(
        id=fields.number("id", 0),
        name=fields.text("name"),
        token=fields.token("token"),
        replicas=fields.texts("replicas"),
    )
