"""The benchmark on real targets, as short as it can be: every case once, every answer checked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from bench.load import Generator
from bench.measure import Bench
from bench.plan import SHORT, TARGETS, chosen
from bench.processes import BenchError
from bench.targets import TITLES, Targets, missing

ROOT = Path(__file__).parents[2]


CASES = ["write-c50-p1-100B", "read-c50-p16-100B", "mixed-c50-p1-100B"]


def test_the_shortest_benchmark_has_every_part(tmp_path: Path) -> None:
    if lacking := missing(TITLES):
        pytest.skip(f"cannot be measured beside: {', '.join(lacking.values())}")
    only = [word for name in (*CASES, "control", "idle") for word in ("--only", name)]
    command = [sys.executable, "-m", "bench", "--rounds", "1", "--seconds", "0.1", *only]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path), "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert sorted(case["name"] for case in found["cases"]) == sorted(CASES)
    for case in found["cases"]:
        assert case["targets"].keys() == set(TARGETS)
        assert all(each["requests_per_s"] > 0 for rounds in case["targets"].values() for each in rounds)
    assert found["idle_cores_per_process"] and found["control"]
    assert not list(tmp_path.glob("run-*")), "files of a run go with it"


def test_starts_are_timed_after_a_stop_and_after_a_crash(tmp_path: Path) -> None:
    if lacking := missing(["redis-always"]):
        pytest.skip(f"cannot be measured beside: {', '.join(lacking.values())}")
    plan = replace(chosen(SHORT, ["starting"], ["fortdb", "redis-always"], 1, 0.1), starting_keys=(100,))
    targets, generator = Targets(tmp_path), Generator(1)
    try:
        found = Bench(plan, targets, generator, lambda step: None).starting()
    finally:
        targets.end()
        generator.close()
    assert found.keys() == {"fortdb", "redis-always"}
    for start in (each for starts in found.values() for each in starts):
        assert start.after_stop_s > 0 and start.after_kill_s > 0 and start.memory_bytes > 0
    assert not list(tmp_path.iterdir())


def test_a_wrong_answer_fails_the_benchmark(tmp_path: Path) -> None:
    if lacking := missing(["redis-no"]):
        pytest.skip(f"cannot be measured: {', '.join(lacking.values())}")
    plan = chosen(SHORT, ["write-c50-p1-100B"], ["redis-no"], 1, 0.1)
    targets, generator = Targets(tmp_path), Generator(1)
    try:
        bench = Bench(plan, targets, generator, lambda step: None)
        assert bench.case(plan.cases[0])["redis-no"][0].requests_per_s > 0
        endpoint = targets.get("redis-no").endpoints(range(1))[0]
        with redis.Redis(endpoint.host, endpoint.port) as client:
            client.config_set("maxmemory", "1mb")
        with pytest.raises(BenchError, match="OOM command not allowed"):
            bench.case(plan.cases[0])
    finally:
        targets.end()
        generator.close()
