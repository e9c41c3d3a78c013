"""A seed is a schedule; and no schedule destroys more than the ring promises to survive."""

from __future__ import annotations

import pytest

from fortdb.errors import ConfigError
from fortdb.torture.faults.base import Cast, Need
from fortdb.torture.schedule import CATALOGUE, Step, choose, draw

CAST = Cast(["node-1", "node-2", "node-3"], ["router-1", "router-2"], ["etcd-1", "etcd-2", "etcd-3"], 2.0)
EVERYTHING = list(CATALOGUE)
SEEDS = range(60)


def overlapping(steps: list[Step]) -> list[tuple[Step, Step]]:
    return [
        (one, other)
        for index, one in enumerate(steps)
        for other in steps[index + 1 :]
        if one.starts_s < other.ends_s and other.starts_s < one.ends_s
    ]


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_the_same_seed_is_the_same_schedule(seed: int) -> None:
    first, second = ([step.describe() for step in draw(seed, 200, EVERYTHING, CAST)] for _ in range(2))
    assert first == second
    assert first != [step.describe() for step in draw(seed + 1, 200, EVERYTHING, CAST)]


def test_every_fault_comes_sometime_and_none_outlasts_the_torture() -> None:
    steps = [step for seed in SEEDS for step in draw(seed, 120, EVERYTHING, CAST)]
    assert {step.fault.name for step in steps} == CATALOGUE.keys()
    assert all(3 <= step.starts_s <= step.ends_s <= 120 for step in steps)


def test_nobody_is_struck_twice_at_once_and_one_replica_at_most_is_destroyed() -> None:
    together = [pair for seed in SEEDS for pair in overlapping(draw(seed, 120, EVERYTHING, CAST))]
    assert len(together) > 100
    for one, other in together:
        assert not one.fault.targets & other.fault.targets
        assert not (one.fault.destroys and other.fault.destroys)
        assert not (one.fault.destroys and other.fault.name == "layout")


def test_what_the_machine_cannot_do_is_left_out_with_the_reason() -> None:
    """But drawn: the others come at the same moments as on a machine that can do everything."""
    names, left_out = choose([], {Need.NETWORK: "no root"})
    assert names == EVERYTHING
    assert left_out["partition"] == "no root"
    assert "kill" not in left_out
    assert choose(["kill"], {Need.NETWORK: "no root"}) == (["kill"], {})


def test_an_unknown_fault_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"no fault meteor; there are kill"):
        choose(["kill", "meteor"], {})
