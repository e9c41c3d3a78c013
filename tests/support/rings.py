"""Real rings for tests: processes on free ports, ended with the test."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fortdb.client import ConnectionFailed, PartitionStatus, RingStatus
from fortdb.client.health import Level, health_of
from fortdb.errors import FortError
from fortdb.local.ports import free_ring_port
from fortdb.local.ring import LocalRing, Settings, Shape
from fortdb.ring.tokens import token_of
from tests.support.waiting import eventually

LEASE_MS = 3_000
SMALL: Settings = {
    "coordinator": {"lease_ttl_ms": LEASE_MS},
    "storage": {"cache_bytes": 16 << 20, "memtable_bytes": 4 << 20, "disk_free_bytes_min": 4 << 20},
}
LONG_LEASE: Settings = {**SMALL, "coordinator": {"lease_ttl_ms": 10_000}}

R = TypeVar("R", bound=LocalRing)

_numbers = itertools.count(1)


@contextmanager
def running_ring(
    directory: Path,
    *,
    etcd: tuple[str, ...] = (),
    nodes: int = 3,
    routers: int = 1,
    partitions: int = 6,
    node: Mapping[str, Mapping[str, object]] = SMALL,
    router: Mapping[str, Mapping[str, object]] | None = None,
    tls: bool = False,
) -> Iterator[LocalRing]:
    """A healthy ring; every process of it is killed at the end."""
    shape = small_shape(
        nodes=nodes,
        partitions=partitions,
        routers=routers,
        etcd=etcd,
        node_settings=node,
        router_settings=router or {},
        tls=tls,
    )
    with kept_up(LocalRing(directory, shape)) as ring:
        yield ring


def small_shape(**parts: Any) -> Shape:
    """Of a ring for tests, on ports that nobody has, as far as `parts` (of `Shape`) do not say otherwise."""
    usual = {"partitions": 6, "node_settings": SMALL, "cluster": f"test-{os.getpid()}-{next(_numbers)}"}
    return Shape(**{**usual, "port": free_ring_port(), **parts})


@contextmanager
def kept_up(ring: R) -> Iterator[R]:
    """Starts the ring; every process of it is killed at the end."""
    try:
        ring.up()
        yield ring
    except BaseException:
        for process in ring.processes.values():
            print(f"--- {process.name} (pid {process.pid})\n{process.last_words()}")
        raise
    finally:
        for process in ring.processes.values():
            process.resume()
            process.kill()


def module_ring(**shape: Any) -> Any:
    """A fixture `ring`, one for all tests of the module; `shape` as for `running_ring`."""

    @pytest.fixture(scope="module")
    def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRing]:
        with running_ring(tmp_path_factory.mktemp("ring"), **shape) as running:
            yield running

    return ring


def status_of(ring: LocalRing) -> RingStatus:
    """What the first router says."""
    with ring.client() as client:
        return client.ring()


def partition_of(ring: LocalRing, name: str = "p-000") -> PartitionStatus:
    """One partition's status."""
    return next(partition for partition in status_of(ring).partitions if partition.name == name)


def let_lead(ring: LocalRing, partition: str, node: str) -> bool:
    """Move a leader, and whether it has moved; for `eventually`, since the ring may be moving it itself, the node may
    lose its session once more, or the router may not have heard of the last move."""
    if partition_of(ring, partition).leader != node:
        with contextlib.suppress(FortError), ring.client() as client:
            client.move_leader(partition, node)
    return partition_of(ring, partition).leader == node


def wait_healthy(ring: LocalRing, within_s: float = 90.0) -> RingStatus:
    """Until every partition is led and has its full ISR."""
    found: list[RingStatus] = []

    def is_healthy() -> bool:
        try:
            found.append(status_of(ring))
        except ConnectionFailed:  # by a router that has just been started
            return False
        return health_of(found[-1]).level is Level.HEALTHY

    eventually("the ring is healthy", is_healthy, within_s=within_s)
    return found[-1]


def holder_of(ring: LocalRing, key: str) -> str:
    """The partition that a key falls into."""
    return _holder(sorted(status_of(ring).partitions, key=lambda partition: partition.token), key)


def _holder(partitions: list[PartitionStatus], key: str) -> str:
    token = token_of(key.encode())
    return ([one for one in partitions if one.token <= token][-1:] or partitions[-1:])[0].name


def keys_of_partition(ring: LocalRing, name: str, count: int, prefix: str = "key") -> list[str]:
    """Keys that fall into a partition."""
    partitions = sorted(status_of(ring).partitions, key=lambda partition: partition.token)
    found: list[str] = []
    for number in itertools.count():
        key = f"{prefix}-{number}"
        if _holder(partitions, key) == name:
            found.append(key)
            if len(found) == count:
                return found
    raise AssertionError


def users_of(ring: LocalRing) -> Path:
    """Of a ring with TLS."""
    return ring.tls_directory / "users.toml"


def reload(ring: LocalRing) -> None:
    """Tell every process that files have changed, and wait until each says that it has seen them."""
    before = {name: _reloads(ring, name) for name in ring.processes}
    for process in ring.processes.values():
        process.signal(signal.SIGHUP)
    for name in ring.processes:
        eventually(f"{name} has taken the files in", lambda: _reloads(ring, name) > before[name])  # noqa: B023


def _reloads(ring: LocalRing, name: str) -> int:
    text = ring.process(name).log_path.read_text()
    return len(re.findall(r"event=audit_(?:not_)?reloaded .*what=users", text))


def ca_of(ring: LocalRing) -> str:
    """The authority of a ring with TLS."""
    return str(ring.tls_directory / "ca.pem")


def add_users(ring: LocalRing, text: str) -> None:
    """Let every process know these, too."""
    users_of(ring).write_text(users_of(ring).read_text() + text)
    reload(ring)
