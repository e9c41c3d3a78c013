"""When a node begins to lead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fortdb.coordination.keys import Keys
from fortdb.coordination.session import Session
from fortdb.coordination.sqlite import SqliteStore
from fortdb.model import ClusterView, Keyspace, Layout, NodeSpec, Partition, PartitionRecord, Policy
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting
from fortdb.net.stream import Outbox
from fortdb.node.control import Control
from fortdb.node.core import Settings
from fortdb.node.service import NodeService
from fortdb.storage.rocks import RocksEngine

PARTITION = Partition(3, "p-003", 0, ("node", "other"))
LAYOUT = Layout(1, 2, 1, {"node": NodeSpec("a"), "other": NodeSpec("b")}, (PARTITION,))
OTHERS = PartitionRecord("p-003", "other", 1, {"other": "o.1", "node": "life"}, ("node", "other"), revision=5)
OURS = replace(OTHERS, leader="node", epoch=2, isr={"node": "life"}, revision=9)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[NodeService]:
    loop = Loop()
    engine = RocksEngine(tmp_path / "engine", cache_bytes=1 << 20, memtable_bytes=1 << 20, sync=False)
    settings = Settings(3_000, 100, 1_000, 3_000, 1_000, 1)
    yield NodeService(loop, Outbox(), engine, Greeting("c", "node", "life"), settings)
    engine.close()
    loop.close()


def test_a_node_leads_only_once_its_view_has_come_to_the_record(service: NodeService, tmp_path: Path) -> None:
    """It may read the record before the watch tells of it. The leader before may have seen policies that come in
    between, and written by them."""
    store = SqliteStore(tmp_path / "store.db")
    control = Control(service, Session(store, Keys("c"), on_view=lambda view: None), {})
    control.see(ClusterView(revision=6, layout=LAYOUT, records={"p-003": OTHERS}))
    hosted = service.hosted[3]
    control._see_record(OURS)
    assert hosted.replica.leading is None and service.policies == {}
    keyspaces = {"log": Keyspace("log", policy=Policy.RECORDS)}
    control.see(ClusterView(revision=8, layout=LAYOUT, records={"p-003": OTHERS}, keyspaces=keyspaces))
    assert hosted.replica.leading is None and b"log" in service.policies
    control.see(ClusterView(revision=9, layout=LAYOUT, records={"p-003": OURS}, keyspaces=keyspaces))
    assert hosted.replica.leading is not None and hosted.replica.epoch == 2
    service.links.close()
    store.close()
