"""Transactions over several partitions whose router is killed, while no router lives: the nodes finish them, and
clients at the nodes' own ports see the one outcome or the other, soon."""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from fortdb.client import Client
from fortdb.errors import FortError
from fortdb.local.ring import LocalRing
from tests.support.rings import (
    LEASE_MS,
    SMALL,
    kept_up,
    keys_of_partition,
    partition_of,
    running_ring,
    small_shape,
    status_of,
)
from tests.support.turnstiles import RingWithTurnstiles
from tests.support.waiting import eventually

pytestmark = pytest.mark.chaos

PARTS = ("p-000", "p-002", "p-004")  # the last is the home
SOON_S = 20.0  # of patience with a busy machine; what is left is finished `FINISH_AGE_MS` later
WITH_FAILOVER_S = SOON_S + 2 * LEASE_MS / 1000  # the lease ends, and then what the followers promised
STEPS = [
    pytest.param(b"PREPARE", 1, b"old", id="one prepared"),
    pytest.param(b"COMMIT", 0, b"old", id="all prepared"),
    pytest.param(b"FINISH", 0, b"new", id="decided"),
]

_prefixes = count()


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RingWithTurnstiles]:
    with turnstile_ring(tmp_path_factory.mktemp("ring")) as made:
        yield made


@contextlib.contextmanager
def turnstile_ring(directory: Path, **parts: int) -> Iterator[RingWithTurnstiles]:
    """A ring whose routers can be held, and whose leaders return soon: each change of a leader lets what is left
    wait anew, so none should come in the middle of a test that does not ask for it."""
    settings = {**SMALL, "replication": {"leader_return_ms": 500}}
    ring = RingWithTurnstiles(directory, small_shape(node_settings=settings, **parts))
    with contextlib.closing(ring), kept_up(ring):
        yield ring


@pytest.fixture
def leave(
    ring: RingWithTurnstiles, leaders: dict[str, str | None]
) -> Iterator[Callable[[bytes, int], list[str]]]:
    """Leaves a transaction at a step, and no router; afterwards all is well again, and led by whom it was."""
    yield lambda word, passes: leave_at(ring, PARTS, word, passes)
    ring.up()
    eventually("leaders have returned", lambda: leaders_of(ring) == leaders)


@pytest.fixture(scope="module")
def leaders(ring: RingWithTurnstiles) -> dict[str, str | None]:
    """Who leads what while all is well: for the partitions of a transaction, not one node alone."""
    found = leaders_of(ring)
    assert len({found[part] for part in PARTS}) > 1
    return found


def leaders_of(ring: LocalRing) -> dict[str, str | None]:
    return {partition.name: partition.leader for partition in status_of(ring).partitions}


def leave_at(ring: RingWithTurnstiles, parts: tuple[str, ...], word: bytes, passes: int = 0) -> list[str]:
    """Let a transaction turn `old` into `new` under a key of each partition, and kill its router before a request
    of that name leaves it, after so many. Returns the keys."""
    prefix = f"left-{next(_prefixes)}"
    keys = [keys_of_partition(ring, part, 1, prefix)[0] for part in parts]
    with ring.client() as client:
        client.put_many(dict.fromkeys(keys, "old"))
    ring.hold.set(word, passes)

    def transact() -> None:
        with contextlib.suppress(FortError), ring.client() as client, client.transaction() as tx:
            for key in keys:
                tx.put(key, "new")

    thread = threading.Thread(target=transact)
    thread.start()
    assert ring.hold.reached.wait(20), f"the router came to {word!r}"
    ring.process("router-1").kill()
    thread.join(20)
    ring.hold.release()
    return keys


def at_nodes(ring: LocalRing, key: str, within_s: float) -> bytes | None:
    """What the leader of a key tells at its own port, as soon as one does."""
    until_s = time.monotonic() + within_s
    while True:
        for name in ring.shape.node_names:
            port = ring.ports(name)["client"]
            with (
                contextlib.suppress(FortError),
                Client("127.0.0.1", port, access=ring.access, timeout_s=within_s) as client,
            ):
                return client.get(key)
        assert time.monotonic() < until_s, f"nobody tells {key} within {within_s} s"
        time.sleep(0.02)


def in_metrics(ring: LocalRing, name: str) -> int:
    """The sum of a metric over the nodes that run."""
    context = ssl.create_default_context(cafile=ring.access.ca) if ring.access.tls else None
    scheme, total = "https" if ring.access.tls else "http", 0.0
    for node in ring.shape.node_names:
        if ring.process(node).pid is None:
            continue
        url = f"{scheme}://127.0.0.1:{ring.ports(node)['status']}/metrics"
        with urllib.request.urlopen(url, timeout=5, context=context) as page:
            found = re.findall(rf"^{re.escape(name)} (\S+)$", page.read().decode(), re.M)
        total += sum(map(float, found))
    return int(total)


def check_freed(ring: LocalRing, keys: list[str], value: bytes, within_s: float) -> None:
    """All keys have the value, at the nodes, and nothing is left of the transaction."""
    until_s = time.monotonic() + within_s
    for key in keys:
        assert at_nodes(ring, key, until_s - time.monotonic()) == value
    left_s = until_s - time.monotonic()
    eventually("no lock is left", lambda: in_metrics(ring, "fortdb_transaction_locks") == 0, left_s)


@pytest.mark.parametrize(("word", "passes", "value"), STEPS)
def test_the_nodes_finish_what_a_router_left(
    ring: RingWithTurnstiles,
    leave: Callable[[bytes, int], list[str]],
    word: bytes,
    passes: int,
    value: bytes,
) -> None:
    def count(outcome: str) -> int:
        return in_metrics(ring, f'fortdb_transactions_finished_total{{outcome="{outcome}"}}')

    before = {outcome: count(outcome) for outcome in ("committed", "aborted")}
    leader = partition_of(ring, PARTS[0]).leader
    keys = leave(word, passes)
    assert in_metrics(ring, "fortdb_transaction_locks") > 0
    with Client("127.0.0.1", ring.ports(str(leader))["client"], timeout_s=SOON_S) as client:
        assert client.get(keys[0]) == value, "whoever asks meanwhile waits, and hears no error"
    check_freed(ring, keys, value, SOON_S)
    finished = "committed" if value == b"new" else "aborted"
    eventually("it is counted once it is committed", lambda: count(finished) > before[finished])
    other = "aborted" if value == b"new" else "committed"
    assert count(other) == before[other]
    eventually(
        "it is logged",
        lambda: any("transaction_finished" in node.log_path.read_text() for node in ring.nodes.values()),
    )


@pytest.mark.parametrize("victim", [0, 2], ids=["a participant", "the home"])
@pytest.mark.parametrize(("word", "passes", "value"), STEPS[1:])
def test_through_a_failover(
    ring: RingWithTurnstiles,
    leave: Callable[[bytes, int], list[str]],
    word: bytes,
    passes: int,
    value: bytes,
    victim: int,
) -> None:
    """The leader of one of the partitions dies with the router: the next one has the same traces."""
    leader = partition_of(ring, PARTS[victim]).leader
    keys = leave(word, passes)
    ring.process(str(leader)).kill()
    check_freed(ring, keys, value, WITH_FAILOVER_S)


def test_through_a_restart_of_all_nodes(
    ring: RingWithTurnstiles, leave: Callable[[bytes, int], list[str]]
) -> None:
    keys = leave(b"FINISH", 0)
    for node in ring.nodes.values():
        node.kill()
    for node in ring.nodes.values():
        node.start()
    check_freed(ring, keys, b"new", WITH_FAILOVER_S + 10)


@pytest.mark.parametrize(("word", "passes", "value"), STEPS[1:])
def test_a_router_and_the_nodes_at_once(
    ring: RingWithTurnstiles,
    leave: Callable[[bytes, int], list[str]],
    word: bytes,
    passes: int,
    value: bytes,
) -> None:
    """Whoever is first: another router comes, and everybody finishes all there is."""
    keys = leave(word, passes)
    ring.process("router-1").start()
    check_freed(ring, keys, value, SOON_S)
    with ring.client() as client:
        eventually("the router serves", lambda: _is_told(client, keys, value))


def _is_told(client: Client, keys: list[str], value: bytes) -> bool:
    try:
        told = client.get_many(keys)
    except FortError:
        return False
    assert set(told.values()) == {value}
    return True


def test_nodes_that_share_no_partition(tmp_path: Path) -> None:
    """They have no link until one of them has to ask the other."""
    with turnstile_ring(tmp_path, nodes=6, partitions=2) as ring:
        one, other = status_of(ring).partitions
        assert not {*one.replicas} & {*other.replicas}
        for word, value in ((b"COMMIT", b"old"), (b"FINISH", b"new")):
            keys = leave_at(ring, (one.name, other.name), word)
            check_freed(ring, keys, value, SOON_S + 2)
            ring.up()


def test_nodes_that_show_each_other_certificates(tmp_path: Path) -> None:
    """On the links that the ring has, with mutual TLS; the router is killed in whatever steps its transactions are."""
    with running_ring(tmp_path, tls=True) as ring:
        keys = [keys_of_partition(ring, part, 1, "tls")[0] for part in PARTS]
        assert len({partition_of(ring, part).leader for part in PARTS}) > 1, "nodes have to ask each other"
        stop = threading.Event()

        def transact() -> None:
            with ring.client() as client, contextlib.suppress(FortError):
                while not stop.is_set():
                    with client.transaction() as tx:
                        for key in keys:
                            tx.increment(key)

        def kill_in_the_middle() -> bool:
            threads = [threading.Thread(target=transact) for _ in range(6)]
            for thread in threads:
                thread.start()
            with ring.client() as client:
                goal = int(client.get(keys[0]) or 0) + 20
                eventually("some are executed", lambda: int(client.get(keys[0]) or 0) >= goal)
            ring.process("router-1").kill()
            stop.set()
            for thread in threads:
                thread.join(20)
            return in_metrics(ring, "fortdb_transaction_locks") > 0

        while not kill_in_the_middle():
            stop.clear()
            ring.up()
        eventually("no lock is left", lambda: in_metrics(ring, "fortdb_transaction_locks") == 0, SOON_S)
        values = {at_nodes(ring, key, SOON_S) for key in keys}
        assert len(values) == 1, "all parts of each transaction, or none"
        assert values != {None}
