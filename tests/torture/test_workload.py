"""What is noted of a call that ended with an error: a wrong "failed" is a false alarm, a wrong "unknown"
hides what the torture is there to find."""

from __future__ import annotations

import pytest

from fortdb.client.failures import ConnectionFailed
from fortdb.errors import (
    BadRequest,
    Busy,
    DiskFull,
    FortError,
    NotEnoughReplicas,
    NotLeader,
    OutcomeUnknown,
    ProtocolError,
    StorageFailed,
    Unavailable,
)
from fortdb.torture.history import Kind, Outcome
from fortdb.torture.workload import HOT_CALLS_MAX, Keys, outcome_of

CHANGES = [kind for kind in Kind if kind is not Kind.READ]


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize(
    "error", [NotLeader, NotEnoughReplicas, Unavailable, Busy, BadRequest, DiskFull, StorageFailed]
)
def test_what_says_that_it_was_not_executed_is_believed(kind: Kind, error: type[FortError]) -> None:
    assert outcome_of(kind, error("")) is Outcome.FAILED


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("error", [OutcomeUnknown, ProtocolError])
def test_time_outs_broken_connections_and_strange_answers_are_unknown(
    kind: Kind, error: type[FortError]
) -> None:
    """The client raises `OutcomeUnknown` for a connection that broke after the last byte was sent."""
    assert outcome_of(kind, error("")) is Outcome.UNKNOWN


@pytest.mark.parametrize("error", [OutcomeUnknown, ConnectionFailed, Unavailable])
def test_a_read_without_an_answer_changed_nothing(error: type[FortError]) -> None:
    assert outcome_of(Kind.READ, error("")) is Outcome.FAILED


def test_a_command_that_was_not_sent_whole_had_no_effect() -> None:
    assert outcome_of(Kind.WRITE, ConnectionFailed("")) is Outcome.FAILED


def test_a_hot_key_is_left_for_a_fresh_one() -> None:
    keys = Keys("p:", "space")
    called = [keys.hot("r1") for _ in range(2 * HOT_CALLS_MAX)]
    assert sorted(set(called)) == ["p:{r1}.0", "p:{r1}.1"]
    assert set(keys.used) == set(called)


def test_records_are_in_their_keyspace() -> None:
    keys = Keys("p:", "space")
    assert keys.hot("e0") == "space/p:{e0}.0"
    assert keys.has_records("space/p:{e0}.0") and not keys.has_records("p:{r1}.0")
