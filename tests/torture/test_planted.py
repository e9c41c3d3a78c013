"""The torture finds what it is there to find: a ring with one rule of replication broken does not pass,
and the same ring without that passes the same faults. `make torture-planted`."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from fortdb.torture.faults.base import Cast, Fault
from fortdb.torture.faults.links import between
from fortdb.torture.faults.network import Link, why_no_network
from fortdb.torture.faults.shim import why_no_shim
from fortdb.torture.faults.world import World
from fortdb.torture.findings import HISTORY_FILE
from fortdb.torture.history import load
from fortdb.torture.judge import judge
from fortdb.torture.linear import Verdict, until
from fortdb.torture.report import Report
from fortdb.torture.run import Options, Torture
from fortdb.torture.schedule import Step, draw
from tests.torture.planted import PLANTS

SECONDS = 120.0  # within which a planted fault is to be found; then the faults end
CLIENTS = 18  # a node that is cut off holds up those of its clients that write
TEST_SECONDS_MAX = 900  # with what it takes to start, to mend and to judge, and for a broken ring not to mend
SURVIVED_SECONDS = 60.0  # through which the ring without one is to come
KILLS_SEED = 1  # of schedules in which kills often strike leaders
CLOCKS_SEED = 3  # and clocks are put forward soon, by more than a retention
WHOLE_S_MAX = OTHERS_LEAD_S_MAX = 20.0  # how long each takes depends on the machine
OTHERS_WRITE_S = 3.0  # for clients to write by the next leaders, and to read by the former one
NO_STORE_S = 6.0  # a link that was cut takes a while to come back
LOOK_EVERY_S = 5.0
IN_FLIGHT_S = 9.0  # a call takes less, and stands in the history then


class Deposed(Fault):
    """A node that is cut off from the others and from etcd, while clients still reach it, until others lead what
    it led; then it meets the others again before it can learn from etcd that they do."""

    name = "deposed"

    def __init__(self, node: str, others: Sequence[str], members: Sequence[str]) -> None:
        self._node = node
        self._from_others = between([node], others, Link(up=False))
        self._from_store = between([node], members, Link(up=False))

    def begin(self, world: World) -> None:
        world.wait(world.is_healthy, WHOLE_S_MAX)
        world.add_rule(self, {**self._from_others, **self._from_store})
        if not world.wait(lambda: self._is_over(world), OTHERS_LEAD_S_MAX):
            world.say(f"nobody took over from {self._node}")
        world.ending.wait(OTHERS_WRITE_S)
        world.add_rule(self, self._from_store)
        world.ending.wait(NO_STORE_S)
        world.remove_rule(self)

    def end(self, world: World) -> None:
        """It is over already: the next one may be due."""

    def describe(self) -> str:
        return f"{self._node} cut off until others lead"

    def _is_over(self, world: World) -> bool:
        status = world.status()
        return status is not None and all(
            partition.leader not in (None, self._node) for partition in status.partitions
        )


def deposed_leaders(cast: Cast) -> list[Step]:
    """Each node in turn, one as soon as the one before is back."""
    steps = []
    for turn in range(int(SECONDS / NO_STORE_S)):
        node, at_s = cast.nodes[turn % len(cast.nodes)], 3 + turn * NO_STORE_S
        others = [name for name in cast.nodes if name != node]
        steps.append(Step(at_s, at_s, Deposed(node, others, cast.members)))
    return steps


def kills(cast: Cast) -> list[Step]:
    return draw(KILLS_SEED, SECONDS, ["kill", "pause"], cast)


def clocks(cast: Cast) -> list[Step]:
    if (reason := why_no_shim()) is not None:
        pytest.skip(reason)
    return draw(CLOCKS_SEED, SECONDS, ["clock"], cast)


SCHEDULES = {
    "acknowledge-early": deposed_leaders,
    "read-after-lease": deposed_leaders,
    "truncate-by-commit": kills,
    "skip-epoch-check": deposed_leaders,
    "prune-early": kills,
    "retain-by-the-wall": clocks,
}


class Watch:
    """Judges in another process what is known by now, again and again, so that a torture can end when it has
    found something. The verdict is made of the whole history all the same."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._judges = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._look: Future[bool] | None = None
        self._look_again_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._judges.shutdown(cancel_futures=True)

    def has_found(self) -> bool:
        if self._look is not None and self._look.done():
            if self._look.result():
                return True
            self._look, self._look_again_s = None, time.monotonic() + LOOK_EVERY_S
        if self._look is None and time.monotonic() >= self._look_again_s:
            moment_ns = time.monotonic_ns() - int(IN_FLIGHT_S * 1e9)
            self._look = self._judges.submit(is_violated, self._history, moment_ns)
        return False


def is_violated(history: Path, moment_ns: int) -> bool:
    """Whether what was known at a moment cannot be."""
    operations, _ = load(history)
    return judge(until(operations, moment_ns)).verdict is Verdict.VIOLATED


def tortured(directory: Path, plant: str | None, schedule: Callable[[Cast], list[Step]]) -> Report:
    if plant is None:
        options = Options(directory, 0, SURVIVED_SECONDS)
    else:
        program = ("env", "FORTDB_NATIVE=0", sys.executable, "-m", "tests.torture.planted", plant)
        options = Options(directory, 0, SECONDS, clients=CLIENTS, program=program)
    with Watch(directory / HISTORY_FILE) as watch:
        is_enough = watch.has_found if plant is not None else lambda: False
        findings = Torture(options, print, lambda glance: None, schedule, is_enough).run()
    operations, events = load(directory / HISTORY_FILE)
    report = Report(findings, judge(operations), operations, events)
    print(report.headline, *report.problems, sep="\n")
    return report


@pytest.fixture(autouse=True)
def network() -> None:
    if (reason := why_no_network()) is not None:
        pytest.skip(reason)


@pytest.mark.torture
@pytest.mark.timeout(TEST_SECONDS_MAX)
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_planted_fault_is_found(tmp_path: Path, plant: str) -> None:
    """Within two minutes: whether a fault meets the moment that matters is chance, on a busy machine most."""
    assert tortured(tmp_path / "run", plant, SCHEDULES[plant]).verdict is Verdict.VIOLATED


@pytest.mark.torture
@pytest.mark.timeout(TEST_SECONDS_MAX)
@pytest.mark.parametrize("schedule", [deposed_leaders, kills, clocks])
def test_without_it_the_same_faults_are_survived(
    tmp_path: Path, schedule: Callable[[Cast], list[Step]]
) -> None:
    assert tortured(tmp_path / "run", None, schedule).verdict is Verdict.LINEARIZABLE
