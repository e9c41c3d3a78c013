"""The judgement of keys with records: what one copy of the data can have answered, and what it cannot."""

from __future__ import annotations

import random

import pytest

from fortdb.torture.history import Kind, Operation, Outcome, Value
from fortdb.torture.judge import judge
from fortdb.torture.linear import Verdict
from fortdb.torture.records import fault_of_records
from fortdb.torture.sorts import Sort


def call(
    kind: Kind, moments: tuple[int, int], result: Value, *arguments: str, outcome: str = "ok"
) -> Operation:
    return Operation(1, kind, "t/{e0}.0", arguments, *moments, Outcome(outcome), result, "router-1")


def add(began: int, ended: int, value: str, told: str | None, outcome: str = "ok") -> Operation:
    return call(Kind.ADD, (began, ended), told, value, outcome=outcome)


def read(began: int, ended: int, shown: str | None) -> Operation:
    return call(Kind.READ, (began, ended), shown)


A, B = add(1, 2, "a", "5-0"), add(3, 4, "b", "5-1")
BOTH = "5-0 a,5-1 b"


@pytest.mark.parametrize(
    "calls",
    [
        [A, B, read(5, 6, BOTH)],
        [read(0, 9, None), A, B, read(3, 4, "5-0 a"), read(3, 4, BOTH)],
        [A, add(3, 4, "x", None, "unknown"), read(5, 6, "5-0 a"), read(7, 8, "5-0 a,6-0 x")],
        [A, add(3, 4, "x", None, "unknown"), read(5, 6, "5-0 a")],
        [A, add(3, 4, "x", None, "failed"), read(5, 6, "5-0 a")],
        [add(1, 9, "a", "5-1"), add(2, 8, "b", "5-0"), read(3, 4, "5-0 b"), read(10, 11, "5-0 b,5-1 a")],
    ],
)
def test_what_can_be(calls: list[Operation]) -> None:
    assert fault_of_records(calls) is None
    assert judge(calls).verdict is Verdict.LINEARIZABLE


@pytest.mark.parametrize(
    ("calls", "sort"),
    [
        ([A, B, read(5, 6, "5-0 a")], Sort.LOST),
        ([A, B, read(5, 6, None)], Sort.LOST),
        ([A, B, read(5, 6, "5-0 a"), read(7, 8, BOTH)], Sort.STALE),
        ([A, B, read(5, 6, "5-1 b,5-0 a")], Sort.ORDER),
        ([A, B, read(5, 6, BOTH + ",5-2 b")], Sort.TWICE),
        ([A, B, read(5, 6, BOTH + ",5-2 x")], Sort.REFUSED),
        ([A, add(3, 4, "x", None, "failed"), read(5, 6, "5-0 a,6-0 x")], Sort.REFUSED),
        ([A, B, read(1, 2, BOTH)], Sort.REFUSED),
        ([A, B, read(5, 6, "5-0 a,5-2 b")], Sort.ORDER),
        ([A, add(3, 4, "b", "5-0")], Sort.ORDER),
        ([A, add(3, 4, "b", "4-9")], Sort.ORDER),
        ([A, add(2, 9, "x", None, "unknown"), read(3, 4, "5-0 a,5-5 x"), read(5, 6, "5-0 a")], Sort.STALE),
        (
            [add(1, 9, "a", "5-0"), add(1, 9, "b", "5-1"), read(2, 3, "5-1 b"), read(10, 11, BOTH)],
            Sort.ORDER,
        ),
    ],
)
def test_what_cannot_be(calls: list[Operation], sort: Sort) -> None:
    for seed in range(5):
        random.Random(seed).shuffle(calls)
        fault = fault_of_records(calls)
        assert fault is not None and fault.sort is sort
    judgement = judge(calls)
    assert judgement.verdict is Verdict.VIOLATED
    assert judgement.violations[0].sentence.startswith("t/{e0}.0: ")
    assert judgement.keys_of == {"records": 1}
