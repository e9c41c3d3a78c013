"""Both coordination stores for one suite: a SQLite file, and a real etcd cluster of three."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from fortdb.clock import steady_ms
from fortdb.coordination.etcd import EtcdStore
from fortdb.coordination.keys import Keys
from fortdb.coordination.session import Session
from fortdb.coordination.sqlite import SqliteStore
from fortdb.coordination.store import Event, Store, Watch
from fortdb.errors import FortError
from fortdb.local.etcd import EtcdCluster
from fortdb.model import ClusterView, NodeRecord
from tests.support.waiting import eventually

_numbers = count(1)


@dataclass
class Place:
    """Somewhere that stores can be opened on; all see the same data. Keys are this test's alone."""

    make: Callable[[], Store]
    keys: Keys
    lease_ms: int
    opened: list[Store] = field(default_factory=list)

    def open(self) -> Store:
        store = self.make()
        self.opened.append(store)
        return store

    def key(self, name: str) -> str:
        return self.keys.prefix + name

    def close(self) -> None:
        for store in self.opened:
            store.close()


@dataclass
class Owner:
    """What a node's process would be: it remembers what it was told."""

    place: Place
    views: list[ClusterView] = field(default_factory=list)
    leases: list[tuple[int, int]] = field(default_factory=list)  # (told at, valid until)
    session: Session = field(init=False)
    store: Store = field(init=False)

    def start(self, registration: NodeRecord | None = None, relist_ms: int = 60_000) -> Owner:
        self.store = self.place.open()
        self.session = Session(
            self.store,
            self.place.keys,
            on_view=self.views.append,
            registration=registration,
            lease_ttl_ms=self.place.lease_ms,
            on_lease=lambda until_ms: self.leases.append((steady_ms(), until_ms)),
            relist_ms=relist_ms,
        )
        self.session.start()
        return self

    @property
    def nodes(self) -> set[str]:
        return set(self.views[-1].nodes) if self.views else set()


class Watching:
    """A watch iterated by a thread; what it delivered and how it ended."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.batches: list[tuple[Event, ...]] = []
        self.error: FortError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def events(self) -> Sequence[Event]:
        return [event for batch in self.batches for event in batch]

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def wait_for(self, number: int) -> Sequence[Event]:
        eventually(f"{number} events", lambda: len(self.events) >= number or self.has_ended)
        return self.events

    def close(self) -> None:
        self.watch.close()
        eventually("the watch ends", lambda: self.has_ended, within_s=5)

    def _run(self) -> None:
        try:
            for batch in self.watch:
                self.batches.append(batch)
        except FortError as error:
            self.error = error


KEPT_LEASE_MS = 3_000
"""Of a lease that its owner is to keep, on a busy machine too; that of a place is to end soon."""


@pytest.fixture(params=["sqlite", "etcd"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    keys = Keys(f"test-{next(_numbers)}")
    if request.param == "sqlite":
        made = Place(lambda: SqliteStore(tmp_path / "store.db"), keys, lease_ms=400)
    else:
        endpoints = request.getfixturevalue("etcd_cluster").endpoints
        made = Place(lambda: EtcdStore(endpoints), keys, lease_ms=1_000)
    yield made
    made.close()


@pytest.fixture
def etcd_place(etcd: EtcdCluster) -> Iterator[Place]:
    made = Place(
        lambda: EtcdStore(etcd.endpoints, request_ms_max=2_000),
        Keys(f"test-{next(_numbers)}"),
        lease_ms=1_000,
    )
    yield made
    made.close()


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


@pytest.fixture
def owners(place: Place) -> Iterator[list[Owner]]:
    """Owners that a test started; their sessions are closed before the stores are."""
    started: list[Owner] = []
    yield started
    for owner in started:
        owner.session.close(revoke=False)
