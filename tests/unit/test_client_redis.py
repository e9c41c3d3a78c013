"""The client against a real redis-server, whose commands of the same names do the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from fortdb.client import Client, Conflict, ConnectionFailed, Transaction
from fortdb.errors import BadRequest, Discarded, FortError, WrongType
from fortdb.limits import VALUE_BYTES_MAX
from tests.unit.client_servers import RedisServer, needs_redis, redis_server

pytestmark = needs_redis


@pytest.fixture
def client(server: RedisServer) -> Iterator[Client]:
    with Client(port=server.port) as connected:
        connected.command("FLUSHALL")
        yield connected


def test_put_get_delete(client: Client) -> None:
    assert client.get("a") is None
    assert client.put("a", "ä") is True
    assert client.get(b"a") == "ä".encode()
    assert client.exists("a", "a", "b") == 2
    assert client.delete("a", "b") == 1
    assert client.get("a") is None


def test_conditions(client: Client) -> None:
    assert client.put("a", "1", only_if_present=True) is False
    assert client.put("a", "1", only_if_absent=True) is True
    assert client.put("a", "2", only_if_absent=True) is False
    assert client.get("a") == b"1"
    with pytest.raises(BadRequest, match="exclude each other"):
        client.put("a", "1", only_if_absent=True, only_if_present=True)


def test_binary_keys_and_values(client: Client) -> None:
    every_byte = bytes(range(256)) * 3 + b"\r\n"
    client.put(every_byte, every_byte)
    assert client.get(every_byte) == every_byte
    client.put("empty", b"")
    assert client.get("empty") == b""


def test_many(client: Client) -> None:
    client.put_many({"a": "1", "b": b"2"})
    assert client.get_many(["b", "none", "a"]) == {"b": b"2", "none": None, "a": b"1"}
    assert client.get_many([]) == {}
    client.put_many({})
    assert client.count() == 2


def test_numbers_and_lengths(client: Client) -> None:
    assert client.increment("n") == 1
    assert client.increment("n", -11) == -10
    assert client.append("text", "ab") == 2
    assert client.append("text", "c") == 3
    assert client.length("text") == 3
    assert client.length("none") == 0
    assert client.get_and_delete("text") == b"abc"
    assert client.get_and_delete("text") is None


def test_expiry(client: Client) -> None:
    client.put("a", "1", expire_ms=60_000)
    left_ms = client.time_to_live_ms("a")
    assert left_ms is not None and 0 < left_ms <= 60_000
    assert client.persist("a") is True
    assert client.time_to_live_ms("a") is None
    assert client.expire("a", 50_000) is True
    assert client.expire("none", 50_000) is False
    assert client.time_to_live_ms("none") is None


def test_scan_sees_every_key(client: Client) -> None:
    keys = {f"key:{number}".encode() for number in range(3_000)}
    with client.pipeline() as batch:
        for key in keys:
            batch.put(key, b"")
        batch.put("other", "")
    assert set(client.scan("key:*")) == keys
    assert set(client.scan()) == keys | {b"other"}


def test_ping_is_in_seconds(client: Client) -> None:
    assert 0 < client.ping() < 15


def test_error_replies_are_raised_and_the_connection_lives_on(client: Client) -> None:
    client.put("text", "abc")
    with pytest.raises(BadRequest, match="not an integer"):
        client.increment("text")
    client.command("LPUSH", "list", "x")
    with pytest.raises(WrongType, match="wrong kind of value"):
        client.get("list")
    assert client.get("text") == b"abc"


def test_pipeline_answers_in_order(client: Client) -> None:
    with client.pipeline() as batch:
        put = batch.put("a", "1")
        total = batch.increment("a", 41)
        got = batch.get("a")
        raw = batch.command("ECHO", "hi")
        gone = batch.delete("a", "b")
        with pytest.raises(BadRequest, match="has not run"):
            _ = got.value
    assert (put.value, total.value, got.value, raw.value, gone.value) == (True, 42, b"42", b"hi", 1)


def test_pipeline_keeps_each_error_with_its_command(client: Client) -> None:
    batch = client.pipeline()
    batch.put("a", "x")
    batch.increment("a")
    batch.get("a")
    done, failed, got = batch.run()
    assert done.value is True
    assert isinstance(failed.error, BadRequest)
    assert got.value == b"x"
    assert batch.run() == []
    with pytest.raises(BadRequest), client.pipeline() as batch:
        batch.increment("a")


def test_a_block_that_fails_sends_nothing(client: Client) -> None:
    with pytest.raises(RuntimeError), client.pipeline() as batch:
        batch.put("a", "1")
        raise RuntimeError
    assert client.get("a") is None


def test_a_transaction_is_a_batch_and_leaves_no_trace_in_the_pool(client: Client) -> None:
    with client.pipeline() as batch:
        batch.command("MULTI")
        batch.command("INCR", "n")
        answers = batch.command("EXEC")
    assert answers.value == [1]
    assert client.command("MULTI") == b"OK"
    assert client.get("n") == b"1", "a fresh connection, not the one that queues"


def test_a_transaction_reads_then_decides(client: Client) -> None:
    client.put("from", "10")
    with client.transaction("from", "to") as tx:
        held = int(tx.read("from") or 0)
        assert tx.read_many(["from", "to"]) == [b"10", None]
        left = tx.put("from", str(held - 3))
        arrived = tx.increment("to", 3)
        with pytest.raises(BadRequest, match="has not run"):
            _ = arrived.value
    assert (left.value, arrived.value) == (True, 3)
    assert client.get_many(["from", "to"]) == {"from": b"7", "to": b"3"}


def test_a_conflict_is_raised_and_nothing_is_executed(client: Client) -> None:
    with pytest.raises(Conflict, match="begin anew"), client.transaction("a") as tx:
        client.put("a", "somebody's")
        mine = tx.put("a", "mine")
    with pytest.raises(Conflict):
        _ = mine.value
    assert client.get("a") == b"somebody's"
    with client.transaction() as tx:
        got = tx.get("a")
    assert got.value == b"somebody's", "the connection watches nothing more"


def test_one_commands_error_is_raised_when_all_are_executed(client: Client) -> None:
    client.put("word", "x")
    with pytest.raises(BadRequest, match="not an integer"), client.transaction() as tx:
        first = tx.put("a", "1")
        tx.increment("word")
        last = tx.put("b", "2")
    assert first.value and last.value and client.get("b") == b"2"


def test_what_cannot_be_queued_is_the_cause(client: Client) -> None:
    with pytest.raises(Discarded) as caught, client.transaction() as tx:
        tx.put("a", "1")
        tx.command("NONSENSE")
    assert "unknown command" in str(caught.value.__cause__)
    assert client.get("a") is None


def test_a_block_that_fails_executes_nothing_and_watches_nothing(client: Client) -> None:
    with pytest.raises(RuntimeError), client.transaction("a") as tx:
        tx.put("a", "1")
        raise RuntimeError
    assert client.get("a") is None
    client.put("a", "2")
    with client.pipeline() as batch:
        batch.command("MULTI")
        batch.command("GET", "a")
        answers = batch.command("EXEC")
    assert answers.value == [b"2"]


def test_transact_begins_anew_until_nobody_interferes(server: RedisServer, client: Client) -> None:
    threads, rounds = 4, 30

    def add(tx: Transaction) -> int:
        total = int(tx.read("total") or 0) + 1
        tx.put("total", str(total))
        return total

    with ThreadPoolExecutor(threads) as executor:
        totals = list(executor.map(lambda _: client.transact(add, "total"), range(threads * rounds)))
    assert sorted(totals) == list(range(1, threads * rounds + 1))


def test_a_pipeline_larger_than_every_buffer_does_not_deadlock(client: Client) -> None:
    value = b"x" * 100_000
    client.put("big", value)
    batch = client.pipeline()
    for _ in range(150):
        batch.get("big")
        batch.put("copy", value)
    answers = batch.run()
    assert [answer.value for answer in answers] == [value, True] * 150


@pytest.mark.parametrize("argument", [True, None, object(), "\ud800"])
def test_arguments_that_have_no_bytes_are_refused(client: Client, argument: object) -> None:
    with pytest.raises(BadRequest):
        client.put("a", argument)  # type: ignore[arg-type]


def test_bounds_are_checked_before_sending(client: Client) -> None:
    with pytest.raises(BadRequest, match="at most"):
        client.put("a", b"x" * (VALUE_BYTES_MAX + 1))
    with pytest.raises(BadRequest, match="at most"):
        client.get_many(["k"] * 100_001)
    with pytest.raises(BadRequest, match="name"):
        client.command()


def test_many_threads_share_a_few_connections(server: RedisServer, client: Client) -> None:
    threads, rounds, connections_max = 12, 60, 3
    start = Barrier(threads)

    with Client(port=server.port, connections_max=connections_max) as shared:

        def work(number: int) -> None:
            start.wait(10)
            for turn in range(rounds):
                key, value = f"t{number}", f"{number}.{turn}"
                shared.put(key, value)
                assert shared.get(key) == value.encode(), "an answer met the wrong question"
                shared.increment("total")

        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(work, range(threads)))
        connected = client.command("CLIENT", "LIST", "TYPE", "NORMAL")
        assert isinstance(connected, bytes)
        assert len(connected.splitlines()) <= connections_max + 2, "its own, and those of `client`"
        assert shared.get("total") == str(threads * rounds).encode()


def test_a_server_restart_is_not_noticed_by_an_idle_pool() -> None:
    with redis_server() as server, Client(port=server.port) as client:
        client.put("a", "1")
        server.kill()
        with pytest.raises(ConnectionFailed, match="cannot connect"):
            client.put("a", "2")
        server.start()
        assert client.put("a", "3") is True
        assert client.get("a") == b"3"


def test_idle_connections_closed_by_the_server_are_replaced(server: RedisServer, client: Client) -> None:
    with Client(port=server.port) as idle:
        idle.put("a", "1")
        client.command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes")
        assert idle.put("a", "2") is True, "found closed before anything was sent"


def test_a_closed_client_says_so(server: RedisServer) -> None:
    client = Client(port=server.port)
    client.ping()
    client.close()
    client.close()
    with pytest.raises(FortError, match="closed"):
        client.ping()
