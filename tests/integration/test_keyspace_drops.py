"""`KEYSPACE DROP name DELETE-KEYS` while the leader of a partition, or the router that does it, is killed in the middle:
it comes to its end or can be repeated, takes nothing else along, and leaves nothing that comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from fortdb.client import Client
from fortdb.errors import Busy, FortError
from fortdb.model import Policy
from fortdb.storage.keys import DATA_PREFIX_BYTES
from fortdb.torture.replicas import contents_of
from tests.support.rings import kept_up, partition_of, small_shape, wait_healthy
from tests.support.turnstiles import RingWithTurnstiles
from tests.support.waiting import eventually

pytestmark = pytest.mark.chaos

KEYS = 900
OTHERS = {  # that look like its keys, and are none
    f"{name}{number}": f"{number}"
    for name in ("doomed", "doomed2/", "doome/", "x/doomed/")
    for number in range(50)
}
POLICIES = [Policy.RECORDS, Policy.VERSIONS]
MIDDLE = 3  # of six partitions have been asked to purge


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RingWithTurnstiles]:
    made = RingWithTurnstiles(tmp_path_factory.mktemp("ring"), small_shape(routers=2))
    with closing(made), kept_up(made):
        with made.client() as client:
            client.create_keyspace("kept", policy=Policy.RECORDS)
            client.put_many(OTHERS)
            for number in range(50):
                client.add(f"kept/{number}", "record")
        yield made


@pytest.fixture
def client(ring: RingWithTurnstiles) -> Iterator[Client]:
    """Of the router that is not killed; afterwards all is well again."""
    with ring.client(1, timeout_s=30) as made:
        yield made
    ring.hold.release()
    ring.up()
    with ring.client() as made:
        if "doomed" in {one.name for one in made.keyspaces()}:  # a test failed
            made.drop_keyspace("doomed", delete_keys=True)


def fill(client: Client, policy: Policy) -> None:
    client.create_keyspace("doomed", policy=policy)
    keys = [f"doomed/{number}" for number in range(KEYS)]
    word = "ADD" if policy is Policy.RECORDS else "SET"
    for turn in range(2):
        with client.pipeline() as batch:
            for key in keys:
                batch.command(word, key, f"former {turn}")
    if policy is Policy.VERSIONS:
        client.delete(*keys[::3])  # whose history stays
    assert client.count("doomed") == KEYS


class Drop:
    """A drop by the first router, under way."""

    def __init__(self, ring: RingWithTurnstiles) -> None:
        self.failure: FortError | None = None
        self._ring = ring
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert ring.hold.reached.wait(20)

    def _run(self) -> None:
        try:
            with self._ring.client(0, timeout_s=30) as client:
                client.drop_keyspace("doomed", delete_keys=True)
        except FortError as error:
            self.failure = error

    def end(self) -> None:
        self._thread.join(40)
        assert not self._thread.is_alive()


def check_that_nothing_comes_back(client: Client) -> None:
    """In a keyspace of the same name, whatever it keeps; and all else is there."""
    eventually(
        "this router has heard of it", lambda: "doomed" not in {one.name for one in client.keyspaces()}
    )
    for policy in (Policy.VERSIONS, Policy.RECORDS):
        client.create_keyspace("doomed", policy=policy)
        assert client.count("doomed") == 0
        assert list(client.scan("doomed/*")) == []
        for number in range(0, KEYS, 37):
            key = f"doomed/{number}"
            assert client.get(key) is None and client.exists(key) == 0
            if policy is Policy.RECORDS:
                added = client.add(key, "new")
                assert [(one.id, one.value) for one in client.records(key)] == [(added, b"new")]
            else:
                assert list(client.history(key)) == []
                client.put(key, "new")
                assert [one.value for one in client.history(key)] == [b"new"]
        assert client.count("doomed") == len(range(0, KEYS, 37))
        client.drop_keyspace("doomed", delete_keys=True)
    assert client.get_many(list(OTHERS)) == {key: value.encode() for key, value in OTHERS.items()}
    assert [client.record_count(f"kept/{number}") for number in range(50)] == [1] * 50
    assert client.count("kept") == 50


@pytest.mark.parametrize("policy", POLICIES)
def test_a_leader_is_killed(ring: RingWithTurnstiles, client: Client, policy: Policy) -> None:
    fill(client, policy)
    leader = partition_of(ring).leader
    assert leader is not None
    ring.hold.set(b"PURGEALL", MIDDLE, stops=False)
    drop = Drop(ring)
    ring.process(leader).kill()
    drop.end()
    if drop.failure is not None:
        assert client.keyspace("doomed").closed
        client.drop_keyspace("doomed", delete_keys=True)
    check_that_nothing_comes_back(client)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_router_is_killed(ring: RingWithTurnstiles, client: Client, policy: Policy) -> None:
    """Closed the keyspace stays, for whoever goes on."""
    fill(client, policy)
    ring.hold.set(b"PURGEALL", MIDDLE)
    drop = Drop(ring)
    ring.process("router-1").kill()
    drop.end()
    assert drop.failure is not None
    assert client.keyspace("doomed").closed
    assert 0 < client.count("doomed") < KEYS, "in the middle of it"
    with pytest.raises(Busy, match="doomed"):
        client.add("doomed/1", "x") if policy is Policy.RECORDS else client.put("doomed/1", "x")
    client.drop_keyspace("doomed", delete_keys=True)
    check_that_nothing_comes_back(client)


def test_router_and_leader_are_killed(ring: RingWithTurnstiles, client: Client) -> None:
    fill(client, Policy.RECORDS)
    leader = partition_of(ring).leader
    assert leader is not None
    ring.hold.set(b"PURGEALL", MIDDLE)
    drop = Drop(ring)
    for name in ("router-1", leader):
        ring.process(name).kill()
    drop.end()
    client.drop_keyspace("doomed", delete_keys=True)
    check_that_nothing_comes_back(client)


def test_nothing_is_left_on_the_disks(ring: RingWithTurnstiles, client: Client) -> None:
    """Of all that the tests before dropped, and this one."""
    fill(client, Policy.RECORDS)
    client.drop_keyspace("doomed", delete_keys=True)
    eventually("its records are cleaned away", lambda: client.count() == len(OTHERS) + 50)
    wait_healthy(ring)
    ring.down()
    for name, contents in contents_of(ring).items():
        heads = [key[DATA_PREFIX_BYTES:] for key in contents if key[0] == 1]
        assert [key for key in heads if key.startswith(b"doomed/")] == [], name
        assert len(heads) >= len(OTHERS) + 50
