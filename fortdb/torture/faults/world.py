"""What faults work on: the processes of a ring, its store, its network, and how it stands now."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fortdb.client import Client, RingStatus
from fortdb.client.health import Level, health_of
from fortdb.errors import FortError
from fortdb.local.etcd import EtcdCluster
from fortdb.local.ring import LocalRing, Process
from fortdb.torture.faults.network import Link, Links, Network
from fortdb.torture.faults.power import forget, lose_power
from fortdb.torture.faults.shim import Shim

OBSERVER = "clients"
"""The place from which clients and the torture itself look at the ring."""

REPLICATION = 3
"""Replicas of each partition in a ring that is whole."""

_ASK_S = 3.0
_LOOK_AGAIN_S = 0.1


class World:
    """A ring under torture. Faults of one process are made one after another (`hold`)."""

    def __init__(
        self,
        ring: LocalRing,
        etcd: EtcdCluster,
        network: Network | None,
        shims: Mapping[str, Shim],
        say: Callable[[str], None],
    ) -> None:
        self.ring = ring
        self.etcd = etcd
        self.network = network
        self.shims = shims
        self.say = say
        self.ending = threading.Event()  # the run ends there and then: nobody waits for anything any more
        self._rules: dict[object, Links] = {}
        self._locks = {name: threading.RLock() for name in ring.processes}
        self._links_lock = threading.Lock()

    # --- processes ------------------------------------------------------------------------------

    @contextmanager
    def hold(self, name: str) -> Iterator[Process]:
        """A process that nobody else starts or ends meanwhile."""
        with self._locks[name]:
            yield self.ring.process(name)

    def data_of(self, name: str) -> Path:
        """A node's data directory."""
        return self.ring.process(name).directory / "data"

    def cut_power(self, name: str, seed: int) -> int:
        """Of a node whose process is dead: take what was not synced; how many bytes that was."""
        return lose_power(self.data_of(name), self.shims[name].journal, seed)

    def empty_disk(self, name: str) -> None:
        """Of a node whose process is dead: a new disk."""
        shutil.rmtree(self.data_of(name), ignore_errors=True)
        if name in self.shims:
            forget(self.shims[name].journal)

    # --- network --------------------------------------------------------------------------------

    def add_rule(self, rule: object, links: Links) -> None:
        """Something more is wrong with the network; rules add up."""
        with self._links_lock:
            self._rules[rule] = links
            self._set_links()

    def remove_rule(self, rule: object) -> None:
        """That is over."""
        with self._links_lock:
            self._rules.pop(rule, None)
            self._set_links()

    def _set_links(self) -> None:
        together: dict[tuple[str, str], Link] = {}
        for links in self._rules.values():
            for ends, link in links.items():
                known = together.get(ends, Link())
                together[ends] = Link(
                    known.up and link.up,
                    1 - (1 - known.loss) * (1 - link.loss),
                    known.delay_ms + link.delay_ms,
                )
        if self.network is not None:
            self.network.set(together)

    # --- how it stands --------------------------------------------------------------------------

    def status(self) -> RingStatus | None:
        """What a router says of the ring, None if none says anything."""
        for router in range(self.ring.shape.routers):
            try:
                with self.ring.client(router, timeout_s=_ASK_S, connect_timeout_s=1.0) as client:
                    return client.ring()
            except FortError:
                continue
        return None

    def is_healthy(self) -> bool:
        """Whether every partition is led and has its full ISR."""
        status = self.status()
        return status is not None and health_of(status).level is Level.HEALTHY

    def ill(self) -> str:
        """What is not well, for a person."""
        status = self.status()
        if status is None:
            return "no router answers"
        return "; ".join(finding.text for finding in health_of(status).findings[:4])

    def wait(self, is_so: Callable[[], bool], within_s: float) -> bool:
        """Whether something has come about within that time, and before the end."""
        deadline_s = time.monotonic() + within_s
        while not is_so():
            if time.monotonic() > deadline_s or self.ending.wait(_LOOK_AGAIN_S):
                return False
        return True

    def is_settled(self) -> bool:
        """Whether every follower has everything, and nothing moves."""
        status = self.status()
        return status is not None and all(
            partition.commit_offset == partition.last_offset
            and not any(partition.lag.values())
            and not partition.moving
            and set(partition.isr) == set(partition.replicas)
            for partition in status.partitions
        )

    def client(self) -> Client:
        """A client of the first router, for operators' words."""
        return self.ring.client(timeout_s=_ASK_S)

    def set_replication(self, replication: int) -> bool:
        """Let each partition have so many replicas; whether the layout says so now. Raises `FortError`."""
        with self.client() as client:
            status = client.ring()
            if status.layout is None or status.layout.replication != replication:
                client.apply_layout(client.plan_layout(replication=replication))
        return True

    def restore_layout(self) -> bool:
        """As many replicas as at the start; False if it cannot be said now."""
        try:
            return self.set_replication(REPLICATION)
        except FortError:
            return False

    def heal(self) -> None:
        """End every fault, whatever is in force, and start what does not run."""
        with self._links_lock:
            self._rules.clear()
            self._set_links()
        for shim in self.shims.values():
            shim.heal()
        self.etcd.restore()
        for name in self.ring.processes:
            with self.hold(name) as process:
                process.resume()
                process.start()
