"""What is noted of a call that ended with an error: a wrong "failed" is a false alarm, a wrong "unknown"
hides what the torture is there to find."""

from __future__ import annotations

import random
from collections import Counter

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
from fortdb.torture.caller import outcome_of
from fortdb.torture.history import READS, Kind, Outcome
from fortdb.torture.places import HOT_CALLS_MAX, SORTS, Keys, sort_of

CHANGES = [kind for kind in Kind if kind not in READS]


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


@pytest.mark.parametrize("kind", READS)
@pytest.mark.parametrize("error", [OutcomeUnknown, ConnectionFailed, Unavailable])
def test_a_read_without_an_answer_changed_nothing(kind: Kind, error: type[FortError]) -> None:
    assert outcome_of(kind, error("")) is Outcome.FAILED


def test_a_command_that_was_not_sent_whole_had_no_effect() -> None:
    assert outcome_of(Kind.WRITE, ConnectionFailed("")) is Outcome.FAILED


def test_a_hot_key_is_left_for_a_fresh_one() -> None:
    keys = Keys("p:", "space")
    called = [keys.hot("r1") for _ in range(2 * HOT_CALLS_MAX)]
    assert sorted(set(called)) == ["p:{r1}.0", "p:{r1}.1"]
    assert set(keys.used) == set(called)


def test_keys_of_a_keyspace_are_in_it() -> None:
    keys = Keys("p:", "space")
    assert keys.hot("e0") == "space/p:{e0}.0" and keys.hot("v1") == "space-versions/p:{v1}.0"
    assert sort_of("space/p:{e0}.0") == sort_of("e0") == "e"
    assert keys.used_of(["e"]) == ["space/p:{e0}.0"]


def test_the_old_sorts_have_most_of_the_calls_and_every_sort_has_some() -> None:
    """Keys that the search judges find what others do not: an order of all that happened."""
    keys, chance = Keys("p:", "space"), random.Random(0)
    drawn = Counter(sort_of(keys.draw_place(chance)) for _ in range(10_000))
    assert sum(SORTS[sort].share for sort in SORTS) == pytest.approx(1)
    assert drawn.keys() == SORTS.keys()
    assert sum(drawn[sort] for sort in "rclk") > 7_500


def test_what_the_user_may_not_do_is_not_drawn() -> None:
    keys, chance = Keys("p:", "space"), random.Random(0)
    keys.left_out = {"v", "b", "g", "d", "e"}
    assert {sort_of(keys.draw_place(chance)) for _ in range(1_000)} == set("rclk")
