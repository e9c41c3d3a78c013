"""What a feed must have told of a history."""

from __future__ import annotations

import pytest

from fortdb.torture.feed import faults_of_feed
from fortdb.torture.history import Kind, Operation, Outcome


def call(
    value: str,
    start: int,
    end: int,
    outcome: Outcome = Outcome.OK,
    kind: Kind = Kind.WRITE,
    result: bool = True,
) -> Operation:
    arguments = ("held", value) if kind is Kind.CAS else (value,)
    return Operation(0, kind, "k", arguments, start, end, outcome, result, "router", None)


CALLS = [
    call("a", 1, 2),
    call("b", 3, 5),
    call("c", 4, 6),
    call("d", 7, 8, Outcome.FAILED),
    call("e", 7, 9, Outcome.UNKNOWN),
    call("f", 10, 11, kind=Kind.CAS),
    call("g", 10, 11, kind=Kind.CAS, result=False),
    call("h", 12, 13, kind=Kind.ADD),
]


@pytest.mark.parametrize("seen", ["abcfh", "acbefh", "abcfhe"])
def test_what_is_right(seen: str) -> None:
    assert not list(faults_of_feed(CALLS, {"k": list(seen)}))


@pytest.mark.parametrize(("since", "missing"), [(0, 3), (3, 2), (11, 1), (13, 0)])
def test_who_began_anew_is_not_asked_for_what_was_written_before(since: int, missing: int) -> None:
    found = list(faults_of_feed(CALLS, {"k": ["b", "c"]}, since))
    assert len(found) == missing and all("did not tell" in fault for fault in found)


@pytest.mark.parametrize(("since", "is_wrong"), [(0, True), (10, True), (12, False)])
def test_who_began_anew_may_hear_late_of_what_was_written_before(since: int, is_wrong: bool) -> None:
    """A record that is held tells it again, and to this reader for the first time."""
    faults = list(faults_of_feed(CALLS[5:], {"k": ["h", "f"]}, since))
    assert is_wrong == any("told h of k before f, whose write had ended" in fault for fault in faults)


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        ("acfh", "did not tell"),
        ("abch", "did not tell"),
        ("bacfh", "before a, whose write had ended"),
        ("abcdfh", "told d of k, which was refused"),
        ("abcxfh", "told x of k, which nobody wrote"),
    ],
)
def test_what_is_wrong(seen: str, fault: str) -> None:
    (found,) = faults_of_feed(CALLS, {"k": list(seen)})
    assert fault in found
