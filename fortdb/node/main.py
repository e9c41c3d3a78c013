"""A node's process: from a configuration to a serving node, and to its end.

A node whose storage fails does not vanish: it closes its connections, tells the ring why (so that
others take over its partitions) and keeps its status port, until an operator stops it. A full disk
heals by itself: once there is room the process starts over. The same holds for a disk that is full
already when the process starts; to end and be started again every second would tell only those who
read its log.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog
from prometheus_client.metrics_core import Metric

import fortdb
from fortdb import log as logs
from fortdb.config import NodeConfig, certificate_files
from fortdb.coordination.keys import Keys
from fortdb.coordination.open import open_store
from fortdb.coordination.session import Session
from fortdb.coordination.store import Store
from fortdb.errors import DiskFull, StorageFailed
from fortdb.model import ClusterView, NodeRecord, NodeState
from fortdb.net.certificates import Certificates
from fortdb.net.describe import redis_settings, server_information
from fortdb.net.front import Front
from fortdb.net.loop import Loop
from fortdb.net.notify import feed_watchdog, notify
from fortdb.net.peer import Greeting
from fortdb.net.process import Latest, on_loop, spare_the_collector, stop_on_signals, when_set
from fortdb.net.security import Security
from fortdb.net.status import Health, StatusServer
from fortdb.net.stream import Listener, Outbox
from fortdb.node.calls import Calls
from fortdb.node.clients import NodeClients
from fortdb.node.control import Control
from fortdb.node.core import Settings
from fortdb.node.finisher import Finisher
from fortdb.node.metrics import node_metrics
from fortdb.node.service import NodeService
from fortdb.storage.identity import Identity, former_incarnation, mark_clean, open_directory
from fortdb.storage.rocks import RocksEngine, room_to_start
from fortdb.storage.room import lack_of_room

log = structlog.get_logger(__name__)

_CHECK_DISK_MS = 1_000
_WAIT_FOR_ROOM_S = 1.0


def run(config: NodeConfig) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises `ConfigError` for what an operator
    has to change first."""
    logs.configure(config.log.level, config.log.format, config.name)
    stopping = stop_on_signals()
    data_dir = Path(config.data_dir)
    try:
        identity = open_directory(data_dir, config.cluster, config.name)
    except DiskFull as error:
        return _stay_failed(config, former_incarnation(data_dir), error, stopping)
    log.info("starting", node=config.name, incarnation=identity.incarnation, was_clean=identity.was_clean)
    try:
        engine = RocksEngine(
            identity.engine_path,
            cache_bytes=config.storage.cache_bytes,
            memtable_bytes=config.storage.memtable_bytes,
        )
    except StorageFailed as error:
        return _stay_failed(config, identity.incarnation, error, stopping)
    node = Node(config, identity, engine)
    try:
        node.serve(stopping)
    except StorageFailed as error:
        log.error("storage_failed", reason=str(error))
        node.abandon()
        return _stay_failed(config, identity.incarnation, error, stopping)
    engine.close()
    mark_clean(identity)
    log.info("stopped", node=config.name)
    return 0


class Node:
    """All parts of a serving node, put together."""

    def __init__(self, config: NodeConfig, identity: Identity, engine: RocksEngine) -> None:
        self._config = config
        self._engine = engine
        self.loop = Loop()
        outbox = Outbox()
        own = Greeting(config.cluster, config.name, identity.incarnation)
        self.security = Security(
            self.loop,
            config.name,
            certificate_files(config),
            config.security.users,
            config.security.audit_file,
        )
        self.service = NodeService(self.loop, outbox, engine, own, _settings(config))
        self.service.links.secure = self.security.to_members
        self._peers = Listener(
            self.loop,
            config.peer.host,
            config.peer.port,
            "peer.port",
            self.service.links.accept,
            self.security.accept_members(),
        )
        self._registration = registration(config, identity.incarnation, NodeState.SERVING, "")
        self._store = _open_store(config)
        views: Latest[ClusterView] = Latest(self.loop, lambda view: self.control.see(view))
        self.session = Session(
            self._store,
            Keys(config.cluster),
            on_view=views.put,
            registration=self._registration,
            lease_ttl_ms=config.coordinator.lease_ttl_ms,
            on_lease=lambda until_ms: self.loop.call_soon(partial(self.service.lease_renewed, until_ms)),
        )
        self.control = Control(self.service, self.session, dict(engine.states()))
        self.service.links.call = Calls(self.service, self.control)
        self.finisher = Finisher(self.service, self.control.leader_of, self.control.reach)
        clients = NodeClients(self.service, self._information, lambda: redis_settings(self.front))
        self.front = Front(
            self.loop,
            self.service.answers,
            clients,
            host=config.client.host,
            port=config.client.port,
            connections_max=config.client.connections_max,
            idle_ms_max=config.client.idle_ms_max,
            way=clients.way,
            gate=self.security.gate,
            handshakes=self.security.accept_clients(),
        )
        self.status = StatusServer(
            config.status.host,
            config.status.port,
            health=lambda: on_loop(self.loop, lambda: Health(True, "serving", ""), _stuck()),
            ready=lambda: on_loop(self.loop, self._ready, _stuck()),
            metrics=lambda: on_loop(self.loop, self._metrics, []),
            secure=self.security.for_clients,
        )
        self.loop.call_every(_CHECK_DISK_MS, self._check_disk)

    def serve(self, stopping: threading.Event) -> None:
        """Serve until asked to stop, hand everything over, close. Raises `StorageFailed`."""
        self.status.start()
        self.session.start()
        when_set(stopping, lambda: self.loop.call_soon(self._drain))
        signal.signal(signal.SIGHUP, lambda *_: self.loop.call_soon(self.security.reload))
        feed_watchdog(self.loop)
        notify("READY=1", f"STATUS=serving clients on port {self.front.listener.port}")
        spare_the_collector()
        self.loop.run(self.service.tick, self.service.tick_way)
        self._close_connections()
        self.session.close(revoke=True)
        self._store.close()
        self.status.close()
        self.loop.close()

    def abandon(self) -> None:
        """Storage failed: hang up on everybody and give up the lease."""
        self._close_connections()
        self.session.close(revoke=True)
        self._store.close()
        self.status.close()

    def _drain(self) -> None:
        log.info("draining")
        notify("STOPPING=1", "STATUS=handing partitions over")
        self.session.update_registration(replace(self._registration, state=NodeState.DRAINING))
        self.front.stop_listening()
        self.control.drain(self.loop.stop)

    def _close_connections(self) -> None:
        self.front.close()
        self.service.links.close()
        self._peers.close()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.security.close()

    def _check_disk(self) -> None:
        self.service.check_disk(partial(self._engine.check_room, self._config.storage.disk_free_bytes_min))

    def _metrics(self) -> list[Metric]:
        return [*node_metrics(self.service, self.front, self.finisher.recovery), *self.security.metrics()]

    def _ready(self) -> Health:
        service = self.service
        if service.lease_until_ms <= self.loop.now_ms:
            return Health(False, "waiting", "no lease in the coordination store")
        if service.refusal is not None:
            return Health(False, "refusing writes", str(service.refusal))
        return Health(True, "serving", "")

    def _information(self) -> Mapping[str, Mapping[str, object]]:
        service = self.service
        return {
            **server_information(self.front, "node", service.started_ms),
            "Replication": {
                "node": service.own.name,
                "incarnation": service.own.incarnation,
                "partitions": len(service.hosted),
                "partitions_led": sum(h.replica.leading is not None for h in service.hosted.values()),
            },
        }


def registration(config: NodeConfig, incarnation: str, state: NodeState, reason: str) -> NodeRecord:
    """What the node says of itself in the coordination store."""
    return NodeRecord(
        name=config.name,
        zone=config.zone,
        client_address=config.client.advertise or f"{config.client.host}:{config.client.port}",
        peer_address=config.peer.advertise or f"{config.peer.host}:{config.peer.port}",
        status_address=f"{config.status.host}:{config.status.port}",
        incarnation=incarnation,
        state=state,
        version=fortdb.__version__,
        reason=reason,
    )


def _stay_failed(
    config: NodeConfig, incarnation: str, error: StorageFailed, stopping: threading.Event
) -> int:
    """Tell everybody why this node does not serve, until it is stopped or its disk has room again."""
    reason, advice = str(error), "see /healthz; stop the node, mend the cause, start it again"
    if heals := isinstance(error, DiskFull):
        advice = "make room; the node starts over by itself once there is enough"
        if lack := _lack_of_room(config):
            reason = f"{lack}; {error}"
    log.error("failed", reason=reason, advice=advice)
    failed = Health(False, NodeState.FAILED.value, reason)
    files = certificate_files(config)
    status = StatusServer(
        config.status.host,
        config.status.port,
        health=lambda: failed,
        ready=lambda: failed,
        metrics=list,
        secure=Certificates(files, config.name).for_clients if files is not None else None,
    )
    store = _open_store(config)
    session = Session(
        store,
        Keys(config.cluster),
        on_view=lambda view: None,
        registration=registration(config, incarnation, NodeState.FAILED, reason),
        lease_ttl_ms=config.coordinator.lease_ttl_ms,
    )
    status.start()
    session.start()
    start_over = False
    notify("READY=1", f"STATUS=failed: {reason}")
    while not stopping.wait(_WAIT_FOR_ROOM_S) and not start_over:
        notify("WATCHDOG=1")
        start_over = heals and not _lack_of_room(config)
    session.close(revoke=True)
    store.close()
    status.close()
    if start_over:
        log.info("starting_over", reason="the disk has room again")
        # The lock on the directory ends with this program.
        os.execv(sys.executable, [sys.executable, "-m", "fortdb", *sys.argv[1:]])  # nosec B606 # itself, as it was started
    log.info("stopped", node=config.name)
    return 0


def _open_store(config: NodeConfig) -> Store:
    where = config.coordinator
    return open_store(where.address, where.request_ms_max, where.ca, where.cert, where.key)


def _lack_of_room(config: NodeConfig) -> str:
    """Why there is no use in starting, empty if there is."""
    storage = config.storage
    bytes_min = max(storage.disk_free_bytes_min, room_to_start(storage.memtable_bytes))
    return lack_of_room(Path(config.data_dir), bytes_min, "start")


def _settings(config: NodeConfig) -> Settings:
    return Settings(
        lease_ttl_ms=config.coordinator.lease_ttl_ms,
        heartbeat_ms=config.replication.heartbeat_ms,
        isr_lag_ms_max=config.replication.isr_lag_ms_max,
        write_ms_max=config.replication.write_ms_max,
        leader_return_ms=config.replication.leader_return_ms,
        disk_free_bytes_min=config.storage.disk_free_bytes_min,
    )


def _stuck() -> Health:
    return Health(False, "stuck", f"the server's thread on {socket.gethostname()} does not answer")
