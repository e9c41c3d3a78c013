"""The torture finds what it is there to find: a ring with one rule of replication broken does not pass,
and the same ring without that passes the same faults. `make torture-planted`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fortdb.local.place import HERE
from fortdb.torture.faults.base import Cast, Fault, listed
from fortdb.torture.faults.links import between
from fortdb.torture.faults.network import Link, why_no_network
from fortdb.torture.faults.world import World
from fortdb.torture.findings import HISTORY_FILE
from fortdb.torture.history import load
from fortdb.torture.judge import judge
from fortdb.torture.linear import Verdict
from fortdb.torture.report import Report
from fortdb.torture.run import Options, Torture
from fortdb.torture.schedule import Step, draw
from tests.torture.planted import PLANTS

SECONDS = 60.0
KILLS_SEED = 1  # of schedules in which kills often strike leaders
TURN_S = 13.0  # for one node: to be cut off, to come back, and to be well again
ANOTHER_LEADS_S = 4.5  # two leases: the others have elected, waited out their promises and taken writes
NO_STORE_S = 9.0  # a link that was cut takes a while to come back


class Cut(Fault):
    """A node that is cut off."""

    name = "cut"

    def __init__(self, node: str, others: Sequence[str], seconds: float) -> None:
        self._links = between([node], others, Link(up=False))
        self._text = f"{node} cut off from {listed(others)}"
        self.seconds = seconds

    def begin(self, world: World) -> None:
        world.add_rule(self, self._links)

    def end(self, world: World) -> None:
        world.remove_rule(self)

    def describe(self) -> str:
        return self._text


def deposed_leaders(cast: Cast) -> list[Step]:
    """Each node in turn is cut off from the others and from etcd, while clients still reach it; it meets the
    others again before it can learn from etcd that another leads."""
    steps = []
    for turn in range(int((SECONDS - 5) / TURN_S)):
        node, starts_s = cast.nodes[turn % len(cast.nodes)], 3 + turn * TURN_S
        others = [name for name in cast.nodes if name != node]
        for whom, seconds in ((others, ANOTHER_LEADS_S), (cast.members, NO_STORE_S)):
            steps.append(Step(starts_s, starts_s + seconds, Cut(node, whom, seconds)))
    return steps


def kills(cast: Cast) -> list[Step]:
    return draw(KILLS_SEED, SECONDS, ["kill", "pause"], cast)


SCHEDULES = {
    "acknowledge-early": deposed_leaders,
    "read-after-lease": deposed_leaders,
    "truncate-by-commit": kills,
    "skip-epoch-check": deposed_leaders,
}


def tortured(directory: Path, plant: str | None, schedule: Callable[[Cast], list[Step]]) -> Report:
    program = HERE.program if plant is None else (sys.executable, "-m", "tests.torture.planted", plant)
    options = Options(directory, 0, SECONDS, program=program)
    findings = Torture(options, print, lambda glance: None, schedule).run()
    operations, events = load(directory / HISTORY_FILE)
    report = Report(findings, judge(operations), operations, events)
    print(report.headline, *report.problems, sep="\n")
    return report


@pytest.fixture(autouse=True)
def network() -> None:
    if (reason := why_no_network()) is not None:
        pytest.skip(reason)


@pytest.mark.torture
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_planted_fault_is_found(tmp_path: Path, plant: str) -> None:
    """Within two minutes: whether a fault meets the moment that matters is chance, on a busy machine most."""
    verdicts = (tortured(tmp_path / str(turn), plant, SCHEDULES[plant]).verdict for turn in range(2))
    assert Verdict.VIOLATED in verdicts


@pytest.mark.torture
@pytest.mark.parametrize("schedule", [deposed_leaders, kills])
def test_without_it_the_same_faults_are_survived(
    tmp_path: Path, schedule: Callable[[Cast], list[Step]]
) -> None:
    assert tortured(tmp_path, None, schedule).verdict is Verdict.LINEARIZABLE
