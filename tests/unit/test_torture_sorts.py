"""A violation is called what a person would call it."""

from __future__ import annotations

import pytest

from fortdb.torture.history import Kind, Operation, Outcome, Value
from fortdb.torture.judge import judge
from fortdb.torture.linear import Verdict
from fortdb.torture.sorts import Sort

Call = tuple[Kind, tuple[Value, ...], Value, Outcome]


def write(value: str, outcome: Outcome = Outcome.OK) -> Call:
    return Kind.WRITE, (value,), None, outcome


def read(value: Value) -> Call:
    return Kind.READ, (), value, Outcome.OK


def delete() -> Call:
    return Kind.DELETE, (), True, Outcome.OK


def add(amount: int, gives: int, outcome: Outcome = Outcome.OK) -> Call:
    return Kind.INCREMENT, (amount,), gives, outcome


def append(element: str, gives: int, outcome: Outcome = Outcome.OK) -> Call:
    return Kind.APPEND, (element + ",",), gives, outcome


def one_after_another(calls: list[Call]) -> list[Operation]:
    return [
        Operation(0, kind, "k", arguments, at * 10, at * 10 + 5, outcome, result, "router-1")
        for at, (kind, arguments, result, outcome) in enumerate(calls)
    ]


@pytest.mark.parametrize(
    ("calls", "sort"),
    [
        ([write("a"), write("b"), read("a"), read("a")], Sort.LOST),
        ([write("a"), write("b"), read("a"), read("b")], Sort.STALE),
        ([write("a"), read(None)], Sort.LOST),
        ([write("a"), delete(), read("a")], Sort.BACK),
        ([write("a"), write("b", Outcome.FAILED), read("b")], Sort.REFUSED),
        ([add(2, 2), add(3, 5), read("2")], Sort.LOST),
        ([add(2, 2), add(3, 5), read("2"), read("5")], Sort.STALE),
        ([add(2, 2), add(3, 3)], Sort.LOST),
        ([add(2, 2), add(3, 8)], Sort.TWICE),
        ([add(2, 2), add(3, 0, Outcome.FAILED), read("5")], Sort.REFUSED),
        ([append("a", 2), append("b", 4), read("a,")], Sort.LOST),
        ([append("a", 2), append("b", 4), read("a,"), read("a,b,")], Sort.STALE),
        ([append("a", 2), read("a,a,")], Sort.TWICE),
        ([append("a", 2), append("b", 0, Outcome.FAILED), read("a,b,")], Sort.REFUSED),
        ([append("a", 2), append("b", 4), read("b,a,")], Sort.ORDER),
    ],
)
def test_a_violation_has_a_name(calls: list[Call], sort: Sort) -> None:
    judgement = judge(one_after_another(calls))
    assert judgement.verdict is Verdict.VIOLATED
    assert [violation.sort for violation in judgement.violations] == [sort]
