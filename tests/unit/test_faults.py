"""Defects that are planted: what they cost, and whom they must not cost anything; and what one request may cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from fortdb.errors import BadRequest
from fortdb.fields import Fields
from fortdb.limits import PATTERN_BYTES_MAX, READ_BYTES, READ_BYTES_MAX, RETENTION_MS_MAX
from fortdb.log import escape_controls
from fortdb.model import Keyspace
from fortdb.node import execute
from fortdb.node.clients import NodeClients
from fortdb.node.core import NodeCore
from fortdb.protocol.commands import TABLE, Command, check_arity
from fortdb.protocol.glob import compile_glob
from fortdb.router.admin import _options
from fortdb.router.keyspaces import changed
from tests.support.guarded import GuardedNode, Talk, guarded_node
from tests.support.waiting import eventually

FAULT = b"-ERR this is a fault in fortdb (ZeroDivisionError); the process's log has more of it"


@pytest.fixture(params=[True, False], ids=["c", "python"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GuardedNode]:
    with guarded_node(tmp_path, in_c=request.param) as made:
        yield made


def fails(*_: object) -> Any:
    """Stands for what nobody foresaw."""
    return 1 // 0


def test_a_fault_in_understanding_a_command_costs_its_connection_alone(
    node: GuardedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_for_echo(command: Command, args: list[bytes]) -> BadRequest | None:
        if command.name == "ECHO":
            fails()
        return check_arity(command, args)

    monkeypatch.setattr("fortdb.net.front.check_arity", fails_for_echo)
    with Talk(node.port) as other, Talk(node.port) as talk, capture_logs() as logs:
        assert other.say(["SET", "a", "1"]) == [b"+OK"]
        heard = talk.say(["INCR", "a"], ["ECHO", "x"])
        assert heard == [b":2", FAULT]
        assert talk.is_over()
        assert other.say(["PING"], ["INCR", "a"]) == [b"+PONG", b":3"]
    assert [entry["command"] for entry in logs if entry["event"] == "request_failed"] == ["ECHO"]
    assert node.front.faults_total == 1


@pytest.mark.parametrize("words", [("MGET", "a", "b"), ("WATCH", "a"), ("EXEC",)])
def test_a_fault_on_the_way_to_a_partition_answers_what_waits(
    node: GuardedNode, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    with Talk(node.port) as talk:
        if words == ("EXEC",):
            assert talk.say(["MULTI"], ["SET", "a", "1"]) == [b"+OK", b"+QUEUED"]
        monkeypatch.setattr(NodeClients, "_known_tokens", fails)
        assert talk.say(words) == [FAULT]
        assert talk.is_over()
    monkeypatch.undo()
    with Talk(node.port) as talk:
        assert talk.say(["SET", "a", "1"]) == [b"+OK"]


def test_a_fault_in_executing_costs_the_request(node: GuardedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(execute.HANDLERS, "STRLEN", fails)
    with Talk(node.port) as talk:
        assert talk.say(["STRLEN", "a"], ["SET", "a", "1"]) == [FAULT, b"+OK"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_that_may_have_left_half_an_entry_ends_the_node(
    node: GuardedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NodeCore, "propose", fails)
    with Talk(node.port) as talk:
        talk.send(["INCR", "a"])
        eventually("its loop has ended", lambda: not node._thread.is_alive())


def test_a_request_reads_no_more_than_others_can_wait_for(node: GuardedNode) -> None:
    value = b"x" * (8 << 20)
    count = READ_BYTES_MAX // len(value)
    with Talk(node.port) as talk:
        assert talk.say(["SET", "big", value], ["EXISTS", *["big"] * (count - 1)]) == [
            b"+OK",
            b":%d" % (count - 1),
        ]
        began_s = time.monotonic()
        assert talk.say(["EXISTS", *["big"] * 50_000])[0].startswith(
            b"-ERR the request looks at values of more"
        )
        assert time.monotonic() - began_s < 10
        talk.say(["MULTI"], *[["STRLEN", "big"]] * 5_000)
        began_s = time.monotonic()
        talk.send(["EXEC"])
        assert talk.line() == b"*5000"
        assert time.monotonic() - began_s < 10
        lines = [talk.line() for _ in range(5_000)]
    assert lines[0] == b":%d" % len(value) and lines[-1].startswith(
        b"-ERR the request looks at values of more"
    )


def test_a_scan_reads_no_more_either(node: GuardedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    with Talk(node.port) as talk:
        talk.say(*[["SET", f"{{t}}{number}", ""] for number in range(200)])
        monkeypatch.setattr(execute, "READ_BYTES_MAX", 100 * READ_BYTES)
        assert b"too many keys have the tag {t}" in talk.say(["SCAN", "0", "MATCH", "nothing"])[0]


def test_whoever_asks_for_much_gives_way_to_others(node: GuardedNode) -> None:
    keys = [f"key-{number}" for number in range(2_000)]
    with Talk(node.port) as greedy, Talk(node.port) as other:
        greedy.socket.settimeout(60)
        greedy.send(*[["EXISTS", *keys]] * 300)  # in one piece
        waited_s: list[float] = []
        for _ in range(20):
            began_s = time.monotonic()
            assert other.say(["PING"]) == [b"+PONG"]
            waited_s.append(time.monotonic() - began_s)
        assert not greedy.stays_silent(10)
        assert [greedy.line() for _ in range(300)] == [b":0"] * 300
    assert sorted(waited_s)[-4] < 0.5, "some of the longest may be the machine's"


def test_a_page_of_a_scan_ends_when_it_has_read_enough(node: GuardedNode) -> None:
    with Talk(node.port) as talk:
        for number in range(20):
            assert talk.say(["SET", f"key-{number}", b"x" * (1 << 20)]) == [b"+OK"]
        cursor, found, pages = b"0", 0, 0
        while pages == 0 or cursor != b"0":
            talk.send(["SCAN", cursor, "COUNT", "10000"])
            assert talk.line() == b"*2"
            cursor = (talk.line(), talk.line())[1]
            count = int(talk.line()[1:])
            assert count <= 3
            found, pages = found + count, pages + 1
            for _ in range(2 * count):
                talk.line()
    assert found == 20


def test_long_answers_are_no_part_of_transactions(node: GuardedNode) -> None:
    with Talk(node.port) as talk:
        assert talk.say(["MULTI"], ["INFO"], ["EXEC"])[1:] == [
            b"-ERR INFO is about the process; say it outside of MULTI",
            b"-EXECABORT Transaction discarded because of previous errors.",
        ]
        assert talk.say(["COMMAND", "DOCS", *["GET"] * (len(TABLE) + 1)])[0].startswith(b"-ERR")


def test_patterns_have_a_bound_and_cost_one_look_at_each_byte() -> None:
    with pytest.raises(BadRequest, match="at most"):
        compile_glob(b"a" * (PATTERN_BYTES_MAX + 1))
    matches = compile_glob((b"*" + b"[ab]" * 200 + b"c*")[:PATTERN_BYTES_MAX])
    began_s = time.monotonic()
    for _ in range(20):
        assert not matches(b"ab" * 8_000)
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[]",
        '{"remove": [{}]}',
        '{"remove": [[]]}',
        '{"weights": {"node-1": 1%s}}' % ("0" * 400),
        '{"weights": {"node-1": 1e308}}',
        '{"weights": {"node-1": 1e-320}}',
        '{"weights": {"node-1": NaN}}',
        '{"weights": []}',
        '{"replication": -1}',
        '{"partitions": true}',
        '{"\\ud800": 1}',
        '{"x": %s}' % ("9" * 5_000),
    ],
)
def test_options_of_a_plan_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="options of LAYOUT PLAN|options.weights of LAYOUT PLAN"):
        _options(text)


def test_options_of_a_plan() -> None:
    found = _options('{"remove": ["node-1"], "weights": {"node-2": 2, "node-3": 0}, "replication": 2}')
    assert (found.remove, found.weights, found.replication) == (
        ("node-1",),
        {"node-2": 2.0, "node-3": 0.0},
        2,
    )


@pytest.mark.parametrize(
    "options",
    [
        ("KEEP", "9" * 5_000),
        ("KEEP", "0"),
        ("KEEP", "\u0663"),
        ("RETENTION", "999999999999d"),
        ("RETENTION", "\u0663d"),
    ],
)
def test_bounds_of_a_keyspace(options: tuple[str, str]) -> None:
    with pytest.raises(BadRequest):
        changed(Keyspace("a"), ["POLICY", "VERSIONS", *options])


def test_the_longest_retention() -> None:
    days = RETENTION_MS_MAX // 86_400_000
    assert (
        changed(Keyspace("a"), ["POLICY", "RECORDS", "RETENTION", f"{days}d"]).retention_ms
        == RETENTION_MS_MAX
    )


def test_what_is_logged_tells_a_terminal_nothing() -> None:
    event = escape_controls(None, "", {"user": "a\r\x1b[2J\u2028\u202eb", "text": "h\u00fcbsch", "number": 1})
    assert event == {"user": "a\\r\\x1b[2J\\u2028\\u202eb", "text": "h\u00fcbsch", "number": 1}


def test_a_weight_is_read_within_its_bounds() -> None:
    assert Fields.parse("a", '{"w": 0}', "b", BadRequest).weight("w") == 0
    with pytest.raises(BadRequest, match="'w' must be 0, or a number from 0.000001 to 1000000000"):
        Fields.parse("a", '{"w": 1e10}', "b", BadRequest).weight("w")
