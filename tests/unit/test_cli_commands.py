"""The one-shot commands: real answers from redis-server, admin documents from a scripted router."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest
from click.testing import CliRunner, Result

from fortdb.cli.layout import arrived
from fortdb.cli.main import COMMANDS, main
from fortdb.client import PlannedMove, parse_ring
from tests.unit.client_servers import RedisServer, free_port, needs_redis, scripted_server


def fortdb(port: int, *arguments: str, typed: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["--port", str(port), *arguments], input=typed)


@contextmanager
def router(answers: Mapping[str, bytes]) -> Iterator[tuple[int, list[list[bytes]]]]:
    """A server that answers commands by their beginning; yields its port and what it was asked."""
    asked: list[list[bytes]] = []

    def serve(connection: socket.socket, number: int) -> None:
        reader = hiredis.Reader()
        while data := connection.recv(65536):
            reader.feed(data)
            while command := reader.gets():
                asked.append(command)
                line = b" ".join(command).decode()
                connection.sendall(next(reply for start, reply in answers.items() if line.startswith(start)))

    with scripted_server(serve) as port:
        yield port, asked


def bulk(document: object) -> bytes:
    text = json.dumps(document).encode()
    return b"$%d\r\n%s\r\n" % (len(text), text)


def partition(name: str, leader: str | None, isr: list[str], **changes: Any) -> dict[str, Any]:
    base = {"id": int(name[1:]), "name": name, "token": "4000000000000000", "share": 0.5, "epoch": 3}
    base |= {"replicas": ["n1", "n2"], "leader": leader, "isr": isr, "preferred": None, "moving": False}
    return base | {"last_offset": 5, "commit_offset": 5, "lag": {"n2": 7}} | changes


def node(name: str, **changes: Any) -> dict[str, Any]:
    base = {"name": name, "zone": "z-" + name, "state": "serving", "reason": "", "version": "0.1.0"}
    base |= {f"{kind}_address": "127.0.0.1:1" for kind in ("client", "peer", "status")}
    return base | {"leads": 1, "holds": 2, "bytes_on_disk": 1536, "bytes_free": None} | changes


def ring(**changes: Any) -> dict[str, Any]:
    return {
        "cluster": "shop",
        "controller": "n1",
        "layout": {"version": 4, "replication": 2, "min_in_sync": 1},
        "partitions": [partition("p0", "n1", ["n1", "n2"]), partition("p1", "n1", ["n1", "n2"])],
        "nodes": [node("n1"), node("n2")],
        "keyspaces": [],
    } | changes


# Keys


@needs_redis
def test_put_get_delete(server: RedisServer) -> None:
    assert fortdb(server.port, "put", "a", "1").output == "OK\n"
    assert fortdb(server.port, "get", "a").stdout_bytes == b"1"
    assert fortdb(server.port, "delete", "a", "b").output == "1\n"
    missing = fortdb(server.port, "get", "a")
    assert (missing.exit_code, missing.stdout, missing.stderr) == (1, "", "fortdb: there is no key 'a'\n")


@needs_redis
def test_put_reads_bytes_from_standard_input(server: RedisServer) -> None:
    content = bytes(range(256)) + b"\n"
    assert fortdb(server.port, "put", "bytes", "-", typed=content).exit_code == 0
    assert fortdb(server.port, "get", "bytes").stdout_bytes == content
    answer = json.loads(fortdb(server.port, "get", "bytes", "--json").output)
    assert set(answer) == {"key", "value_base64"}


@needs_redis
def test_put_conditions(server: RedisServer) -> None:
    assert fortdb(server.port, "put", "once", "1", "--if-absent", "--expire-ms", "60000").exit_code == 0
    refused = fortdb(server.port, "put", "once", "2", "--if-absent")
    assert refused.exit_code == 1
    assert "there is a key 'once'; nothing was stored" in refused.stderr
    both = fortdb(server.port, "put", "once", "2", "--if-absent", "--if-present")
    assert both.exit_code == 2


@needs_redis
def test_json_before_or_after_the_command(server: RedisServer) -> None:
    fortdb(server.port, "put", "j", "ä")
    expected = {"key": "j", "value": "ä"}
    assert json.loads(fortdb(server.port, "--json", "get", "j").output) == expected
    assert json.loads(fortdb(server.port, "get", "j", "--json").output) == expected
    assert json.loads(fortdb(server.port, "delete", "j", "--json").output) == {"deleted": 1}


@needs_redis
def test_ping(server: RedisServer) -> None:
    assert fortdb(server.port, "ping").output.startswith(f"PONG from 127.0.0.1:{server.port} in ")
    answer = json.loads(fortdb(server.port, "ping", "--json").output)
    assert answer["latency_ms"] > 0


def test_ack_and_stale_go_over_the_wire() -> None:
    with router({"SET": b"+OK\r\n", "GET": b"$1\r\n1\r\n"}) as (port, asked):
        assert fortdb(port, "put", "a", "1", "--ack", "async").exit_code == 0
        assert fortdb(port, "get", "a", "--stale").exit_code == 0
    assert asked == [[b"SET", b"a", b"1", b"ACK", b"ASYNC"], [b"GET", b"a", b"STALE"]]


# Failures


def test_nobody_there_is_exit_code_3_and_one_line() -> None:
    result = fortdb(free_port(), "get", "a")
    assert result.exit_code == 3
    assert result.stderr.startswith("fortdb: cannot connect to 127.0.0.1:")
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_lost_answer_is_exit_code_4() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)

    with scripted_server(serve) as port:
        result = fortdb(port, "put", "a", "1")
    assert result.exit_code == 4
    assert "may have been executed, read before trying again" in result.stderr


def test_error_replies_become_exit_codes() -> None:
    with router({"SET a": b"-NOREPLICAS p0 has 1 of 2\r\n", "SET b": b"-ERR no\r\n"}) as (port, _):
        assert fortdb(port, "put", "a", "1").exit_code == 3
        assert fortdb(port, "put", "b", "1").exit_code == 1


def test_wrong_usage_is_exit_code_2() -> None:
    for arguments in (
        ["nonsense"],
        ["get"],
        ["put", "a"],
        ["--port", "0", "ping"],
        ["put", "a", "b", "--ack", "x"],
        ["--url", "redis://x", "ping"],
        ["feed", "--key", "a", "--prefix", "b"],
        ["retain", "a", "1-0", "yesterday"],
    ):
        assert CliRunner().invoke(main, arguments).exit_code == 2
    told = CliRunner().invoke(main, ["retain", "a", "1-0", "yesterday"]).stderr
    assert "such as 2030-12-31T00:00:00+0000" in told


def test_files_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    plan = {"base_version": 1, "layout": {"version": 2}, "moves": [], "share_moved": 0, "loads": {}}
    with router({"LAYOUT PLAN": bulk(plan)}) as (port, _):
        result = fortdb(port, "layout", "plan", "--out", str(tmp_path / "no" / "plan.json"))
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr


# Options


@needs_redis
def test_the_address_from_the_environment(server: RedisServer) -> None:
    runner = CliRunner()
    nowhere = f"fortdb://127.0.0.1:{free_port()}"
    here = f"fortdb://127.0.0.1:{server.port}"
    assert runner.invoke(main, ["ping"], env={"FORTDB_URL": here}).exit_code == 0
    assert runner.invoke(main, ["ping"], env={"FORTDB_PORT": str(server.port)}).exit_code == 0
    assert runner.invoke(main, ["ping"], env={"FORTDB_URL": nowhere}).exit_code == 3
    assert fortdb_with(runner, nowhere, "--port", str(server.port)).exit_code == 0, (
        "typed wins over environment"
    )
    assert fortdb_with(runner, nowhere, "--url", here).exit_code == 0


def fortdb_with(runner: CliRunner, url: str, *options: str) -> Result:
    return runner.invoke(main, [*options, "ping"], env={"FORTDB_URL": url})


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_help_documents_the_exit_codes() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    assert "4  outcome unknown" in output


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.startswith("fortdb ")


def test_a_quick_command_imports_nothing_heavy() -> None:
    script = "import sys; import fortdb.cli.main, fortdb.cli.keys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    heavy = {"rich", "prompt_toolkit", "pydantic", "rocksdict", "structlog", "requests", "asyncio"}
    assert not heavy & set(output.split())


# The ring


def test_status_of_a_healthy_ring() -> None:
    with router({"RING": bulk(ring())}) as (port, _):
        result = CliRunner().invoke(main, ["--port", str(port), "status"], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    for word in (
        "z-n2",
        "1.5 KiB",
        "p1",
        "4000000000000000",
        "50.0%",
        "n2(-7)",
        "healthy: 2 partitions on 2 nodes",
    ):
        assert word in result.output


@pytest.mark.parametrize(
    ("changes", "exit_code", "finding"),
    [
        ({"partitions": [partition("p0", "n1", ["n1"])]}, 2, "p0 has 1 of 2 in sync"),
        ({"nodes": [node("n1", state="failed", reason="checksum")]}, 2, "n1 is failed: checksum"),
        ({"controller": None}, 2, "no controller"),
        ({"partitions": [partition("p0", None, ["n1", "n2"])]}, 3, "p0 has no leader"),
        (
            {"partitions": [partition("p0", "n1", ["n1"], last_offset=None)]},
            2,
            "p0: n1 has not said that it leads",
        ),
        ({"partitions": [partition("p0", "n1", [])]}, 3, "p0 takes no writes: 0 in sync, at least 1 needed"),
        ({"layout": None, "partitions": []}, 3, "there is no layout yet"),
        ({"partitions": [partition("p0", "n1", ["n1", "n2"], moving=True)]}, 0, "1 moving"),
    ],
)
def test_status_of_other_rings(changes: dict[str, Any], exit_code: int, finding: str) -> None:
    with router({"RING": bulk(ring(**changes))}) as (port, _):
        tables = fortdb(port, "status")
        document = fortdb(port, "status", "--json")
    assert (tables.exit_code, document.exit_code) == (exit_code, exit_code)
    assert finding in tables.output
    assert json.loads(document.output)["ring"]["cluster"] == "shop"


def test_leader_move() -> None:
    with router({"LEADER MOVE p0": b"+OK\r\n", "LEADER": b"-ERR no such partition\r\n"}) as (port, asked):
        assert fortdb(port, "leader", "move", "p0", "n2").output == "n2 leads p0\n"
        assert fortdb(port, "leader", "move", "p9", "n2").exit_code == 1
    assert asked[0] == [b"LEADER", b"MOVE", b"p0", b"n2"]


def test_keyspaces() -> None:
    kept = {"policy": "records", "retention_ms": 2_592_000_000, "keep": 0, "version": 2, "closed": False}
    listing = bulk([{"name": "orders", "ack": "async"}, {"name": "log", "ack": "sync", **kept}])
    shown = bulk({"name": "docs", "ack": "sync", **kept, "policy": "versions", "keep": 3, "closed": True})
    answers = {"KEYSPACE LIST": listing, "KEYSPACE SHOW": shown, "KEYSPACE": b"+OK\r\n"}
    with router(answers) as (port, asked):
        words = ("--policy", "records", "--retention", "30d", "--ack", "async")
        assert fortdb(port, "keyspace", "create", "orders", *words).exit_code == 0
        assert fortdb(port, "keyspace", "create", "plain").exit_code == 0
        assert fortdb(port, "keyspace", "list").output == (
            "orders\tpolicy=plain\tack=async\tversion=1\n"
            "log\tpolicy=records\tack=sync\tretention=30d\tversion=2\n"
        )
        assert fortdb(port, "keyspace", "drop", "orders").exit_code == 0
        assert fortdb(port, "keyspace", "drop", "orders", "--keep-keys").exit_code == 0
        assert fortdb(port, "keyspace", "alter", "docs", "--keep", "none").exit_code == 0
        assert fortdb(port, "keyspace", "alter", "docs").exit_code == 2
        assert "keep=3\tversion=2\tclosed" in fortdb(port, "keyspace", "show", "docs").output
        assert json.loads(fortdb(port, "keyspace", "show", "docs", "--json").output)["keep"] == 3
    create = [b"KEYSPACE", b"CREATE"]
    assert asked[0] == [*create, b"orders", b"POLICY", b"RECORDS", b"RETENTION", b"30D", b"ACK", b"ASYNC"]
    assert asked[1] == [*create, b"plain"]
    assert asked[3] == [b"KEYSPACE", b"DROP", b"orders"]
    assert asked[4] == [b"KEYSPACE", b"DROP", b"orders", b"KEEP-KEYS"]
    assert asked[5] == [b"KEYSPACE", b"ALTER", b"docs", b"KEEP", b"NONE"]


def test_records_as_a_table() -> None:
    record = b"*2\r\n$15\r\n1700000000123-%d\r\n$%d\r\n%s\r\n"
    page = b"*2\r\n" + record % (0, 3, b"one") + record % (1, 3, b"t\nw")
    answers = {
        "ADD log/a no": b"$-1\r\n",
        "ADD": b"$15\r\n1700000000123-0\r\n",
        "RECORDS log/b": b"*0\r\n",
        "RECORDS log/a FROM (": b"*0\r\n",
        "RECORDS": page,
        "REMOVE log/a 1-1": b":0\r\n",
        "REMOVE": b":1\r\n",
        "PURGE": b":1\r\n",
    }
    with router(answers) as (port, asked):
        assert fortdb(port, "add", "log/a", "one", "--expire-ms", "5").output == "1700000000123-0\n"
        assert fortdb(port, "add", "log/a", "no", "--if-last", "0-0").exit_code == 1
        table = fortdb(port, "records", "log/a", "--from", "1700000000000", "--count", "9", "--reverse")
        assert [line.split() for line in table.output.splitlines()] == [
            ["id", "time", "value"],
            ["1700000000123-0", "2023-11-14", "22:13:20.123", "one"],
            ["1700000000123-1", "2023-11-14", "22:13:20.123", "t\\nw"],
        ]
        assert fortdb(port, "records", "log/b").output == "'log/b' has no such records\n"
        assert json.loads(fortdb(port, "records", "log/a", "--count", "1", "--json").output) == [
            {"id": "1700000000123-0", "time": "2023-11-14 22:13:20.123", "value": "one"}
        ]
        assert fortdb(port, "records", "log/a", "--from", "x").exit_code == 2
        assert fortdb(port, "remove", "log/a", "1700000000123-0").exit_code == 0
        assert fortdb(port, "remove", "log/a", "1-1").exit_code == 1
        assert fortdb(port, "purge", "log/a").output == "1\n"
    assert asked[0] == [b"ADD", b"log/a", b"one", b"PX", b"5"]
    assert asked[1] == [b"ADD", b"log/a", b"no", b"IFLAST", b"0-0"]
    assert asked[2] == [b"RECORDS", b"log/a", b"FROM", b"1700000000000", b"COUNT", b"9", b"REV"]
    assert asked[3] == [b"RECORDS", b"log/a", b"FROM", b"(1700000000123-1", b"COUNT", b"9", b"REV"]


def test_a_history_as_a_table() -> None:
    def version(number: int, value: bytes, ends_ms: int = 0) -> bytes:
        return b"*4\r\n$15\r\n1700000000123-%d\r\n:1700000000123\r\n%b\r\n:%d\r\n" % (number, value, ends_ms)

    page = (
        b"*3\r\n" + version(0, b"$3\r\none", 1_700_000_001_000) + version(1, b"$-1") + version(2, b"$1\r\n2")
    )
    answers = {"HISTORY doc/a FROM (": b"*0\r\n", "HISTORY": page, "GET": b"$3\r\none\r\n"}
    with router(answers) as (port, asked):
        lines = fortdb(port, "history", "doc/a").output.splitlines()
        assert [line.split()[3:] for line in lines] == [
            ["ends"],
            ["one", "2023-11-14", "22:13:21.000"],
            ["(deleted)"],
            ["2"],
        ]
        assert fortdb(port, "get", "doc/a", "--at", "1700000000123-0").output == "one"
        assert fortdb(port, "get", "doc/a", "--at", "17").output == "one"
    assert asked[-2:] == [[b"GET", b"doc/a", b"AT", b"1700000000123-0"], [b"GET", b"doc/a", b"AT", b"17"]]


def move(**changes: Any) -> dict[str, Any]:
    base = {"partition": "p0", "share": 0.5, "add": ["n3"], "remove": ["n1"]}
    return base | {"leader_before": "n1", "leader_after": "n2"} | changes


def a_plan() -> dict[str, Any]:
    layout = {"version": 5, "replication": 2}
    return {"base_version": 4, "layout": layout, "moves": [move()], "share_moved": 0.5, "loads": {}}


def test_a_plan_is_shown_written_and_applied_byte_for_byte(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    moved = partition("p0", "n2", ["n2", "n3"], replicas=["n2", "n3"])
    after = ring(layout={"version": 5, "replication": 2, "min_in_sync": 1}, partitions=[moved])
    with router({"LAYOUT PLAN": bulk(a_plan()), "LAYOUT APPLY": b"+OK\r\n", "RING": bulk(after)}) as (
        port,
        asked,
    ):
        options = ["--replication", "2", "--remove", "n1", "--remove", "n4", "--weight", "n2=0.5"]
        shown = fortdb(port, "layout", "plan", *options, "--out", str(file))
        assert shown.exit_code == 0, shown.output
        assert "50.0% of the keyspace is copied" in shown.output
        applied = fortdb(port, "layout", "apply", str(file))
        assert applied.exit_code == 0, applied.output
        assert "layout 5 is in place" in applied.output
        assert fortdb(port, "layout", "apply", str(file), "--no-wait").stdout == "layout 5 is applied\n"
    assert json.loads(asked[0][2]) == {"replication": 2, "remove": ["n1", "n4"], "weights": {"n2": 0.5}}
    assert asked[1][2] == file.read_bytes() == json.dumps(a_plan()).encode()


def test_what_is_no_plan_or_no_weight_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text("{}")
    refused = fortdb(free_port(), "layout", "apply", str(file))
    assert refused.exit_code == 1
    assert "this is no layout plan" in refused.stderr
    for weight in ("n1", "n1=", "=1", "n1=-1", "n1=nan", "n1=inf", "n1=x"):
        assert fortdb(free_port(), "layout", "plan", "--weight", weight).exit_code == 2


def test_a_move_has_arrived_when_the_new_are_in_sync_and_the_old_are_gone() -> None:
    planned = PlannedMove("p0", 0.5, ("n3",), ("n1",), "n1", "n2")

    def at(isr: list[str], replicas: list[str], moving: bool) -> bool:
        one = partition("p0", "n2", isr, replicas=replicas, moving=moving)
        return arrived(planned, parse_ring(json.dumps(ring(partitions=[one])).encode()))

    assert not at(["n1", "n2"], ["n1", "n2"], False)
    assert not at(["n1", "n2", "n3"], ["n1", "n2", "n3"], True)
    assert not at(["n2"], ["n2", "n3"], False)
    assert not at(["n2", "n3"], ["n2", "n3"], True)
    assert at(["n2", "n3"], ["n2", "n3"], False)


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    with router({"RING": bulk(ring())}) as (port, _):
        command = [sys.executable, "-m", "fortdb", "--port", str(port), "status"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
        process.wait(30)
        process.stderr.close()
