"""A node's metrics, read from its own counters when somebody scrapes.

Called on the server's thread, so the numbers belong to one moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from fortdb.net.front import Front
from fortdb.net.metrics import finished_metric, front_metrics, gauge
from fortdb.net.recovery import Recovery
from fortdb.node.service import NodeService


def node_metrics(service: NodeService, front: Front, recovery: Recovery) -> Iterable[Metric]:
    """All families of a node."""
    total = service.runner.requests_total
    gets, sets = service.links.plain_counts
    requests = {**total, "GET": total["GET"] + gets, "SET": total["SET"] + sets}
    yield from front_metrics(front, requests, service.errors_total)
    yield service.commit_latency.family(
        "fortdb_commit_seconds", "From an entry's first write to every in-sync replica having it on disk", {}
    )
    yield service.sync_latency.family(
        "fortdb_fsync_seconds",
        "Writing a tick's batch to disk, with sending the answers of the tick before, which is done meanwhile",
        {},
    )
    yield service.tick_latency.family("fortdb_tick_seconds", "One tick of the server with work in it", {})
    stats = service.engine.stats()
    yield gauge("fortdb_disk_bytes", "Bytes of the data directory on disk", stats.bytes_on_disk)
    yield gauge("fortdb_disk_free_bytes", "Bytes free on its file system", stats.bytes_free)
    yield gauge(
        "fortdb_engine_memory_bytes", "Bytes the storage engine holds in memory", stats.bytes_in_memory
    )
    yield gauge("fortdb_partitions", "Replicas on this node", len(service.hosted))
    yield gauge(
        "fortdb_requests_held",
        "Requests that wait for a partition to become ready",
        service.requests.held_count,
    )
    tables = [hosted.locks for hosted in service.hosted.values() if hosted.replica.leading is not None]
    yield gauge(
        "fortdb_transaction_locks",
        "Keys that transactions over several partitions hold here",
        sum(len(table.locked) for table in tables),
    )
    yield gauge(
        "fortdb_transaction_decisions",
        "Outcomes of such transactions that are remembered here",
        sum(len(table.decisions) for table in tables),
    )
    yield finished_metric(recovery.finished)
    changes = CounterMetricFamily("fortdb_leader_changes", "Times this node began to lead a partition")
    changes.add_metric([], service.leader_changes_total)
    yield changes
    yield from _replication(service)


def _replication(service: NodeService) -> Iterator[Metric]:
    led = GaugeMetricFamily("fortdb_leader", "Whether this node leads the partition", labels=["partition"])
    isr = GaugeMetricFamily("fortdb_isr_size", "Members of the committed ISR", labels=["partition"])
    lag = GaugeMetricFamily(
        "fortdb_follower_lag_entries", "Entries a follower lacks", labels=["partition", "follower"]
    )
    commit = GaugeMetricFamily("fortdb_commit_offset", "Commit offset", labels=["partition"])
    for hosted in service.hosted.values():
        name, leader = hosted.replica.name, hosted.replica.leading
        led.add_metric([name], 0 if leader is None else 1)
        commit.add_metric([name], hosted.replica.log.commit)
        if leader is not None:
            isr.add_metric([name], len(leader.in_sync.committed))
            for follower, progress in leader.progress.items():
                lag.add_metric([name, follower], leader.log.last_offset - progress.match)
    yield from (led, isr, lag, commit)
