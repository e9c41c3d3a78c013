"""Placement as properties: coverage, determinism, balance, spread over zones, and moving the least."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fortdb.errors import LayoutError
from fortdb.model import TOKEN_SPACE, Layout, NodeSpec, Partition
from fortdb.ring.placement import TOLERANCE, fair_loads, first_layout, loads, next_layout, place
from fortdb.ring.tokens import TokenMap, even_tokens, token_of

NodesByName = dict[str, NodeSpec]


def nodes_of(zones: list[int]) -> NodesByName:
    return {f"node-{number}": NodeSpec(f"zone-{zone}") for number, zone in enumerate(zones)}


nodes = st.lists(st.integers(0, 3), min_size=3, max_size=9).map(nodes_of)


@st.composite
def uneven_layouts(draw: st.DrawFn) -> Layout:
    """A layout without replicas whose partitions have random tokens."""
    members = draw(nodes)
    tokens = sorted(draw(st.sets(st.integers(0, TOKEN_SPACE - 1), min_size=8, max_size=60)))
    partitions = tuple(Partition(n, f"p-{n}", token, ()) for n, token in enumerate(tokens))
    replication = draw(st.integers(1, 3))
    return Layout(0, replication, 1, members, partitions)


def widest(layout: Layout) -> float:
    tokens = TokenMap(layout)
    return max(tokens.share(partition) for partition in layout.partitions)


def assert_well_placed(layout: Layout) -> None:
    """Distinct nodes, and as many zones as can be."""
    zones = {spec.zone for spec in layout.nodes.values()}
    for partition in layout.partitions:
        assert len(set(partition.replicas)) == layout.replication
        held = Counter(layout.nodes[node].zone for node in partition.replicas)
        assert len(held) == min(len(zones), layout.replication)


def assert_balanced(layout: Layout) -> None:
    """Within 5% of what is fair, or within one partition of it where they are too wide for that."""
    fair, held = fair_loads(layout), loads(layout)
    for node, load in held.items():
        allowed = max(TOLERANCE * fair[node], widest(layout))
        assert abs(load - fair[node]) <= allowed + 1e-9, (node, load, fair[node], widest(layout))


def moved(before: Layout, after: Layout) -> float:
    """The share of the keyspace that is copied."""
    tokens = TokenMap(after)
    former = {partition.name: set(partition.replicas) for partition in before.partitions}
    return sum(tokens.share(p) * len(set(p.replicas) - former[p.name]) for p in after.partitions)


# --- tokens -----------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, TOKEN_SPACE - 1), min_size=1, max_size=40), st.integers(0, TOKEN_SPACE - 1))
def test_every_hash_has_one_partition_whose_token_is_its_lowest(tokens: set[int], probe: int) -> None:
    partitions = tuple(Partition(n, f"p-{n}", token, ("a",)) for n, token in enumerate(sorted(tokens)))
    ring = TokenMap(Layout(1, 1, 1, {"a": NodeSpec("z")}, partitions))
    holders = [p for p in partitions if any(start <= probe < end for start, end in ring.ranges(p))]
    assert holders == [ring.partition_of(probe)]
    below = [p for p in partitions if p.token <= probe]
    assert holders[0] == (below or list(partitions))[-1]
    assert sum(ring.share(p) for p in partitions) == pytest.approx(1)
    for partition in partitions:
        assert ring.partition_of(partition.token) == partition
        if partition.token:
            assert len(partitions) == 1 or ring.partition_of(partition.token - 1) != partition


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_tag_alone_decides(one: bytes, other: bytes) -> None:
    assume(b"{" not in one + other)
    assert token_of(one + b"{tag}" + other) == token_of(b"tag")


@pytest.mark.parametrize("key", [b"{}", b"{", b"}{", b"a{}b{c}", b""])
def test_without_a_tag_the_whole_key_decides(key: bytes) -> None:
    import hashlib

    assert token_of(key) == int.from_bytes(hashlib.sha1(key).digest()[:8])


def test_even_tokens_start_at_zero() -> None:
    assert even_tokens(4) == [0, 1 << 62, 1 << 63, 3 << 62]


# --- placement --------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(nodes, st.integers(8, 64), st.integers(1, 3))
def test_a_first_layout(members: NodesByName, partitions: int, replication: int) -> None:
    layout = first_layout(members, partitions, replication, 1)
    assert layout.version == 1
    assert_well_placed(layout)
    assert_balanced(layout)


@settings(max_examples=60, deadline=None)
@given(uneven_layouts())
def test_balanced_whatever_the_widths_of_the_partitions(layout: Layout) -> None:
    placed = place(layout)
    assert_well_placed(placed)
    assert_balanced(placed)


@settings(max_examples=20, deadline=None)
@given(nodes, st.integers(0, 1 << 30))
def test_within_five_percent_where_partitions_are_fine(members: NodesByName, seed: int) -> None:
    """Widths differ a thousandfold, and no single one is more than a fortieth of a node's load."""
    draw = random.Random(seed)
    widths = [draw.uniform(0.001, 1) for _ in range(300)]
    edges, at = [], 0.0
    for width in widths:
        edges.append(int(at / sum(widths) * TOKEN_SPACE))
        at += width
    partitions = tuple(Partition(n, f"p-{n}", token, ()) for n, token in enumerate(edges))
    placed = place(Layout(0, 3, 2, members, partitions))
    fair, held = fair_loads(placed), loads(placed)
    for node in members:
        assert abs(held[node] - fair[node]) <= TOLERANCE * fair[node]


@settings(max_examples=30, deadline=None)
@given(nodes, st.integers(8, 40), st.randoms())
def test_the_same_every_time_and_in_every_order(
    members: NodesByName, partitions: int, shuffle: random.Random
) -> None:
    names = list(members)
    shuffle.shuffle(names)
    one = first_layout(members, partitions, 2, 1)
    assert first_layout({name: members[name] for name in names}, partitions, 2, 1) == one


@settings(max_examples=40, deadline=None)
@given(nodes, st.integers(12, 60), st.integers(1, 3))
def test_nothing_moves_without_a_reason(members: NodesByName, partitions: int, replication: int) -> None:
    layout = first_layout(members, partitions, replication, 1)
    assert next_layout(layout, members).partitions == layout.partitions


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(24, 64))
def test_a_new_node_is_given_its_share_and_little_else_moves(per_zone: int, partitions: int) -> None:
    members = nodes_of([zone for zone in range(3) for _ in range(per_zone)])
    layout = first_layout(members, partitions, 3, 2)
    grown = next_layout(layout, {**members, "node-new": NodeSpec("zone-0")})
    assert_well_placed(grown)
    assert_balanced(grown)
    assert moved(layout, grown) <= fair_loads(grown)["node-new"] + widest(layout) + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 3), st.integers(24, 64))
def test_what_a_removed_node_held_moves_and_little_else(per_zone: int, partitions: int) -> None:
    members = nodes_of([zone for zone in range(3) for _ in range(per_zone)])
    layout = first_layout(members, partitions, 3, 2)
    left = {name: spec for name, spec in members.items() if name != "node-0"}
    shrunk = next_layout(layout, left)
    assert_well_placed(shrunk)
    assert_balanced(shrunk)
    assert all("node-0" not in partition.replicas for partition in shrunk.partitions)
    assert moved(layout, shrunk) <= loads(layout)["node-0"] + 2 * widest(layout) + 1e-9


def test_weights_are_respected() -> None:
    members = {name: NodeSpec("zone", weight) for name, weight in (("a", 1.0), ("b", 1.0), ("c", 2.0))}
    held = loads(first_layout(members, 64, 1, 1))
    assert held["c"] == pytest.approx(2 * held["a"], rel=0.1)
    assert held["a"] == pytest.approx(held["b"], rel=0.1)


def test_a_node_of_weight_zero_holds_nothing() -> None:
    members = {**nodes_of([0, 1, 2]), "drained": NodeSpec("zone-0", 0.0)}
    assert loads(first_layout(members, 12, 3, 2))["drained"] == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 9), st.integers(2, 6))
def test_leaders_are_spread(count: int, per_node: int) -> None:
    layout = first_layout(nodes_of([n % 3 for n in range(count)]), count * per_node, 3, 2)
    led = Counter(partition.replicas[0] for partition in layout.partitions)
    assert max(led.values()) - min(led[node] for node in layout.nodes) <= 1


def test_more_replicas_stay_where_the_others_are() -> None:
    members = nodes_of([0, 1, 2, 3])
    layout = first_layout(members, 16, 2, 1)
    more = next_layout(layout, members, replication=3)
    assert_well_placed(more)
    for before, after in zip(layout.partitions, more.partitions, strict=True):
        assert set(before.replicas) < set(after.replicas)


@pytest.mark.parametrize(
    ("partitions", "replication", "min_in_sync", "says"),
    [
        (0, 1, 1, "partitions must be from 1"),
        (5000, 1, 1, "partitions must be from 1"),
        (8, 4, 1, "replication is 4, but there are 3 nodes"),
        (8, 0, 1, "replication is 0"),
        (8, 2, 3, "min_in_sync must be from 1 to the replication, 2"),
        (8, 2, 0, "min_in_sync"),
    ],
)
def test_what_cannot_be_is_said(partitions: int, replication: int, min_in_sync: int, says: str) -> None:
    with pytest.raises(LayoutError, match=says):
        first_layout(nodes_of([0, 1, 2]), partitions, replication, min_in_sync)


def test_a_layout_without_nodes() -> None:
    with pytest.raises(LayoutError, match="at least one node"):
        place(replace(first_layout(nodes_of([0]), 4, 1, 1), nodes={}))
