"""What is measured: real processes on free ports, their files in one directory on one disk.

A *cluster* is the processes; a *target* is one way to talk to a cluster (a ring has two: past its router
and through it).
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
import urllib.request
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.conversation import Conversation, Operation, WrongAnswer
from bench.data import key_of, value_of
from bench.grpc import GrpcConversation
from bench.load import Endpoint, Speaks
from bench.processes import BenchError, Server
from bench.resp import RespConversation
from fortdb.errors import FortError
from fortdb.local.ports import free_ports, free_ring_port
from fortdb.local.ring import LocalRing, Shape
from fortdb.ring.tokens import token_of

READY_S_MAX = 120.0
_HOST = "127.0.0.1"
_MIB = 1 << 20

MEMORY = {"cache_bytes": 256 * _MIB, "memtable_bytes": 64 * _MIB, "disk_free_bytes_min": 64 * _MIB}
"""FortDB's own defaults, but for the free disk space."""
SMALL_MEMORY = {"cache_bytes": 8 * _MIB, "memtable_bytes": 4 * _MIB, "disk_free_bytes_min": 64 * _MIB}
"""The smallest that FortDB accepts, for data that is larger than memory."""

PARTITIONS_PER_NODE = 8
"""A ring of three then has 24, as `make up` makes it."""


class Cluster(Protocol):
    """The processes."""

    directory: Path

    def create(self) -> None:
        """The first start, on no data; returns when it serves in full."""
        ...

    def launch(self) -> None:
        """A later start, of all processes at once; does not wait."""
        ...

    def check(self) -> None:
        """Raises `BenchError` if a process has ended by itself."""
        ...

    def pids(self) -> list[int]:
        """All processes."""
        ...

    def stop(self) -> None:
        """End all processes as an operator would; the data stays."""
        ...

    def kill(self) -> None:
        """SIGKILL for all processes at once; the data stays."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """One way to talk to a cluster."""

    name: str
    title: str
    cluster: Cluster
    speaks: Speaks
    endpoints: Callable[[range], tuple[Endpoint, ...]]
    """For so many keys: where to connect, and which keys to ask for there."""

    def probe(self, number: int, value_bytes: int) -> bool:
        """Whether a key is answered, and rightly, by now. Raises `WrongAnswer` for another value."""
        conversation: Conversation | None = None
        protocol = RespConversation if self.speaks == "resp" else GrpcConversation
        endpoint = self.endpoints(range(number, number + 1))[0]
        try:
            conversation = protocol((endpoint.host, endpoint.port))
            conversation.socket.settimeout(1.0)
            operation = Operation(key_of(number), value_of(number, value_bytes), False)
            batch: Any = conversation.batch([operation])
            conversation.begin(batch)
            while not conversation.readable():
                pass
        except OSError:
            return False
        except WrongAnswer as error:
            if "$-1" in str(error):
                raise
            return False  # an error: it is starting
        finally:
            if conversation is not None:
                conversation.socket.close()
        return True


def wait_until(condition: Callable[[], bool], what: str, cluster: Cluster, every_s: float = 0.05) -> float:
    """Seconds it took. Raises `BenchError` that says what was waited for."""
    start_s = time.monotonic()
    while not condition():
        cluster.check()
        if time.monotonic() - start_s > READY_S_MAX:
            raise BenchError(f"waited {READY_S_MAX:.0f} s for {what}; logs are in {cluster.directory}")
        time.sleep(every_s)
    return time.monotonic() - start_s


class FortDB:
    """A ring of real processes with SQLite as the coordination store: nothing of it is on the path of
    requests. `nodes` = 1 is a ring of one, whose router is not asked."""

    def __init__(self, directory: Path, nodes: int, storage: dict[str, int]) -> None:
        self.directory = directory
        self.nodes = nodes
        self._ring = LocalRing(
            directory,
            Shape(
                nodes=nodes,
                partitions=nodes * PARTITIONS_PER_NODE,
                port=free_ring_port(),
                cluster=directory.name,
                node_settings={"storage": storage},
            ),
        )
        self._leaders: tuple[list[int], list[str | None]] = ([], [])

    def launch(self) -> None:
        """Start all processes at once; does not wait."""
        for process in self._ring.processes.values():
            process.start()

    def create(self) -> None:
        """Start, lay out, wait until every partition is led and in sync, and note who leads."""
        try:
            status = self._ring.up()
        except FortError as error:
            raise BenchError(str(error)) from None
        partitions = sorted(status.partitions, key=lambda partition: partition.token)
        self._leaders = (
            [partition.token for partition in partitions],
            [partition.leader for partition in partitions],
        )

    def check(self) -> None:
        """Raises `BenchError` if a process has ended by itself."""
        for process in self._ring.processes.values():
            if process.pid is None:
                raise BenchError(f"{process.name} ended by itself; its log ends:\n{process.last_words()}")

    def pids(self) -> list[int]:
        """All processes."""
        return [pid for process in self._ring.processes.values() if (pid := process.pid) is not None]

    def stop(self) -> None:
        """Routers first, then all nodes at once."""
        self._ring.down()

    def kill(self) -> None:
        """SIGKILL for all processes at once; the data stays."""
        for process in self._ring.processes.values():
            process.kill()

    def directly(self, keys: range) -> tuple[Endpoint, ...]:
        """Every key at the node that leads its partition."""
        tokens, leaders = self._leaders
        led: dict[str | None, list[int]] = {}
        for number in keys:
            led.setdefault(leaders[bisect_right(tokens, token_of(key_of(number))) - 1], []).append(number)
        ports = {name: self._ring.shape.port + 100 + index for index, name in enumerate(self._ring.nodes)}
        return tuple(Endpoint(_HOST, ports[name or ""], tuple(led[name])) for name in sorted(led, key=str))

    def through_router(self, keys: range) -> tuple[Endpoint, ...]:
        """All keys at the router."""
        return (Endpoint(_HOST, self._ring.shape.port, keys),)


class _Servers:
    """A cluster of processes that need no more than being started."""

    def __init__(self, directory: Path, servers: list[Server]) -> None:
        self.directory = directory
        self._servers = servers

    def launch(self) -> None:
        """Start all processes at once; does not wait."""
        for server in self._servers:
            server.start()

    def check(self) -> None:
        """Raises `BenchError` if a process has ended by itself."""
        for server in self._servers:
            server.check()

    def pids(self) -> list[int]:
        """All processes."""
        return [server.pid for server in self._servers if server.process is not None]

    def stop(self) -> None:
        """End all processes as an operator would; the data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL for all processes at once; the data stays."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        for server in self._servers:
            server.signal(number)
        for server in self._servers:
            server.wait()


class Redis(_Servers):
    """One Redis server with an append-only file."""

    def __init__(self, directory: Path, appendfsync: str) -> None:
        self.port = free_ports(1)[0]
        directory.mkdir(parents=True)
        options = {
            "port": str(self.port),
            "bind": _HOST,
            "dir": str(directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": appendfsync,
            "auto-aof-rewrite-percentage": "0",  # no second process in the middle of a measurement
        }
        command = [
            "redis-server",
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ]
        super().__init__(directory, [Server(command, directory / "log")])

    def create(self) -> None:
        """Start it and wait until it accepts connections."""
        self.launch()
        wait_until(lambda: accepts(self.port), "Redis to listen", self)

    def endpoints(self, keys: range) -> tuple[Endpoint, ...]:
        """All keys at the server."""
        return (Endpoint(_HOST, self.port, keys),)


class Etcd(_Servers):
    """etcd with one member or more, as it comes but for its log level."""

    def __init__(self, directory: Path, members: int) -> None:
        ports = free_ports(2 * members)
        self._clients, self._peers = ports[:members], ports[members:]
        initial = ",".join(f"m{index}=http://{_HOST}:{port}" for index, port in enumerate(self._peers))
        servers = []
        for index, (client, peer) in enumerate(zip(self._clients, self._peers, strict=True)):
            options = {
                "name": f"m{index}",
                "data-dir": str(directory / f"m{index}"),
                "listen-client-urls": f"http://{_HOST}:{client}",
                "advertise-client-urls": f"http://{_HOST}:{client}",
                "listen-peer-urls": f"http://{_HOST}:{peer}",
                "initial-advertise-peer-urls": f"http://{_HOST}:{peer}",
                "initial-cluster": initial,
                "logger": "zap",
                "log-level": "warn",
            }
            command = ["etcd", *(word for name, value in options.items() for word in (f"--{name}", value))]
            servers.append(Server(command, directory / f"m{index}.log"))
        super().__init__(directory, servers)
        self._leader = 0

    def create(self) -> None:
        """Start all and wait until they agree on a leader, and note which it is."""
        self.launch()
        wait_until(self._agree, "etcd to elect a leader", self)

    def endpoints(self, keys: range) -> tuple[Endpoint, ...]:
        """All keys at the leader: others would only pass requests on to it."""
        return (Endpoint(_HOST, self._clients[self._leader], keys),)

    def _agree(self) -> bool:
        statuses = [_etcd_status(port) for port in self._clients]
        leaders = {status.get("leader", "0") for status in statuses}
        if len(leaders) != 1 or leaders == {"0"}:
            return False
        leader = leaders.pop()
        self._leader = [status["header"]["member_id"] for status in statuses].index(leader)
        return True


def _etcd_status(port: int) -> dict[str, Any]:
    request = urllib.request.Request(f"http://{_HOST}:{port}/v3/maintenance/status", b"{}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=2.0) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except OSError:
        return {}


def accepts(port: int) -> bool:
    """Whether somebody listens."""
    try:
        socket.create_connection((_HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


TITLES = {
    "fortdb": "FortDB, one node",
    "ring": "FortDB, three nodes, direct",
    "router": "FortDB, three nodes, router",
    "redis-always": "Redis, appendfsync always",
    "redis-no": "Redis, appendfsync no",
    "etcd": "etcd, one member",
    "etcd-3": "etcd, three members",
    "fortdb-small": "FortDB, one node, 8 MiB cache",
}
"""All targets, in the order in which they are shown."""


def missing(names: Iterable[str]) -> dict[str, str]:
    """Program -> what to do, for each that these targets need and that is not installed."""
    needs = {"redis-server": "apt-get install redis-server", "etcd": "apt-get install etcd-server"}
    wanted = {"redis-server" if name.startswith("redis") else name.partition("-")[0] for name in names}
    return {
        program: cure for program, cure in needs.items() if program in wanted and not shutil.which(program)
    }


class Targets:
    """Makes targets by name, each cluster once, all under one directory; ends them all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._clusters: dict[str, Cluster] = {}

    def get(self, name: str, place: str = "") -> Target:
        """The target of that name. `place` tells clusters of one kind apart."""
        kind = "ring" if name == "router" else name
        cluster = self._clusters.get(kind + place)
        if cluster is None:
            cluster = self._clusters[kind + place] = self._make(kind, self._directory / (kind + place))
        return self._target(name, cluster)

    def end(self) -> None:
        """Kill every process that was started."""
        for cluster in self._clusters.values():
            cluster.kill()

    def forget(self, target: Target) -> None:
        """End a cluster and throw its files away."""
        target.cluster.kill()
        self._clusters = {key: value for key, value in self._clusters.items() if value is not target.cluster}
        shutil.rmtree(target.cluster.directory)

    def _make(self, kind: str, directory: Path) -> Cluster:
        match kind:
            case "fortdb":
                return FortDB(directory, 1, MEMORY)
            case "fortdb-small":
                return FortDB(directory, 1, SMALL_MEMORY)
            case "ring":
                return FortDB(directory, 3, MEMORY)
            case "redis-always":
                return Redis(directory, "always")
            case "redis-no":
                return Redis(directory, "no")
            case "etcd":
                return Etcd(directory, 1)
            case "etcd-3":
                return Etcd(directory, 3)
        raise BenchError(f"no target {kind!r}; there are {', '.join(TITLES)}")

    def _target(self, name: str, cluster: Cluster) -> Target:
        title = TITLES[name]
        match cluster:
            case FortDB():
                asked = cluster.through_router if name == "router" else cluster.directly
                return Target(name, title, cluster, "resp", asked)
            case Redis():
                return Target(name, title, cluster, "resp", cluster.endpoints)
            case Etcd():
                return Target(name, title, cluster, "grpc", cluster.endpoints)
        raise AssertionError(name)
