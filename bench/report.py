"""What is told of a run: everything raw as JSON, tables as Markdown, plots as SVG."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import Round, Start
from bench.plan import ETCD_WRITES_MAX, Case, Plan
from bench.plots import bars, lines, short
from bench.statistics import growth, median, spread
from bench.targets import TITLES

_PEERS = ("redis-always", "etcd-3")
_BUSY = 0.9  # of a core: a generator that takes more may be what limits the rate

_KEYS_THAT_TELL = 100_000  # with fewer, memory is what buffers happen to hold

_METHOD = """\
Written by `{command}`; everything raw is in [results.json](results.json).

{machine}

**How.** All targets are real processes on one machine, their files on one disk, and share its cores with the
load generator: look at ratios, not at figures. Within a round every target gets the same case, one right after
the other; a figure is the median of {rounds} rounds of {seconds:g} s, a ratio the median of the rounds' ratios,
and *spread* is (greatest - least) / median of the rates. Every connection sends `pipeline` requests, waits for
all answers, and sends the next; a request's latency is that of its batch. Every answer is compared with what
must come; one wrong or missing answer ends the run with an error.

**Who.** FortDB always syncs before it acknowledges; a ring of three waits for all three disks. *Direct*: clients
ask the node that leads a key's partition. Eight partitions a node; SQLite as the coordination store, which
is not on the path of requests. Redis keeps an append-only file, synced before each answer (`always`) or by the
kernel when it likes (`no`). etcd runs with its defaults, clients at its leader, reads linearizable, spoken to in
gRPC: HTTP/2 frames by hand, one stream a request; it refuses more than {etcd_writes:,} writes at one time, so it has no
part in those. The generator is one Python program for all, with requests
built beforehand; what it takes is in the column *generator*, in cores. With more than {busy:g} (marked *) the
generator may be the limit.

**Columns.** *CPU*: microseconds of all processes of the target per request. *written*: bytes that the kernel sent to
the disk for all processes of the target, per byte of key and value stored (compactions that come later are not
in it).
"""


@dataclass
class Results:
    """What a run has found out so far."""

    plan: Plan
    machine: dict[str, str]
    command: str
    cases: list[tuple[Case, dict[str, list[Round]]]] = field(default_factory=list)
    control: dict[str, dict[str, tuple[list[Round], list[float]]]] = field(default_factory=dict)
    starting: Mapping[str, list[Start]] = field(default_factory=dict)
    idle: Mapping[str, float] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "command": self.command,
            "machine": self.machine,
            "rounds": self.plan.rounds,
            "seconds": self.plan.seconds,
            "cases": [
                {
                    **asdict(case),
                    "name": case.name,
                    "targets": {name: [r._asdict() for r in rounds] for name, rounds in targets.items()},
                }
                for case, targets in self.cases
            ],
            "control": {
                name: {
                    target: {"ours": [r._asdict() for r in ours], "redis_benchmark_requests_per_s": theirs}
                    for target, (ours, theirs) in targets.items()
                }
                for name, targets in self.control.items()
            },
            "starting": {
                name: [start._asdict() for start in starts] for name, starts in self.starting.items()
            },
            "idle_cores_per_process": dict(self.idle),
        }


def ratio(ours: Sequence[Round], theirs: Sequence[Round]) -> float:
    """How many times the rate of another target, round by round."""
    return median(a.requests_per_s / b.requests_per_s for a, b in zip(ours, theirs, strict=True))


def of(rounds: Sequence[Round], name: str) -> float:
    """The median of one measure."""
    return median(getattr(each, name) for each in rounds)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines_ = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines_) + "\n"


def case_table(case: Case, targets: Mapping[str, list[Round]]) -> str:
    """One case, a row a target."""
    peers = [peer for peer in _PEERS if peer in targets]
    rows = []
    for name, rounds in targets.items():
        generator = of(rounds, "generator_cpu")
        rows.append(
            [
                TITLES[name],
                f"{of(rounds, 'requests_per_s'):,.0f}",
                *(f"{ratio(rounds, targets[peer]):.2f}" for peer in peers),
                *(f"{of(rounds, latency):.2f}" for latency in ("p50_ms", "p99_ms", "p999_ms")),
                f"{of(rounds, 'cpu_us'):.0f}",
                f"{of(rounds, 'written'):.1f}" if case.workload != "read" else "",
                f"{generator:.2f}" + ("*" if generator > _BUSY else ""),
                f"{spread([each.requests_per_s for each in rounds]):.0%}",
            ]
        )
    header = [
        case.title,
        "requests/s",
        *(f"x {TITLES[peer]}" for peer in peers),
        *("p50 ms", "p99 ms", "p99.9 ms", "CPU us", "written", "generator", "spread"),
    ]
    return table(header, rows)


def summary(results: Results) -> str:
    """The ratios that FortDB sets itself as aims, as far as this run has them."""
    found = {case.name: targets for case, targets in results.cases}
    rows = []
    for words, name, ours, theirs, aim in (
        ("writes, pipeline 1", "write-c50-p1-100B", "fortdb", "redis-always", "1.0"),
        ("reads, pipeline 1", "read-c50-p1-100B", "fortdb", "redis-always", "1.0"),
        ("writes, pipeline 16", "write-c50-p16-100B", "fortdb", "redis-always", "0.7"),
        ("reads, pipeline 16", "read-c50-p16-100B", "fortdb", "redis-always", "0.7"),
        ("writes, pipeline 1", "write-c50-p1-100B", "ring", "etcd-3", "3.0"),
        ("writes, pipeline 1", "write-c50-p1-100B", "router", "ring", "0.7"),
        ("reads, pipeline 1", "read-c50-p1-100B", "router", "ring", "0.7"),
    ):
        targets = found.get(name, {})
        if ours in targets and theirs in targets:
            against = f"{TITLES[ours]} / {TITLES[theirs]}"
            rows.append([f"{against}: {words}", f"{ratio(targets[ours], targets[theirs]):.2f}", aim])
    return table(["50 connections, 100 B", "ratio", "aim"], rows) if rows else ""


def markdown(results: Results) -> str:
    """The report."""
    parts = [
        "# FortDB beside Redis and etcd\n",
        _METHOD.format(
            command=results.command,
            machine=table(["machine", ""], ([key, value] for key, value in results.machine.items())),
            rounds=results.plan.rounds,
            seconds=results.plan.seconds,
            busy=_BUSY,
            etcd_writes=ETCD_WRITES_MAX,
        ),
    ]
    if told := summary(results):
        parts += ["## Ratios\n", told]
    if results.cases:
        parts += ["## Requests\n", *(f"![{title}]({name}.svg)\n" for name, title in _plotted(results))]
        if any(case.beyond_memory for case, _ in results.cases):
            parts.append(
                "*Data larger than the cache*: FortDB with 8 MiB of cache and 4 MiB of memtables, the files of every "
                "target dropped from the kernel's page cache before each round, not kept out of it during the "
                "round. Redis cannot do this: all of its data is in memory, and stands here for comparison.\n"
            )
        parts += [case_table(case, targets) for case, targets in results.cases]
    if results.control:
        parts += ["## The same with redis-benchmark\n", _control_tables(results.control)]
    if results.starting:
        parts += ["## Starting\n", "![Start](start.svg)\n", _starting_table(results.starting)]
    if results.idle:
        parts += [
            "## Idle\n",
            table(
                ["with data, no clients", "share of a core, a process"],
                ([TITLES[name], f"{share:.1%}"] for name, share in results.idle.items()),
            ),
        ]
    return "\n".join(parts)


def _control_tables(control: Mapping[str, Mapping[str, tuple[list[Round], list[float]]]]) -> str:
    parts = [
        "Writes of 100 bytes, by this generator and by redis-benchmark in turn: they should agree, and if "
        "redis-benchmark is slower, its own cost is in its figures.\n"
    ]
    for name, targets in control.items():
        rows = [
            [TITLES[target], f"{of(ours, 'requests_per_s'):,.0f}", f"{median(theirs):,.0f}"]
            for target, (ours, theirs) in targets.items()
        ]
        parts.append(table([name, "requests/s", "redis-benchmark"], rows))
    return "\n".join(parts)


def _starting_table(starting: Mapping[str, list[Start]]) -> str:
    rows = []
    for name, starts in starting.items():
        per_million = growth([(start.keys, start.memory_bytes) for start in starts]) * 1e6
        tells = starts[-1].keys >= _KEYS_THAT_TELL
        for start in starts:
            rows.append(
                [
                    TITLES[name],
                    f"{start.keys:,}",
                    f"{start.after_stop_s:.2f}",
                    f"{start.after_kill_s:.2f}",
                    f"{start.memory_bytes / 2**20:.0f}",
                    f"{per_million / 2**20:.0f}" if tells and start is starts[-1] else "",
                ]
            )
    words = (
        "From starting all processes to the first answered read of the last key written. Memory is what all processes "
        "hold themselves (anonymous), right after filling; per million keys is the slope over the rows.\n\n"
    )
    return words + table(
        [
            "values of 100 B",
            "keys",
            "start after a stop, s",
            "start after kill -9, s",
            "memory MiB",
            "MiB per million keys",
        ],
        rows,
    )


def _plotted(results: Results) -> list[tuple[str, str]]:
    return [
        ("throughput", "Requests per second"),
        ("p99", "99th percentile of latency, ms"),
        ("cpu", "CPU of the target per request, microseconds"),
    ]


def _plots(results: Results) -> dict[str, str]:
    plots = {}
    shown = [(case, targets) for case, targets in results.cases if _is_shown(case)] or results.cases
    for name, title in _plotted(results):
        measure = {"throughput": "requests_per_s", "p99": "p99_ms", "cpu": "cpu_us"}[name]
        groups = {
            case.title: {target: of(rounds, measure) for target, rounds in targets.items()}
            for case, targets in shown
        }
        if groups:
            plots[f"{name}.svg"] = bars(title, groups, TITLES)
    if results.starting:
        series = {
            name: [(max(start.keys, 1), start.after_kill_s) for start in starts]
            for name, starts in results.starting.items()
        }
        plots["start.svg"] = lines(
            "Seconds from start to first answer, after kill -9", "keys", "seconds", series, TITLES
        )
    return plots


def _is_shown(case: Case) -> bool:
    """Plots show a part: small values, 50 connections."""
    return case.value_bytes == 100 and case.connections == 50


def write(results: Results, directory: Path) -> None:
    """Put everything into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results.document(), indent=1) + "\n")
    (directory / "README.md").write_text(markdown(results))
    for name, plot in _plots(results).items():
        (directory / name).write_text(plot)


def lines_of(case: Case, targets: Mapping[str, list[Round]]) -> str:
    """One line for the terminal."""
    rates = ", ".join(f"{name} {short(of(rounds, 'requests_per_s'))}" for name, rounds in targets.items())
    return f"{case.name}: {rates}"
