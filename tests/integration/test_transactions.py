"""Transactions of clients on a ring: as Redis has them, isolated, and through failovers."""

from __future__ import annotations

import contextlib
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fortdb.client import Client, Conflict
from fortdb.errors import CrossPartition
from fortdb.local.ring import LocalRing
from fortdb.protocol.resp import pack
from fortdb.torture.caller import Door
from fortdb.torture.history import Outcome
from fortdb.torture.transactions import TransactionClients
from tests.support.bank import APART, TOGETHER, Bank
from tests.support.rings import (
    holder_of,
    keys_of_partition,
    let_lead,
    module_ring,
    partition_of,
    running_ring,
    status_of,
    wait_healthy,
)
from tests.support.waiting import eventually
from tests.unit.client_servers import RedisServer, needs_redis, redis_server

ring = module_ring(routers=2)


# --- beside a real Redis --------------------------------------------------------------------------------


class Talk:
    """A client that sends what it is told, whatever that is, and reads as many answers."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.reader = hiredis.Reader()

    def say(self, *commands: tuple[str, ...]) -> list[object]:
        self.socket.sendall(b"".join(pack([word.encode() for word in words]) for words in commands))
        answers: list[object] = []
        while len(answers) < len(commands):
            answer = self.reader.gets()
            if answer is False:
                data = self.socket.recv(65536)
                assert data, "the server hung up"
                self.reader.feed(data)
            else:
                answers.append(_comparable(answer))
        return answers

    def close(self) -> None:
        self.socket.close()


def _comparable(answer: object) -> object:
    """Errors by their first words: how a wrong number of arguments is explained is each server's own."""
    if isinstance(answer, hiredis.ReplyError):
        return "error: " + " ".join(str(answer).split()[:4])
    return [_comparable(one) for one in answer] if isinstance(answer, list) else answer


KEYS = [f"{{tx}}{letter}" for letter in "abc"]
KEY = st.sampled_from(KEYS)
COMMAND = st.one_of(
    st.tuples(st.just("GET"), KEY),
    st.tuples(st.just("SET"), KEY, st.sampled_from(["1", "x", "9223372036854775807"])),
    st.tuples(st.just("SET"), KEY, st.just("7"), st.sampled_from(["NX", "XX", "GET", "KEEPTTL", "NONSENSE"])),
    st.tuples(st.sampled_from(["INCR", "DEL", "GETDEL", "STRLEN", "PERSIST", "TTL", "EXISTS"]), KEY),
    st.tuples(st.just("APPEND"), KEY, st.just("x")),
    st.tuples(st.just("INCRBY"), KEY, st.sampled_from(["5", "word"])),
    st.tuples(st.just("EXPIRE"), KEY, st.sampled_from(["1000", "0", "word"])),
    st.tuples(st.just("MSET"), KEY, st.just("1"), KEY, st.just("2")),
    st.tuples(st.just("MGET"), KEY, KEY),
    st.sampled_from([("PING",), ("ECHO", "hi"), ("NONSENSE",), ("GET",), ("SET", "{tx}a"), ("SELECT", "0")]),
)
WORD = st.one_of(
    st.just(("MULTI",)),
    st.just(("EXEC",)),
    st.sampled_from([("DISCARD",), ("UNWATCH",), ("WATCH",), ("RESET",)]),
    st.lists(KEY, min_size=1, max_size=2).map(lambda keys: ("WATCH", *keys)),
    COMMAND,
    COMMAND,
    COMMAND,
)
TALK = st.lists(st.tuples(st.integers(0, 1), st.lists(WORD, min_size=1, max_size=6)), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def real() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@needs_redis
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TALK)
def test_what_two_clients_say_is_answered_as_redis_does(
    ring: LocalRing, real: RedisServer, talk: list[tuple[int, list[tuple[str, ...]]]]
) -> None:
    answers = []
    for port in (real.port, ring.shape.port):
        clients = [Talk(port), Talk(port)]
        clients[0].say(("DEL", *KEYS))
        answers.append([clients[number].say(*words) for number, words in talk])
        answers[-1].append(clients[0].say(("RESET",), ("MGET", *KEYS)))
        for client in clients:
            client.close()
    assert answers[1] == answers[0]


# --- the clients that people have -------------------------------------------------------------------------


def test_redis_py_transactions(ring: LocalRing) -> None:
    with contextlib.closing(redis.Redis(port=ring.shape.port)) as store:
        store.delete("{py}a", "{py}b")
        with store.pipeline() as pipeline:
            pipeline.set("{py}a", 1)
            pipeline.incr("{py}a")
            pipeline.get("{py}a")
            assert pipeline.execute() == [True, 2, b"2"]
        with store.pipeline() as pipeline, pytest.raises(redis.ResponseError, match="not an integer"):
            pipeline.set("{py}b", "x")
            pipeline.incr("{py}b")
            pipeline.set("{py}a", 9)
            pipeline.execute()
        assert store.mget("{py}a", "{py}b") == [b"9", b"x"], "one command's error undoes no other"
        with store.pipeline() as pipeline:
            pipeline.watch("{py}a")  # type: ignore[no-untyped-call]
            store.set("{py}a", 9)
            pipeline.multi()
            pipeline.set("{py}a", 10)
            with pytest.raises(redis.WatchError):
                pipeline.execute()
        assert store.get("{py}a") == b"9"


def test_redis_py_watch_loop(ring: LocalRing) -> None:
    threads, rounds = 6, 20

    def add(pipeline: Any) -> None:
        held = int(pipeline.get("{loop}n") or 0)
        pipeline.multi()
        pipeline.set("{loop}n", held + 1)

    def work(_: int) -> None:
        with contextlib.closing(redis.Redis(port=ring.shape.port)) as store:
            for _round in range(rounds):
                store.transaction(add, "{loop}n")

    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(work, range(threads)))
    with ring.client() as client:
        assert client.get("{loop}n") == str(threads * rounds).encode()


def test_our_client_and_the_nodes_own_ports(ring: LocalRing) -> None:
    leader = partition_of(ring, "p-001").leader
    assert leader is not None
    (tag,) = keys_of_partition(ring, "p-001", 1, "own")
    addresses = {node.name: node.client_address for node in status_of(ring).nodes}
    host, _, port = addresses[leader].rpartition(":")
    with Client(host, int(port)) as client:
        with client.transaction(tag) as tx:
            assert tx.read(tag) is None
            total = tx.increment(tag, 5)
        assert total.value == 5
        with pytest.raises(Conflict), client.transaction(tag) as tx:
            client.increment(tag)
            tx.increment(tag)


def test_keys_of_several_partitions(ring: LocalRing) -> None:
    keys = [key for number in range(6) for key in keys_of_partition(ring, f"p-{number:03}", 1, "several")]
    with contextlib.closing(redis.Redis(port=ring.shape.port)) as store:
        with store.pipeline() as pipeline:
            pipeline.mset(dict.fromkeys(keys, "1"))
            for key in keys:
                pipeline.incr(key)
            pipeline.mget(keys)
            pipeline.delete(*keys[:2])
            pipeline.ping()
            assert pipeline.execute() == [True, *[2] * 6, [b"2"] * 6, 2, True]
        assert store.mget(keys) == [None] * 2 + [b"2"] * 4
        with store.pipeline() as pipeline:
            pipeline.watch(*keys)  # type: ignore[no-untyped-call]
            store.set(keys[3], 2)
            pipeline.multi()
            pipeline.set(keys[0], 10)
            with pytest.raises(redis.WatchError):
                pipeline.execute()
        assert store.get(keys[0]) is None


def test_a_node_refuses_keys_of_several_partitions_by_name(ring: LocalRing) -> None:
    leads: dict[str, list[str]] = {}
    for partition in status_of(ring).partitions:
        leads.setdefault(str(partition.leader), []).append(partition.name)
    node, (first, second, *_) = next((node, names) for node, names in leads.items() if len(names) > 1)
    (one,), (other,) = keys_of_partition(ring, first, 1), keys_of_partition(ring, second, 1)
    addresses = {known.name: known.client_address for known in status_of(ring).nodes}
    host, _, port = addresses[node].rpartition(":")
    with (
        Client(host, int(port)) as client,
        pytest.raises(CrossPartition, match=f"'{one}' lies in {first} and '{other}' in {second}"),
        client.transaction() as tx,
    ):
        tx.put(one, "1")
        tx.put(other, "1")


@needs_redis
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TALK)
def test_over_partitions_two_clients_are_answered_as_redis_does(
    ring: LocalRing, real: RedisServer, talk: list[tuple[int, list[tuple[str, ...]]]]
) -> None:
    """The same as above, with keys that lie apart."""
    apart = [(number, [tuple(map(_apart, words)) for words in said]) for number, said in talk]
    answers = []
    for port in (real.port, ring.shape.port):
        clients = [Talk(port), Talk(port)]
        clients[0].say(("DEL", *map(_apart, KEYS)))
        answers.append([clients[number].say(*words) for number, words in apart])
        answers[-1].append(clients[0].say(("RESET",), ("MGET", *map(_apart, KEYS))))
        for client in clients:
            client.close()
    assert answers[1] == answers[0]


def _apart(word: str) -> str:
    return word.replace("{tx}", "apart-")


# --- isolation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accounts", [TOGETHER, APART], ids=["together", "apart"])
def test_transfers_keep_the_total(ring: LocalRing, accounts: list[str]) -> None:
    with Bank(_ports(ring), accounts) as bank:
        bank.wait(400)
    assert bank.failures == []
    assert bank.counts > 10 and bank.conflicts > 0


@pytest.mark.chaos
@pytest.mark.parametrize("accounts", [TOGETHER, APART], ids=["together", "apart"])
def test_transfers_keep_the_total_through_failovers(tmp_path: Path, accounts: list[str]) -> None:
    """Nodes and routers are killed and paused, and leaders moved, while transactions are under way."""
    with running_ring(tmp_path, routers=2) as ring:
        holder = holder_of(ring, accounts[0])
        with Bank(_ports(ring), accounts) as bank:
            bank.wait(50)
            victim = partition_of(ring, holder).leader
            assert victim is not None
            ring.process(victim).kill()
            bank.wait(50)
            ring.process(victim).start()
            wait_healthy(ring)
            for _ in range(5):  # in whatever phase its transactions are
                ring.process("router-2").kill()
                bank.wait(10)
                ring.process("router-2").start()
                bank.wait(20)
            leader = partition_of(ring, holder).leader
            other = next(node for node in ("node-1", "node-2", "node-3") if node != leader)
            eventually("another node leads", lambda: let_lead(ring, holder, other))
            bank.wait(50)
            for paused in (other, "router-2"):
                ring.process(paused).pause()
                time.sleep(4)
                ring.process(paused).resume()
                bank.wait(50)
            wait_healthy(ring)
        assert bank.failures == []
        eventually("no lock is left", lambda: _locks(ring) == 0)


@pytest.mark.chaos
def test_lists_are_strictly_serializable_through_failovers(tmp_path: Path) -> None:
    """As the torture judges them: by the cycles among what transactions read and appended."""
    with running_ring(tmp_path, routers=2) as ring:
        doors = [Door(f"router at {port}", "127.0.0.1", port, 15.0) for port in _ports(ring)]
        clients = TransactionClients(doors, clients=6, seed=1)
        clients.open_accounts(doors[0])
        clients.start()

        def some_progress(more: int = 100) -> None:
            goal = len(clients.deeds) + more
            eventually(f"{more} more", lambda: len(clients.deeds) >= goal, within_s=60)

        some_progress()
        for name in ("node-1", "router-2", "node-2", "router-2", "node-3", "router-2"):
            ring.process(name).kill()
            some_progress()
            ring.process(name).start()
            wait_healthy(ring)
            some_progress()
        clients.stop()
        assert clients.last_words(doors[0], tmp_path) == []
        executed = sum(deed.outcome is Outcome.OK for deed in clients.deeds)
        assert executed > 500 and clients.transfers > 100
        eventually("no lock is left", lambda: _locks(ring) == 0)


def _ports(ring: LocalRing) -> list[int]:
    return [ring.ports(name)["client"] for name in ring.shape.router_names]


def _locks(ring: LocalRing) -> int:
    """Keys that transactions hold, as the nodes' metrics have it."""
    total = 0.0
    for name in ring.shape.node_names:
        url = f"http://127.0.0.1:{ring.ports(name)['status']}/metrics"
        with urllib.request.urlopen(url, timeout=5) as page:
            text = page.read().decode()
        total += sum(float(number) for number in re.findall(r"^fortdb_transaction_locks (\S+)$", text, re.M))
    return int(total)


def test_a_watch_outlives_a_failover(tmp_path: Path) -> None:
    """A version names an entry of the log, which the next leader has, too: a write before the failover is
    noticed after it, and without one the transaction is executed."""
    with running_ring(tmp_path) as ring, ring.client() as client:
        (tag,) = keys_of_partition(ring, "p-000", 1, "outlive")
        quiet, loud = f"{{{tag}}}quiet", f"{{{tag}}}loud"
        client.put_many({quiet: "0", loud: "0"})

        def fail_over() -> None:
            leader = partition_of(ring, "p-000").leader
            assert leader is not None
            ring.process(leader).kill()
            client.increment(f"{{{tag}}}other")
            ring.process(leader).start()
            wait_healthy(ring)

        with client.transaction(quiet) as tx:
            fail_over()
            done = tx.put(quiet, "1")
        assert done.value
        with pytest.raises(Conflict), client.transaction(loud) as tx:
            client.put(loud, "0")
            fail_over()
            tx.put(loud, "mine")
        assert client.get(loud) == b"0"
