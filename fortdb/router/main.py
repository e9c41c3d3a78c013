"""A router's process: from a configuration to a serving router, and to its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping

import structlog
from prometheus_client.metrics_core import Metric

from fortdb import log as logs
from fortdb.aws.elastic_ip import ElasticIp, Keeper
from fortdb.clock import steady_ms
from fortdb.config import RouterConfig, certificate_files
from fortdb.coordination.keys import Keys
from fortdb.coordination.open import open_store
from fortdb.coordination.session import Session
from fortdb.errors import Unavailable
from fortdb.model import ClusterView
from fortdb.net.describe import redis_settings, server_information
from fortdb.net.front import Front
from fortdb.net.loop import Loop
from fortdb.net.notify import feed_watchdog, notify
from fortdb.net.process import Latest, on_loop, spare_the_collector, stop_on_signals, when_set
from fortdb.net.security import Security
from fortdb.net.status import Health, StatusServer
from fortdb.router.admin import Admin
from fortdb.router.metrics import router_metrics
from fortdb.router.service import RouterService

log = structlog.get_logger(__name__)

_DRAIN_MS_MAX = 10_000


def run(config: RouterConfig) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises `ConfigError` for what an operator
    has to change first."""
    logs.configure(config.log.level, config.log.format, config.name)
    stopping = stop_on_signals()
    Router(config).serve(stopping)
    log.info("stopped", router=config.name)
    return 0


class Router:
    """All parts of a serving router, put together."""

    def __init__(self, config: RouterConfig) -> None:
        self.loop = Loop()
        self._started_ms = steady_ms()
        self.service = RouterService(
            self.loop,
            config.cluster,
            config.name,
            config.routing.deadline_ms,
            lambda: redis_settings(self.front),
            self._information,
        )
        self.security = Security(
            self.loop,
            config.name,
            certificate_files(config),
            config.security.users,
            config.security.audit_file,
        )
        self.service.secure = self.security.to_members
        where = config.coordinator
        self._store = open_store(where.address, where.request_ms_max, where.ca, where.cert, where.key)
        views: Latest[ClusterView] = Latest(self.loop, self.service.see)
        self.session = Session(self._store, Keys(config.cluster), on_view=views.put)
        self.service.administer = Admin(self.service, self.session, config.cluster)
        self.front = Front(
            self.loop,
            self.service.answers,
            self.service,
            host=config.client.host,
            port=config.client.port,
            connections_max=config.client.connections_max,
            idle_ms_max=config.client.idle_ms_max,
            way=self.service.way,
            gate=self.security.gate,
            handshakes=self.security.accept_clients(),
        )
        self._keeper = self._elastic_ip(config)
        stuck = Health(False, "stuck", "the server's thread does not answer")
        self.status = StatusServer(
            config.status.host,
            config.status.port,
            health=lambda: on_loop(self.loop, lambda: Health(True, "serving", ""), stuck),
            ready=lambda: on_loop(self.loop, self._ready, stuck),
            metrics=lambda: on_loop(self.loop, self._metrics, []),
            secure=self.security.for_clients,
        )

    def _elastic_ip(self, config: RouterConfig) -> Keeper | None:
        where = config.elastic_ip
        if not where.allocation_id:
            return None
        return Keeper(
            self._store,
            Keys(config.cluster).active_router,
            config.name,
            ElasticIp(where.allocation_id, where.region),
            where.instance_id,
            where.lease_ttl_ms,
            lambda: on_loop(self.loop, lambda: self._ready().ok, False),
        )

    def serve(self, stopping: threading.Event) -> None:
        """Serve until asked to stop; answer what is under way; close."""
        self.status.start()
        self.session.start()
        if self._keeper is not None:
            self._keeper.start()
        when_set(stopping, self._stop)
        signal.signal(signal.SIGHUP, lambda *_: self.loop.call_soon(self.security.reload))
        log.info("serving", port=self.front.listener.port)
        feed_watchdog(self.loop)
        notify("READY=1", f"STATUS=serving clients on port {self.front.listener.port}")
        spare_the_collector()
        self.loop.run(self.service.tick, self.service.tick_way)
        self.front.close()
        for link in self.service.links.values():
            link.close()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.security.close()
        self.session.close(revoke=False)
        self._store.close()
        self.status.close()
        self.loop.close()

    def _stop(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
        self.loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Let another router have the address, take no new clients, answer what was asked, then stop."""
        log.info("draining")
        notify("STOPPING=1", "STATUS=answering what was asked")
        self.front.stop_listening()
        self.service.feeds.end_all(Unavailable("this router stops; go on at another one, from your position"))
        deadline_ms = steady_ms() + _DRAIN_MS_MAX

        def stop_when_idle() -> None:
            if self.service.is_idle or steady_ms() > deadline_ms:
                self.loop.stop()
            else:
                self.loop.call_later(20, stop_when_idle)

        stop_when_idle()

    def _metrics(self) -> list[Metric]:
        return [*router_metrics(self.service, self.front), *self.security.metrics()]

    def _ready(self) -> Health:
        if not self.service.view.revision:
            return Health(False, "waiting", "the coordination store has not answered yet")
        if self.service.view.layout is None:
            return Health(True, "empty", "the ring has no layout yet")
        return Health(True, "serving", "")

    def _information(self) -> Mapping[str, Mapping[str, object]]:
        service = self.service
        return {
            **server_information(self.front, "router", self._started_ms),
            "Ring": {
                "layout_version": service.view.layout.version if service.view.layout else 0,
                "partitions": len(service.channels),
                "nodes": len(service.view.nodes),
            },
        }
