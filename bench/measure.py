"""Plays a plan: fills the targets, then measures them in turn, round after round.

Interleaved: within a round every target gets the same case, one right after the other, so that what else
happens on the machine meets all of them. What is told is the median of the rounds; ratios are made within
a round first, and the median is taken of those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bench import redis_benchmark
from bench.conversation import WrongAnswer
from bench.data import KEY_BYTES
from bench.load import Endpoint, Generator, Work, split
from bench.plan import SPEAK_RESP, STARTING, WRITE_PERCENT, Case, Plan
from bench.processes import BenchError, forget_pages, memory_of, usage_of
from bench.statistics import percentile
from bench.targets import Target, Targets, wait_until

_WARM_UP_S = 0.15
_FILL_CONNECTIONS = 64
_FILL_PIPELINE = 8
_FILL_CHUNK = 20_000  # keys built at once
_FILL_S_MAX = 600.0
_SETTLE_S = 2.0  # after filling, before looking at idle processes
_CONTROL_S = 1.0
_FIRST_KEY = {100: 0, 4096: 1_000_000_000}  # keys of different sizes are different keys


class Round(NamedTuple):
    """One target, one case, once. Latencies in milliseconds; CPU in microseconds per request, of all
    processes of the target; `generator_cpu` in cores; `written` in bytes sent to the disk per byte of
    key and value stored, 0 for reads."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: float
    target_cpu: float
    generator_cpu: float
    written: float


class Start(NamedTuple):
    """Seconds from starting all processes until the last key is answered, and anonymous memory, for a
    number of keys."""

    keys: int
    after_stop_s: float
    after_kill_s: float
    memory_bytes: int


Tell = Callable[[str], None]


def keys_of(value_bytes: int, count: int) -> range:
    """The keys that hold values of a size."""
    first = _FIRST_KEY.get(value_bytes, 2_000_000_000)
    return range(first, first + count)


class Bench:
    """One run. `tell` hears what is going on."""

    def __init__(self, plan: Plan, targets: Targets, generator: Generator, tell: Tell) -> None:
        self._plan = plan
        self._targets = targets
        self._generator = generator
        self._tell = tell
        self._filled: set[tuple[str, int]] = set()
        self._started: set[int] = set()

    # --- cases --------------------------------------------------------------------------------------

    def case(self, case: Case) -> dict[str, list[Round]]:
        """The rounds of every target."""
        names = [name for name in case.targets if name in self._plan.targets]
        targets = [self._ready(name) for name in names]
        keys = keys_of(case.value_bytes, self._plan.beyond_keys if case.beyond_memory else self._plan.keys)
        for target in targets:
            self._fill(target, keys, case.value_bytes)
        rounds: dict[str, list[Round]] = {name: [] for name in names}
        for number in range(self._plan.rounds):
            for target in targets:
                self._tell(f"{case.name}: round {number + 1}, {target.name}")
                if case.beyond_memory:
                    forget_pages(target.cluster.directory)
                rounds[target.name].append(self._round(target, case, target.endpoints(keys), number))
        return rounds

    def _ready(self, name: str) -> Target:
        target = self._targets.get(name)
        if id(target.cluster) not in self._started:
            self._tell(f"starting {target.title}")
            target.cluster.create()
            self._started.add(id(target.cluster))
        return target

    def _round(self, target: Target, case: Case, endpoints: tuple[Endpoint, ...], seed: int) -> Round:
        work = Work(
            target.speaks,
            endpoints,
            case.connections,
            case.pipeline,
            case.value_bytes,
            WRITE_PERCENT[case.workload],
            seed,
        )
        generator = self._generator
        try:
            generator.prepare(split(work, generator.processes))
            begin_s = time.monotonic() + _WARM_UP_S
            end_s = begin_s + self._plan.seconds
            generator.begin(begin_s, end_s)
            _sleep_until(begin_s)
            before = usage_of(target.cluster.pids())
            _sleep_until(end_s)
            used = usage_of(target.cluster.pids()).since(before)
            heard = generator.finish()
        except (WrongAnswer, FileNotFoundError) as error:
            target.cluster.check()
            raise BenchError(f"{target.title}, {case.title}: {error}") from None
        latencies = sorted(latency for each in heard for latency in each.latencies_s)
        requests = sum(each.requests for each in heard)
        stored = requests * (KEY_BYTES + case.value_bytes) * WRITE_PERCENT[case.workload] / 100
        return Round(
            requests_per_s=sum(each.requests / each.seconds for each in heard),
            p50_ms=percentile(latencies, 50) * 1000,
            p99_ms=percentile(latencies, 99) * 1000,
            p999_ms=percentile(latencies, 99.9) * 1000,
            cpu_us=used.cpu_s / requests * 1e6,
            target_cpu=used.cpu_s / self._plan.seconds,
            generator_cpu=sum(each.cpu_s / each.seconds for each in heard),
            written=used.written_bytes / stored if stored else 0.0,
        )

    def _fill(self, target: Target, keys: range, value_bytes: int) -> None:
        """Store every key, at the endpoint that is asked for it."""
        where = (str(target.cluster.directory), keys.stop)
        if where in self._filled:
            return
        self._filled.add(where)
        self._tell(f"filling {target.title} with {len(keys):,} keys of {value_bytes} bytes")
        for endpoint in target.endpoints(keys):
            for at in range(0, len(endpoint.keys), _FILL_CHUNK):
                part = Endpoint(endpoint.host, endpoint.port, endpoint.keys[at : at + _FILL_CHUNK])
                self._fill_part(target, part, value_bytes)

    def _fill_part(self, target: Target, endpoint: Endpoint, value_bytes: int) -> None:
        connections = min(_FILL_CONNECTIONS, -(-len(endpoint.keys) // _FILL_PIPELINE))
        work = Work(
            target.speaks, (endpoint,), connections, _FILL_PIPELINE, value_bytes, 100, 0, in_order=True
        )
        try:
            self._generator.prepare([work])
            now_s = time.monotonic()
            self._generator.begin(now_s, now_s + _FILL_S_MAX)
            heard = self._generator.finish()
        except WrongAnswer as error:
            target.cluster.check()
            raise BenchError(f"filling {target.title}: {error}") from None
        if heard[0].requests < len(endpoint.keys):
            raise BenchError(f"filling {target.title} took longer than {_FILL_S_MAX:.0f} s")

    # --- the rest -------------------------------------------------------------------------------------

    def control(self, connections: int, pipeline: int) -> dict[str, tuple[list[Round], list[float]]]:
        """Writes of 100 bytes by our generator and by redis-benchmark, in turn: rounds, requests a second."""
        case = Case("write", connections, pipeline, 100)
        found: dict[str, tuple[list[Round], list[float]]] = {}
        keys = keys_of(100, self._plan.keys)
        names = [name for name in SPEAK_RESP if name in self._plan.targets]
        for number in range(self._plan.rounds):
            for name in names:
                target = self._ready(name)
                self._fill(target, keys, 100)
                self._tell(f"control {case.name}: round {number + 1}, {name}")
                endpoints = target.endpoints(keys)
                ours = self._round(target, case, endpoints, number)
                theirs = redis_benchmark.run(
                    endpoints[0].port,
                    requests=max(connections * pipeline * 10, int(ours.requests_per_s * _CONTROL_S)),
                    connections=connections,
                    pipeline=pipeline,
                    keys=self._plan.keys,
                    value_bytes=100,
                )
                rounds, rates = found.setdefault(name, ([], []))
                rounds.append(ours)
                rates.append(theirs.requests_per_s)
        return found

    def idle(self) -> dict[str, float]:
        """The share of a core that one process of each idle target takes, on average."""
        names = [name for name in self._plan.targets if name not in ("router", "fortdb-small")]
        targets = [self._ready(name) for name in names]
        self._tell(f"looking at idle processes for {self._plan.idle_s:.0f} s")
        time.sleep(_SETTLE_S)
        before = {target.name: usage_of(target.cluster.pids()) for target in targets}
        time.sleep(self._plan.idle_s)
        return {
            target.name: usage_of(target.cluster.pids()).since(before[target.name]).cpu_s
            / self._plan.idle_s
            / len(target.cluster.pids())
            for target in targets
        }

    def starting(self) -> Mapping[str, list[Start]]:
        """For each target and each number of keys: how long a start takes, after a stop and after a crash."""
        names = [name for name in STARTING if name in self._plan.targets]
        found: dict[str, list[Start]] = {name: [] for name in names}
        for count in self._plan.starting_keys:
            for name in names:
                target = self._targets.get(name, place=f"-start-{count}")
                found[name].append(self._start(target, count))
                self._targets.forget(target)
        return found

    def _start(self, target: Target, count: int) -> Start:
        keys, cluster = keys_of(100, count), target.cluster
        self._tell(f"starting {target.title}")
        cluster.create()
        self._fill(target, keys, 100)
        memory_bytes = memory_of(cluster.pids())
        self._tell(f"{target.title}, {count:,} keys: a stop and a start")
        cluster.stop()
        after_stop_s = self._answers(target, keys[-1])
        self._tell(f"{target.title}, {count:,} keys: a crash and a start")
        cluster.kill()
        after_kill_s = self._answers(target, keys[-1])
        return Start(count, after_stop_s, after_kill_s, memory_bytes)

    def _answers(self, target: Target, number: int) -> float:
        start_s = time.monotonic()
        target.cluster.launch()
        try:
            wait_until(
                lambda: target.probe(number, 100), f"{target.title} to answer", target.cluster, every_s=0.01
            )
        except WrongAnswer as error:
            raise BenchError(f"{target.title} after a start: {error}") from None
        return time.monotonic() - start_s


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(0.0, moment_s - time.monotonic()))
