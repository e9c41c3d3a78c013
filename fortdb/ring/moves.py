"""From one layout to the next: what would move, and the steps that move it safely.

A *plan* is the next layout with what it changes. It is made for one version of the present layout and
cannot be applied to another, so what an operator looked at is what happens.

A partition is moved in steps, one compare-and-set on its record each (rule 15; Kafka's
reassignment): the new replicas are added, catch up, and join the ISR; only when every replica of the
target is in sync are the old ones let go, the leader last, after it has handed over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from fortdb.errors import LayoutError
from fortdb.fields import Fields, dump_json
from fortdb.model import Layout, PartitionRecord
from fortdb.ring.layouts import layout_fields, layout_of
from fortdb.ring.placement import fair_loads, loads
from fortdb.ring.tokens import TokenMap


@dataclass(frozen=True, slots=True)
class Move:
    """What happens to one partition; `share` is its part of the keyspace, 0 to 1."""

    partition: str
    share: float
    add: tuple[str, ...]
    remove: tuple[str, ...]
    leader_before: str | None
    leader_after: str


@dataclass(frozen=True, slots=True)
class Load:
    """A node's part of the keyspace, in copies of it: before, after, and what would be fair."""

    before: float
    after: float
    fair: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The next layout and what it changes. `share_moved` counts copied replicas, each by its share."""

    base_version: int
    layout: Layout
    moves: tuple[Move, ...]
    share_moved: float
    loads: Mapping[str, Load]


def plan(present: Layout | None, target: Layout) -> Plan:
    """What leads from `present` (None: no layout yet) to `target`."""
    tokens = TokenMap(target)
    before = {} if present is None else {p.name: p.replicas for p in present.partitions}
    moves = []
    for partition in target.partitions:
        old, new = before.get(partition.name, ()), partition.replicas
        if old != new:
            moves.append(
                Move(
                    partition.name,
                    tokens.share(partition),
                    add=tuple(node for node in new if node not in old),
                    remove=tuple(node for node in old if node not in new),
                    leader_before=old[0] if old else None,
                    leader_after=new[0],
                )
            )
    held_before = {} if present is None else loads(present)
    held_after, fair = loads(target), fair_loads(target)
    return Plan(
        base_version=0 if present is None else present.version,
        layout=target,
        moves=tuple(moves),
        share_moved=sum(move.share * len(move.add) for move in moves),
        loads={
            node: Load(held_before.get(node, 0.0), held_after.get(node, 0.0), fair.get(node, 0.0))
            for node in sorted({*held_before, *held_after})
        },
    )


def plan_to_json(made: Plan) -> str:
    """A plan as JSON, for people to read and for `plan_from_json`."""
    return dump_json(
        {
            "base_version": made.base_version,
            "moves": [
                {
                    "partition": move.partition,
                    "share": move.share,
                    "add": list(move.add),
                    "remove": list(move.remove),
                    "leader_before": move.leader_before,
                    "leader_after": move.leader_after,
                }
                for move in made.moves
            ],
            "share_moved": made.share_moved,
            "loads": {
                node: {"before": load.before, "after": load.after, "fair": load.fair}
                for node, load in made.loads.items()
            },
            "layout": layout_fields(made.layout),
        }
    ).decode()


def plan_from_json(document: str) -> tuple[int, Layout]:
    """The version that a plan was made for, and the layout it leads to; the rest follows from them.
    Raises `LayoutError`."""
    fields = Fields.parse("the plan", document, "to apply", LayoutError)
    return fields.number("base_version", 0), layout_of(fields.object("layout"))


def verify(base_version: int, target: Layout, present: Layout | None) -> None:
    """Raise `LayoutError` unless `target` may follow `present` and was planned for it."""
    version = 0 if present is None else present.version
    if base_version != version or target.version != version + 1:
        raise LayoutError(
            f"the plan leads from layout {base_version} to {target.version}, but the ring has layout "
            f"{version}; make a new plan"
        )
    if present is not None and _partitions(present) != _partitions(target):
        raise LayoutError("the plan changes names, ids or tokens of partitions, which stay as they are")


def _partitions(layout: Layout) -> set[tuple[int, str, int]]:
    return {(partition.id, partition.name, partition.token) for partition in layout.partitions}


def next_step(
    record: PartitionRecord, target: Collection[str], alive: Collection[str], min_in_sync: int
) -> PartitionRecord | None:
    """The next change of a partition's record on its way to the replicas `target`, if one is due.

    `alive` are the nodes that could catch up: a dead one is added once it is back.
    """
    missing = tuple(node for node in target if node not in record.replicas and node in alive)
    if missing:
        return replace(record, replicas=(*record.replicas, *missing))
    surplus = {*record.replicas, *record.isr} - set(target)
    staying = [node for node in target if node in record.isr]
    if not surplus or record.leader in surplus:
        return None
    if len(staying) < len(target) or len(staying) < min_in_sync:
        return None
    return replace(
        record,
        replicas=tuple(target),
        isr={node: incarnation for node, incarnation in record.isr.items() if node not in surplus},
        preferred=None if record.preferred in surplus else record.preferred,
    )
