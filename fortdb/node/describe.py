"""What a node says of itself and of its replicas: facts, as JSON, for whoever judges them.

Times are milliseconds from now, by the node's own clock, so that nobody has to compare two clocks.
"""

from __future__ import annotations

import json

from fortdb.node.core import NodeCore
from fortdb.node.hosted import Hosted
from fortdb.replication.leader import Leader


def describe_node(node: NodeCore) -> bytes:
    """The node's replicas and sizes."""
    stats = node.engine.stats()
    return json.dumps(
        {
            "node": node.own.name,
            "bytes_on_disk": stats.bytes_on_disk,
            "bytes_free": stats.bytes_free,
            "refusal": None if node.refusal is None else str(node.refusal),
            "replicas": {hosted.replica.name: _replica(hosted) for hosted in node.hosted.values()},
        }
    ).encode()


def describe_partition(node: NodeCore, partition: int) -> bytes:
    """One replica, and of a leader everything that decides whether it serves now. `null` if this node holds none."""
    hosted = node.hosted.get(partition)
    if hosted is None:
        return b"null"
    leader = hosted.replica.leading
    serving = None if leader is None else _serving(node, hosted, leader)
    return json.dumps({**_replica(hosted), "serving": serving}).encode()


def _replica(hosted: Hosted) -> dict[str, object]:
    replica, log = hosted.replica, hosted.replica.log
    leader = replica.leading
    return {
        "role": "follower" if leader is None else "leader",
        "epoch": replica.epoch,
        "last_offset": log.last_offset,
        "commit_offset": log.commit,
        "applied_offset": log.applied,
        "installing": replica.installing,
        "lag": {}
        if leader is None
        else {name: log.last_offset - progress.match for name, progress in leader.progress.items()},
    }


def _serving(node: NodeCore, hosted: Hosted, leader: Leader) -> dict[str, object]:
    now_ms = node.loop.now_ms
    return {
        "refusal": None if node.refusal is None else str(node.refusal),
        "serves_ms": max(0, hosted.serve_until_ms - now_ms),
        "lease_ttl_ms": node.settings.lease_ttl_ms,
        "lease_left_ms": max(0, node.lease_until_ms - now_ms),
        "lease_margin_ms": node.settings.lease_margin_ms,
        "heartbeat_ms": node.settings.heartbeat_ms,
        "has_opened": leader.log.applied >= leader.opening_offset,
        "alone_in_ms": max(0, leader.serve_from_ms - now_ms),
        "handover_to": leader.transfer_to,
        "held": len(hosted.held),
        "uncommitted_bytes": leader.uncommitted_bytes,
        "followers": {
            name: {
                "incarnation": progress.incarnation,
                "phase": progress.phase.value,
                "lag": leader.log.last_offset - progress.match,
                "lag_ms": max(0, now_ms - progress.caught_up_ms),
                "promise_left_ms": max(0, progress.promised_until_ms - now_ms),
            }
            for name, progress in leader.progress.items()
        },
    }
