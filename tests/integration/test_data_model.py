"""Keyspaces, records and versions on rings of real processes, while nodes die, move and come back."""

from __future__ import annotations

import json
import shutil
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import redis

from fortdb.client import Client, Record
from fortdb.errors import BadRequest, FortError, OutcomeUnknown, Unavailable, WrongType
from fortdb.limits import LOG_SEGMENT_BYTES, LOG_SEGMENTS_KEPT
from fortdb.local.etcd import EtcdCluster
from fortdb.local.ring import LocalRing
from fortdb.model import Ack, Keyspace, Policy, RecordId
from fortdb.storage.keys import RECORD_KIND
from fortdb.torture.caller import Door
from fortdb.torture.history import History, Kind, Outcome, load
from fortdb.torture.judge import judge
from fortdb.torture.replicas import contents_of
from fortdb.torture.workload import Workload
from tests.support.rings import LONG_LEASE, let_lead, partition_of, running_ring, status_of, wait_healthy
from tests.support.waiting import eventually


def test_keyspaces_and_what_they_hold(tmp_path: Path) -> None:
    with running_ring(tmp_path) as ring, ring.client() as client:
        client.put("orders/old", "plain")
        _keyspaces(client)
        _records(client)
        _versions(client)
        _redis_py(ring)
        _drop(client)


def _keyspaces(client: Client) -> None:
    with pytest.raises(BadRequest, match="1 keys orders/... that would be no records"):
        client.create_keyspace("orders", policy=Policy.RECORDS)
    assert client.keyspaces() == ()
    client.create_keyspace("orders", policy=Policy.VERSIONS)
    assert client.get("orders/old") == b"plain"
    with pytest.raises(BadRequest, match="are versions and would not be plain"):
        client.alter_keyspace("orders", policy=Policy.PLAIN)
    client.put("orders/old", "kept")
    assert [one.value for one in client.history("orders/old")] == [b"plain", b"kept"]
    client.create_keyspace("log", Ack.ASYNC, policy=Policy.RECORDS, retention_ms=86_400_000)
    assert client.keyspace("log") == Keyspace("log", Ack.ASYNC, Policy.RECORDS, 86_400_000, 0, 2)
    assert client.command("KEYSPACE", "ALTER", "log", "RETENTION", "NONE", "ACK", "sync") == b"OK"
    assert client.keyspace("log") == Keyspace("log", Ack.SYNC, Policy.RECORDS, 0, 0, 3)
    assert [one.name for one in client.keyspaces()] == ["log", "orders"]
    for words in [
        ("CREATE", "a/b"),
        ("CREATE", "x", "POLICY"),
        ("CREATE", "x", "POLICY", "lists"),
        ("CREATE", "x", "RETENTION", "3d"),
        ("CREATE", "x", "POLICY", "RECORDS", "RETENTION", "3 days"),
        ("CREATE", "x", "POLICY", "RECORDS", "KEEP", "3"),
        ("CREATE", "x", "COLOR", "red"),
        ("CREATE", "log"),
        ("ALTER", "nothing", "ACK", "SYNC"),
        ("ALTER", "log"),
        ("SHOW", "nothing"),
        ("DROP", "nothing"),
        ("DROP", "log", "KEEP-KEYS"),
        (),
    ]:
        with pytest.raises(BadRequest):
            client.command("KEYSPACE", *words)
    assert len(client.keyspaces()) == 2


def _records(client: Client) -> None:
    ids = [client.add("log/a", f"r{number}") for number in range(250)]
    assert [(one.id, one.value) for one in client.records("log/a", page=100)] == [
        (record, b"r%d" % number) for number, record in enumerate(ids)
    ]
    assert [one.id for one in client.records("log/a", reverse=True)] == ids[::-1]
    assert client.get("log/a") == b"r249"
    eventually("a follower has it", lambda: client.get("log/a", stale=True) == b"r249")
    middle = ids[100]
    assert middle is not None
    assert client.record("log/a", middle) == b"r100"
    assert client.remove("log/a", middle) is True and client.remove("log/a", middle) is False
    assert client.add("log/a", "no", if_last=RecordId(0, 0)) is None
    assert client.record_count("log/a") == 249
    with pytest.raises(WrongType, match="keeps records; use ADD"):
        client.put("log/a", "x")
    with pytest.raises(WrongType):
        client.put_many({"log/{a}": "x", "other/{a}": "x"})
    assert client.get("other/{a}") is None
    client.add("log/b", "goes", expire_ms=100)
    eventually("it is gone from the count", lambda: client.record_count("log/b") == 0)
    assert client.count("log") == 1
    assert client.delete("log/a") == 1
    assert list(client.records("log/a")) == []


def _versions(client: Client) -> None:
    first = next(iter(client.history("orders/old")))
    assert client.get("orders/old", at=first.id) == b"plain"
    assert client.get("orders/old", at=first.time_ms) == b"kept"  # the change that made the other a version
    assert client.get("orders/old", at=2**62) == b"kept"
    client.delete("orders/old")
    assert [one.value for one in client.history("orders/old", reverse=True)] == [None, b"kept", b"plain"]


def _redis_py(ring: LocalRing) -> None:
    with redis.Redis(port=ring.shape.port) as plain:
        record = plain.execute_command("ADD", "log/r", "value")
        assert plain.execute_command("RECORDS", "log/r") == [[record, b"value"]]
        assert plain.type("log/r") == b"records"
        assert list(plain.scan_iter("log/*", _type="records")) == [b"log/r"]
        with pytest.raises(redis.ResponseError, match="wrong kind of value"):
            plain.set("log/r", "x")


def _drop(client: Client) -> None:
    with pytest.raises(BadRequest, match="1 keys log/"):
        client.drop_keyspace("log")
    assert client.add("log/r", "it was opened again") is not None
    assert client.purge("log/r", "orders/old") == 2
    client.drop_keyspace("log")
    client.drop_keyspace("orders")
    assert client.keyspaces() == ()
    client.put("log/r", "plain now")
    assert client.get("log/r") == b"plain now"
    client.create_keyspace("many", policy=Policy.RECORDS)
    client.create_keyspace("docs", policy=Policy.VERSIONS)
    for number in range(50):
        client.add(f"many/{number}", "x")
        client.put(f"docs/{number}", "x")
        client.delete(f"docs/{number}")
    with pytest.raises(BadRequest, match="is a step of KEYSPACE DROP"):
        client.command("PURGEALL", "many")
    client.drop_keyspace("many", delete_keys=True)
    client.drop_keyspace("docs", delete_keys=True)
    assert client.keyspaces() == ()
    assert client.count() == 1 and client.count("docs") == 0
    client.create_keyspace("many", policy=Policy.RECORDS)
    assert list(client.records("many/1")) == []
    client.drop_keyspace("many")


class Adders:
    """Clients that add records to one key until they are told to stop, and know what was acknowledged."""

    def __init__(self, ring: LocalRing, key: str, count: int = 3, value_bytes: int = 10) -> None:
        self.acknowledged: dict[RecordId, bytes] = {}
        self.unknown: set[bytes] = set()
        self.failures: list[str] = []
        self._ring, self._key, self._bytes = ring, key, value_bytes
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]

    def __enter__(self) -> Adders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def some(self, count: int = 200) -> None:
        so_far = len(self.acknowledged)
        eventually("more records", lambda: len(self.acknowledged) >= so_far + count, within_s=100)

    def _run(self, writer: int) -> None:
        with Client("127.0.0.1", self._ring.shape.port, connections_max=1, timeout_s=30) as client:
            before, number = RecordId(0, 0), 0
            while not self._stopping.is_set():
                number += 1
                value = (b"%d.%d " % (writer, number)).ljust(self._bytes, b".")
                try:
                    added = client.add(self._key, value)
                except OutcomeUnknown:
                    self.unknown.add(value)
                except FortError as error:
                    self.failures.append(str(error))
                else:
                    assert added is not None
                    if added <= before or added in self.acknowledged:
                        self.failures.append(f"id {added} after {before}")
                    self.acknowledged[added] = value
                    before = added

    def check(self, records: list[Record]) -> None:
        """Every acknowledged record is there, under its id, once; nothing is there that nobody added."""
        assert self.failures == []
        assert all(one.id < other.id for one, other in pairwise(records))
        found = {record.id: record.value for record in records}
        assert self.acknowledged.items() <= found.items()
        rest = [record.value for record in records if record.id not in self.acknowledged]
        assert len(set(rest)) == len(rest) and set(rest) <= self.unknown


@pytest.mark.chaos
def test_failovers_and_moves_in_the_middle_of_adding(tmp_path: Path) -> None:
    with running_ring(tmp_path, partitions=1) as ring, ring.client() as client:
        client.create_keyspace("log", policy=Policy.RECORDS)
        with Adders(ring, "log/a") as adders:
            adders.some()
            killed = partition_of(ring).leader
            assert killed is not None
            ring.process(killed).kill()
            adders.some()
            ring.process(killed).start()
            adders.some()
            wait_healthy(ring)
            for target in partition_of(ring).followers:
                client.move_leader("p-000", target)
                adders.some()
        adders.check(list(client.records("log/a", page=1000)))
        assert client.record_count("log/a") >= len(adders.acknowledged)
        client.delete("log/a")
        assert list(client.records("log/a")) == []
        with Adders(ring, "log/a", count=1) as later:
            later.some(10)
        assert min(later.acknowledged) > max(adders.acknowledged)
        later.check(list(client.records("log/a")))


def _applied(ring: LocalRing) -> list[int]:
    """How many entries of the log of p-000 each node has in its data, and in its log."""
    offsets: list[int] = []
    for name in ring.nodes:
        with Client("127.0.0.1", ring.ports(name)["client"]) as client:
            report = client.command("RING")
            assert isinstance(report, bytes)
            replica = json.loads(report)["replicas"]["p-000"]
            offsets += (replica["applied_offset"], replica["last_offset"])
    return offsets


def test_an_emptied_node_gets_records_and_versions_by_a_snapshot_and_can_lead(tmp_path: Path) -> None:
    with running_ring(tmp_path, partitions=1) as ring, ring.client() as client:
        client.create_keyspace("log", policy=Policy.RECORDS)
        client.create_keyspace("doc", policy=Policy.VERSIONS, keep=5)
        for number in range(10):
            client.put("doc/a", f"v{number}")
        leader = partition_of(ring).leader
        target = next(name for name in status_of(ring).nodes if name.name != leader).name
        with Adders(ring, "log/a", value_bytes=500_000) as adders:
            adders.some(5)
            ring.process(target).kill()
            shutil.rmtree(ring.process(target).directory / "data" / "engine", ignore_errors=True)
            shutil.rmtree(ring.process(target).directory / "data", ignore_errors=True)
            # More than the log keeps, so that only a snapshot helps.
            adders.some((LOG_SEGMENTS_KEPT + 4) * LOG_SEGMENT_BYTES // 500_000)
            ring.process(target).start()
            wait_healthy(ring)
        assert "snapshot_installing" in ring.process(target).log_path.read_text()
        client.move_leader("p-000", target)
        eventually("the move shows", lambda: partition_of(ring).leader == target)
        adders.check(list(client.records("log/a")))
        assert [one.value for one in client.history("doc/a")] == [b"v%d" % number for number in range(5, 10)]
        last = max(adders.acknowledged)
        after = client.add("log/a", "after")
        assert after is not None and after > last
        wait_healthy(ring)
        eventually("all have applied everything", lambda: len(set(_applied(ring))) == 1)
        ring.down()
        contents = list(contents_of(ring).values())
        assert contents[0] == contents[1] == contents[2]
        assert sum(key[:1] == RECORD_KIND for key in contents[0]) > 10
        ring.up()
        wait_healthy(ring)
        assert client.get("log/a") == b"after"


def _leads_everything(ring: LocalRing, node: str) -> bool:
    for partition in status_of(ring).partitions:
        let_lead(ring, partition.name, node)
    return all(partition.leader == node for partition in status_of(ring).partitions)


def test_a_node_that_does_not_answer_is_waited_for_until_its_lease_ends(
    tmp_path: Path, etcd_cluster: EtcdCluster
) -> None:
    """On etcd: a process that is paused may hold the lock of SQLite."""
    with running_ring(tmp_path, etcd=tuple(etcd_cluster.endpoints)) as ring, ring.client() as client:
        ring.process("node-2").pause()
        began_s = time.monotonic()
        client.create_keyspace("log", policy=Policy.VERSIONS)
        assert time.monotonic() - began_s > 1, "it was answered while the node could have served"
        ring.process("node-2").resume()
        wait_healthy(ring)
        eventually("node-2 leads everything", lambda: _leads_everything(ring, "node-2"), within_s=30)
        for number in range(30):
            client.put(f"log/{number}", "1")
            client.put(f"log/{number}", "2")
            assert [one.value for one in client.history(f"log/{number}")] == [b"1", b"2"]


@pytest.mark.chaos
def test_the_workload_of_the_torture_has_every_policy_and_is_judged(tmp_path: Path) -> None:
    with running_ring(tmp_path / "ring", partitions=3) as ring:
        door = Door("router-1", "127.0.0.1", ring.shape.port, 20)
        with History(tmp_path / "history.jsonl") as history:
            workload = Workload([door], history, clients=6, seed=1, prefix="p:", keyspace="space")
            assert workload.prepare(door) == {}
            workload.start()
            eventually("some calls", lambda: workload.outcomes[Outcome.OK] > 2500, within_s=60)
            killed = partition_of(ring).leader
            assert killed is not None
            ring.process(killed).kill()
            so_far = workload.outcomes[Outcome.OK]
            eventually("more", lambda: workload.outcomes[Outcome.OK] > so_far + 2500, within_s=60)
            workload.stop()
            verified, wrong = workload.verify_receipts(door)  # before their retention is over
            assert verified > 20 and wrong == []
            ring.process(killed).start()
            wait_healthy(ring)
            with ring.client() as client:
                chains = list(client.verify(replicas=True))
            assert len(chains) == 9 and all(chain.altered is None for chain in chains)
            workload.read_all(door)
            kept = workload.remove_protected(door, 60, lambda: None, with_held=True)
            assert kept == 0, "what the retention kept can be removed after it"
        judgement = judge(load(tmp_path / "history.jsonl")[0])
        assert judgement.violations == ()
        assert judgement.keys_of["records"] >= 3
        assert judgement.keys_of["versions"] >= 3 and judgement.keys_of["WORM records"] >= 3
        for kind in (Kind.ADD, Kind.KEEP, Kind.VERSIONS, Kind.AT):
            assert judgement.calls[kind, Outcome.OK] > 20
        for kind in (Kind.HOLD, Kind.RELEASE, Kind.RETAIN):
            assert judgement.calls[kind, Outcome.OK] > 0
        assert judgement.calls[Kind.REMOVE, Outcome.FAILED] > 10, "most of them are refused"
        assert workload.remove_all(door) == []
        with ring.client() as client:
            assert client.keyspaces() == () and client.count() == 0


def test_who_does_not_confirm_a_policy_is_named(tmp_path: Path, etcd_cluster: EtcdCluster) -> None:
    impatient = {"routing": {"deadline_ms": 2_000}}
    etcd = tuple(etcd_cluster.endpoints)
    with (
        running_ring(tmp_path, etcd=etcd, node=LONG_LEASE, router=impatient) as ring,
        ring.client() as client,
    ):
        ring.process("node-2").pause()
        with pytest.raises(OutcomeUnknown, match="node-2 did not confirm it within 2000 ms"):
            client.create_keyspace("doc", policy=Policy.VERSIONS)
        with pytest.raises(Unavailable, match=r"nothing was changed.*node-2 did not confirm"):
            client.create_keyspace("log", policy=Policy.RECORDS)
        ring.process("node-2").resume()
        eventually("the router knows", lambda: [one.name for one in client.keyspaces()] == ["doc"])
        wait_healthy(ring)
        client.create_keyspace("log", policy=Policy.RECORDS)
        assert client.add("log/a", "x") is not None


def test_changes_of_different_keyspaces_at_the_same_time_all_happen(tmp_path: Path) -> None:
    with running_ring(tmp_path, routers=2) as ring:
        failures: list[str] = []

        def change(number: int) -> None:
            port = ring.ports(ring.shape.router_names[number % 2])["client"]
            with Client("127.0.0.1", port) as client:
                try:
                    client.create_keyspace(f"k{number}", policy=Policy.RECORDS)
                    client.alter_keyspace(f"k{number}", retention_ms=1000 + number)
                except FortError as error:
                    failures.append(str(error))

        threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with ring.client() as client:
            retentions = {f"k{number}": 1000 + number for number in range(8)}
            eventually(
                "this router has heard of it all",
                lambda: {one.name: one.retention_ms for one in client.keyspaces()} == retentions,
            )
            assert not any(one.closed for one in client.keyspaces())
