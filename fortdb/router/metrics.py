"""A router's metrics, read from its own counters on the server's thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from fortdb.net.front import Front
from fortdb.net.metrics import finished_metric, front_metrics, gauge
from fortdb.router.service import RouterService


def router_metrics(service: RouterService, front: Front) -> Iterable[Metric]:
    """All families of a router."""
    yield from front_metrics(front, service.requests_total, service.errors_total)
    yield service.latency.family(
        "fortdb_request_seconds", "From taking in a request to a partition to having its answer"
    )
    yield from _channels(service)
    transactions = CounterMetricFamily(
        "fortdb_transactions", "Transactions over several partitions that this router led", labels=["outcome"]
    )
    for outcome, count in service.coordinator.outcomes.items():
        transactions.add_metric([outcome], count)
    yield transactions
    yield finished_metric(service.coordinator.recovery.finished)
    yield gauge("fortdb_links_up", "Nodes this router is connected to", _links_up(service))


def _links_up(service: RouterService) -> int:
    return sum(link.is_up for link in service.links.values())


def _channels(service: RouterService) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("fortdb_requests_unanswered", "Requests on their way", labels=["partition"])
    retries = CounterMetricFamily(
        "fortdb_requests_resent", "Requests sent again after a change of leader", labels=["partition"]
    )
    for channel in service.channels.values():
        waiting.add_metric([channel.name], len(channel))
        retries.add_metric([channel.name], channel.retries_total)
    yield from (waiting, retries)
