"""The torture on a ring of somebody else's: what it asks there, what it leaves out, and that it leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fortdb.client import Access, Address, ConnectionFailed
from fortdb.errors import PermissionDenied
from fortdb.local.ring import LocalRing
from fortdb.torture.findings import HISTORY_FILE, Findings
from fortdb.torture.history import Kind, Outcome, load
from fortdb.torture.judge import judge
from fortdb.torture.remote import torture_remote
from fortdb.torture.report import Report, html, text_lines
from fortdb.torture.run import Options
from tests.support.guarded import user
from tests.support.rings import ca_of, reload, running_ring, users_of

RIGHTS = ("read", "write", "scan", "admin", "govern")
OWNER = user("owner", "p-owner", commands=RIGHTS)
PLAIN = user("plain", "p-plain", commands=("read", "write"))
MAKER = user("maker", "p-maker", commands=("read", "write", "admin"))
BOUND = user("bound", "p-bound", commands=RIGHTS, keyspaces=("orders",))
OUTSIDE = user("outside", "p-outside", commands=RIGHTS, keyspaces=("default",))
READER = user("reader", "p-reader", commands=("read",))


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRing]:
    with running_ring(tmp_path_factory.mktemp("ring"), tls=True, partitions=3) as made:
        users_of(made).write_text(
            users_of(made).read_text() + OWNER + PLAIN + MAKER + BOUND + OUTSIDE + READER
        )
        reload(made)
        yield made


def tortured(ring: LocalRing, directory: Path, name: str, seconds: int = 4) -> Report:
    access = Access(name, f"p-{name}", tls=True, ca=ca_of(ring))
    options = Options(directory / "run", seed=1, seconds=seconds)
    findings = torture_remote(options, Address("127.0.0.1", ring.shape.port), access, lambda glance: None)
    assert Findings.read(options.directory) == findings
    operations, faults = load(options.directory / HISTORY_FILE)
    report = Report(
        findings, judge(operations, clients_until_ns=findings.clients_until_ns), operations, faults
    )
    assert report.problems == []
    assert report.headline.startswith("PASSED")
    return report


def is_empty(ring: LocalRing) -> bool:
    with ring.client() as client:
        return client.keyspaces() == () and client.count() == 0


@pytest.mark.chaos
def test_everything_is_asked_and_nothing_is_left(ring: LocalRing, tmp_path: Path) -> None:
    report = tortured(ring, tmp_path, "owner", seconds=10)  # for one call in three hundred is a hold
    findings = report.findings
    assert findings.left_out == {} and findings.left_behind == []
    assert findings.transactions > 10 and findings.changes > 100 and findings.receipts > 0
    assert report.judgement.keys_of.keys() == {
        *("registers", "counters", "lists"),
        *("records", "versions", "WORM records"),
    }
    assert report.judgement.calls[Kind.HOLD, Outcome.OK] > 0
    lines = "\n".join(text_lines(report))
    assert f"keys and keyspaces of the torture: {findings.keys_named}...; all were removed" in lines
    assert findings.keys_named in html(report)
    assert all(operation.key.startswith(findings.keys_named) for operation in report.operations)
    assert is_empty(ring)


@pytest.mark.chaos
def test_a_right_that_is_missing_is_named_and_the_rest_is_done(ring: LocalRing, tmp_path: Path) -> None:
    report = tortured(ring, tmp_path, "plain")
    assert report.findings.left_out.keys() == {
        *("records", "versions", "bounded versions"),
        *("WORM records in governance", "WORM records in compliance"),
    }
    assert all("(it needs admin)" in why for why in report.findings.left_out.values())
    assert report.judgement.keys_of.keys() == {"registers", "counters", "lists"}
    assert report.findings.transactions > 10 and report.findings.changes > 100
    assert "left out: versions (User plain has no permissions" in "\n".join(text_lines(report))
    assert is_empty(ring)


@pytest.mark.chaos
def test_who_may_not_govern_holds_nothing(ring: LocalRing, tmp_path: Path) -> None:
    report = tortured(ring, tmp_path, "maker")
    assert report.findings.left_out.keys() == {"holds and BYPASS", "receipts"}
    assert "(it needs govern)" in report.findings.left_out["holds and BYPASS"]
    assert "(it needs scan)" in report.findings.left_out["receipts"]
    calls = report.judgement.calls
    assert calls[Kind.KEEP, Outcome.OK] > 0
    assert (Kind.HOLD, Outcome.FAILED) not in calls and (Kind.HOLD, Outcome.OK) not in calls
    assert is_empty(ring)


@pytest.mark.chaos
def test_who_sees_no_keyspaces_tortures_what_is_outside_of_them(ring: LocalRing, tmp_path: Path) -> None:
    """Though it may make some, which are dropped again."""
    report = tortured(ring, tmp_path, "outside")
    assert len(report.findings.left_out) == 6
    assert "shows keys of any" in report.findings.left_out["change feed"]
    assert report.findings.left_out["versions"] == "No permissions to access a key"
    assert report.judgement.keys_of.keys() == {"registers", "counters", "lists"}
    assert is_empty(ring)


@pytest.mark.parametrize(
    ("name", "why"), [("reader", "needs write"), ("bound", "No permissions to access a key")]
)
def test_who_may_not_read_and_write_keys_is_told_so_at_once(
    ring: LocalRing, tmp_path: Path, name: str, why: str
) -> None:
    with pytest.raises(
        PermissionDenied, match=rf"keys of its own, as torture-\w+:.*which the user may not.*{why}"
    ):
        tortured(ring, tmp_path, name)
    assert is_empty(ring)


def test_a_ring_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    options = Options(tmp_path / "run", seed=1, seconds=5)
    with pytest.raises(ConnectionFailed):
        torture_remote(options, Address("127.0.0.1", 1), Access(), lambda glance: None)
