"""What every coordination store must do; each test runs on a SQLite file and on real etcd."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from fortdb.coordination.store import Event, Store
from fortdb.errors import FortError, LeaseLost, StoreConflict, StoreUnavailable
from tests.coordination.conftest import KEPT_LEASE_MS, Place, Watching
from tests.support.waiting import eventually

UNKNOWN_LEASE = 0x1234567


# --- compare-and-set ----------------------------------------------------------------------------------


def test_create_get_replace_delete(store: Store, place: Place) -> None:
    key = place.key("a")
    assert store.get(key) is None
    first = store.create(key, b"one")
    found = store.get(key)
    assert found is not None and (found.key, found.value, found.revision) == (key, b"one", first)
    second = store.replace(key, b"two", first)
    assert second > first
    store.delete(key, second)
    assert store.get(key) is None


def test_create_over_a_key_conflicts_and_changes_nothing(store: Store, place: Place) -> None:
    revision = store.create(place.key("a"), b"one")
    with pytest.raises(StoreConflict):
        store.create(place.key("a"), b"two")
    found = store.get(place.key("a"))
    assert found is not None and (found.value, found.revision) == (b"one", revision)


def test_replace_at_another_revision_conflicts(store: Store, place: Place) -> None:
    first = store.create(place.key("a"), b"one")
    second = store.put(place.key("a"), b"two")
    for wrong in (first, second + 1):
        with pytest.raises(StoreConflict):
            store.replace(place.key("a"), b"three", wrong)
    with pytest.raises(StoreConflict):
        store.replace(place.key("absent"), b"three", first)


def test_delete_at_another_revision_conflicts(store: Store, place: Place) -> None:
    first = store.create(place.key("a"), b"one")
    store.put(place.key("a"), b"two")
    with pytest.raises(StoreConflict):
        store.delete(place.key("a"), first)
    assert store.get(place.key("a")) is not None


def test_delete_of_an_absent_key_does_nothing(store: Store, place: Place) -> None:
    revision = store.create(place.key("other"), b"")
    store.delete(place.key("absent"))
    assert store.list(place.keys.prefix).revision == revision


def test_a_key_created_again_has_a_new_revision(store: Store, place: Place) -> None:
    """ABA: a revision never stands for two states of a key."""
    first = store.create(place.key("a"), b"one")
    store.delete(place.key("a"))
    store.create(place.key("a"), b"one")
    with pytest.raises(StoreConflict):
        store.replace(place.key("a"), b"two", first)


@pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)), b"\xff" * 70_000, "grün".encode()])
def test_values_are_any_bytes(store: Store, place: Place, value: bytes) -> None:
    watching = Watching(store.watch(place.keys.prefix, store.list(place.keys.prefix).revision))
    store.create(place.key("a"), value)
    found = store.get(place.key("a"))
    assert found is not None and found.value == value
    assert watching.wait_for(1)[0].value == value
    watching.close()


def test_each_round_of_concurrent_compare_and_set_has_one_winner(place: Place) -> None:
    rounds, threads = 12, 6
    stores = [place.open() for _ in range(2)]
    key = place.key("contended")
    revisions = [stores[0].create(key, b"start")]
    wins: list[tuple[int, int]] = []
    failures: list[Exception] = []
    barrier = threading.Barrier(threads)

    def contend(number: int) -> None:
        store = stores[number % len(stores)]
        try:
            for round_number in range(rounds):
                barrier.wait(30)
                try:
                    revision = store.replace(key, f"{number}".encode(), revisions[round_number])
                    wins.append((round_number, number))
                    revisions.append(revision)
                except StoreConflict:
                    pass
                barrier.wait(30)
        except (FortError, threading.BrokenBarrierError) as error:
            failures.append(error)
            barrier.abort()

    _run_all([lambda number=number: contend(number) for number in range(threads)])  # type: ignore[misc]
    assert failures == []
    assert [round_number for round_number, _ in wins] == list(range(rounds))
    found = stores[0].get(key)
    assert found is not None and found.value == f"{wins[-1][1]}".encode()


def test_concurrent_creates_have_one_winner(place: Place) -> None:
    store, winners = place.open(), []

    def create(number: int) -> None:
        try:
            store.create(place.key("a"), f"{number}".encode())
            winners.append(number)
        except StoreConflict:
            pass

    _run_all([lambda number=number: create(number) for number in range(8)])  # type: ignore[misc]
    found = store.get(place.key("a"))
    assert len(winners) == 1 and found is not None and found.value == f"{winners[0]}".encode()


# --- listing ------------------------------------------------------------------------------------------


def test_a_listing_is_sorted_and_keeps_to_its_prefix(store: Store, place: Place) -> None:
    for name in ("nodes/b", "nodes/a", "nodes%", "nodez", "Nodes/a", "nodes/ä"):
        store.put(place.key(name), name.encode())
    listing = store.list(place.key("nodes/"))
    assert [item.key for item in listing.items] == [place.key(n) for n in ("nodes/a", "nodes/b", "nodes/ä")]
    assert listing.revision >= max(item.revision for item in listing.items)
    assert store.list(place.key("nothing")).items == ()


def test_a_listing_is_one_moment(place: Place) -> None:
    """Two keys are written in turn, `second` never before `first`: no listing shows it ahead."""
    writer, reader = place.open(), place.open()
    done = threading.Event()

    def write() -> None:
        for number in range(60):
            writer.put(place.key("first"), f"{number:03}".encode())
            writer.put(place.key("second"), f"{number:03}".encode())
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = 0
    while not done.is_set():
        listing = reader.list(place.keys.prefix)
        values = {item.key: item.value for item in listing.items}
        assert listing.revision >= max((item.revision for item in listing.items), default=0)
        if place.key("second") in values:
            seen += 1
            assert values[place.key("second")] <= values[place.key("first")]
    thread.join()
    assert seen > 0


# --- leases -------------------------------------------------------------------------------------------


def test_a_lease_that_ends_takes_its_keys_along(store: Store, place: Place) -> None:
    lease = store.grant(KEPT_LEASE_MS)
    watching = Watching(store.watch(place.keys.prefix, store.list(place.keys.prefix).revision))
    store.create(place.key("leased"), b"x", lease)
    store.put(place.key("kept"), b"y")
    eventually("the key vanishes", lambda: store.get(place.key("leased")) is None)
    assert store.get(place.key("kept")) is not None
    events = watching.wait_for(3)
    assert [(e.key, e.value) for e in events] == [
        (place.key("leased"), b"x"),
        (place.key("kept"), b"y"),
        (place.key("leased"), None),
    ]
    assert events[2].revision > events[1].revision
    with pytest.raises(LeaseLost):
        store.keepalive(lease)
    with pytest.raises(LeaseLost):
        store.put(place.key("late"), b"", lease)
    watching.close()


def test_a_watch_alone_sees_a_lease_end(store: Store, place: Place) -> None:
    """Nobody calls the store meanwhile: the watch itself must bring the end about, or etcd does."""
    lease = store.grant(KEPT_LEASE_MS)
    revision = store.create(place.key("leased"), b"x", lease)
    watching = Watching(store.watch(place.keys.prefix, revision))
    assert watching.wait_for(1)[0].value is None
    watching.close()


def test_keepalive_keeps_a_lease(store: Store, place: Place) -> None:
    lease = store.grant(KEPT_LEASE_MS)
    other = store.grant(KEPT_LEASE_MS)
    store.create(place.key("kept"), b"", lease)
    store.create(place.key("dropped"), b"", other)

    def renew_and_look() -> bool:
        store.keepalive(lease)
        return store.get(place.key("dropped")) is None

    eventually("the lease that nobody renews ends", renew_and_look)
    assert store.get(place.key("kept")) is not None


def test_revoking_deletes_at_once_and_twice_is_nothing(store: Store, place: Place) -> None:
    lease = store.grant(60_000)
    store.create(place.key("a"), b"", lease)
    store.create(place.key("b"), b"", lease)
    store.revoke(lease)
    assert store.list(place.keys.prefix).items == ()
    store.revoke(lease)
    with pytest.raises(LeaseLost):
        store.keepalive(lease)


def test_an_unknown_lease_is_refused_everywhere(store: Store, place: Place) -> None:
    revision = store.create(place.key("a"), b"")
    with pytest.raises(LeaseLost):
        store.put(place.key("a"), b"x", UNKNOWN_LEASE)
    with pytest.raises(LeaseLost):
        store.create(place.key("b"), b"x", UNKNOWN_LEASE)
    with pytest.raises(LeaseLost):
        store.replace(place.key("a"), b"x", revision, UNKNOWN_LEASE)
    with pytest.raises(LeaseLost):
        store.keepalive(UNKNOWN_LEASE)
    assert [item.value for item in store.list(place.keys.prefix).items] == [b""]


def test_a_key_written_without_its_lease_outlives_it(store: Store, place: Place) -> None:
    lease = store.grant(60_000)
    store.create(place.key("a"), b"leased", lease)
    store.put(place.key("a"), b"free")
    store.revoke(lease)
    assert store.get(place.key("a")) is not None


# --- watches ------------------------------------------------------------------------------------------


def test_a_watch_replays_from_a_revision_in_order(store: Store, place: Place) -> None:
    start = store.create(place.key("a"), b"0")
    revisions = [store.put(place.key("a"), f"{number}".encode()) for number in range(1, 30)]
    store.put("/elsewhere/" + place.key("a"), b"not ours")
    store.delete(place.key("a"))
    watching = Watching(store.watch(place.keys.prefix, start))
    events = watching.wait_for(30)
    assert [event.value for event in events] == [f"{n}".encode() for n in range(1, 30)] + [None]
    assert [event.revision for event in events[:-1]] == revisions
    middle = Watching(store.watch(place.keys.prefix, revisions[9]))
    assert [event.revision for event in middle.wait_for(20)[:-1]] == revisions[10:]
    live = store.create(place.key("b"), b"live")
    assert watching.wait_for(31)[30] == Event(place.key("b"), b"live", live)
    for each in (watching, middle):
        each.close()
        assert each.error is None and all(each.batches)


def test_a_watch_delivers_every_change_of_many_writers(place: Place) -> None:
    store, other = place.open(), place.open()
    watching = Watching(store.watch(place.keys.prefix, store.list(place.keys.prefix).revision))

    def write(number: int) -> None:
        for step in range(20):
            (store, other)[number % 2].put(place.key(f"k{number}"), f"{step}".encode())

    _run_all([lambda number=number: write(number) for number in range(4)])  # type: ignore[misc]
    events = watching.wait_for(80)
    assert len(events) == 80
    revisions = [event.revision for event in events]
    assert revisions == sorted(set(revisions))
    for number in range(4):
        values = [event.value for event in events if event.key == place.key(f"k{number}")]
        assert values == [f"{step}".encode() for step in range(20)]
    watching.close()


def test_an_idle_watch_is_closed_from_another_thread(store: Store, place: Place) -> None:
    watching = Watching(store.watch(place.keys.prefix, store.list(place.keys.prefix).revision))
    store.create(place.key("a"), b"")
    watching.wait_for(1)  # it is open and blocked
    watching.close()
    assert watching.error is None
    watching.watch.close()  # again is nothing


def test_closing_the_store_ends_its_watches(store: Store, place: Place) -> None:
    watching = Watching(store.watch(place.keys.prefix, store.list(place.keys.prefix).revision))
    store.create(place.key("a"), b"")
    watching.wait_for(1)
    store.close()
    eventually("the watch ends", lambda: watching.has_ended, within_s=5)
    assert watching.error is None
    with pytest.raises(StoreUnavailable, match="closed"):
        store.get(place.key("a"))
    store.close()


def test_a_second_store_sees_what_the_first_wrote(place: Place) -> None:
    one, other = place.open(), place.open()
    revision = one.create(place.key("a"), b"one")
    other.replace(place.key("a"), b"two", revision)
    with pytest.raises(StoreConflict):
        one.replace(place.key("a"), b"three", revision)
    found = one.get(place.key("a"))
    assert found is not None and found.value == b"two"


def _run_all(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
