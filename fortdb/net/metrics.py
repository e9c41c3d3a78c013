"""Metrics that every process with clients has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from fortdb.net.front import Front


def front_metrics(front: Front, requests: Mapping[str, int], errors: Mapping[str, int]) -> Iterator[Metric]:
    """Requests, errors and connections."""
    total = CounterMetricFamily("fortdb_requests", "Requests received", labels=["command"])
    gets, sets = front.plain_counts
    counts = dict(requests)
    for command, short in (("GET", gets), ("SET", sets)):
        counts[command] = counts.get(command, 0) + short
    for command, count in counts.items():
        total.add_metric([command.lower()], count)
    yield total
    failed = CounterMetricFamily("fortdb_request_errors", "Requests answered with an error", labels=["code"])
    for code, count in errors.items():
        failed.add_metric([code], count)
    yield failed
    accepted = CounterMetricFamily("fortdb_connections_accepted", "Client connections accepted")
    accepted.add_metric([], front.connections_total - front.refused_total)
    yield accepted
    refused = CounterMetricFamily("fortdb_connections_refused", "Client connections over the limit")
    refused.add_metric([], front.refused_total)
    yield refused
    faults = CounterMetricFamily(
        "fortdb_faults", "Commands that met a defect of FortDB; its log has the trace"
    )
    faults.add_metric([], front.faults_total)
    yield faults
    yield gauge("fortdb_connections", "Client connections open", len(front.connections))


def finished_metric(finished: Mapping[str, int]) -> CounterMetricFamily:
    """What was done about transactions of routers that are gone (`net/recovery.py`)."""
    family = CounterMetricFamily(
        "fortdb_transactions_finished",
        "Parts and commits of transactions that others left and this process brought to their end",
        labels=["outcome"],
    )
    for outcome, count in finished.items():
        family.add_metric([outcome], count)
    return family


def gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    """A gauge without labels."""
    return GaugeMetricFamily(name, documentation, value=value)
