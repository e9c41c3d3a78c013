"""The clients that people have: redis-py, redis-cli, redis-benchmark, a socket, and our own."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from fortdb.client import Client
from fortdb.errors import BadRequest
from fortdb.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX
from fortdb.local.ring import LocalRing
from fortdb.model import Ack
from tests.support.rings import keys_of_partition, status_of
from tests.support.waiting import eventually


@pytest.fixture
def store(ring: LocalRing) -> Iterator[redis.Redis]:
    with contextlib.closing(redis.Redis(port=ring.shape.port)) as made:
        yield made


def redis_tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; on Debian or Ubuntu: apt-get install redis-tools")
    return path


def fortdb(ring: LocalRing, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, as a user's shell runs it."""
    return subprocess.run(
        [sys.executable, "-m", "fortdb", "--port", str(ring.shape.port), *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# --- redis-py -----------------------------------------------------------------------------------


def test_redis_py_strings(store: redis.Redis) -> None:
    store.delete("a", "b", "c")
    assert store.set("a", "1") is True
    assert store.get("a") == b"1"
    assert store.get("absent") is None
    assert store.set("a", "2", nx=True) is None
    assert store.set("b", "2", xx=True) is None
    assert store.set("a", "3", get=True) == b"1"
    assert store.mset({"b": "x", "c": "y"}) is True
    assert store.mget("a", "absent", "c") == [b"3", None, b"y"]
    assert store.exists("a", "b", "absent") == 2
    assert store.append("b", "yz") == 3
    assert store.strlen("b") == 3
    assert store.getdel("b") == b"xyz"
    assert store.delete("a", "b", "c") == 2


@pytest.mark.filterwarnings("ignore::UserWarning")  # redis-py calls `ifeq` experimental
def test_redis_py_compare_and_set(store: redis.Redis) -> None:
    """As Valkey has it: https://valkey.io/commands/set."""
    store.delete("cas")
    assert store.set("cas", "1", ifeq="0") is None
    assert store.get("cas") is None
    store.set("cas", "0", ex=100)
    assert store.set("cas", "1", ifeq="0", keepttl=True)
    assert 0 < store.ttl("cas") <= 100
    assert store.set("cas", "2", ifeq="0", get=True) == b"1"
    assert store.get("cas") == b"1"


def test_redis_py_numbers(store: redis.Redis) -> None:
    store.delete("n")
    assert store.incr("n") == 1
    assert store.incr("n", 41) == 42
    assert store.decr("n") == 41
    store.set("word", "x")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        store.incr("word")


def test_redis_py_expiry(store: redis.Redis) -> None:
    store.set("e", "1", ex=100)
    assert 0 < store.ttl("e") <= 100
    assert store.persist("e") is True
    assert store.ttl("e") == -1
    assert store.ttl("absent") == -2
    assert store.expire("e", 200) is True
    store.set("soon", "1", px=30)
    eventually("the key is gone", lambda: store.get("soon") is None)
    assert store.exists("soon") == 0


def test_redis_py_keyspace(store: redis.Redis) -> None:
    store.delete(*[f"scan-{number}" for number in range(300)])
    before = store.dbsize()
    with store.pipeline(transaction=False) as pipeline:
        for number in range(300):
            pipeline.set(f"scan-{number}", number)
        assert pipeline.execute() == [True] * 300
    assert store.dbsize() == before + 300
    found = list(store.scan_iter(match="scan-*", count=50))
    assert sorted(found) == sorted(f"scan-{number}".encode() for number in range(300))
    assert len(set(found)) == len(found)


def test_redis_py_server(store: redis.Redis) -> None:
    assert store.ping() is True
    assert store.echo("hello") == b"hello"
    assert store.client_setname("test") is True
    assert store.client_getname() in ("test", b"test")
    info = store.info()
    assert info["redis_version"]
    assert store.config_get("appendfsync") == {"appendfsync": "always"}
    assert store.select(0) is True
    with pytest.raises(redis.ResponseError):
        store.select(1)
    with pytest.raises(redis.ResponseError, match="unknown command"):
        store.flushall()
    assert store.ping() is True


def test_redis_py_on_protocol_2(ring: LocalRing) -> None:
    with contextlib.closing(redis.Redis(port=ring.shape.port, protocol=2)) as store:
        assert store.set("p", "2") is True
        assert store.get("p") == b"2"
        assert store.config_get("appendonly") == {"appendonly": "yes"}


def test_answers_come_in_the_order_of_the_questions(store: redis.Redis) -> None:
    """Keys of all partitions, and commands split over several, in one pipeline."""
    with store.pipeline(transaction=False) as pipeline:
        for number in range(200):
            pipeline.set(f"order-{number}", number)
            pipeline.get(f"order-{number}")
            pipeline.mget([f"order-{number}", f"order-{number - 1}"])
        answers = pipeline.execute()
    for number in range(1, 200):
        own = str(number).encode()
        assert answers[3 * number : 3 * number + 3] == [True, own, [own, str(number - 1).encode()]]


# --- redis-cli, redis-benchmark, a plain socket ---------------------------------------------------


def test_redis_cli(ring: LocalRing) -> None:
    script = "SET cli 1\nINCR cli\nGET cli\nDEL cli\nGET cli\n"
    done = subprocess.run(
        [redis_tool("redis-cli"), "-p", str(ring.shape.port)],
        input=script,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["OK", "2", "2", "1", ""]


def test_redis_benchmark(ring: LocalRing) -> None:
    tool = redis_tool("redis-benchmark")
    command = [
        tool,
        "-p",
        str(ring.shape.port),
        "-t",
        "set,get",
        "-n",
        "5000",
        "-c",
        "50",
        "-P",
        "4",
        "--csv",
    ]
    done = subprocess.run([*command, "-r", "1000"], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.count('"SET"') == done.stdout.count('"GET"') == 1
    assert "rror" not in done.stdout + done.stderr


def test_plain_text(ring: LocalRing) -> None:
    talk = (
        b'PUT greeting "hello, \\"world\\""\r\nGET greeting\nBOGUS\nGET\nPUT \'unfinished\nDELETE greeting\n'
        b"GET greeting\nPING\nEXIT\n"
    )
    with socket.create_connection(("127.0.0.1", ring.shape.port), timeout=20) as connection:
        connection.sendall(talk)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    lines = answer.split(b"\r\n")
    assert lines[:3] == [b"+OK", b"$14", b'hello, "world"']
    assert lines[3].startswith(b"-ERR unknown command 'BOGUS'")
    assert lines[4].startswith(b"-ERR wrong number of arguments")
    assert lines[5].startswith(b"-ERR")
    assert lines[6:] == [b":1", b"$-1", b"+PONG", b"+OK", b""]


# --- bounds ---------------------------------------------------------------------------------------


def test_the_largest_value_and_one_byte_more(ring: LocalRing) -> None:
    with ring.client() as client:
        large = b"x" * VALUE_BYTES_MAX
        assert client.put("large", large) is True
        assert client.get("large") == large
        client.delete("large")
    with socket.create_connection(("127.0.0.1", ring.shape.port), timeout=20) as connection:
        connection.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (VALUE_BYTES_MAX + 1))
        assert connection.recv(4096).startswith(b"-ERR"), "refused by its header, before it is sent"


def test_a_long_key_and_an_empty_one(ring: LocalRing) -> None:
    with ring.client() as client:
        assert client.put("k" * KEY_BYTES_MAX, "v")
        assert client.get("k" * KEY_BYTES_MAX) == b"v"
        with pytest.raises(BadRequest, match="key"):
            client.put("k" * (KEY_BYTES_MAX + 1), "v")
        assert client.put("", "the empty key is a key") is True
        assert client.get("") == b"the empty key is a key"


def test_a_client_that_does_not_read_hurts_nobody(ring: LocalRing) -> None:
    with ring.client() as client:
        client.put("big", b"x" * 1_000_000)
        with socket.create_connection(("127.0.0.1", ring.shape.port)) as stuck:
            stuck.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(10_000):
                    stuck.send(b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n" * 100)
            assert max(client.ping() for _ in range(20)) < 5
            assert client.get("big") == b"x" * 1_000_000


def test_compare_and_set_from_many_threads_loses_nothing(ring: LocalRing) -> None:
    def count_up(client: Client) -> None:
        for _ in range(25):
            while True:
                held = client.get("cas-count")
                assert held is not None
                if client.put("cas-count", str(int(held) + 1), only_if_equal=held):
                    break

    with ring.client() as client:
        client.put("cas-count", "0")
        threads = [threading.Thread(target=count_up, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.get("cas-count") == b"100"
        with pytest.raises(BadRequest, match="exclude each other"):
            client.put("cas-count", "0", only_if_equal="100", only_if_absent=True)


def test_many_threads_on_one_client(ring: LocalRing) -> None:
    failures: list[Exception] = []
    with ring.client(connections_max=4) as client:

        def work(number: int) -> None:
            try:
                for turn in range(50):
                    client.put(f"thread-{number}-{turn}", str(turn))
                    assert client.get(f"thread-{number}-{turn}") == str(turn).encode()
            except Exception as error:  # noqa: BLE001  told by the main thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


# --- the command line -------------------------------------------------------------------------------


def test_one_shot_commands(ring: LocalRing) -> None:
    assert fortdb(ring, "put", "shell", "some value").returncode == 0
    assert fortdb(ring, "get", "shell").stdout.strip() == "some value"
    assert json.loads(fortdb(ring, "--json", "get", "shell").stdout)
    assert fortdb(ring, "delete", "shell").returncode == 0
    assert fortdb(ring, "get", "shell").returncode == 1
    assert fortdb(ring, "ping").returncode == 0


def test_the_prompt_reads_commands_from_a_pipe(ring: LocalRing) -> None:
    done = fortdb(ring, stdin='PUT piped "two words"\nGET piped\nEXIT\n')
    assert done.returncode == 0, done.stderr
    assert "two words" in done.stdout


def test_status_ring_and_their_json(ring: LocalRing, tmp_path: Path) -> None:
    status = fortdb(ring, "status")
    assert status.returncode == 0, status.stdout + status.stderr
    assert "healthy" in status.stdout
    document = json.loads(fortdb(ring, "status", "--json").stdout)
    assert document["health"] == "healthy"
    picture = tmp_path / "ring.svg"
    drawn = fortdb(ring, "ring", "--svg", str(picture))
    assert drawn.returncode == 0, drawn.stderr
    assert picture.read_text().lstrip().startswith("<")
    assert "node-1" in fortdb(ring, "ring").stdout


def test_leader_move(ring: LocalRing) -> None:
    partition = status_of(ring).partitions[0]
    target = partition.followers[0]
    assert fortdb(ring, "leader", "move", partition.name, target).returncode == 0
    eventually("it leads", lambda: status_of(ring).partitions[0].leader == target)
    wrong = fortdb(ring, "leader", "move", partition.name, "node-9")
    assert wrong.returncode != 0
    assert "node-9" in wrong.stderr
    assert "in sync" in wrong.stderr
    unknown = fortdb(ring, "leader", "move", "p-999", target)
    assert "p-999" in unknown.stderr


def test_a_plan_for_another_layout_is_refused(ring: LocalRing, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    assert fortdb(ring, "layout", "plan", "--weight", "node-1=1", "--out", str(file)).returncode == 0
    applied = fortdb(ring, "layout", "apply", str(file))
    assert applied.returncode == 0, applied.stderr
    again = fortdb(ring, "layout", "apply", str(file))
    assert again.returncode != 0
    assert "make a new plan" in again.stderr
    removing = fortdb(ring, "layout", "plan", "--remove", "node-1")
    assert removing.returncode != 0
    assert "replication is 3" in removing.stderr


def test_nobody_listens(ring: LocalRing) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fortdb", "--port", "1", "get", "k"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


# --- what is FortDB's own -----------------------------------------------------------------------------


def test_async_by_request_and_by_keyspace(ring: LocalRing) -> None:
    with ring.client() as client:
        assert client.put("async", "1", ack=Ack.ASYNC) is True
        assert client.get("async") == b"1"
        client.create_keyspace("logs", Ack.ASYNC)
        eventually("every node knows", lambda: any(space.name == "logs" for space in client.keyspaces()))
        assert client.put("logs/1", "x") is True
        assert client.get("logs/1") == b"x"
        with pytest.raises(BadRequest, match="exists already"):
            client.create_keyspace("logs")
        client.put_many({"logs/{t}": "1", "orders/{t}": "2"})  # one partition, two keyspaces: sync
        assert client.get_many(["logs/{t}", "orders/{t}"]) == {"logs/{t}": b"1", "orders/{t}": b"2"}
        with pytest.raises(BadRequest, match="2 keys logs/"):
            client.drop_keyspace("logs")
        client.drop_keyspace("logs", keep_keys=True)


def test_stale_reads_come_from_a_follower(ring: LocalRing) -> None:
    with ring.client() as client:
        client.put("old", "1")
        eventually("the follower has applied it", lambda: client.get("old", stale=True) == b"1")


def test_tags_keep_keys_together(ring: LocalRing) -> None:
    tag = keys_of_partition(ring, "p-001", 1, "tag")[0]
    with ring.client() as client:
        client.put_many({f"{{{tag}}}-{number}": str(number) for number in range(20)})
        values = client.get_many([f"{{{tag}}}-{number}" for number in range(20)])
        assert list(values.values()) == [str(number).encode() for number in range(20)]


def test_a_node_says_who_leads(ring: LocalRing) -> None:
    partition = status_of(ring).partitions[0]
    key = keys_of_partition(ring, partition.name, 1)[0]
    follower = next(node for node in status_of(ring).nodes if node.name == partition.followers[0])
    host, _, port = follower.client_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"GET {key}\r\n".encode())
        answer = connection.recv(4096).decode()
    assert answer.startswith("-")
    assert f"led by {partition.leader}" in answer


def test_metrics_and_health(ring: LocalRing) -> None:
    from urllib.request import urlopen

    from prometheus_client.parser import text_string_to_metric_families

    with ring.client() as client:
        client.put("metric", "1")
    base = ring.shape.port
    found: dict[str, float] = {}
    for port in (base + 300, base + 301, base + 302, base + 400):
        for path in ("healthz", "readyz"):
            with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
                assert answer.status == 200
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples:
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
    for name in (
        "fortdb_requests_total",
        "fortdb_leader_changes_total",
        "fortdb_isr_size",
        "fortdb_leader",
        "fortdb_fsync_seconds_count",
        "fortdb_commit_seconds_count",
        "fortdb_request_seconds_count",
        "fortdb_disk_bytes",
    ):
        assert found.get(name, 0) > 0, f"{name}: {sorted(found)}"
    assert found["fortdb_leader"] == ring.shape.partitions
    assert "fortdb_follower_lag_entries" in found


def test_an_idle_connection_lives_on(ring: LocalRing) -> None:
    with Client("127.0.0.1", ring.shape.port, connections_max=1) as client:
        assert client.put("idle", "1")
        time.sleep(1.5)  # longer than the router's sweep
        assert client.get("idle") == b"1"


def test_a_layout_drafted_without_a_ring_is_rendered_alike(ring: LocalRing, tmp_path: Path) -> None:
    """What a deployment renders before the nodes are up is what the ring then has."""
    file = tmp_path / "plan.json"
    zones = ["--node", "node-1=zone-a", "--node", "node-2=zone-b", "--node", "node-3=zone-c"]
    drafted = fortdb(ring, "layout", "draft", *zones, "--partitions", "6", "--out", str(file))
    assert drafted.returncode == 0, drafted.stderr
    planned = json.loads(fortdb(ring, "layout", "show", "--plan", str(file), "--node", "node-2").stdout)
    assert len(planned["partitions"]) == 6
    live = json.loads(fortdb(ring, "layout", "show").stdout)
    assert {p["name"]: p["token"] for p in live["partitions"]} == {
        p["name"]: p["token"] for p in planned["partitions"]
    }
    refused = fortdb(ring, "layout", "apply", str(file))
    assert refused.returncode != 0
    assert "make a new plan" in refused.stderr
    assert "no node 'node-9'" in fortdb(ring, "layout", "show", "--node", "node-9").stderr
