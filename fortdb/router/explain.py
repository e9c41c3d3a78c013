"""Why a key is served or not: the way of a request, party by party, and what stands in it now.

Four parties may believe different things for a moment: the layout (who ought to hold the partition), the
record in the coordination store (who leads and is in sync), this router (whom it sends to, in which epoch) and
the nodes (what they do). `explain` lays them side by side and judges. It is a pure function of what was
asked of them; what a party did not answer in time is a finding, too.

A finding is *blocked* if requests wait or are refused now, *degraded* if they are served with less safety or
not for long, and a *note* otherwise. Caveat: the answers are not of one moment; during a failover they may
contradict each other, and asking again tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fortdb.limits import CHANNEL_REQUESTS_MAX, UNCOMMITTED_BYTES_MAX
from fortdb.model import Ack, ClusterView, Layout, NodeState, Partition, PartitionRecord
from fortdb.replication.election import elect, leader_lives
from fortdb.ring.tokens import TokenMap, digest_of, hashed_part
from fortdb.router.channels import Channel

READS_AND_WRITES, WRITES = "reads and writes", "writes"

_HEARTBEATS_MISSED_MAX = 5
"""A follower that was not level for longer holds up the writes since, or is slow: worth a word."""


class Level(Enum):
    """How much a finding matters."""

    NOTE = "note"
    DEGRADED = "degraded"
    BLOCKED = "blocked"


_VERDICTS = {Level.NOTE: "served", Level.DEGRADED: "degraded", Level.BLOCKED: "blocked"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know. `blocks`: what waits or is refused because of it, empty for nothing."""

    level: Level
    text: str
    blocks: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """All that was found out about a key. `record` is the store's own, as of now, unless `store_error` says why
    there is none; then it is the last that the watch showed. `reports` are those of the nodes that answered,
    None from one that does not hold the partition; `links` says to whom this router has a connection."""

    key: bytes
    view: ClusterView
    layout: Layout
    tokens: TokenMap
    channel: Channel
    record: PartitionRecord | None
    store_error: str
    links: Mapping[str, bool]
    reports: Mapping[str, Any]

    @property
    def partition(self) -> Partition:
        """Where the key lies."""
        return self.tokens.locate(self.key)[1]

    @property
    def serving(self) -> Mapping[str, Any] | None:
        """What the leader of the record says of its serving; None unless it answered and leads in that epoch."""
        record = self.record
        report = None if record is None else self.reports.get(record.leader or "")
        if record is None or report is None or report["epoch"] != record.epoch:
            return None
        serving: Mapping[str, Any] | None = report["serving"]
        return serving


def explain(asked: Asked) -> dict[str, object]:
    """The answer to `WHY key`."""
    token, partition = asked.tokens.locate(asked.key)
    findings = [*_findings(asked)]
    order = [*Level]
    findings.sort(key=lambda finding: -order.index(finding.level))
    return {
        "key": asked.key.decode("utf-8", "backslashreplace"),
        "hashed": hashed_part(asked.key).decode("utf-8", "backslashreplace"),
        "hash": digest_of(asked.key),
        "token": f"{token:016x}",
        "keyspace": _keyspace(asked),
        "partition": {
            "id": partition.id,
            "name": partition.name,
            "ranges": [[f"{first:016x}", f"{end - 1:016x}"] for first, end in asked.tokens.ranges(partition)],
            "share": asked.tokens.share(partition),
        },
        "layout": {
            "version": asked.layout.version,
            "min_in_sync": asked.layout.min_in_sync,
            "replicas": list(partition.replicas),
        },
        "route": _route(asked),
        "record": _record(asked.record),
        "store_error": asked.store_error,
        "serving": asked.serving,
        "replicas": [_replica(name, asked) for name in _replicas(asked)],
        "verdict": _VERDICTS[findings[0].level if findings else Level.NOTE],
        "findings": [
            {"level": finding.level.value, "blocks": finding.blocks, "text": finding.text}
            for finding in findings
        ],
    }


# --- what is so ---------------------------------------------------------------------------------------


def _keyspace(asked: Asked) -> dict[str, object]:
    prefix, slash, _ = asked.key.partition(b"/")
    space = asked.view.keyspaces.get(prefix.decode("utf-8", "replace")) if slash else None
    if space is None:
        return {"name": None, "ack": Ack.SYNC.value}
    return {"name": space.name, "ack": space.ack.value}


def _route(asked: Asked) -> dict[str, object]:
    channel = asked.channel
    return {
        "leader": channel.leader,
        "epoch": channel.epoch,
        "address": _address(channel.leader, asked.view),
        "is_up": asked.links.get(channel.leader or "", False),
        "unanswered": len(channel),
    }


def _address(name: str | None, view: ClusterView) -> str:
    node = view.nodes.get(name or "")
    return "" if node is None else node.peer_address


def _record(record: PartitionRecord | None) -> dict[str, object] | None:
    if record is None:
        return None
    return {
        "leader": record.leader,
        "epoch": record.epoch,
        "isr": sorted(record.isr),
        "replicas": list(record.replicas),
        "preferred": record.preferred,
        "revision": record.revision,
    }


def _replicas(asked: Asked) -> list[str]:
    """Everybody who holds the partition or ought to, the leader first."""
    record = asked.record
    names = [] if record is None else [record.leader, *record.replicas, *record.isr]
    return [name for name in dict.fromkeys((*names, *asked.partition.replicas)) if name is not None]


def _replica(name: str, asked: Asked) -> dict[str, object]:
    record, node, report = asked.record, asked.view.nodes.get(name), asked.reports.get(name)
    follower = (asked.serving or {}).get("followers", {}).get(name, {})
    is_leader = record is not None and record.leader == name
    return {
        "node": name,
        "state": "down" if node is None else node.state.value,
        "is_leader": is_leader,
        "in_layout": name in asked.partition.replicas,
        "in_sync": record is not None and node is not None and record.isr.get(name) == node.incarnation,
        "last_offset": None if report is None else report["last_offset"],
        "lag": 0 if is_leader and report is not None else follower.get("lag"),
        "lag_ms": 0 if is_leader and report is not None else follower.get("lag_ms"),
    }


# --- what stands in the way ---------------------------------------------------------------------------


def _findings(asked: Asked) -> Iterator[Finding]:
    yield from _of_store(asked)
    record = asked.record
    if record is None:
        text = f"{asked.partition.name} has no record in the coordination store: nobody has ever led it"
        yield Finding(Level.BLOCKED, text, READS_AND_WRITES)
        return
    if not leader_lives(record, asked.view.nodes):
        yield _without_leader(asked, record)
    else:
        yield from _of_route(asked, record)
        yield from _of_leader(asked, record)
    yield from _of_isr(asked, record)
    if set(record.replicas) != set(asked.partition.replicas):
        now, then = ", ".join(record.replicas), ", ".join(asked.partition.replicas)
        yield Finding(Level.NOTE, f"a move is under way: {now} hold it, and the layout wants {then}")


def _of_store(asked: Asked) -> Iterator[Finding]:
    if asked.store_error:
        yield Finding(
            Level.DEGRADED,
            f"the coordination store does not answer ({asked.store_error}): nobody is elected, and leases end",
        )
    elif asked.view.controller is None:
        yield Finding(Level.DEGRADED, "there is no controller: nobody would be elected after a failure")


def _without_leader(asked: Asked, record: PartitionRecord) -> Finding:
    nodes, leader = asked.view.nodes, record.leader
    node = nodes.get(leader or "")
    if leader is None:
        what = "nobody leads"
    elif node is None:
        what = f"{leader} led, and its lease in the coordination store has ended"
    elif node.state is NodeState.FAILED:
        what = f"{leader} led, and has failed: {node.reason}"
    else:
        what = f"{leader} led, and was started anew since"
    successor = elect(record, asked.partition, nodes)
    if successor is not None:
        then = f"the controller ({asked.view.controller or 'none'}) is about to let {successor.leader} lead"
    else:
        then = (
            f"of those in sync ({', '.join(sorted(record.isr))}) nobody is there: start one of them, or, if their"
            f" disks are lost, fortdb leader seize {record.partition} NODE --accept-data-loss"
        )
    return Finding(Level.BLOCKED, f"{what}; {then}", READS_AND_WRITES)


def _of_route(asked: Asked, record: PartitionRecord) -> Iterator[Finding]:
    channel = asked.channel
    if (channel.leader, channel.epoch) != (record.leader, record.epoch):
        yield Finding(
            Level.DEGRADED,
            f"this router sends to {channel.leader or 'nobody'} in epoch {channel.epoch} still; the record says"
            f" {record.leader} in epoch {record.epoch}",
        )
    if len(channel) >= CHANNEL_REQUESTS_MAX:
        text = f"{len(channel):,} requests wait at this router, and it takes no more"
        yield Finding(Level.BLOCKED, text, READS_AND_WRITES)
    elif len(channel):
        yield Finding(Level.NOTE, f"{len(channel):,} requests wait for their answers at this router")


def _of_leader(asked: Asked, record: PartitionRecord) -> Iterator[Finding]:
    leader = record.leader or ""
    serving = asked.serving
    if not asked.links.get(leader, False):
        yield Finding(
            Level.BLOCKED,
            f"this router has no connection to {leader} at {_address(leader, asked.view)}; if it is dead, another"
            " node leads as soon as its lease in the coordination store has ended",
            READS_AND_WRITES,
        )
    elif leader not in asked.reports:
        text = f"{leader} does not answer: it is paused, overloaded or cut off"
        yield Finding(Level.BLOCKED, text, READS_AND_WRITES)
    elif serving is None:
        text = f"{leader} does not know yet that it leads in epoch {record.epoch}"
        yield Finding(Level.BLOCKED, text, READS_AND_WRITES)
    else:
        yield from _of_serving(leader, serving, record)


def _of_serving(leader: str, serving: Mapping[str, Any], record: PartitionRecord) -> Iterator[Finding]:
    margin_ms, left_ms = serving["lease_margin_ms"], serving["lease_left_ms"]
    if serving["handover_to"] is not None:
        text = f"{leader} hands the partition to {serving['handover_to']}: requests wait until that one leads"
        yield Finding(Level.BLOCKED, text, READS_AND_WRITES)
    elif left_ms <= margin_ms:
        text = f"{leader} holds no lease in the coordination store (it counts {margin_ms} ms before its end as over)"
        yield Finding(Level.BLOCKED, text, READS_AND_WRITES)
    elif not serving["serves_ms"]:
        yield Finding(Level.BLOCKED, _not_serving(leader, serving, record), READS_AND_WRITES)
    if margin_ms < left_ms < serving["lease_ttl_ms"] // 2:
        text = f"{leader} has {left_ms} of {serving['lease_ttl_ms']} ms left of its lease: it cannot renew it"
        yield Finding(Level.DEGRADED, text)
    if serving["refusal"] is not None:
        yield Finding(Level.BLOCKED, f"{leader} refuses writes: {serving['refusal']}", WRITES)
    if serving["uncommitted_bytes"] > UNCOMMITTED_BYTES_MAX:
        text = f"{serving['uncommitted_bytes']:,} bytes wait for the followers, and {leader} takes no more"
        yield Finding(Level.BLOCKED, text, WRITES)
    if serving["held"]:
        yield Finding(Level.NOTE, f"{leader} holds {serving['held']} requests until it serves")


def _not_serving(leader: str, serving: Mapping[str, Any], record: PartitionRecord) -> str:
    """Why a leader with a lease executes nothing now."""
    if serving["alone_in_ms"]:
        return f"{leader} waits {serving['alone_in_ms']} ms more, for which the leader before may serve"
    if not serving["has_opened"]:
        return f"{leader} waits for those in sync to have the first entry of epoch {record.epoch}"
    promises = {name: one["promise_left_ms"] for name, one in serving["followers"].items()}
    silent = [
        name
        for name in sorted(record.isr)
        if name != leader and promises.get(name, 0) <= serving["lease_margin_ms"]
    ]
    return f"{leader} waits for the promise of {', '.join(silent) or 'its followers'} to let it lead"


def _of_isr(asked: Asked, record: PartitionRecord) -> Iterator[Finding]:
    in_sync, layout = len(record.isr), asked.layout
    if in_sync < layout.min_in_sync:
        text = f"{in_sync} in sync, and a write needs {layout.min_in_sync}: start {_missing(asked, record)}"
        yield Finding(Level.BLOCKED, text, WRITES)
    elif in_sync < layout.replication:
        text = f"{in_sync} of {layout.replication} in sync, without {_missing(asked, record)}"
        yield Finding(Level.DEGRADED, text)
    serving = asked.serving
    if serving is None:
        return
    late_ms = _HEARTBEATS_MISSED_MAX * serving["heartbeat_ms"]
    for name, incarnation in sorted(record.isr.items()):
        follower = serving["followers"].get(name)
        if name == record.leader:
            continue
        if follower is None or follower["phase"] == "down" or follower["incarnation"] != incarnation:
            text = (
                f"{name} is gone and in sync by the record: writes wait until {record.leader} has let it go"
            )
            yield Finding(Level.BLOCKED, text, WRITES)
        elif follower["lag_ms"] > late_ms:
            text = f"{name} was level {follower['lag_ms']} ms ago, and is in sync: writes wait for it"
            yield Finding(Level.DEGRADED, text)


def _missing(asked: Asked, record: PartitionRecord) -> str:
    """Who ought to be in sync and is not, and what is known of it."""
    names = [name for name in record.replicas if name not in record.isr]
    return ", ".join(f"{name} ({_absence(name, asked)})" for name in names)


def _absence(name: str, asked: Asked) -> str:
    node, serving = asked.view.nodes.get(name), asked.serving
    if node is None or node.state is not NodeState.SERVING or serving is None:
        return "down" if node is None else node.state.value
    follower = serving["followers"].get(name)
    return "not connected to its leader" if follower is None or follower["phase"] == "down" else "catching up"
