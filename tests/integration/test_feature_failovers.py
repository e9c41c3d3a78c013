"""Each feature of docs/data-model.md while the leader is killed: what was answered before, meanwhile and afterwards
holds. (Adding records and moving leaders: `test_data_model.py`. Walks: `test_scans.py`. Watches: `test_transactions.py`.
`WHY`: `test_why.py`. Dropping keyspaces: `test_keyspace_drops.py`. Routers: `test_recovery.py`.)"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from fortdb.cli.main import main
from fortdb.client import Client, Receipt, Version
from fortdb.errors import Immutable, OutcomeUnknown, WrongType
from fortdb.local.ring import LocalRing
from fortdb.model import Mode, Policy, RecordId
from tests.support.bank import APART, TOGETHER, Bank
from tests.support.failovers import failover_under
from tests.support.rings import holder_of, module_ring
from tests.support.waiting import eventually

pytestmark = pytest.mark.chaos

NOTHING = RecordId(0, 0)
DAY_MS = 86_400_000

ring = module_ring()


@pytest.fixture(scope="module", autouse=True)
def keyspaces(ring: LocalRing) -> None:
    with ring.client() as client:
        client.create_keyspace("rec", policy=Policy.RECORDS)
        client.create_keyspace("ver", policy=Policy.VERSIONS)
        client.create_keyspace("worm", policy=Policy.WORM, retention_ms=DAY_MS, mode=Mode.COMPLIANCE)
        client.create_keyspace("brief", policy=Policy.WORM, retention_ms=4_000)


@pytest.fixture
def client(ring: LocalRing) -> Iterator[Client]:
    """Afterwards all nodes live and are well again."""
    with ring.client(timeout_s=30) as made:
        yield made
    ring.up()


# --- records ----------------------------------------------------------------------------------------------


def test_records_that_are_compared_and_set(ring: LocalRing, client: Client) -> None:
    """Each record was added behind the one that its client had seen last."""
    key, behind = "rec/cas", dict[RecordId, RecordId]()

    def work(client: Client, number: int, turn: int) -> None:
        last = next((one.id for one in client.records(key, reverse=True, page=1)), NOTHING)
        try:
            added = client.add(key, f"{number}.{turn}", if_last=last)
        except OutcomeUnknown:
            return
        if added is not None:
            behind[added] = last

    with failover_under(ring, holder_of(ring, key), work):
        pass
    found = list(client.records(key, page=1_000))
    assert len({one.value for one in found}) == len(found), "none is there twice"
    places = dict(pairwise([NOTHING, *(one.id for one in found)]))  # id -> the next
    assert len(behind) > 20
    for added, last in behind.items():
        assert places[last] == added


def test_records_that_are_removed(ring: LocalRing, client: Client) -> None:
    removed, kept = set[RecordId](), set[RecordId]()
    key = "rec/removed"

    def work(client: Client, number: int, turn: int) -> None:
        try:
            added = client.add(key, f"{number}.{turn}")
        except OutcomeUnknown:
            return
        assert added is not None
        if turn % 2:
            kept.add(added)
            return
        try:
            assert client.remove(key, added), f"{added} was there"
        except OutcomeUnknown:
            return
        assert not client.remove(key, added), f"{added} is gone"
        removed.add(added)

    with failover_under(ring, holder_of(ring, key), work):
        pass
    found = {one.id for one in client.records(key, page=1_000)}
    assert len(removed) > 20 and kept <= found
    assert not removed & found
    assert len(found - kept) < 10, "only those of which nobody knows"


def test_records_that_end(ring: LocalRing, client: Client) -> None:
    """On the next leader, too, and no others."""
    key, brief, long = "rec/ending", set[RecordId](), set[RecordId]()

    def work(client: Client, number: int, turn: int) -> None:
        try:
            added = client.add(key, "x", expire_ms=1_500 if turn % 2 else DAY_MS)
        except OutcomeUnknown:
            return
        assert added is not None
        (brief if turn % 2 else long).add(added)

    with failover_under(ring, holder_of(ring, key), work):
        pass
    eventually("they end", lambda: not brief & {one.id for one in client.records(key, page=1_000)})
    assert long <= {one.id for one in client.records(key, page=1_000)}
    assert len(brief) > 20 and len(long) > 20
    eventually("and are not counted", lambda: client.record_count(key) - len(long) < 10)


# --- versions ---------------------------------------------------------------------------------------------


def test_versions(ring: LocalRing, client: Client) -> None:
    """A history holds what was answered, in its order, once, and says the same before and after."""
    written = defaultdict[str, list[bytes | None]](list)
    key = "ver/{failover}"
    own_keys = [f"{key}{number}" for number in range(3)]

    def work(client: Client, number: int, turn: int) -> None:
        own = own_keys[number]
        value = None if turn % 5 == 4 and written[own] else b"%d" % turn
        try:
            if value is None:
                client.delete(own)
            else:
                client.put(own, value)
        except OutcomeUnknown:  # go on with a key of which all is known
            written.pop(own, None)
            own_keys[number] += "'"
        else:
            written[own].append(value)

    with ring.client() as other:
        other.put(f"{key}before", "1")
        other.put(f"{key}before", "2")
        before = list(other.history(f"{key}before"))
    with failover_under(ring, holder_of(ring, key), work) as busy:
        assert list(client.history(f"{key}before")) == before
        early = {own: list(client.history(own, page=1_000)) for own in own_keys}
        busy.wait(10)
    assert [client.get(f"{key}before", at=one.id) for one in before] == [b"1", b"2"]
    for own in own_keys:
        history = list(client.history(own, page=1_000))
        assert [one.value for one in history] == written[own]
        known = early.get(own, [])
        assert history[: len(known)] == known
        assert all(one.id < other.id for one, other in pairwise(history))
        _check_moments(client, own, history)


def _check_moments(client: Client, key: str, history: list[Version]) -> None:
    for one, following in list(pairwise(history))[::7]:
        assert client.get(key, at=one.id) == one.value
        if following.time_ms > one.time_ms:
            assert client.get(key, at=following.time_ms - 1) == one.value


# --- keyspaces --------------------------------------------------------------------------------------------


def test_keyspaces_come_and_go(ring: LocalRing, client: Client) -> None:
    """A change waits for the dead node's lease to end; what was answered is in use, on the next leader, too."""

    def work(client: Client, number: int, turn: int) -> None:
        name = f"k{number}-{turn}"
        try:
            client.create_keyspace(name, policy=Policy.RECORDS)
            added = client.add(f"{name}/a", "x")
            client.alter_keyspace(name, retention_ms=DAY_MS)
            assert [one.id for one in client.records(f"{name}/a")] == [added]
            assert _is_refused(client, f"{name}/a"), "the new leader knows the policy"
            client.drop_keyspace(name, delete_keys=True)
        except OutcomeUnknown:
            return
        assert client.get(f"{name}/a") is None

    with failover_under(ring, "p-000", work, turns=2):
        pass
    for keyspace in client.keyspaces():
        if keyspace.name.startswith("k"):  # nobody knew
            client.drop_keyspace(keyspace.name, delete_keys=True)
    assert list(client.scan("k*-*/a")) == []


def _is_refused(client: Client, key: str) -> bool:
    try:
        client.put(key, "no record")
    except WrongType:
        return True
    return False


# --- transactions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("accounts", [TOGETHER, APART], ids=["together", "apart"])
def test_transactions(ring: LocalRing, client: Client, accounts: list[str]) -> None:
    with Bank([ring.shape.port], accounts) as bank:
        bank.wait(30)
        leader = client.why(accounts[0]).route.leader
        assert leader is not None
        ring.process(leader).kill()
        bank.wait(50)
    assert bank.failures == []


# --- records that nobody changes --------------------------------------------------------------------------


def test_worm_records_and_their_receipts(ring: LocalRing, client: Client, tmp_path: Path) -> None:
    """Whoever leads: they are kept, held, chained, and as their receipts say."""
    receipts: list[Receipt] = []
    key = "worm/deeds"

    def work(client: Client, number: int, turn: int) -> None:
        try:
            receipt = client.add_with_receipt(key, f"{number}.{turn}")
        except OutcomeUnknown:
            return
        assert receipt is not None and receipt.id is not None
        assert len(receipt.replicas) >= 2
        receipts.append(receipt)
        if turn % 3 == 0:
            try:
                assert client.hold(key, receipt.id, f"case {turn}")
            except OutcomeUnknown:
                return
        try:
            client.remove(key, receipt.id, bypass=True)
        except Immutable:
            return
        raise AssertionError(f"{receipt.id} could be removed")

    with failover_under(ring, holder_of(ring, key), work):
        pass
    epochs = {receipt.epoch for receipt in receipts}
    assert len(epochs) > 1, "of both leaders"
    for receipt in receipts:
        assert client.verify_receipt(receipt) is None
    assert all(one.altered is None for one in client.verify("worm", replicas=False))
    for index, epoch in enumerate(sorted(epochs)):
        path = tmp_path / f"{index}.json"
        path.write_text(next(one for one in receipts if one.epoch == epoch).to_json())
        told = CliRunner().invoke(main, ["--port", str(ring.shape.port), "verify", "--receipt", str(path)])
        assert told.exit_code == 0 and "is what the receipt says" in told.output, told.output
    held = [one.id for one in receipts if one.id is not None and _is_held(client, key, one.id)]
    assert len(held) > 5


def _is_held(client: Client, key: str, record: RecordId) -> bool:
    protection = client.protection(key, record)
    assert protection is not None and protection.mode is Mode.COMPLIANCE
    return bool(protection.holds)


def test_the_end_of_a_retention(ring: LocalRing, client: Client) -> None:
    """Its clock stands still while nobody leads, so nothing goes early; then it goes, unless it is held."""
    key = "brief/failover"
    free, held = client.add(key, "free"), client.add(key, "held")
    assert free is not None and held is not None and client.hold(key, held)
    leader = client.why(key).route.leader
    assert leader is not None
    ring.process(leader).kill()
    assert client.record(key, free) == b"free"
    served_s = time.monotonic()
    with pytest.raises(Immutable):
        client.remove(key, free)
    eventually("its retention has passed", lambda: client.record(key, free) is None)
    assert time.monotonic() - served_s > 2, "not the time that nobody led"
    assert client.get(key) == b"held"
    with pytest.raises(Immutable, match="is held"):
        client.remove(key, held, bypass=True)
    assert client.release(key, held) and client.remove(key, held)
    assert all(one.altered is None for one in client.verify("brief"))


# --- feeds ------------------------------------------------------------------------------------------------


def test_a_feed(ring: LocalRing, client: Client) -> None:
    """Every acknowledged change comes, those of a key in their order."""
    written = defaultdict[bytes, list[bytes]](list)
    seen = defaultdict[bytes, list[bytes]](list)
    stop = threading.Event()

    def work(client: Client, number: int, turn: int) -> None:
        key, value = b"{fed}%d" % number, b"%d" % turn
        try:
            client.put(key, value)
        except OutcomeUnknown:
            return
        written[key].append(value)

    with ring.client() as reader, reader.feed(prefix="{fed}") as feed:

        def read() -> None:
            while not stop.is_set():
                change = feed.next(0.1)
                if change is not None and change.value is not None:
                    seen[change.key].append(change.value)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            with failover_under(ring, holder_of(ring, "{fed}0"), work):
                pass
            eventually(
                "the last changes come",
                lambda: all(seen[key][-1:] == values[-1:] for key, values in written.items()),
            )
        finally:
            stop.set()
            thread.join()
    for key, values in written.items():
        firsts = list(dict.fromkeys(seen[key]))
        assert [value for value in firsts if value in set(values)] == values


# --- walks ------------------------------------------------------------------------------------------------


def test_ranges_and_scans(ring: LocalRing, client: Client) -> None:
    """A page sees every write that was answered before, on the next leader, too."""

    def work(client: Client, number: int, turn: int) -> None:
        key = b"{walked}%d-%05d" % (number, turn)
        try:
            client.put(key, "x")
        except OutcomeUnknown:
            return
        assert [found for found, _ in client.range("{walked}", first=key, last=key)] == [key]
        if turn % 10 == 0:
            assert key in set(client.scan("{walked}*"))

    with failover_under(ring, holder_of(ring, "{walked}"), work) as busy:
        pass
    found = [key for key, _ in client.range("{walked}", page=50)]
    assert found == sorted(found) and len(found) >= sum(busy.turns) - 10
    assert set(client.scan("{walked}*")) == set(found)
