"""What accounts may hold after transfers of which some were not answered."""

from __future__ import annotations

import pytest

from fortdb.torture.bank import Posting, judge
from fortdb.torture.history import Outcome

OPENED = {"a": 100, "b": 100}


def moved(amount: int, outcome: Outcome = Outcome.OK) -> Posting:
    return Posting(outcome, 0, 1, (("a", -amount, None), ("b", amount, None)))


COUNTED = Posting(Outcome.OK, 2, 3, (("a", 0, 95), ("b", 0, 105)))


@pytest.mark.parametrize("held", [(95, 105), (92, 108)])
def test_an_unknown_transfer_may_have_happened(held: tuple[int, int]) -> None:
    ledger = [moved(5), moved(3, Outcome.UNKNOWN), moved(7, Outcome.FAILED), COUNTED]
    assert not judge(ledger, OPENED, dict(zip("ab", held, strict=True)))


@pytest.mark.parametrize(
    ("ledger", "held", "wrong"),
    [
        ([moved(5)], (100, 100), ["a held 100 in the end; 95 ", "b held 100 in the end; 105 "]),
        ([moved(5)], (95, 100), ["b held 100 in the end; 105 "]),
        ([moved(5, Outcome.FAILED)], (95, 105), ["a held 95 ", "b held 105 "]),
        ([moved(5), moved(5)], (95, 105), ["a held 95 ", "b held 105 "]),
        (
            [moved(2, Outcome.UNKNOWN), moved(4, Outcome.UNKNOWN)],
            (97, 102),
            ["a held 97 in the end; one of 4 balances"],
        ),
    ],
    ids=["lost", "half", "refused", "one-of-two", "neither"],
)
def test_what_nothing_explains_is_told(
    ledger: list[Posting], held: tuple[int, int], wrong: list[str]
) -> None:
    found = judge(ledger, OPENED, dict(zip("ab", held, strict=True)))
    assert len(found) == len(wrong)
    assert all(sentence.startswith(start) for sentence, start in zip(found, wrong, strict=True))
