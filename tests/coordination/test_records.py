"""The records' JSON: every record survives it, equal records are equal bytes, junk is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb.coordination import records
from fortdb.coordination.keys import Keys
from fortdb.coordination.store import Event, Listing, Versioned
from fortdb.errors import ConfigError, RecordError
from fortdb.limits import WEIGHT_MAX, WEIGHT_MIN
from fortdb.model import (
    Ack,
    ClusterView,
    Keyspace,
    Layout,
    NodeRecord,
    NodeSpec,
    NodeState,
    Partition,
    PartitionRecord,
    Policy,
)

KEYS = Keys("test")

names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
texts = st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable())
several_names = st.lists(names, unique=True, max_size=4).map(tuple)
weights = st.just(0.0) | st.floats(WEIGHT_MIN, WEIGHT_MAX)

partition_records = st.builds(
    PartitionRecord,
    partition=names,
    leader=st.none() | names,
    epoch=st.integers(0, 1 << 62),
    isr=st.dictionaries(names, texts, max_size=4),
    replicas=several_names,
    handover=st.booleans(),
    preferred=st.none() | names,
    revision=st.integers(1, 1 << 60),
)
node_records = st.builds(
    NodeRecord,
    name=names,
    zone=texts,
    client_address=texts,
    peer_address=texts,
    status_address=texts,
    incarnation=texts,
    state=st.sampled_from(NodeState),
    version=texts,
    reason=st.just("") | texts,
)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    tokens = sorted(draw(st.sets(st.integers(0, (1 << 64) - 1), min_size=1, max_size=6)))
    nodes = draw(st.dictionaries(names, st.builds(NodeSpec, texts, weights), min_size=1, max_size=4))
    replication = draw(st.integers(1, len(nodes)))
    orders = st.permutations(sorted(nodes)).map(lambda order: tuple(order[:replication]))
    return Layout(
        version=draw(st.integers(1, 1 << 40)),
        replication=replication,
        min_in_sync=draw(st.integers(1, replication)),
        nodes=nodes,
        partitions=tuple(
            Partition(number, f"p{number}", token, draw(orders)) for number, token in enumerate(tokens)
        ),
    )


keyspace_lists = st.lists(
    st.builds(
        Keyspace,
        names,
        st.sampled_from(Ack),
        st.sampled_from(Policy),
        st.integers(0, 1 << 60),
        st.integers(0, 1 << 30),
        st.integers(1, 1 << 30),
        st.booleans(),
    ),
    max_size=4,
)


def test_a_keyspace_of_an_older_version_is_plain() -> None:
    keyspaces = records.decode_keyspaces(b'{"audit":{"ack":"async"}}')
    assert keyspaces == {"audit": Keyspace("audit", Ack.ASYNC)}
    with pytest.raises(RecordError, match="policy"):
        records.decode_keyspaces(b'{"audit":{"ack":"async","policy":"tapes"}}')


@settings(max_examples=100, deadline=None)
@given(layouts(), partition_records, node_records, keyspace_lists)
def test_every_record_survives_the_store(
    layout: Layout, record: PartitionRecord, node: NodeRecord, keyspace_list: list[Keyspace]
) -> None:
    keyspaces = {keyspace.name: keyspace for keyspace in keyspace_list}
    assert records.decode_layout(records.encode_layout(layout)) == layout
    assert records.decode_node(node.name, records.encode_node(node)) == node
    assert records.decode_keyspaces(records.encode_keyspaces(keyspaces)) == keyspaces
    value = records.encode_partition(record)
    assert records.decode_partition(record.partition, value, record.revision) == record
    assert records.encode_partition(replace(record, revision=0)) == value  # the revision is the store's


def test_equal_layouts_are_equal_bytes_and_readable() -> None:
    partitions = (Partition(2, "p2", 0xFF, ("n1",)), Partition(1, "p1", 0, ("n1",)))
    nodes = {"n2": NodeSpec("b"), "n1": NodeSpec("a")}
    one = records.encode_layout(Layout(1, 1, 1, nodes, partitions))
    other = records.encode_layout(Layout(1, 1, 1, dict(sorted(nodes.items())), partitions[::-1]))
    assert one == other
    assert [p["token"] for p in json.loads(one)["partitions"]] == ["0" * 16, "0" * 14 + "ff"]


LAYOUT: dict[str, Any] = {
    "version": 1,
    "replication": 1,
    "min_in_sync": 1,
    "nodes": {"n1": {"zone": "a", "weight": 1.0}},
    "partitions": [{"id": 1, "name": "p1", "token": "00000000000000ff", "replicas": ["n1"]}],
}
PARTITION = LAYOUT["partitions"][0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": "1"}, "'version' must be a whole number from 1, not '1'"),
        ({"version": True}, "'version' must be a whole number from 1, not True"),
        ({"version": 0}, "'version' must be"),
        ({"nodes": []}, "'nodes' must be an object"),
        ({"nodes": {"n1": {"zone": "", "weight": 1}}}, "layout.nodes.n1 .* 'zone' must be text"),
        ({"nodes": {"n1": {"zone": "a", "weight": -0.1}}}, "'weight' must be 0, or a number from"),
        ({"nodes": {"n1": {"zone": "a", "weight": float("nan")}}}, "'weight' must be 0, or a number from"),
        ({"nodes": {"n1": {"zone": "a"}}}, "lacks the field 'weight'"),
        ({"nodes": {"n1": 5}}, "layout.nodes.n1 .* is not a JSON object"),
        ({"partitions": [{**PARTITION, "token": "ff"}]}, r"layout.partitions\[0\] .* 'token' must be 16 hex"),
        ({"partitions": [{**PARTITION, "token": "00000000000000FF"}]}, "'token' must be 16 hex digits"),
        ({"partitions": [{**PARTITION, "replicas": ["n1", "n1"]}]}, "'replicas' must be a list of different"),
        ({"partitions": [{**PARTITION, "replicas": [["n1"]]}]}, "'replicas' must be a list of different"),
        ({"partitions": [PARTITION, {**PARTITION, "id": 2, "name": "p2"}]}, "two partitions with one token"),
        (
            {"partitions": [PARTITION, {**PARTITION, "id": 2, "token": "0" * 16}]},
            "two partitions with one name",
        ),
    ],
)
def test_a_wrong_layout_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordError, match=says):
        records.decode_layout(json.dumps({**LAYOUT, **change}).encode())


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(LAYOUT)), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_junk_is_a_record_error_and_nothing_else(value: bytes) -> None:
    for kind in ("layout", "keyspaces", "controller", "nodes/n1", "partitions/p1"):
        try:
            records.apply_event(KEYS, ClusterView(), Event(KEYS.prefix + kind, value, 1))
        except RecordError as error:
            assert kind.partition("/")[0] in str(error)


def test_a_field_of_a_newer_version_is_passed_over() -> None:
    value = json.dumps({**LAYOUT, "later": [1]}).encode()
    assert records.decode_layout(value) == records.decode_layout(json.dumps(LAYOUT).encode())


def test_a_record_under_anothers_name_is_refused() -> None:
    value = records.encode_partition(PartitionRecord("p2", None, 0, {}, ()))
    with pytest.raises(RecordError, match="partitions/p1 .* calls itself 'p2'"):
        records.decode_partition("p1", value, 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 9)), max_size=20),
    st.integers(0, 20),
)
def test_events_lead_to_the_same_view_as_a_listing(changes: list[tuple[str, int | None]], split: int) -> None:
    """However much was listed and however much was watched."""

    def event(revision: int, name: str, epoch: int | None) -> Event:
        record = None if epoch is None else PartitionRecord(name, None, epoch, {}, ())
        value = None if record is None else records.encode_partition(record)
        return Event(KEYS.partition(name), value, revision)

    events = [event(revision, name, epoch) for revision, (name, epoch) in enumerate(changes, 1)]

    def listing(until: int) -> Listing:
        held: dict[str, Versioned] = {}
        for each in events[:until]:
            held.pop(each.key, None)
            if each.value is not None:
                held[each.key] = Versioned(each.key, each.value, each.revision)
        return Listing(len(events[:until]), tuple(held[key] for key in sorted(held)))

    before = records.view_of(KEYS, listing(split))
    kept = replace(before, records=dict(before.records))
    assert records.apply_events(KEYS, before, events[split:]) == records.view_of(KEYS, listing(len(events)))
    assert before == kept  # a view never changes


def test_a_view_forgets_what_was_deleted() -> None:
    view = ClusterView()
    events = [
        Event(KEYS.layout, json.dumps(LAYOUT).encode(), 1),
        Event(KEYS.controller, b"n1", 2),
        Event(KEYS.keyspaces, b'{"audit":{"ack":"async"}}', 3),
        Event("/fortdb/test2/layout", b"another cluster's", 4),
    ]
    view = records.apply_events(KEYS, view, events)
    assert (view.layout_revision, view.controller, view.controller_revision) == (1, "n1", 2)
    for revision, key in enumerate((KEYS.layout, KEYS.controller, KEYS.keyspaces), 5):
        view = records.apply_event(KEYS, view, Event(key, None, revision))
    assert view == ClusterView(revision=7)


@pytest.mark.parametrize("name", ["", "a/b", "a\nb"])
def test_a_name_that_cannot_be_part_of_a_key(name: str) -> None:
    for make in (Keys, KEYS.node, KEYS.partition):
        with pytest.raises(ConfigError, match="cannot name a"):
            make(name)
