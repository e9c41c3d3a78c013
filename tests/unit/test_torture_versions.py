"""The judgement of keys with versions: what one sequence can explain, and what it cannot."""

from __future__ import annotations

import random

import pytest

from fortdb.torture.history import Kind, Operation, Outcome, Value
from fortdb.torture.judge import judge
from fortdb.torture.linear import Verdict
from fortdb.torture.sorts import Sort
from fortdb.torture.versions import fault_of_versions


def call(
    kind: Kind, moments: tuple[int, int], result: Value, *arguments: Value, outcome: str = "ok"
) -> Operation:
    return Operation(1, kind, "t/{v0}.0", arguments, *moments, Outcome(outcome), result, "router-1")


def write(began: int, ended: int, value: str, outcome: str = "ok") -> Operation:
    return call(Kind.WRITE, (began, ended), True, value, outcome=outcome)


def swap(began: int, ended: int, held: str, value: str, swapped: bool) -> Operation:
    return call(Kind.CAS, (began, ended), swapped, held, value)


def delete(began: int, ended: int, found: bool = True, outcome: str = "ok") -> Operation:
    return call(Kind.DELETE, (began, ended), found, outcome=outcome)


def history(began: int, ended: int, shown: str | None, keep: int = 0) -> Operation:
    return call(Kind.VERSIONS, (began, ended), shown, keep)


def at(began: int, ended: int, moment: str, told: str | None) -> Operation:
    return call(Kind.AT, (began, ended), told, moment)


A, B, C = write(1, 2, "a"), write(3, 4, "b"), write(5, 6, "c")
ALL = "5-0 a,5-1 b,9-0 c"
ABC = [A, B, C]
X_UNKNOWN, X_FAILED = write(5, 6, "x", "unknown"), write(5, 6, "x", "failed")


@pytest.mark.parametrize(
    "calls",
    [
        [*ABC, history(7, 8, ALL)],
        [history(0, 0, None), A, history(2, 3, "5-0 a"), B, C, history(7, 8, ALL)],
        [A, B, X_UNKNOWN, history(7, 8, "5-0 a,5-1 b")],
        [A, B, X_UNKNOWN, history(7, 8, "5-0 a,5-1 b"), history(9, 10, "5-0 a,5-1 b,9-0 x")],
        [A, B, X_FAILED, history(7, 8, "5-0 a,5-1 b")],
        [A, B, swap(5, 6, "b", "s", True), swap(5, 7, "z", "t", False), history(8, 9, "5-0 a,5-1 b,6-0 s")],
        [A, delete(3, 4), delete(5, 6, False), C, history(7, 8, "5-0 a,5-1,9-0 c")],
        [A, delete(3, 4, outcome="unknown"), history(7, 8, "5-0 a,5-1")],
        [write(1, 9, "a"), write(2, 8, "b"), history(10, 11, "5-0 b,5-1 a")],
        # Of three, two are kept: the first may be gone, and is.
        [*ABC, history(7, 8, "5-1 b,9-0 c", 2)],
        [A, B, history(4, 5, "5-0 a,5-1 b", 2), C, history(7, 8, "5-1 b,9-0 c", 2)],
        [A, write(2, 9, "b"), write(2, 9, "c"), write(2, 9, "d"), history(10, 11, "6-0 d,7-0 b", 2)],
        [*ABC, history(7, 8, ALL), at(9, 10, "5-0", "a"), at(9, 10, "5", "b"), at(9, 10, "4", None)],
        [*ABC, history(7, 8, ALL), at(9, 10, "8-3", "b"), at(9, 10, "9-0", "c"), at(9, 10, "9-1", "z")],
        [A, delete(3, 4), C, history(7, 8, "5-0 a,5-1,9-0 c"), at(9, 10, "6", None)],
        # What two keep may have gone with a third.
        [A, B, history(4, 5, "5-0 a,5-1 b", 2), at(6, 9, "5-0", None), C, history(10, 11, "5-1 b,9-0 c", 2)],
    ],
)
def test_what_can_be(calls: list[Operation]) -> None:
    assert fault_of_versions(calls) is None
    judgement = judge([*calls])
    assert judgement.violations == () and not judgement.undecided
    assert judgement.keys_of == {"versions": 1}


@pytest.mark.parametrize(
    ("calls", "sort"),
    [
        # missing
        ([*ABC, history(7, 8, "5-0 a,9-0 c")], Sort.LOST),
        ([*ABC, history(7, 8, "5-1 b,9-0 c")], Sort.LOST),
        ([*ABC, history(7, 8, None)], Sort.LOST),
        ([*ABC, history(7, 8, "5-0 a,5-1 b"), history(9, 10, ALL)], Sort.STALE),
        ([*ABC, history(7, 8, ALL), history(9, 10, "5-0 a,9-0 c")], Sort.LOST),
        ([*ABC, history(7, 8, ALL), history(9, 10, "5-1 b,9-0 c")], Sort.LOST),
        ([A, delete(3, 4), C, history(7, 8, "5-0 a,9-0 c")], Sort.LOST),
        ([*ABC, history(7, 8, "9-0 c", 2)], Sort.LOST),
        ([*ABC, history(7, 8, "5-0 a,9-0 c", 2)], Sort.LOST),
        (
            [
                A,
                B,
                write(5, 9, "x", "unknown"),
                history(6, 7, "5-0 a,5-1 b,9-0 x"),
                history(8, 9, "5-0 a,5-1 b"),
            ],
            Sort.STALE,
        ),
        # twice
        ([*ABC, history(7, 8, ALL + ",9-1 a")], Sort.TWICE),
        ([A, delete(3, 4), C, history(7, 8, "5-0 a,5-1,5-2,9-0 c")], Sort.TWICE),
        ([A, delete(3, 4), C, history(7, 8, "5-0 a,5-1,9-0 c,9-1")], Sort.TWICE),
        (
            [A, B, C, history(7, 8, "5-0 a,5-1 b,9-0 c"), history(7, 8, "5-0 a,5-1 b,9-1 c")],
            Sort.TWICE,
        ),
        # out of order
        ([*ABC, history(7, 8, "5-1 a,5-0 b,9-0 c")], Sort.ORDER),
        ([*ABC, history(7, 8, "5-0 b,5-1 a,9-0 c")], Sort.ORDER),
        ([*ABC, history(7, 8, ALL), history(7, 9, "5-0 b,5-1 a,9-0 c")], Sort.ORDER),
        # refused, or written by nobody
        ([A, X_FAILED, history(7, 8, "5-0 a,9-0 x")], Sort.REFUSED),
        ([A, swap(5, 6, "z", "s", False), history(7, 8, "5-0 a,9-0 s")], Sort.REFUSED),
        ([A, history(7, 8, "5-0 a,9-0 z")], Sort.REFUSED),
        ([A, history(2, 3, "5-0 a,9-0 b"), write(4, 5, "b")], Sort.REFUSED),
        # more than is kept
        ([*ABC, history(7, 8, ALL, 2)], Sort.ORDER),
        # at a moment
        ([*ABC, history(7, 8, ALL), at(9, 10, "5-0", "b")], Sort.ORDER),
        ([*ABC, history(7, 8, ALL), at(9, 10, "5-0", None)], Sort.LOST),
        ([*ABC, history(7, 8, ALL), at(9, 10, "4", "a")], Sort.ORDER),
        (
            [A, B, history(4, 5, "5-0 a,5-1 b", 2), at(6, 9, "5-0", None), history(10, 11, "5-0 a,5-1 b", 2)],
            Sort.LOST,
        ),
    ],
)
def test_what_cannot_be(calls: list[Operation], sort: Sort) -> None:
    for seed in range(5):
        random.Random(seed).shuffle(calls)
        fault = fault_of_versions(calls)
        assert fault is not None and fault.sort is sort, fault
    judgement = judge(calls)
    assert judgement.verdict is Verdict.VIOLATED
    assert judgement.violations[0].sentence.startswith("t/{v0}.0: ")


def test_the_newest_version_is_what_a_read_tells() -> None:
    """That is the search's to find: a history is a read for it."""
    read = call(Kind.READ, (11, 12), "b")
    calls = [A, B, history(5, 6, "5-0 a,5-1 b"), delete(7, 8), history(9, 10, "5-0 a,5-1 b,6-0"), read]
    assert fault_of_versions(calls) is None
    (violation,) = judge(calls).violations
    assert violation.witness is not None and violation.witness.culprit == read
    assert judge(calls[:-1]).violations == ()
