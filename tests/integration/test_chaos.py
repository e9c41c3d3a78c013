"""Random faults on a real ring under load, drawn from a seed that is printed: `make chaos`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fortdb.errors import FortError
from fortdb.local.etcd import EtcdCluster
from fortdb.local.ring import LocalRing
from fortdb.torture.replicas import contents_of
from tests.support.load import Load
from tests.support.rings import LEASE_MS, running_ring, status_of, wait_healthy
from tests.support.waiting import eventually

SECONDS = 60.0
TAGS = ["a", "b", "c", "d", "e", "f", "g", "h"]


class Faults:
    """Breaks one thing at a time, sometimes before the last one is whole again, but leaves a majority."""

    def __init__(self, ring: LocalRing, etcd: EtcdCluster, seed: int) -> None:
        self._ring = ring
        self._etcd = etcd
        self._random = random.Random(seed)
        self._down: dict[str, Callable[[], None]] = {}  # what is broken, and how it is mended
        self.done: list[str] = []

    def next(self) -> None:
        """Break something, or mend something."""
        if self._down and (len(self._down) > 1 or self._random.random() < 0.6):
            name = self._random.choice(sorted(self._down))
            self._note(f"mend {name}")
            self._down.pop(name)()
            return
        whole = sorted(self._ring.nodes.keys() - self._down.keys())
        name = self._random.choice(whole)
        process = self._ring.process(name)
        fault = self._random.choice(["kill", "kill", "stop", "pause", "move", "etcd"])
        self._note(f"{fault} {name}")
        if fault == "move":
            self._move()
        elif fault == "etcd":
            member = self._random.randrange(self._etcd.size)
            self._etcd.pause(member)
            self._down[f"etcd {member}"] = partial(self._etcd.resume, member)
        elif fault == "pause":
            process.pause()
            self._down[name] = process.resume
        else:
            getattr(process, fault)()
            self._down[name] = process.start

    def mend_all(self) -> None:
        """Everything whole again."""
        for mend in self._down.values():
            mend()
        self._down.clear()

    def _move(self) -> None:
        try:
            partition = self._random.choice(status_of(self._ring).partitions)
            with self._ring.client() as client:
                client.move_leader(partition.name, self._random.choice(partition.replicas))
        except FortError as error:
            self._note(f"refused: {error}")  # its leader may be the one that is down

    def _note(self, what: str) -> None:
        self.done.append(f"{time.strftime('%H:%M:%S')} {what}")


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_faults_lose_nothing(tmp_path: Path, etcd: EtcdCluster, seed: int) -> None:
    print(f"seed {seed}")
    with running_ring(tmp_path, etcd=tuple(etcd.endpoints), routers=2, partitions=8) as ring:
        faults = Faults(ring, etcd, seed)
        pauses = random.Random(seed)
        port = ring.shape.port
        with Load([port, port + 1], TAGS, writers=6) as load:
            ends = time.monotonic() + SECONDS
            while time.monotonic() < ends:
                faults.next()
                time.sleep(pauses.uniform(0.05, 1.5 * LEASE_MS / 1000))  # faults of every length
            faults.mend_all()
            wait_healthy(ring, within_s=60)
        print("\n".join(faults.done))
        print(f"{load.acknowledged_total} writes acknowledged, {len(load.failures)} answered with an error")
        with ring.client() as client:
            load.check(client)
        eventually("every follower has everything", lambda: _nobody_lags(ring), within_s=30)
        ring.down()
        _replicas_agree(ring)


def _nobody_lags(ring: LocalRing) -> bool:
    return all(
        partition.commit_offset == partition.last_offset and not any(partition.lag.values())
        for partition in status_of(ring).partitions
    )


def _replicas_agree(ring: LocalRing) -> None:
    """Byte for byte: all three hold the same keys with the same values."""
    first, *others = contents_of(ring).values()
    assert len(first) > 1000
    for other in others:
        assert other == first, _difference(first, other)


def _difference(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> str:
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return f"{len(keys)} keys differ, the first {keys[:3]}"
