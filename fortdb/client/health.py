"""How the ring is, in one word and in sentences; a pure function of what the router says.

Healthy: every partition has its full in-sync set. Degraded: everything is served, with less safety
than the layout asks for. Unavailable: some partition takes no writes. A partition on the move with
a full in-sync set is healthy: the new replica is extra until it takes over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from fortdb.client.status import LayoutSummary, NodeStatus, PartitionStatus, RingStatus


class Level(IntEnum):
    """Worse is greater; `exit_code` is what `fortdb status` ends with."""

    HEALTHY = 0
    DEGRADED = 2
    UNAVAILABLE = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Health:
    level: Level
    findings: tuple[Finding, ...]

    def summary(self, ring: RingStatus) -> str:
        """One line for a person."""
        moving = sum(partition.moving for partition in ring.partitions)
        parts = [f"{len(ring.partitions)} partitions on {len(ring.nodes)} nodes"]
        if moving:
            parts.append(f"{moving} moving")
        return f"{self.level.name.lower()}: {', '.join(parts)}"


def health_of(ring: RingStatus) -> Health:
    """Judge the ring; findings are worst first."""
    if ring.layout is None:
        hint = "there is no layout yet; make one: fortdb layout plan --partitions N --out plan.json"
        return Health(Level.UNAVAILABLE, (Finding(Level.UNAVAILABLE, hint),))
    findings = [*_of_nodes(ring.nodes)]
    for partition in ring.partitions:
        findings.extend(_of_partition(partition, ring.layout))
    if ring.controller is None:
        findings.append(Finding(Level.DEGRADED, "no controller: nobody would be elected after a failure"))
    findings.sort(key=lambda finding: -finding.level)
    return Health(max((finding.level for finding in findings), default=Level.HEALTHY), tuple(findings))


def _of_nodes(nodes: tuple[NodeStatus, ...]) -> Iterator[Finding]:
    for node in nodes:
        if node.state != "serving":
            reason = f": {node.reason}" if node.reason else ""
            yield Finding(Level.DEGRADED, f"{node.name} is {node.state}{reason}")
        elif node.reason:
            yield Finding(Level.UNAVAILABLE, f"{node.name} refuses writes: {node.reason}")


def _of_partition(partition: PartitionStatus, layout: LayoutSummary) -> Iterator[Finding]:
    in_sync = len(partition.isr)
    if partition.leader is None:
        yield Finding(Level.UNAVAILABLE, f"{partition.name} has no leader")
    elif partition.last_offset is None:
        yield Finding(Level.DEGRADED, f"{partition.name}: {partition.leader} has not said that it leads it")
    elif in_sync < layout.min_in_sync:
        yield Finding(
            Level.UNAVAILABLE,
            f"{partition.name} takes no writes: {in_sync} in sync, at least {layout.min_in_sync} needed",
        )
    elif in_sync < layout.replication:
        yield Finding(Level.DEGRADED, f"{partition.name} has {in_sync} of {layout.replication} in sync")
