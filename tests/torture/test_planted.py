"""The torture finds what it is there to find: a ring with one rule of replication broken does not pass,
and the same ring without that passes the same faults. `make torture-planted`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fortdb.local.place import HERE
from fortdb.torture.faults.network import why_no_network
from fortdb.torture.findings import HISTORY_FILE
from fortdb.torture.history import load
from fortdb.torture.judge import judge
from fortdb.torture.linear import Verdict
from fortdb.torture.report import Report
from fortdb.torture.run import Options, Torture
from tests.torture.planted import PLANTS

# Seeds whose partitions often cut one node off from the others and from etcd, for longer than its lease,
# while clients still reach it; and whose kills often strike leaders.
SCHEDULES: dict[str, tuple[tuple[str, ...], int]] = {
    "acknowledge-early": (("partition",), 91),
    "read-after-lease": (("partition",), 91),
    "truncate-by-commit": (("kill", "pause"), 1),
    "skip-epoch-check": (("partition",), 91),
}
SECONDS = 60.0


def tortured(directory: Path, plant: str | None, faults: tuple[str, ...], seed: int) -> Report:
    program = HERE.program if plant is None else (sys.executable, "-m", "tests.torture.planted", plant)
    options = Options(directory, seed, SECONDS, faults=faults, program=program)
    findings = Torture(options, print, lambda glance: None).run()
    operations, events = load(directory / HISTORY_FILE)
    report = Report(findings, judge(operations, lambda done, keys: None), operations, events)
    print(report.headline, *report.problems, sep="\n")
    return report


@pytest.fixture(autouse=True)
def network() -> None:
    if (reason := why_no_network()) is not None:
        pytest.skip(reason)


@pytest.mark.torture
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_planted_fault_is_found(tmp_path: Path, plant: str) -> None:
    assert tortured(tmp_path, plant, *SCHEDULES[plant]).verdict is Verdict.VIOLATED


@pytest.mark.torture
@pytest.mark.parametrize(("faults", "seed"), sorted(set(SCHEDULES.values())))
def test_without_it_the_same_faults_are_survived(tmp_path: Path, faults: tuple[str, ...], seed: int) -> None:
    assert tortured(tmp_path, None, faults, seed).verdict is Verdict.LINEARIZABLE
