"""What is made of a history: verdicts that say neither too much nor too little, and pictures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from fortdb.errors import BadRequest, ConfigError
from fortdb.torture.findings import Findings
from fortdb.torture.history import FaultEvent, History, Kind, Operation, Outcome, Value, load
from fortdb.torture.judge import judge
from fortdb.torture.linear import Verdict
from fortdb.torture.report import Report, fault_rows, html, silence_text, text_lines
from fortdb.torture.timeline import bands, timeline

SECOND = 1_000_000_000


def call(
    client: int, at_s: float, kind: Kind, key: str, *arguments: Value, gives: Value = None, ok: bool = True
) -> Operation:
    start = int(at_s * SECOND)
    outcome = Outcome.OK if ok else Outcome.UNKNOWN
    return Operation(client, kind, key, arguments, start, start + 1000, outcome, gives, "router-1")


GOOD = [
    call(0, 0.0, Kind.WRITE, "a", "x"),
    call(1, 0.1, Kind.READ, "a", gives="x"),
    call(0, 3.6, Kind.WRITE, "a", "y", ok=False),
    call(1, 3.7, Kind.READ, "a", gives="y"),
]
BAD = [*GOOD, call(1, 3.8, Kind.READ, "a", gives="x")]
FAULTS = [
    FaultEvent("kill", "begin", "node-1 is killed", SECOND),
    FaultEvent("kill", "end", "node-1 is killed", 3 * SECOND),
    FaultEvent("pause", "begin", "node-2 <stands still>", 2 * SECOND),
]


def report(operations: list[Operation], **findings: object) -> Report:
    return Report(Findings(seed=7, seconds=4, **findings), judge(operations), operations, FAULTS)  # type: ignore[arg-type]


def test_what_was_recorded_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    with History(file) as history:
        for operation in BAD:
            history.record(operation)
        history.record_fault(FAULTS[0])
    assert load(file) == (BAD, FAULTS[:1])
    with file.open("a") as more:
        more.write('{"client": 1, "ki')  # killed in the middle of a line
    assert load(file) == (BAD, FAULTS[:1])
    with file.open("a") as more:
        more.write("nd\n")
    with pytest.raises(BadRequest, match="line 7"):
        load(file)
    with pytest.raises(BadRequest, match="is no history"):
        load(tmp_path / "none")


def test_what_was_recorded_is_there_when_the_torture_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    history = History(file)
    history.record(BAD[0])
    assert load(file) == ([BAD[0]], [])  # nothing was closed or flushed
    history.close()


@pytest.mark.parametrize("value", ["\u2028", "\x85", "\r", "ü", "\udc80", "a\nb"])
def test_any_text_comes_back(tmp_path: Path, value: str) -> None:
    """Among them what Python takes for the end of a line, and bytes that are no UTF-8."""
    written = call(0, 0.0, Kind.WRITE, value, value)
    with History(tmp_path / "history.jsonl") as history:
        history.record(written)
    assert load(tmp_path / "history.jsonl")[0] == [written]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "sing"),
        ("outcome", "maybe"),
        ("arguments", []),
        ("arguments", 7),
        ("started_ns", "soon"),
        ("ended_ns", -1),
        ("more", 1),
    ],
)
def test_a_line_that_makes_no_sense_is_named(tmp_path: Path, field: str, value: object) -> None:
    file = tmp_path / "history.jsonl"
    with History(file) as history:
        history.record(BAD[0])
    good = file.read_text()
    file.write_text(f"{good}{json.dumps(json.loads(good) | {field: value})}\n{good}")
    with pytest.raises(BadRequest, match="line 2, is no call and no fault"):
        load(file)


@pytest.mark.parametrize("line", ["[]", "7", "", "call", '{"fault":{"phase":"begin"}}'])
def test_a_line_of_something_else_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(BadRequest, match="line 1, is no call and no fault"):
        load(file)


def test_findings_come_back(tmp_path: Path) -> None:
    Findings(violations=["x"], seed=3).write(tmp_path)
    assert Findings.read(tmp_path) == Findings(violations=["x"], seed=3)
    with pytest.raises(ConfigError, match="no torture"):
        Findings.read(tmp_path / "none")


def test_a_good_history_passes() -> None:
    good = report(GOOD)
    assert good.verdict is Verdict.LINEARIZABLE
    assert good.headline.startswith("PASSED: 4 calls (3 ok, 0 failed, 1 unknown) on 1 keys")
    assert good.problems == []
    assert good.replay == "fortdb torture --seed 7 --seconds 4"


def test_a_violation_is_told_in_words() -> None:
    bad = report(BAD)
    assert bad.verdict is Verdict.VIOLATED
    assert bad.headline.startswith("VIOLATED")
    assert "a: “read = x” of client 1 by router-1" in bad.problems[0]


def test_what_the_runner_saw_counts_too() -> None:
    assert report(GOOD, violations=["replicas differ"]).verdict is Verdict.VIOLATED
    unjudged = report(GOOD, unjudged=["the last reads failed"])
    assert unjudged.headline.startswith("NOT JUDGED")
    assert unjudged.problems == ["not judged: the last reads failed"]


def test_every_check_says_what_it_looked_at() -> None:
    told = report(GOOD, transactions=3, changes=1_234, chains=18, links=1_725, receipts=62, keys_compared=9)
    text, page = "\n".join(text_lines(told)), html(told)
    for line in (
        "transactions on several keys, all together: 3",
        "the change feed, beside what was written: 1,234 changes",
        "chains of WORM records followed to their end, and compared: 18 on all replicas, 1,725 links",
        "receipts of WORM records verified: 62",
        "replicas compared byte for byte: 9 keys",
    ):
        assert line in text and line in page
    assert "receipts" not in "\n".join(text_lines(report(GOOD)))


def test_what_is_left_on_the_ring_of_somebody_else_is_named() -> None:
    clean = report(GOOD, keys_named="torture-0a1b2c3d")
    assert clean.remains == ["keys and keyspaces of the torture: torture-0a1b2c3d...; all were removed"]
    left = report(GOOD, keys_named="torture-0a1b2c3d", left_behind=["2 WORM records"])
    assert left.verdict is Verdict.LINEARIZABLE, "what is promised was kept"
    for line in ("keys and keyspaces of the torture: torture-0a1b2c3d...", "still there: 2 WORM records"):
        assert line in "\n".join(text_lines(left)) and line in html(left)
    assert report(GOOD).remains == []


def test_nothing_read_is_nothing_proved() -> None:
    assert report([]).verdict is Verdict.UNDECIDED
    assert report(GOOD[:1]).verdict is Verdict.UNDECIDED
    assert "not judged: no call succeeded" in report([]).problems
    assert report(GOOD[:1]).problems == ["not judged: nothing was read"]


def test_silences_and_faults_are_counted() -> None:
    good = report(GOOD)
    assert [round(silence.seconds, 1) for silence in good.judgement.silences] == [3.6]
    assert "1 times longer than 1 s" in silence_text(good.judgement)
    assert "never longer" in silence_text(judge(GOOD[:2]))
    assert judge(GOOD, clients_until_ns=3 * SECOND).silences == (), "nobody asked any more"
    assert [silence.place for silence in good.judgement.place_silences] == ["a"]
    assert "Unavailability" in html(good)
    rows = {name: (count, round(seconds, 1)) for name, count, seconds in fault_rows(good)}
    assert rows == {"kill": (1, 2.0), "pause": (1, 1.7)}


def test_a_fault_without_an_end_lasts_until_the_last_moment() -> None:
    found = bands(FAULTS, 9 * SECOND)
    assert [(band.label, band.ended_ns) for band in found] == [
        ("node-1 is killed", 3 * SECOND),
        ("node-2 <stands still>", 9 * SECOND),
    ]


def test_text_and_html_say_the_same() -> None:
    for one in (report(GOOD), report(BAD), report([])):
        text, page = "\n".join(text_lines(one)), html(one)
        assert text.startswith(one.headline)
        assert one.headline in page
        assert one.replay in text
        assert one.replay in page
        assert "<stands still>" not in page


def test_a_witness_is_drawn() -> None:
    witness = judge(BAD).violations[0].witness
    assert witness is not None
    drawing = timeline(witness, FAULTS)
    assert timeline(witness, FAULTS) == drawing
    ET.fromstring(drawing)
    assert "read = x" in drawing
    assert "client 1" in drawing


LETTER = 6.3  # 0.6 of 10.5 px: what monospaced fonts take


def labels(drawing: str) -> list[tuple[float, float, float, str]]:
    """Every label as it lies: left, right, base line, text. Ticks, which are centred, are left out."""
    found = []
    for text in ET.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text"):
        if text.get("text-anchor") is None and text.get("font-size") is None:
            left, words = float(text.attrib["x"]), text.text or ""
            found.append((left, left + len(words) * LETTER, float(text.attrib["y"]), words))
    return found


def crowded() -> list[Operation]:
    """Long values, several calls of a client in one moment, unknown ones, and a stale read at the end."""
    value = "a-value-that-is-rather-long-{}".format
    calls = [call(number % 3, number / 1000, Kind.WRITE, "a", value(number)) for number in range(12)]
    lost = call(1, 0.0045, Kind.WRITE, "a", "never-heard-of-again", ok=False)
    return [*calls, lost, call(2, 0.02, Kind.READ, "a", gives=value(3))]


def test_labels_lie_inside_the_picture_and_not_on_each_other() -> None:
    faults = [
        FaultEvent("kill", phase, f"node-{number} is killed and started again", number * 2_000_000 + late)
        for number in range(8)
        for phase, late in (("begin", 0), ("end", 9_000_000))
    ]
    witness = judge(crowded()).violations[0].witness
    assert witness is not None
    lying = labels(timeline(witness, faults))
    assert all(left >= 0 and right <= 1080 for left, right, _, _ in lying)
    for number, (left, right, line, _) in enumerate(lying):
        for other_left, other_right, other_line, _ in lying[:number]:
            assert abs(line - other_line) >= 10 or right <= other_left or other_right <= left
    assert {event.detail for event in faults} <= {words for _, _, _, words in lying}
    assert str(witness.culprit) in {words for _, _, _, words in lying}
