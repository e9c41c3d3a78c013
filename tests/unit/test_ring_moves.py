"""Plans say what they change and fit one layout only; a partition is moved without ever being in danger."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb.errors import LayoutError
from fortdb.model import NodeSpec, PartitionRecord
from fortdb.ring.moves import next_step, plan, plan_from_json, plan_to_json, verify
from fortdb.ring.placement import first_layout, next_layout

NODES = {f"node-{number}": NodeSpec(f"zone-{number % 3}") for number in range(4)}
LAYOUT = first_layout({name: NODES[name] for name in list(NODES)[:3]}, 12, 3, 2)
GROWN = next_layout(LAYOUT, NODES)


def test_a_plan_says_what_it_changes() -> None:
    made = plan(LAYOUT, GROWN)
    before = {partition.name: partition for partition in LAYOUT.partitions}
    for move in made.moves:
        after = next(partition for partition in GROWN.partitions if partition.name == move.partition)
        assert {*before[move.partition].replicas, *move.add} - set(move.remove) == set(after.replicas)
        assert (move.leader_before, move.leader_after) == (
            before[move.partition].replicas[0],
            after.replicas[0],
        )
    assert made.share_moved == pytest.approx(sum(move.share * len(move.add) for move in made.moves))
    assert made.loads["node-3"].before == 0
    assert made.loads["node-3"].after == pytest.approx(made.loads["node-3"].fair, rel=0.06)


def test_a_plan_survives_its_file() -> None:
    for present, target in ((None, LAYOUT), (LAYOUT, GROWN)):
        base, layout = plan_from_json(plan_to_json(plan(present, target)))
        assert layout == target
        verify(base, layout, present)


def test_a_plan_for_another_layout_is_refused() -> None:
    base, layout = plan_from_json(plan_to_json(plan(LAYOUT, GROWN)))
    for present in (None, GROWN):
        with pytest.raises(LayoutError, match="make a new plan"):
            verify(base, layout, present)


def test_a_plan_that_moves_tokens_is_refused() -> None:
    first, *rest = GROWN.partitions
    changed = replace(GROWN, partitions=(replace(first, token=first.token + 1), *rest))
    with pytest.raises(LayoutError, match="stay as they are"):
        verify(LAYOUT.version, changed, LAYOUT)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("base_version",), "1", "base_version"),
        (("layout", "partitions", 0, "replicas"), ["node-0", "node-0", "node-1"], "different names"),
        (
            ("layout", "partitions", 0, "replicas"),
            ["node-0", "node-1", "node-9"],
            "node-9, which it does not name",
        ),
        (("layout", "partitions", 0, "replicas"), ["node-0"], "1 replicas, not 3"),
        (("layout", "partitions", 0, "token"), "zz", "16 hex digits"),
        (("layout", "partitions", 0, "id"), 1, "two partitions with one id"),
        (("layout", "min_in_sync"), 9, "asks for 9 in sync"),
        (("layout", "nodes", "node-0", "weight"), -1, "weight"),
        (("layout",), [], "object"),
    ],
)
def test_an_edited_plan_is_refused_by_name(place: tuple[str | int, ...], value: object, says: str) -> None:
    document = json.loads(plan_to_json(plan(LAYOUT, GROWN)))
    *path, last = place
    where = document
    for step in path:
        where = where[step]
    where[last] = value
    with pytest.raises(LayoutError, match=says):
        plan_from_json(json.dumps(document))


@pytest.mark.parametrize("document", ["", "[]", "nonsense", "{}"])
def test_what_is_no_plan_is_refused(document: str) -> None:
    with pytest.raises(LayoutError, match="plan"):
        plan_from_json(document)


names = st.sampled_from([f"n{number}" for number in range(6)])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(names, min_size=1, max_size=3, unique=True),
    st.lists(names, min_size=1, max_size=3, unique=True),
    st.data(),
)
def test_a_partition_is_never_in_danger_while_it_moves(
    present: list[str], target: list[str], data: st.DataObject
) -> None:
    """Rule 15, with nodes that die and come back, and catch up when they like."""
    min_in_sync = data.draw(st.integers(1, min(len(present), len(target))))
    record = PartitionRecord(
        "p",
        present[0],
        1,
        dict.fromkeys(present, "disk.1"),
        tuple(present),
        preferred=data.draw(st.none() | names),
    )
    everybody = sorted({*present, *target})
    for turn in range(40):
        healing = turn >= 20
        alive = [node for node in everybody if healing or data.draw(st.booleans())]
        step = next_step(record, target, alive, min_in_sync)
        if step is not None:
            gone = set(record.isr) - set(step.isr)
            assert step.leader == record.leader, "the leader is never taken away"
            assert step.leader in step.isr
            assert step.epoch == record.epoch
            if gone or set(record.replicas) - set(step.replicas):
                assert set(target) <= set(step.isr), "nobody goes before everybody has come"
                assert len(step.isr) >= min_in_sync
            record = step
            continue
        joining = [node for node in record.replicas if node not in record.isr and node in alive]
        if joining and (healing or data.draw(st.booleans())):
            record = replace(record, isr={**record.isr, joining[0]: "disk.1"})
        elif record.leader not in target and set(target) <= set(record.isr):
            record = replace(record, leader=target[0], epoch=record.epoch + 1)
    assert set(record.replicas) == set(record.isr) == set(target)
