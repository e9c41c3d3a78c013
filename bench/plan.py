"""What a run consists of: which cases, on which targets, for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import product
from typing import Literal

Workload = Literal["write", "read", "mixed"]
_WORKLOADS: tuple[Workload, ...] = ("write", "read", "mixed")
WRITE_PERCENT: dict[Workload, int] = {"write": 100, "read": 0, "mixed": 10}

TARGETS = ("fortdb", "ring", "router", "redis-always", "redis-no", "etcd", "etcd-3")
ETCD_WRITES_MAX = 5_000
"""etcd refuses more writes at one time (maxGapBetweenApplyAndCommitIndex in its server/etcdserver/v3_server.go)."""
BEYOND_MEMORY = ("fortdb-small", "redis-always", "etcd")
STARTING = ("fortdb", "router", "redis-always", "etcd")
SPEAK_RESP = ("fortdb", "router", "redis-always", "redis-no")  # and hold all keys at one port


@dataclass(frozen=True, slots=True)
class Case:
    """One load. `beyond_memory`: on data larger than the cache of `fortdb-small`, dropped from the kernel's
    page cache before each round."""

    workload: Workload
    connections: int
    pipeline: int
    value_bytes: int
    beyond_memory: bool = False

    @property
    def name(self) -> str:
        """Say `write-c50-p16-100B`."""
        where = "-beyond" if self.beyond_memory else ""
        return f"{self.workload}-c{self.connections}-p{self.pipeline}-{self.value_bytes}B{where}"

    @property
    def title(self) -> str:
        """For people."""
        doing = {"write": "writes", "read": "reads", "mixed": "reads/writes 9:1"}[self.workload]
        size = f"{self.value_bytes // 1024} KiB" if self.value_bytes >= 1024 else f"{self.value_bytes} B"
        where = ", data larger than the cache" if self.beyond_memory else ""
        return f"{doing} of {size}, {_count(self.connections, 'connection')}, pipeline {self.pipeline}{where}"

    @property
    def targets(self) -> tuple[str, ...]:
        """What it is played on."""
        if self.beyond_memory:
            return BEYOND_MEMORY
        is_too_much = self.workload == "write" and self.connections * self.pipeline > ETCD_WRITES_MAX
        return tuple(name for name in TARGETS if not (is_too_much and name.startswith("etcd")))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """A run."""

    cases: tuple[Case, ...]
    rounds: int
    seconds: float
    keys: int  # that a target holds of each size of values
    beyond_keys: int
    starting_keys: tuple[int, ...]
    idle_s: float
    control: tuple[tuple[int, int], ...]  # (connections, pipeline) to repeat with redis-benchmark
    targets: tuple[str, ...] = tuple(dict.fromkeys((*TARGETS, *BEYOND_MEMORY)))
    sections: tuple[str, ...] = field(default=("cases", "control", "idle", "starting"))


SHORT = Plan(
    cases=(
        *(Case(workload, 50, 1, 100) for workload in _WORKLOADS),
        *(Case(workload, 50, 16, 100) for workload in ("write", "read")),
        Case("read", 50, 1, 4096, True),
    ),
    rounds=3,
    seconds=0.6,
    keys=10_000,
    beyond_keys=8_000,
    starting_keys=(1, 10_000),
    idle_s=3.0,
    control=((50, 1),),
)
"""For CI: about three minutes."""

FULL = Plan(
    cases=(
        *(
            Case(workload, connections, pipeline, size)
            for size, workload, pipeline, connections in product(
                (100, 4096), _WORKLOADS, (1, 16), (1, 50, 500)
            )
        ),
        *(Case(workload, 50, 1, 4096, True) for workload in ("read", "mixed")),
    ),
    rounds=5,
    seconds=2.0,
    keys=50_000,
    beyond_keys=50_000,
    starting_keys=(1, 10_000, 100_000, 1_000_000),
    idle_s=20.0,
    control=((50, 1), (50, 16)),
)
"""More than an hour."""


def chosen(
    plan: Plan,
    only: Sequence[str],
    targets: Sequence[str],
    rounds: int | None,
    seconds: float | None,
    keys_max: int = 1 << 30,
) -> Plan:
    """The part of a plan that `only` (patterns of cases and sections) and `targets` name; all if empty."""

    def is_wanted(name: str) -> bool:
        return not only or any(fnmatch(name, pattern) for pattern in only)

    cases = tuple(case for case in plan.cases if is_wanted(case.name) or is_wanted("cases"))
    return Plan(
        cases=cases,
        rounds=rounds or plan.rounds,
        seconds=seconds or plan.seconds,
        keys=min(plan.keys, keys_max),
        beyond_keys=min(plan.beyond_keys, keys_max),
        starting_keys=tuple(count for count in plan.starting_keys if count <= keys_max),
        idle_s=plan.idle_s,
        control=plan.control,
        targets=tuple(name for name in plan.targets if not targets or name in targets),
        sections=tuple(name for name in plan.sections if (name == "cases" and cases) or is_wanted(name)),
    )
