"""The judgement of WORM records: what may become of them when, and what never."""

from __future__ import annotations

import random

import pytest

from fortdb.torture.history import Kind, Operation, Outcome, Value
from fortdb.torture.judge import judge
from fortdb.torture.linear import Verdict
from fortdb.torture.sorts import Sort
from fortdb.torture.worm import fault_of_protected

KEPT_MS = 1_000
MODE = "governance"


def call(
    kind: Kind, moments: tuple[int, int], result: Value, *arguments: Value, outcome: str = "ok"
) -> Operation:
    """Moments are in milliseconds."""
    began, ended = (moment * 1_000_000 for moment in moments)
    return Operation(1, kind, "t/{g0}.0", arguments, began, ended, Outcome(outcome), result, "router-1")


def keep(
    began: int, ended: int, value: str, told: str | None, outcome: str = "ok", mode: str = MODE
) -> Operation:
    return call(Kind.KEEP, (began, ended), told, value, KEPT_MS, mode, outcome=outcome)


def read(began: int, ended: int, shown: str | None) -> Operation:
    return call(Kind.READ, (began, ended), shown)


def remove(
    began: int, ended: int, found: bool | None, record: str = "5-0", bypass: bool = False, outcome: str = "ok"
) -> Operation:
    return call(Kind.REMOVE, (began, ended), found, record, bypass, outcome=outcome)


def hold(began: int, ended: int, name: str = "case", found: bool = True, outcome: str = "ok") -> Operation:
    return call(Kind.HOLD, (began, ended), found, "5-0", name, outcome=outcome)


def release(began: int, ended: int, name: str = "case", outcome: str = "ok") -> Operation:
    return call(Kind.RELEASE, (began, ended), True, "5-0", name, outcome=outcome)


def retain(began: int, ended: int, more_ms: int, outcome: str = "ok") -> Operation:
    return call(Kind.RETAIN, (began, ended), True, "5-0", more_ms, outcome=outcome)


def whole(kind: Kind, result: bool | None, outcome: str = "ok") -> Operation:
    return call(kind, (100, 110), result, *(["z"] if kind is Kind.WRITE else []), outcome=outcome)


A, B = keep(0, 10, "a", "5-0"), keep(20, 30, "b", "5-1")
IN_COMPLIANCE = keep(0, 10, "a", "5-0", mode="compliance")
BOTH = "5-0 a,5-1 b"
X_UNKNOWN = keep(40, 50, "x", None, "unknown")


@pytest.mark.parametrize(
    "calls",
    [
        [A, B, read(40, 50, BOTH)],
        [read(0, 15, "5-0 a"), A, read(5, 6, None), B, read(25, 26, "5-0 a")],
        # Retentions pass, at any time after that; a slack for the clocks.
        [A, B, read(40, 50, BOTH), read(990, 1000, "5-1 b"), read(1100, 1101, None)],
        [A, B, read(40, 50, BOTH), read(99_000, 99_001, BOTH)],
        [A, read(940, 951, None)],
        # Who may remove a record, or may have.
        [A, remove(40, 50, None, outcome="failed"), read(60, 70, "5-0 a"), remove(1100, 1110, True)],
        [A, remove(40, 50, True, bypass=True), read(60, 70, None), remove(80, 90, False)],
        [A, remove(40, 50, None, bypass=True, outcome="unknown"), read(60, 70, "5-0 a"), read(80, 90, None)],
        [IN_COMPLIANCE, remove(40, 50, None, bypass=True, outcome="failed"), read(60, 70, "5-0 a")],
        # Holds and longer retentions, while they last.
        [A, hold(40, 50), read(2000, 2001, "5-0 a"), release(2010, 2020), read(2015, 2016, None)],
        [A, hold(40, 50), release(60, 70), remove(65, 75, True, bypass=True)],
        [A, hold(40, 50, outcome="unknown"), read(1100, 1101, None)],
        [A, hold(40, 50), release(60, 70, outcome="unknown"), read(1100, 1101, None)],
        [A, retain(40, 50, 2000), read(2900, 2901, "5-0 a"), read(3000, 3001, None)],
        [A, retain(40, 50, 2000, outcome="unknown"), read(1100, 1101, None)],
        [A, retain(40, 50, -2000, outcome="failed"), read(60, 70, "5-0 a")],
        # Unknown and refused ones.
        [A, X_UNKNOWN, read(60, 70, "5-0 a"), read(80, 90, "5-0 a,5-9 x")],
        [A, keep(20, 30, "y", None, "failed"), read(60, 70, "5-0 a")],
        [
            A,
            whole(Kind.WRITE, None, "failed"),
            whole(Kind.DELETE, False),
            whole(Kind.DELETE, None, "unknown"),
        ],
    ],
)
def test_what_can_be(calls: list[Operation]) -> None:
    assert fault_of_protected(calls) is None
    judgement = judge(calls)
    assert judgement.violations == () and judgement.keys_of == {"WORM records": 1}


@pytest.mark.parametrize(
    ("calls", "sort"),
    [
        # gone early
        ([A, B, read(40, 50, "5-0 a")], Sort.PROTECTED),
        ([A, read(900, 910, None)], Sort.PROTECTED),
        ([A, X_UNKNOWN, read(60, 70, "5-0 a,5-9 x"), read(80, 90, "5-0 a")], Sort.PROTECTED),
        ([keep(0, 60, "a", "5-0"), B, read(40, 50, "5-1 b")], Sort.PROTECTED),
        ([A, remove(40, 50, True)], Sort.PROTECTED),
        ([A, remove(40, 50, None, outcome="failed"), read(60, 70, None)], Sort.PROTECTED),
        ([A, remove(40, 50, None, outcome="unknown"), read(60, 70, None)], Sort.PROTECTED),
        ([A, remove(40, 50, False)], Sort.PROTECTED),
        ([A, hold(40, 50, found=False)], Sort.PROTECTED),
        ([IN_COMPLIANCE, remove(40, 50, True, bypass=True)], Sort.PROTECTED),
        (
            [IN_COMPLIANCE, remove(40, 50, None, bypass=True, outcome="unknown"), read(60, 70, None)],
            Sort.PROTECTED,
        ),
        # held, or kept longer
        ([A, hold(40, 50), read(2000, 2001, None)], Sort.PROTECTED),
        ([A, hold(40, 50), remove(60, 70, True, bypass=True)], Sort.PROTECTED),
        ([A, hold(40, 50), remove(2000, 2010, True)], Sort.PROTECTED),
        ([A, hold(40, 50), hold(40, 50, "2"), release(60, 70, "2"), read(2000, 2001, None)], Sort.PROTECTED),
        ([A, hold(40, 50), release(60, 70, outcome="failed"), read(2000, 2001, None)], Sort.PROTECTED),
        ([A, retain(40, 50, 2000), read(2900, 2901, None)], Sort.PROTECTED),
        ([A, retain(40, 50, 2000), remove(2900, 2901, True)], Sort.PROTECTED),
        ([A, retain(40, 50, -2000)], Sort.PROTECTED),
        # changed
        ([A, B, read(40, 50, "5-0 z,5-1 b")], Sort.PROTECTED),
        ([A, B, read(40, 50, "5-0 b,5-1 a")], Sort.PROTECTED),
        ([A, B, read(40, 50, BOTH), read(60, 70, "5-0 a,5-2 b")], Sort.ORDER),
        ([A, whole(Kind.WRITE, True)], Sort.PROTECTED),
        ([A, whole(Kind.DELETE, True)], Sort.PROTECTED),
        # what nobody added, twice, out of order
        ([A, keep(20, 30, "y", None, "failed"), read(40, 50, "5-0 a,5-9 y")], Sort.REFUSED),
        ([A, read(40, 50, "5-0 a,5-9 z")], Sort.REFUSED),
        ([A, B, read(40, 50, BOTH + ",5-9 a")], Sort.TWICE),
        ([A, B, read(40, 50, "5-1 b,5-0 a")], Sort.ORDER),
        ([A, keep(20, 30, "b", "4-0")], Sort.ORDER),
        # back again
        ([A, remove(40, 50, True, bypass=True), read(60, 70, "5-0 a")], Sort.BACK),
        ([A, remove(40, 50, True, bypass=True), remove(60, 70, True, bypass=True)], Sort.BACK),
        ([A, read(1100, 1110, None), read(1200, 1210, "5-0 a")], Sort.BACK),
        ([A, remove(1100, 1110, False), hold(1200, 1210)], Sort.BACK),
    ],
)
def test_what_cannot_be(calls: list[Operation], sort: Sort) -> None:
    for seed in range(5):
        random.Random(seed).shuffle(calls)
        fault = fault_of_protected(calls)
        assert fault is not None and fault.sort is sort, fault
    judgement = judge(calls)
    assert judgement.verdict is Verdict.VIOLATED
    assert judgement.violations[0].sentence.startswith("t/{g0}.0: ")
