"""A session against both stores: registration, views, leases, work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from fortdb.clock import steady_ms
from fortdb.coordination.operations import (
    read_keyspaces,
    read_layout,
    read_record,
    read_view,
    take_controller,
    write_keyspaces,
    write_layout,
    write_record,
)
from fortdb.coordination.session import Session
from fortdb.errors import Busy, FortError, StoreConflict, Unavailable
from fortdb.model import (
    Ack,
    ClusterView,
    Keyspace,
    Layout,
    NodeRecord,
    NodeSpec,
    NodeState,
    Partition,
    PartitionRecord,
)
from tests.coordination.conftest import KEPT_LEASE_MS, Owner, Place
from tests.support.waiting import eventually

LAYOUT = Layout(
    version=1,
    replication=2,
    min_in_sync=1,
    nodes={"n1": NodeSpec("a"), "n2": NodeSpec("b", 2.0)},
    partitions=(Partition(1, "p1", 0, ("n1", "n2")), Partition(2, "p2", 1 << 63, ("n2", "n1"))),
)
RECORD = PartitionRecord("p1", "n1", 1, {"n1": "d1.1"}, ("n1", "n2"))


def node(name: str, incarnation: str = "d1.1") -> NodeRecord:
    return NodeRecord(name, "a", "h:1", "h:2", "h:3", incarnation, NodeState.SERVING, "0.1.0")


def test_a_view_converges_to_what_the_store_holds(place: Place, owners: list[Owner]) -> None:
    store, keys = place.open(), place.keys
    owners.append(Owner(place).start())
    owners.append(Owner(place).start())
    layout_revision = write_layout(store, keys, LAYOUT, 0)
    record = write_record(store, keys, RECORD)
    write_keyspaces(store, keys, {"audit": Keyspace("audit", Ack.ASYNC)}, 0)
    record = write_record(store, keys, replace(record, epoch=2, handover=True))
    store.put(keys.prefix + "something/newer", b"\xff")
    lease = store.grant(60_000)
    assert take_controller(store, keys, "n1", lease)
    for owner in owners:
        eventually("the view has it all", lambda o=owner: o.views and o.views[-1].controller == "n1")  # type: ignore[misc]
        view = owner.views[-1]
        assert (view.layout, view.layout_revision) == (LAYOUT, layout_revision)
        assert view.records == {"p1": record}
        assert view.keyspaces == {"audit": Keyspace("audit", Ack.ASYNC)}
        assert replace(view, revision=0) == replace(read_view(store, keys), revision=0)
        revisions = [each.revision for each in owner.views]
        assert revisions == sorted(revisions)


def test_records_are_written_by_compare_and_set(place: Place) -> None:
    store, keys = place.open(), place.keys
    assert read_record(store, keys, "p1") is None
    first = write_record(store, keys, RECORD)
    assert first.revision > 0 and read_record(store, keys, "p1") == first
    second = write_record(store, keys, replace(first, leader=None))
    for stale in (RECORD, first):
        with pytest.raises(StoreConflict):
            write_record(store, keys, stale)
    assert read_record(store, keys, "p1") == second
    assert read_layout(store, keys) == (None, 0)
    revision = write_layout(store, keys, LAYOUT, 0)
    assert read_layout(store, keys) == (LAYOUT, revision)
    with pytest.raises(StoreConflict):
        write_layout(store, keys, LAYOUT, 0)
    assert read_keyspaces(store, keys) == ({}, 0)


def test_one_node_at_a_time_is_controller(place: Place) -> None:
    store, keys = place.open(), place.keys
    lease, other = store.grant(60_000), store.grant(60_000)
    assert take_controller(store, keys, "n1", lease)
    assert not take_controller(store, keys, "n2", other)
    assert take_controller(store, keys, "n1", other)  # moved to the newer lease
    store.revoke(lease)
    assert not take_controller(store, keys, "n2", other)
    store.revoke(other)
    assert take_controller(store, keys, "n2", store.grant(60_000))


def test_a_registration_appears_is_kept_and_vanishes(place: Place, owners: list[Owner]) -> None:
    place.lease_ms = KEPT_LEASE_MS
    router, living = Owner(place).start(), Owner(place).start(node("n1"))
    owners += [router, living]
    eventually("n1 is seen", lambda: router.nodes == {"n1"})
    assert router.views[-1].nodes["n1"] == node("n1")
    eventually("the lease is renewed a few times", lambda: len(living.leases) >= 4)
    assert router.nodes == {"n1"} and living.session.lease is not None
    assert all(until_ms > 0 for _, until_ms in living.leases)
    living.session.close(revoke=True)
    eventually("n1 is gone", lambda: router.nodes == set(), within_s=place.lease_ms / 1000 + 5)
    assert living.leases[-1][1] == 0 and living.session.lease is None
    assert router.session.lease is None and router.leases == []


def test_a_session_that_dies_is_missed_after_its_lease(place: Place, owners: list[Owner]) -> None:
    router, dying = Owner(place).start(), Owner(place).start(node("n1"))
    owners += [router, dying]
    eventually("n1 is seen", lambda: router.nodes == {"n1"})
    dying.session.close(revoke=False)
    eventually("n1 is gone", lambda: router.nodes == set())


def test_the_owner_counts_its_lease_from_the_send(place: Place) -> None:
    """Rule 11: an answer that comes late must not make the lease longer."""
    inner, late_ms, sent = place.open(), 250, []

    class LateStore:
        """The real store; its answers to keepalives are held up on their way back."""

        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def keepalive(self, lease: int) -> None:
            sent.append(steady_ms())
            inner.keepalive(lease)
            held_up.wait(late_ms / 1000)

    held_up = threading.Event()
    leases: list[tuple[int, int]] = []
    session = Session(
        LateStore(),  # type: ignore[arg-type]
        place.keys,
        on_view=lambda view: None,
        registration=node("n1"),
        lease_ttl_ms=KEPT_LEASE_MS,
        on_lease=lambda until_ms: leases.append((steady_ms(), until_ms)),
    )
    session.start()
    eventually("two renewals", lambda: len(leases) >= 3)
    held_up.set()
    session.close(revoke=True)
    for sent_ms, (told_ms, until_ms) in zip(sent, leases[1:3], strict=False):
        assert 0 <= sent_ms + KEPT_LEASE_MS - until_ms < late_ms  # taken just before the send
        assert told_ms + KEPT_LEASE_MS - until_ms >= late_ms


def test_a_revoked_lease_is_told_and_replaced(place: Place, owners: list[Owner]) -> None:
    """Rule 11: a store may revoke a lease that is alive."""
    store, living = place.open(), Owner(place).start(node("n1"))
    owners.append(living)
    eventually("n1 is registered", lambda: living.session.lease is not None and living.nodes == {"n1"})
    lost = living.session.lease
    assert lost is not None
    store.revoke(lost)
    eventually("another lease", lambda: living.session.lease not in (None, lost))
    assert 0 in [until_ms for _, until_ms in living.leases]
    eventually("the owner may trust it again", lambda: living.leases[-1][1] > 0)
    found = store.get(place.keys.node("n1"))
    assert found is not None


def test_a_deleted_node_record_is_written_again(place: Place, owners: list[Owner]) -> None:
    store, living = place.open(), Owner(place).start(node("n1"))
    owners.append(living)
    eventually("n1 sees itself", lambda: living.nodes == {"n1"} and living.session.lease is not None)
    store.delete(place.keys.node("n1"))
    eventually("the owner is warned", lambda: 0 in [until_ms for _, until_ms in living.leases])
    eventually("n1 is back", lambda: store.get(place.keys.node("n1")) is not None)


def test_an_updated_registration_is_written_on_the_same_lease(place: Place, owners: list[Owner]) -> None:
    place.lease_ms = 60_000
    living = Owner(place).start(node("n1"))
    owners.append(living)
    eventually("n1 is registered", lambda: living.nodes == {"n1"})
    lease = living.session.lease
    living.session.update_registration(replace(node("n1"), state=NodeState.DRAINING))
    eventually("it drains", lambda: living.views[-1].nodes["n1"].state is NodeState.DRAINING)
    assert living.session.lease == lease
    living.session.close(revoke=True)
    assert place.open().get(place.keys.node("n1")) is None


def test_a_later_life_takes_its_name_over_and_another_disk_waits(place: Place, owners: list[Owner]) -> None:
    place.lease_ms = KEPT_LEASE_MS
    first = Owner(place).start(node("n1", "d1.1"))
    router = Owner(place).start()
    owners += [first, router]
    eventually("the first life", lambda: router.nodes == {"n1"})
    first.session.close(revoke=False)
    second = Owner(place).start(node("n1", "d1.2"))
    owners.append(second)
    eventually("the second life", lambda: router.nodes and router.views[-1].nodes["n1"].incarnation == "d1.2")
    stranger = Owner(place).start(node("n1", "d2.1"))
    owners.append(stranger)
    renewed = len(second.leases)
    eventually("the second life is renewed", lambda: len(second.leases) > renewed + 1)
    assert stranger.session.lease is None and stranger.leases == []
    second.session.close(revoke=True)
    eventually("the other disk", lambda: router.nodes and router.views[-1].nodes["n1"].incarnation == "d2.1")


def test_work_is_done_in_order_and_errors_are_handed_over(place: Place, owners: list[Owner]) -> None:
    owner = Owner(place).start()
    outcomes: list[object] = []
    owners.append(owner)
    for number in range(20):
        owner.session.submit(lambda store, n=number: n, outcomes.append)  # type: ignore[misc]
    owner.session.submit(lambda store: write_record(store, place.keys, RECORD), outcomes.append)
    owner.session.submit(lambda store: write_record(store, place.keys, RECORD), outcomes.append)
    owner.session.submit(lambda store: 1 // 0, outcomes.append)
    owner.session.submit(lambda store: "alive", outcomes.append)
    eventually("all is done", lambda: len(outcomes) == 24)
    assert outcomes[:20] == list(range(20))
    assert isinstance(outcomes[20], PartitionRecord) and isinstance(outcomes[21], StoreConflict)
    assert isinstance(outcomes[22], FortError) and outcomes[23] == "alive"


def test_every_submission_is_answered_even_over_the_bound_and_at_the_end(place: Place) -> None:
    owner, gate = Owner(place).start(), threading.Event()
    outcomes: list[object] = []
    for _ in range(1_200):
        owner.session.submit(lambda store: gate.wait(10), outcomes.append)
    refused = len(outcomes)
    assert 190 <= refused <= 200 and all(isinstance(each, Busy) for each in outcomes)
    closing = threading.Thread(target=owner.session.close, args=(False,))
    closing.start()
    eventually("the session is closing", lambda: _is_refused(owner.session))
    gate.set()
    closing.join(10)
    assert not closing.is_alive()
    answers = outcomes[refused:]
    assert len(outcomes) == 1_200 and answers[0] is True
    assert isinstance(answers[-1], Unavailable)


def test_a_record_that_cannot_be_read_does_not_end_the_session(place: Place, owners: list[Owner]) -> None:
    store, owner = place.open(), Owner(place).start()
    owners.append(owner)
    revision = store.put(place.keys.layout, b"{}")
    write_keyspaces(store, place.keys, {}, 0)
    assert not any(view.revision >= revision for view in owner.views)
    store.put(place.keys.layout, b"not json")
    store.delete(place.keys.layout)
    write_record(store, place.keys, RECORD)
    eventually("the view goes on", lambda: owner.views and "p1" in owner.views[-1].records)


def test_a_watch_that_fell_silent_is_made_good_by_listing_again(place: Place) -> None:
    inner = place.open()

    class Deaf:
        """A watch that never delivers."""

        def __init__(self) -> None:
            self.closed = threading.Event()

        def __iter__(self) -> Iterator[tuple[object, ...]]:
            self.closed.wait(30)
            return iter(())

        def close(self) -> None:
            self.closed.set()

    class DeafStore:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def watch(self, prefix: str, after_revision: int) -> Deaf:
            return Deaf()

    views: list[ClusterView] = []
    session = Session(DeafStore(), place.keys, on_view=views.append, relist_ms=100)  # type: ignore[arg-type]
    session.start()
    eventually("the first view", lambda: views)
    write_record(inner, place.keys, RECORD)
    eventually("the record is seen", lambda: "p1" in views[-1].records)
    session.close(revoke=False)
    assert all(view != later for view, later in pairwise(views))  # listing again without news is not told
    assert len({len(view.records) for view in views}) == 2


def _is_refused(session: Session) -> bool:
    outcome: list[object] = []
    session.submit(lambda store: None, outcome.append)
    return bool(outcome) and isinstance(outcome[0], Unavailable)
