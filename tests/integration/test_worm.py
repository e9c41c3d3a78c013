"""WORM records, their chain and receipts on rings of real processes, while nodes die and disks are tampered with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from fortdb.cli.main import main
from fortdb.client import Client, Receipt
from fortdb.errors import BadRequest, FortError, Immutable, OutcomeUnknown, WrongType
from fortdb.limits import LOG_SEGMENT_BYTES, LOG_SEGMENTS_KEPT
from fortdb.local.ring import LocalRing
from fortdb.model import Mode, Policy, RecordId
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import data_key_at, record_key
from fortdb.storage.rocks import RocksEngine
from tests.support.rings import holder_of, partition_of, running_ring, status_of, wait_healthy
from tests.support.waiting import eventually

DAY_MS = 86_400_000


@pytest.mark.chaos
def test_worm_records_survive_everything_but_their_retention(tmp_path: Path) -> None:
    with running_ring(tmp_path / "ring") as ring, ring.client() as client:
        client.create_keyspace("ledger", policy=Policy.WORM, retention_ms=DAY_MS, mode=Mode.COMPLIANCE)
        client.create_keyspace("brief", policy=Policy.WORM, retention_ms=1_500)
        kept = {number: _added(client, f"ledger/{number}", f"deed {number}") for number in range(40)}
        _no_administrator_gets_at_them(client)
        _no_transaction_gets_at_them(ring, kept[0])
        _briefly(client)
        receipt = _receipts(client, tmp_path)
        for _ in range(2):
            _fail_over(ring, client, kept)
        assert client.verify_receipt(receipt) is None
        _all_is_there(client, kept)
        _who_is_missing_is_named(ring)
        _tampering_is_named(ring, tmp_path, kept)


def _added(client: Client, key: str, value: str) -> RecordId:
    record = client.add(key, value)
    assert record is not None
    return record


def _no_administrator_gets_at_them(client: Client) -> None:
    with pytest.raises(Immutable, match="not deleted before"):
        client.drop_keyspace("ledger", delete_keys=True)
    with pytest.raises(BadRequest, match="40 keys ledger/... that would lose their policy.*they go when"):
        client.drop_keyspace("ledger")
    with pytest.raises(BadRequest, match="cannot be kept without it"):
        client.drop_keyspace("ledger", keep_keys=True)
    with pytest.raises(BadRequest, match="40 keys ledger/... that are worm and would not be records"):
        client.alter_keyspace("ledger", policy=Policy.RECORDS)
    with pytest.raises(Immutable, match="lengthened only"):
        client.alter_keyspace("ledger", retention_ms=DAY_MS - 1)
    with pytest.raises(Immutable, match="stays in it"):
        client.alter_keyspace("ledger", mode=Mode.GOVERNANCE)
    with pytest.raises(BadRequest, match="step of KEYSPACE DROP"):
        client.command("PURGEALL", "ledger")
    client.alter_keyspace("ledger", retention_ms=2 * DAY_MS)
    assert client.keyspace("ledger").mode is Mode.COMPLIANCE
    for words in (["DEL"], ["PURGE"], ["SET"], ["GETDEL"]):
        with pytest.raises((Immutable, WrongType)):
            client.command(*words, "ledger/1", *(["x"] if words == ["SET"] else []))


def _no_transaction_gets_at_them(ring: LocalRing, record: RecordId) -> None:
    """On one partition, and prepared in several; what it adds is chained when it is committed."""
    with redis.Redis(port=ring.shape.port) as plain:
        batch = plain.pipeline()
        batch.execute_command("REMOVE", "ledger/0", str(record), "BYPASS")
        batch.execute_command("DEL", "ledger/0")
        for number in range(12):
            batch.execute_command("ADD", f"ledger/tx{number}", "of a transaction")
        replies = batch.execute(raise_on_error=False)
        assert all(isinstance(reply, redis.ResponseError) for reply in replies[:2])
        assert all(isinstance(reply, bytes) for reply in replies[2:])
        for number, added in enumerate(replies[2:]):
            told = plain.execute_command("RECORDINFO", f"ledger/tx{number}", added)
            assert told[told.index(b"ordinal") + 1] > 0
    with ring.client() as client:
        assert all(one.altered is None for one in client.verify())
        assert client.record("ledger/0", record) == b"deed 0"


def _briefly(client: Client) -> None:
    held, free = _added(client, "brief/held", "x"), _added(client, "brief/free", "x")
    assert client.hold("brief/held") and not client.hold("brief/nothing")
    with pytest.raises(Immutable, match="it is held|is held"):
        client.remove("brief/held", held, bypass=True)
    eventually("its retention has passed", lambda: client.record("brief/free", free) is None)
    assert client.get("brief/held") == b"x"
    protection = client.protection("brief/held", held)
    assert protection is not None and protection.holds == (b"*legal",)
    assert client.release("brief/held") and client.remove("brief/held", held)
    early = _added(client, "brief/early", "x")
    assert client.retain("brief/early", early, protection.until_ms + DAY_MS)
    assert client.remove("brief/early", early, bypass=True)
    client.drop_keyspace("brief")


def _receipts(client: Client, directory: Path) -> Receipt:
    receipt = client.add_with_receipt("ledger/r", "signed")
    assert receipt is not None and receipt.id is not None
    assert len(receipt.replicas) == 3 and receipt.zones and receipt.keyspace == "ledger"
    assert receipt.ordinal and receipt.chain and Receipt.from_json(receipt.to_json()) == receipt
    assert client.verify_receipt(receipt) is None
    plain = client.put_with_receipt("plain", "value")
    assert plain is not None and plain.id is None and plain.offset > 0 and plain.keyspace == ""
    assert client.put_with_receipt("plain", "other", only_if_absent=True) is None
    assert client.verify_receipt(plain) is None
    client.put("plain", "another")
    assert client.verify_receipt(plain) == "another value is there"
    assert client.command("SET", "plain", "v", "IFEQ", "RECEIPT") is None, "a value, no option"
    with pytest.raises(BadRequest, match="exclude each other"):
        client.command("SET", "plain", "v", "GET", "RECEIPT")
    where = ["--port", str(client.address.port)]
    path = directory / "receipt.json"
    for words in (["put", "k", "v"], ["add", "ledger/cli", "v"]):
        assert CliRunner().invoke(main, [*where, *words, "--receipt", str(path)]).exit_code == 0
        told = CliRunner().invoke(main, [*where, "verify", "--receipt", str(path)])
        assert told.exit_code == 0 and "is what the receipt says" in told.output
    path.write_text(path.read_text().replace('"chain": "', '"chain": "00'))
    assert (
        "another value in the record's place"
        in CliRunner().invoke(main, [*where, "verify", "--receipt", str(path)]).output
    )
    return receipt


def _fail_over(ring: LocalRing, client: Client, kept: dict[int, RecordId]) -> None:
    """The leader of a partition dies while records are added."""
    leader = partition_of(ring, holder_of(ring, "ledger/0")).leader
    assert leader is not None
    ring.processes[leader].kill()
    for _ in range(20):
        number = len(kept)
        try:
            kept[number] = _added(client, f"ledger/{number}", f"deed {number}")
        except OutcomeUnknown:
            kept.pop(number, None)
    ring.processes[leader].start()
    wait_healthy(ring)


def _all_is_there(client: Client, kept: dict[int, RecordId]) -> None:
    for number, record in kept.items():
        assert client.record(f"ledger/{number}", record) == b"deed %d" % number
    found = list(client.verify("ledger", replicas=True))
    assert [one for one in found if one.altered] == []
    assert sum(one.records for one in found if one.node is None) >= len(kept)
    assert len([one for one in found if one.node is not None]) == 12


def _who_is_missing_is_named(ring: LocalRing) -> None:
    """What the others have is verified all the same."""
    node = partition_of(ring).followers[0]
    ring.processes[node].stop()
    eventually(
        "others lead",
        lambda: all(one.leader not in (None, node) for one in status_of(ring).partitions),
    )
    told = CliRunner().invoke(main, ["--port", str(ring.shape.port), "verify", "--replicas"])
    assert told.exit_code == 3 and f"not verified on {node}: {node} cannot be reached" in told.stderr
    lines = told.stdout.splitlines()
    assert len(lines) == 12 and all("unaltered" in line and node not in line for line in lines), told.output
    ring.processes[node].start()
    wait_healthy(ring)


def _tampering_is_named(ring: LocalRing, directory: Path, kept: dict[int, RecordId]) -> None:
    """One replica's disk is changed while its node is down."""
    partition = partition_of(ring, holder_of(ring, "ledger/7"))
    node = partition.followers[0]
    ring.processes[node].stop()
    path = next((directory / "ring").rglob(f"{node}/**/CURRENT")).parent
    engine = RocksEngine(path, cache_bytes=1 << 20, memtable_bytes=1 << 20, sync=True)
    at = record_key(data_key_at(hash_of(b"ledger/7"), b"ledger/7"), kept[7])
    stored = engine.get(at)
    assert stored is not None and stored.endswith(b"deed 7")
    batch = engine.batch()
    batch.put_data(at, stored[:-1] + b"8")
    engine.write(batch, True)
    engine.close()
    ring.processes[node].start()
    wait_healthy(ring)
    told = CliRunner().invoke(main, ["--port", str(ring.shape.port), "verify", "--replicas"])
    assert told.exit_code == 1
    altered = [line for line in told.output.splitlines() if "ALTERED" in line]
    assert len(altered) == 1 and f"ledger/7 {kept[7]}" in altered[0], told.output


def test_receipts_are_no_part_of_transactions(tmp_path: Path) -> None:
    with running_ring(tmp_path, nodes=1) as ring, redis.Redis(port=ring.shape.port) as plain:
        batch = plain.pipeline()
        batch.execute_command("SET", "k", "v", "RECEIPT")
        with pytest.raises(redis.ResponseError, match="gives no receipts"):
            batch.execute()
        with ring.client() as client, pytest.raises(FortError, match="no partition 99"):
            client.command("CHAIN", 99, 0)


@pytest.mark.chaos
def test_a_snapshot_carries_records_holds_and_chain(tmp_path: Path) -> None:
    with running_ring(tmp_path, partitions=1) as ring, ring.client() as client:
        client.create_keyspace("ledger", policy=Policy.WORM, retention_ms=DAY_MS)
        first = _added(client, "ledger/a", "deed")
        assert client.hold("ledger/a", first)
        node = partition_of(ring).followers[0]
        ring.process(node).kill()
        shutil.rmtree(ring.process(node).directory / "data")
        for number in range((LOG_SEGMENTS_KEPT + 4) * LOG_SEGMENT_BYTES // 1_000_000):
            _added(client, "ledger/b", f"{number}" + "x" * 1_000_000)
        ring.process(node).start()
        wait_healthy(ring)
        assert "snapshot_installing" in ring.process(node).log_path.read_text()
        found = list(client.verify(replicas=True))
        assert len(found) == 3 and {one.altered for one in found} == {None}
        assert {one.records for one in found} == {1 + client.record_count("ledger/b")}
        client.move_leader("p-000", node)
        eventually("the move shows", lambda: partition_of(ring).leader == node)
        with pytest.raises(Immutable, match="is held"):
            client.remove("ledger/a", first, bypass=True)
        _added(client, "ledger/a", "goes on")
        assert all(one.altered is None for one in client.verify(replicas=True))
