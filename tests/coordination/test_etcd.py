"""What only a cluster of etcd can suffer: members killed, paused, cut off, compacted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from fortdb.clock import steady_ms
from fortdb.coordination.etcd import EtcdStore, EtcdWatch
from fortdb.coordination.operations import read_record, write_record
from fortdb.coordination.store import Event, Store
from fortdb.errors import StoreConflict, StoreUnavailable, WatchLost
from fortdb.local.etcd import EtcdCluster
from fortdb.model import PartitionRecord
from tests.coordination.conftest import Owner, Place, Watching
from tests.coordination.test_session import RECORD, node
from tests.support.waiting import eventually

REQUEST_MS_MAX = 2_000
SLACK_MS = 4_000  # for a machine that is busy; without a bound etcd takes 7 s to say that it timed out


@pytest.fixture
def place(etcd_place: Place) -> Place:
    return etcd_place


def test_one_member_killed_and_everything_goes_on(
    etcd: EtcdCluster, place: Place, owners: list[Owner]
) -> None:
    """Whichever member it is, the leader too: views, leases and changes continue."""
    router, living = Owner(place).start(), Owner(place).start(node("n1"))
    owners += [router, living]
    eventually("n1 is seen", lambda: router.nodes == {"n1"})
    store = place.open()
    record = write_record(store, place.keys, RECORD)
    for victim in (etcd.leader(), 0):
        etcd.kill(victim)
        renewed = len(living.leases)
        record = _write_at_last(store, place, record.epoch + 1)
        eventually("views go on", lambda r=record: router.views[-1].records.get("p1") == r)  # type: ignore[misc]
        eventually("the lease goes on", lambda n=renewed: len(living.leases) > n + 2)  # type: ignore[misc]
        etcd.start()
    eventually("n1 is seen", lambda: router.nodes == {"n1"})


def test_two_members_killed_is_unavailable_in_time_and_heals(
    etcd: EtcdCluster, place: Place, owners: list[Owner]
) -> None:
    """Rule 13: nothing hangs, nothing is believed, and all heals by itself."""
    router, living = Owner(place).start(), Owner(place).start(node("n1"))
    owners += [router, living]
    eventually("n1 is seen", lambda: router.nodes == {"n1"})
    store = place.open()
    lease = store.grant(60_000)
    revision = store.create(place.key("a"), b"before")
    for victim in (0, 1):
        etcd.kill(victim)
    for call in (
        lambda: store.get(place.key("a")),
        lambda: store.list(place.keys.prefix),
        lambda: store.replace(place.key("a"), b"during", revision),
        lambda: store.put(place.key("b"), b"during"),
        lambda: store.delete(place.key("a")),
        lambda: store.keepalive(lease),
        lambda: store.grant(1_000),
        lambda: store.revoke(lease),
    ):
        started_ms = steady_ms()
        with pytest.raises(StoreUnavailable):
            call()
        assert steady_ms() - started_ms < REQUEST_MS_MAX + SLACK_MS
    told = len(living.leases)
    etcd.start()
    eventually(
        "the lease lives again", lambda: len(living.leases) > told and living.leases[-1][1] > steady_ms()
    )
    record = _write_at_last(store, place, 1)
    eventually("views go on", lambda: router.views[-1].records.get("p1") == record)
    eventually("n1 is seen", lambda: router.nodes == {"n1"})


def test_a_paused_leader_delays_and_stops_nothing(
    etcd: EtcdCluster, place: Place, owners: list[Owner]
) -> None:
    """The paused member keeps its connections open and answers nothing: half-dead, the worst kind."""
    router = Owner(place).start()
    owners.append(router)
    eventually("a view", lambda: router.views)
    paused = etcd.leader()
    endpoints = etcd.endpoints[paused:] + etcd.endpoints[:paused]
    store = EtcdStore(endpoints, REQUEST_MS_MAX)  # asks the paused member first
    place.opened.append(store)
    watching = Watching(store.watch(place.keys.prefix, store.list(place.keys.prefix).revision))
    store.put(place.key("a"), b"before")
    watching.wait_for(1)
    etcd.pause(paused)
    record = _write_at_last(store, place, 1)
    assert read_record(store, place.keys, "p1") == record
    eventually("the session's view", lambda: router.views[-1].records.get("p1") == record)
    eventually("the half-dead watch is found out", lambda: watching.has_ended or len(watching.events) >= 2)
    etcd.resume(paused)
    eventually("the member is back", lambda: _answers(endpoints[0], place.key("a")))


def test_a_read_is_repeated_at_the_next_member_within_the_bound(etcd: EtcdCluster, place: Place) -> None:
    follower = (etcd.leader() + 1) % etcd.size
    bound_ms = 3 * REQUEST_MS_MAX
    store = EtcdStore(etcd.endpoints[follower:] + etcd.endpoints[:follower], bound_ms)
    place.opened.append(store)
    store.put(place.key("a"), b"x")
    etcd.pause(follower)
    started_ms = steady_ms()
    found = store.get(place.key("a"))
    assert found is not None and found.value == b"x"
    assert steady_ms() - started_ms < bound_ms


def test_a_change_without_an_answer_is_not_sent_again(etcd: EtcdCluster, place: Place) -> None:
    """Rule 16: the paused member executes it later; a second copy would have been one too many."""
    follower = (etcd.leader() + 1) % etcd.size
    store = EtcdStore(etcd.endpoints[follower:] + etcd.endpoints[:follower], REQUEST_MS_MAX)
    place.opened.append(store)
    before = store.list(place.keys.prefix).revision
    etcd.pause(follower)
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        store.put(place.key("a"), b"once")
    assert store.list(place.keys.prefix).items == ()  # at another member: not there, not twice
    etcd.resume(follower)
    watching = Watching(store.watch(place.keys.prefix, before))
    store.put(place.key("b"), b"last")
    eventually("the last change", lambda: any(event.value == b"last" for event in watching.events))
    assert [event.value for event in watching.events].count(b"once") <= 1
    watching.close()


def test_a_change_to_a_dead_member_goes_to_the_next(etcd: EtcdCluster, place: Place) -> None:
    """A refused connection carried nothing, so this is no blind retry."""
    follower = (etcd.leader() + 1) % etcd.size
    etcd.kill(follower)
    store = EtcdStore(etcd.endpoints[follower:] + etcd.endpoints[:follower], REQUEST_MS_MAX)
    place.opened.append(store)
    store.create(place.key("a"), b"x")


def test_a_member_cut_off_from_its_leader_ends_its_watches(etcd: EtcdCluster, place: Place) -> None:
    """What the `hasleader` header buys: without it such a watch stays open and silent for ever."""
    cut_off = (etcd.leader() + 1) % etcd.size
    store = EtcdStore([etcd.endpoints[cut_off]], request_ms_max=20_000)
    place.opened.append(store)
    watching = Watching(store.watch(place.keys.prefix, store.list(place.keys.prefix).revision))
    store.put(place.key("a"), b"x")
    watching.wait_for(1)
    for index in range(etcd.size):
        if index != cut_off:
            etcd.pause(index)
    eventually("the watch ends", lambda: watching.has_ended)
    assert isinstance(watching.error, StoreUnavailable) and "no leader" in str(watching.error)
    with pytest.raises(StoreUnavailable, match="no leader"):
        store.get(place.key("a"))


def test_a_watch_behind_a_compaction_is_lost_and_a_session_lists_again(
    etcd: EtcdCluster, place: Place, owners: list[Owner]
) -> None:
    store = place.open()
    start = store.put(place.key("a"), b"0")
    for number in range(1, 5):
        store.put(place.key("a"), f"{number}".encode())
    compacted = etcd.compact()
    lost = Watching(store.watch(place.keys.prefix, start))
    eventually("the watch ends", lambda: lost.has_ended)
    assert isinstance(lost.error, WatchLost) and str(compacted) in str(lost.error)

    watched_from: list[int] = []

    class ForgetfulStore(EtcdStore):
        """Its first watch is asked for from before the compaction."""

        def watch(self, prefix: str, after_revision: int) -> EtcdWatch:
            watched_from.append(start if not watched_from else after_revision)
            return super().watch(prefix, watched_from[-1])

    owner = Owner(Place(lambda: ForgetfulStore(etcd.endpoints), place.keys, place.lease_ms)).start()
    owners.append(owner)
    place.opened.append(owner.store)
    eventually("it lists again", lambda: len(watched_from) == 2)
    record = write_record(store, place.keys, RECORD)
    eventually("the view goes on", lambda: owner.views[-1].records.get("p1") == record)


def test_an_idle_watch_is_opened_anew_and_misses_nothing(etcd: EtcdCluster, place: Place) -> None:
    """Longer silent than `request_ms_max`, so its stream was replaced more than once."""
    store = place.open()
    opened: list[str] = []

    class Counted(EtcdWatch):
        def _stream(self) -> Iterator[tuple[Event, ...]]:
            opened.append("a stream")
            return super()._stream()

    quick = EtcdStore(etcd.endpoints, request_ms_max=700)
    place.opened.append(quick)
    watching = Watching(Counted(quick, place.keys.prefix, store.list(place.keys.prefix).revision))
    for number in range(3):
        streams = len(opened)
        eventually("it was opened anew", lambda streams=streams: len(opened) > streams)  # type: ignore[misc]
        store.put(place.key("a"), f"{number}".encode())
    assert [event.value for event in watching.wait_for(3)] == [b"0", b"1", b"2"]
    assert watching.error is None
    watching.close()


def test_nobody_at_the_endpoints_is_said_at_once() -> None:
    store = EtcdStore(["http://127.0.0.1:1", "http://127.0.0.1:2"], REQUEST_MS_MAX)
    with pytest.raises(
        StoreUnavailable, match=r"127\.0\.0\.1:1: no connection.*127\.0\.0\.1:2: no connection"
    ):
        store.put("/a", b"")
    watching = Watching(store.watch("/", 0))
    eventually("the watch fails", lambda: isinstance(watching.error, StoreUnavailable))
    store.close()


def test_a_missing_tls_file_is_said() -> None:
    store = EtcdStore(["https://127.0.0.1:1"], REQUEST_MS_MAX, ca="/nowhere/ca.pem")
    with pytest.raises(StoreUnavailable, match="/nowhere/ca.pem"):
        store.get("/a")
    store.close()


def _write_at_last(store: Store, place: Place, epoch: int) -> PartitionRecord:
    """As a leader does it: after an unknown outcome read, and ask again only if it did not happen."""
    written: list[PartitionRecord] = []

    def is_written() -> bool:
        try:
            found = read_record(store, place.keys, "p1")
            if found is not None and found.epoch == epoch:
                written.append(found)
            else:
                revision = 0 if found is None else found.revision
                written.append(
                    write_record(store, place.keys, replace(RECORD, epoch=epoch, revision=revision))
                )
        except (StoreUnavailable, StoreConflict):
            return False
        return True

    eventually("the change is made", is_written, within_s=20)
    return written[-1]


def _answers(endpoint: str, key: str) -> bool:
    """Whether a member answers a read; it may have to learn first who leads."""
    store = EtcdStore([endpoint], REQUEST_MS_MAX)
    try:
        return store.get(key) is not None
    except StoreUnavailable:
        return False
    finally:
        store.close()
