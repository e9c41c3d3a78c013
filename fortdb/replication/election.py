"""Who leads next: the controller's decision for one partition, as a pure function.

Only a member of the ISR is elected (rule 6). A member whose process has lived on since it was
found in sync is preferred; one that was restarted on the same disk comes next (it has everything
that was acknowledged, because nothing is acknowledged before it is on disk: rule 10), so that a
ring whose nodes all lost power comes back by itself. A member on another disk, say an emptied one, is
never elected (rule 9). With nobody left the partition stays as it is, without a live leader, until
a member returns or an operator says the word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fortdb.model import NodeRecord, NodeState, Partition, PartitionRecord, same_disk


def first_record(partition: Partition, nodes: Mapping[str, NodeRecord]) -> PartitionRecord | None:
    """The record of a partition that never had one: led by its first live replica, alone in sync."""
    for name in partition.replicas:
        node = nodes.get(name)
        if node is not None and node.state is NodeState.SERVING:
            return PartitionRecord(
                partition.name,
                name,
                1,
                {name: node.incarnation},
                partition.replicas,
                handover=True,
            )
    return None


def leader_lives(record: PartitionRecord, nodes: Mapping[str, NodeRecord]) -> bool:
    """Whether the recorded leader is alive, in the life in which it was elected, and not failed."""
    node = nodes.get(record.leader or "")
    return (
        node is not None
        and node.state is not NodeState.FAILED
        and record.isr.get(node.name) == node.incarnation
    )


def elect(
    record: PartitionRecord,
    partition: Partition | None,
    nodes: Mapping[str, NodeRecord],
) -> PartitionRecord | None:
    """The record with the next leader, or None when the leader lives or nobody may follow it."""
    if leader_lives(record, nodes):
        return None
    order = _order(record, partition)
    candidates = [
        nodes[name] for name in order if name in nodes and nodes[name].state is not NodeState.FAILED
    ]
    candidates.sort(key=lambda node: node.state is NodeState.DRAINING)
    continued = [node for node in candidates if record.isr[node.name] == node.incarnation]
    restarted = [node for node in candidates if same_disk(record.isr[node.name], node.incarnation)]
    chosen = next(iter(continued or restarted), None)
    if chosen is None:
        return None
    isr = {node.name: node.incarnation for node in continued}
    isr[chosen.name] = chosen.incarnation
    former = nodes.get(record.leader or "")
    former_is_over = former is not None and record.isr.get(former.name) != former.incarnation
    # It may have died before it was its turn to serve; what it waited for is waited for by the next.
    return replace(
        record,
        leader=chosen.name,
        epoch=record.epoch + 1,
        isr=isr,
        handover=former_is_over and record.handover,
    )


def seize(record: PartitionRecord, node: NodeRecord) -> PartitionRecord:
    """The record an operator forces, accepting that acknowledged writes may be lost (rule 6)."""
    return replace(
        record,
        leader=node.name,
        epoch=record.epoch + 1,
        isr={node.name: node.incarnation},
        replicas=record.replicas if node.name in record.replicas else (*record.replicas, node.name),
        handover=False,
    )


def preferred_leader(record: PartitionRecord, partition: Partition | None) -> str | None:
    """Who ought to lead when everybody is well: an operator's choice, else the layout's first."""
    order = _order(record, partition)
    return order[0] if order else None


def _order(record: PartitionRecord, partition: Partition | None) -> Sequence[str]:
    """ISR members, the one who ought to lead first."""
    layout = partition.replicas if partition else record.replicas
    wanted = [record.preferred] if record.preferred in layout else []
    wanted += layout
    wanted += record.replicas
    return [name for name in dict.fromkeys(wanted) if name in record.isr]
