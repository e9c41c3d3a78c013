"""The side port of every process: /healthz, /readyz and /metrics over HTTP, on a thread of its own.

Health says that the process is in order, readiness that it can serve now; both answer 200 or 503
with a line of JSON. Metrics are in Prometheus' text format, read from the server's own counters at
the moment of the scrape, so that the hot path only counts. It asks nobody who he is; with TLS it is HTTPS.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fortdb.clock import steady_ms
from fortdb.errors import ConfigError
from fortdb.limits import STATUS_MS_MAX, STATUS_REQUESTS_MAX
from fortdb.native import bind
from fortdb.net.tls import Context

_BUCKETS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether all is in order, in one word, and why not."""

    ok: bool
    state: str
    reason: str


class LatencyHistogram:
    """Counts durations in Prometheus' cumulative buckets, 0.1 ms to 10 s. For one thread."""

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self) -> None:
        self.bounds_s = _BUCKETS_S
        self.counts = [0] * (len(_BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        """`count` things took so long."""
        self.counts[bisect_left(self.bounds_s, seconds)] += count
        self.sum_s += seconds * count

    def family(
        self, name: str, documentation: str, labels: Mapping[str, str] | None = None
    ) -> HistogramMetricFamily:
        """As a scrape shows it."""
        labels = labels or {}
        family = HistogramMetricFamily(name, documentation, labels=list(labels))
        buckets, total = [], 0
        for bound, count in zip((*map(str, _BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(list(labels.values()), buckets, self.sum_s)
        return family


bind(LatencyHistogram)


class StatusServer:
    """Serves from `start` to `close`. The callables are asked on the threads of the requests."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        health: Callable[[], Health],
        ready: Callable[[], Health],
        metrics: Callable[[], Iterable[Metric]],
        secure: Context | None = None,
    ) -> None:
        """With `secure`, over TLS. Raises `ConfigError` if the address cannot be had."""
        self._checks = {"/healthz": health, "/readyz": ready}
        self._families = _Families(metrics)
        handler = type("Handler", (_Handler,), {"status": self})
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise ConfigError(
                f"status.port: cannot listen on {host}:{port}: {error.strerror or error}; "
                "choose another port or stop the process that holds it"
            ) from None
        self._server.daemon_threads = True
        self._server.secure = secure
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._families)
        check = self._checks.get(path)
        if check is None:
            return 404, "text/plain", b"there are /healthz, /readyz and /metrics\n"
        health = check()
        body = json.dumps({"ok": health.ok, "state": health.state, "reason": health.reason})
        return 200 if health.ok else 503, "application/json", body.encode() + b"\n"


class _Families(Collector):
    """What `generate_latest` takes for a registry."""

    def __init__(self, metrics: Callable[[], Iterable[Metric]]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics()


class _Server(ThreadingHTTPServer):
    """Bounded: one thread a request, `STATUS_REQUESTS_MAX` of them, none for longer than `STATUS_MS_MAX` on what is
    received and sent."""

    secure: Context | None = None

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._lock = threading.Lock()
        self._began_ms: dict[Any, int] = {}  # by connection, the oldest first

    def process_request(self, request: Any, client_address: Any) -> None:
        """On a thread; if there are too many, the newest is hung up on, and the oldest, so that the next finds a place."""
        with self._lock:
            is_full = len(self._began_ms) >= STATUS_REQUESTS_MAX
            if is_full:
                _cut_off(next(iter(self._began_ms)))
            else:
                self._began_ms[request] = steady_ms()
        if is_full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """That thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._began_ms[request]

    def service_actions(self) -> None:
        """Called now and then: who sends or takes a byte now and then keeps no thread."""
        with self._lock:
            for request, began_ms in self._began_ms.items():
                if steady_ms() - began_ms > STATUS_MS_MAX:
                    _cut_off(request)

    def get_request(self) -> tuple[socket.socket, object]:
        """The handshake is left to the thread of the request, whose reads have a bound."""
        connection, address = super().get_request()
        if self.secure is not None:
            connection = self.secure().wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """Who speaks no HTTP, or no TLS, is no event."""


def _cut_off(request: socket.socket) -> None:
    """Let whoever waits for this connection find it at its end; below TLS, whose state is the other thread's."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(request, socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    status: StatusServer
    timeout = STATUS_MS_MAX / 1000
    server_version = "fortdb"
    sys_version = ""

    def do_GET(self) -> None:
        code, kind, body = self.status.answer(self.path.partition("?")[0])
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is no event."""
