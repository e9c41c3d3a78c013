"""The side port, asked over real HTTP."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from fortdb.errors import ConfigError
from fortdb.net import status
from fortdb.net.status import Health, LatencyHistogram, StatusServer
from tests.support.waiting import eventually

WELL = Health(True, "serving", "")
ILL = Health(False, "failed", "the disk is full")


@contextmanager
def serving(health: Health, metrics: Iterable[Metric] = ()) -> Iterator[int]:
    server = StatusServer("127.0.0.1", 0, health=lambda: health, ready=lambda: ILL, metrics=lambda: metrics)
    server.start()
    try:
        yield server.port
    finally:
        server.close()


def get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_health_and_readiness_are_two_things() -> None:
    with serving(WELL) as port:
        code, body = get(port, "/healthz")
        assert (code, json.loads(body)) == (200, {"ok": True, "state": "serving", "reason": ""})
        code, body = get(port, "/readyz?verbose")
        assert (code, json.loads(body)["reason"]) == (503, "the disk is full")
    with serving(ILL) as port:
        assert get(port, "/healthz")[0] == 503


def test_what_is_not_there_says_what_is() -> None:
    with serving(WELL) as port:
        code, body = get(port, "/")
        assert code == 404
        assert b"/metrics" in body


def test_metrics_are_prometheus_text() -> None:
    latency = LatencyHistogram()
    latency.observe(0.0002)
    latency.observe(0.003, count=3)
    latency.observe(60)
    families = [latency.family("x_seconds", "A test"), GaugeMetricFamily("y_bytes", "A test", value=5)]
    with serving(WELL, families) as port:
        code, body = get(port, "/metrics")
    assert code == 200
    samples = {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert samples["y_bytes", ""] == 5
    assert samples["x_seconds_count", ""] == 5
    assert samples["x_seconds_sum", ""] == pytest.approx(60.0092)
    assert samples["x_seconds_bucket", "0.00025"] == 1
    assert samples["x_seconds_bucket", "0.005"] == 4
    assert samples["x_seconds_bucket", "10.0"] == 4
    assert samples["x_seconds_bucket", "+Inf"] == 5


def test_a_port_in_use_is_told_with_its_setting() -> None:
    with serving(WELL) as port, pytest.raises(ConfigError, match="status.port: cannot listen"):
        StatusServer("127.0.0.1", port, health=lambda: WELL, ready=lambda: WELL, metrics=lambda: ())


def test_a_scraper_that_says_nothing_is_in_nobodys_way() -> None:
    with serving(WELL) as port, socket.create_connection(("127.0.0.1", port)):
        assert get(port, "/healthz")[0] == 200


def test_connections_are_bounded_and_each_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "STATUS_MS_MAX", 1_000)
    monkeypatch.setattr(status, "STATUS_REQUESTS_MAX", 4)
    with serving(WELL) as port, ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(12)]
        for connection in slow:  # as they are too many, or too slow
            assert connection.recv(1) == b""
        eventually("there is room again", lambda: get_or_none(port) == 200, within_s=10)
        began_s = time.monotonic()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as trickling:
            while time.monotonic() - began_s < 10:
                trickling.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() - began_s < 5


def get_or_none(port: int) -> int | None:
    try:
        return get(port, "/healthz")[0]
    except OSError:
        return None
