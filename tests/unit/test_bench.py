"""The parts of the benchmark that are values in, values out."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.conversation import Conversation, Operation, WrongAnswer
from bench.data import KEY_BYTES, key_of, value_of
from bench.grpc import GrpcBatch, GrpcConversation, message, varint
from bench.load import Endpoint, Work, split
from bench.machine import cpu_model, describe, file_system
from bench.measure import Round, Start, keys_of
from bench.plan import FULL, SHORT, Case, chosen
from bench.plots import bars, lines, nice, short
from bench.processes import BenchError, cpu_s_of, value_in
from bench.redis_benchmark import parse
from bench.report import Results, markdown, ratio, write
from bench.resp import RespConversation
from bench.statistics import growth, median, percentile, spread
from bench.targets import TITLES, missing

WRITE = Operation(b"key", b"value", True)
READ = Operation(b"key", b"value", False)


def test_every_key_has_a_value_of_its_own() -> None:
    assert len(key_of(7)) == KEY_BYTES
    assert value_of(7, 100) == value_of(7, 100) != value_of(8, 100)
    assert [len(value_of(3, size)) for size in (16, 100, 4096)] == [16, 100, 4096]
    assert not set(keys_of(100, 1000)) & set(keys_of(4096, 1000))


# --- statistics ---------------------------------------------------------------------------------------


def test_medians_and_percentiles() -> None:
    assert (median([3, 1, 2]), median([4, 1, 2, 3])) == (2, 2.5)
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, percent) for percent in (0, 50, 99, 99.9, 100)] == [1, 50, 99, 100, 100]
    assert percentile([5.0], 99) == 5.0
    assert spread([90.0, 100.0, 120.0]) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="no values"):
        median([])


def test_growth_is_the_slope() -> None:
    assert growth([(1, 5.0), (2, 7.0), (3, 9.0)]) == pytest.approx(2.0)
    assert growth([(1, 5.0), (1000, 5.0)]) == 0.0
    assert growth([(1, 5.0)]) == 0.0


def _round(rate: float) -> Round:
    return Round(rate, 1.0, 2.0, 3.0, 10.0, 0.5, 0.2, 2.5)


def test_ratios_are_made_within_rounds() -> None:
    ours, theirs = [_round(10), _round(100), _round(30)], [_round(10), _round(200), _round(60)]
    assert ratio(ours, theirs) == 0.5


# --- what the kernel and other programs say -------------------------------------------------------------


def test_cpu_is_read_past_any_name_of_a_process() -> None:
    before = ["S", "1", "1", "1", "0", "-1", "4194560", "100", "0", "0", "0"]
    stat = f"42 (a) b) {' '.join(before)} 150 50 0 0 20 0 1 0 9 0 0"
    assert cpu_s_of(stat) == pytest.approx(2.0)


def test_numbers_in_proc() -> None:
    assert value_in("rchar: 1\nwrite_bytes: 4096\n", "write_bytes") == 4096
    assert value_in("VmRSS:\t  12 kB\nRssAnon:\t     345 kB\n", "RssAnon") == 345
    with pytest.raises(BenchError, match="RssAnon"):
        value_in("VmRSS: 1 kB\n", "RssAnon")


def test_redis_benchmarks_csv() -> None:
    text = (
        '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"\n'
        '"SET key:__rand_int__ v","35587.19","0.726","0.264","0.703","0.999","1.351","3.103"\n'
    )
    control = parse(text)["SET"]
    assert (control.requests_per_s, control.p50_ms, control.p99_ms) == (35587.19, 0.703, 1.351)
    with pytest.raises(BenchError, match="Error from server: ERR no"):
        parse("Error from server: ERR no\n" + text)
    with pytest.raises(BenchError, match="not understood"):
        parse('"test","rpm"\n"SET","1"\n')


def test_a_machine_is_described_without_its_name_and_paths(tmp_path: Path) -> None:
    found = describe(tmp_path)
    assert {"CPU", "memory", "kernel", "file system", "Redis", "etcd"} <= found.keys()
    words = " ".join(found.values())
    assert socket.gethostname() not in words and str(tmp_path) not in words
    assert cpu_model("processor\t: 0\nmodel name\t: Fast One\nmodel name\t: Other\n") == "Fast One"
    mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n"
    assert file_system(mounts, Path("/tmp/x")) == "tmpfs"
    assert file_system(mounts, Path("/tmpfile")) == "ext4"


def test_what_is_missing_is_told() -> None:
    assert missing(["fortdb", "ring"]) == {}


# --- conversations ----------------------------------------------------------------------------------------


def _conversation(make: Callable[[tuple[str, int]], Conversation]) -> tuple[Conversation, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        conversation = make(server.getsockname())
        return conversation, server.accept()[0]


def test_resp_answers_are_compared_as_they_come() -> None:
    conversation, server = _conversation(RespConversation)
    with conversation.socket, server:
        conversation.begin(conversation.batch([WRITE, READ]))
        assert b"SET" in server.recv(1000)
        server.sendall(b"+OK\r\n$5\r\nva")
        assert not conversation.readable()
        server.sendall(b"lue\r\n")
        assert conversation.readable()
        conversation.begin(conversation.batch([READ]))
        server.sendall(b"$5\r\nother\r\n")
        with pytest.raises(WrongAnswer, match="other"):
            conversation.readable()


@pytest.mark.parametrize("said", [b"-ERR no\r\n", b"$-1\r\n", b"+OK\r\n+OK\r\n", b""])
def test_wrong_resp_answers_are_found(said: bytes) -> None:
    conversation, server = _conversation(RespConversation)
    with conversation.socket, server:
        conversation.begin(conversation.batch([WRITE]))
        if said:
            server.sendall(said)
        else:
            server.shutdown(socket.SHUT_WR)
        with pytest.raises(WrongAnswer):
            conversation.readable()


def _answer(stream: int, body: bytes | None) -> bytes:
    """A call's answer: headers, perhaps a message, trailers."""

    def frame(kind: int, flags: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    data = b"" if body is None else frame(0, 0, b"\0" + len(body).to_bytes(4, "big") + body)
    return frame(1, 4, b"\x88") + data + frame(1, 5, b"\x88")


def test_grpc_waits_for_every_stream_and_looks_for_the_value() -> None:
    conversation, server = _conversation(GrpcConversation)
    with conversation.socket, server:
        conversation.begin(conversation.batch([WRITE, READ]))
        server.sendall(b"\0\0\0\4\0\0\0\0\0" + _answer(3, b"...value"))
        assert not conversation.readable()
        server.sendall(_answer(1, b"header")[:12])
        assert not conversation.readable()
        server.sendall(_answer(1, b"header")[12:])
        assert conversation.readable()
        conversation.begin(conversation.batch([READ]))
        server.sendall(_answer(5, b"other"))
        with pytest.raises(WrongAnswer, match="other"):
            conversation.readable()


def test_a_grpc_call_that_failed_has_no_message() -> None:
    conversation, server = _conversation(GrpcConversation)
    with conversation.socket, server:
        conversation.begin(conversation.batch([WRITE]))
        server.sendall(_answer(1, None))
        with pytest.raises(WrongAnswer, match="trailers"):
            conversation.readable()


def test_grpc_sends_no_more_than_the_other_side_takes() -> None:
    conversation, server = _conversation(GrpcConversation)
    with conversation.socket, server:
        batch = GrpcBatch([Operation(b"key", b"v" * 30_000, True)] * 3)
        conversation.begin(batch)
        for stream in (1, 3):
            server.sendall(_answer(stream, b"header"))
        assert not conversation.readable(), "the third had no room"
        server.sendall(b"\0\0\4\x08\0\0\0\0\0" + (60_000).to_bytes(4, "big") + _answer(5, b"header"))
        assert conversation.readable()


def test_protobuf() -> None:
    assert (varint(1), varint(300)) == (b"\x01", b"\xac\x02")
    assert message(WRITE) == b"\0\0\0\0\x0c" + b"\x0a\x03key\x12\x05value"
    assert message(READ) == b"\0\0\0\0\x05" + b"\x0a\x03key"


# --- plans ----------------------------------------------------------------------------------------------


def test_connections_are_dealt_out() -> None:
    work = Work("resp", (Endpoint("h", 1, range(9)),), 5, 1, 100, 0, 3)
    assert [each.connections for each in split(work, 2)] == [3, 2]
    assert len({each.seed for each in split(work, 2)}) == 2
    assert len(split(Work("resp", work.endpoints, 1, 1, 100, 0, 3), 4)) == 1


def test_the_full_plan_has_every_combination() -> None:
    names = {case.name for case in FULL.cases}
    assert len(names) == len(FULL.cases) == 38
    assert {"write-c1-p1-100B", "mixed-c500-p16-4096B", "read-c50-p1-4096B-beyond"} <= names
    assert all(target in TITLES for case in FULL.cases for target in case.targets)


def test_a_plan_can_be_cut_down() -> None:
    plan = chosen(SHORT, ["write-*"], ["fortdb", "etcd"], 1, None)
    assert {case.workload for case in plan.cases} == {"write"}
    assert (plan.targets, plan.sections, plan.rounds) == (("fortdb", "etcd"), ("cases",), 1)
    assert chosen(SHORT, ["idle"], [], None, None).sections == ("idle",)
    assert chosen(SHORT, [], [], None, 9.0) == chosen(SHORT, ["*"], [], None, 9.0)
    assert not chosen(SHORT, ["nothing"], [], None, None).sections


# --- reports --------------------------------------------------------------------------------------------


def _results() -> Results:
    results = Results(SHORT, {"CPU": "2 x Fast One"}, "python -m bench")
    targets = {"fortdb": [_round(20), _round(30)], "redis-always": [_round(40), _round(40)]}
    results.cases = [(case, targets) for case in SHORT.cases]
    results.control = {"write-c50-p1-100B": {"fortdb": ([_round(20)], [19.0])}}
    results.starting = {"fortdb": [Start(1, 0.5, 0.6, 1 << 20), Start(1_000_000, 0.5, 0.7, 3 << 20)]}
    results.idle = {"fortdb": 0.012}
    return results


def test_a_report_has_tables_plots_and_everything_raw(tmp_path: Path) -> None:
    write(_results(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("README.md", "results.json", "throughput.svg", "p99.svg", "cpu.svg", "start.svg")
    }
    text = markdown(_results())
    assert "| FortDB, one node / Redis, appendfsync always: writes, pipeline 1 | 0.62 | 1.0 |" in text
    assert "2 x Fast One" in text and "1.2%" in text and "| 2 |" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_a_generator_at_its_limit_is_marked() -> None:
    results = _results()
    slow = Round(20, 1, 2, 3, 10, 0.5, 0.97, 0)
    results.cases = [(Case("read", 50, 1, 100), {"fortdb": [slow]})]
    assert "0.97*" in markdown(results)


def test_plots_are_xml_of_the_right_numbers() -> None:
    from xml.etree import ElementTree

    drawn = bars("Rates <b>", {"writes, 50": {"fortdb": 41_200.0, "etcd": 900.0}}, TITLES)
    words = [each.text for each in ElementTree.fromstring(drawn).iter() if each.text]
    assert {"Rates <b>", "41.2k", "900", "writes", "50"} <= set(words)
    ElementTree.fromstring(lines("t", "x", "y", {"etcd": [(1, 0.5), (1e6, 2.0)]}, TITLES))
    assert [short(number) for number in (1_500_000, 12, 0.1234)] == ["1.5M", "12", "0.123"]
    assert [nice(number) for number in (0.7, 3, 12, 0)] == [0.8, 4, 20, 1]
