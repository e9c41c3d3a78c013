"""The judge of transactions, on histories whose verdict is known, and on those of a serial execution."""

from __future__ import annotations

from random import Random

import pytest

from fortdb.torture.cycles import Deed, cycles, judge
from fortdb.torture.history import Outcome

Step = tuple[str, str | tuple[str, ...]]


def deed(number: int, *steps: Step, at: tuple[int, int] = (0, 1_000), outcome: Outcome = Outcome.OK) -> Deed:
    return Deed(number, outcome, *at, steps)


def append(key: str, element: str) -> Step:
    return key, element


def read(key: str, elements: str = "") -> Step:
    return key, tuple(elements.split())


def test_what_can_be_explained_is_left_alone() -> None:
    assert judge([]) == []
    assert judge([deed(1, append("x", "1"), read("x", "1")), deed(2, read("x"), append("y", "2"))]) == []


@pytest.mark.parametrize(
    ("deeds", "words"),
    [
        ([deed(1, append("x", "1"), outcome=Outcome.FAILED), deed(2, read("x", "1"))], "was refused"),
        ([deed(1, append("x", "1"), append("x", "2")), deed(2, read("x", "1"))], "half of transaction 1"),
        ([deed(1, append("x", "1"), read("x"))], "does not end with"),
        ([deed(2, read("x", "7"))], "nobody appended 7"),
        ([deed(1, append("x", "1")), deed(2, read("x", "1 1"))], "there twice"),
        (
            [
                deed(1, append("x", "1")),
                deed(2, append("x", "2")),
                deed(3, read("x", "1 2")),
                deed(4, read("x", "2")),
            ],
            "another read it",
        ),
    ],
)
def test_what_is_wrong_by_itself(deeds: list[Deed], words: str) -> None:
    assert any(words in sentence for sentence in judge(deeds)), judge(deeds)


@pytest.mark.parametrize(
    "deeds",
    [
        # G1c: each read what the other wrote
        [deed(1, append("x", "1"), read("y", "2")), deed(2, append("y", "2"), read("x", "1"))],
        # G2, write skew: each missed what the other wrote
        [
            deed(1, append("x", "1"), read("y")),
            deed(2, append("y", "2"), read("x")),
            deed(3, read("x", "1"), read("y", "2")),
        ],
        # half of a transaction over two partitions
        [deed(1, append("x", "1"), append("y", "1")), deed(2, read("x", "1"), read("y"))],
        # a read that began after the write was answered, and missed it
        [deed(1, append("x", "1"), at=(0, 10)), deed(2, read("x"), at=(20, 30))],
        # the same, over a third one
        [
            deed(1, append("x", "1"), at=(0, 10)),
            deed(2, append("y", "2"), at=(20, 30)),
            deed(3, read("x"), read("y", "2"), at=(15, 40)),
        ],
    ],
)
def test_cycles(deeds: list[Deed]) -> None:
    (sentence,) = judge(deeds)
    assert sentence.startswith("no order of these transactions")


def test_unknown_outcomes_may_be_either() -> None:
    lost = deed(1, append("x", "1"), at=(0, 10), outcome=Outcome.UNKNOWN)
    assert judge([lost, deed(2, read("x"), at=(20, 30))]) == []
    assert judge([lost, deed(2, read("x", "1"), at=(20, 30))]) == []
    late = deed(3, read("x"), at=(40, 50))
    assert judge([lost, deed(2, read("x", "1"), at=(20, 30)), late]), "seen, and gone again"


@pytest.mark.parametrize("seed", range(30))
def test_serial_executions_pass_and_a_stale_read_does_not(seed: int) -> None:
    chance = Random(seed)
    lists: dict[str, list[str]] = {key: [] for key in "abcd"}
    deeds = []
    for number in range(1, 120):
        steps: list[Step] = []
        is_refused = chance.random() < 0.1
        before = {key: list(elements) for key, elements in lists.items()}
        for _ in range(chance.randint(1, 4)):
            key = chance.choice("abcd")
            if chance.random() < 0.5:
                lists[key].append(f"{number}.{len(steps)}")
                steps.append((key, lists[key][-1]))
            else:
                steps.append((key, tuple(lists[key])))
        outcome = Outcome.OK
        if is_refused:
            lists, outcome = before, Outcome.FAILED
            steps = [step for step in steps if isinstance(step[1], str)]
        start = number * 10 - chance.randrange(30)
        deeds.append(Deed(number, outcome, start, number * 10 + chance.randrange(1, 9), tuple(steps)))
    final = tuple((key, tuple(elements)) for key, elements in lists.items())
    deeds.append(Deed(1000, Outcome.OK, 5_000, 5_001, final))
    assert judge(deeds) == []
    key = max(lists, key=lambda one: len(lists[one]))
    stale = Deed(1001, Outcome.OK, 6_000, 6_001, ((key, tuple(lists[key][:-1])),))
    assert judge([*deeds, stale])


def test_the_shortest_cycle_of_each_part() -> None:
    edges = {1: {2, 3}, 2: {1}, 3: {4}, 4: {1, 5}, 5: {6}, 6: {5}, 7: {1}}
    assert sorted(map(sorted, cycles(edges))) == [[1, 2], [5, 6]]
