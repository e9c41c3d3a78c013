"""The model's records as JSON in the coordination store, and the view that they make together; pure.

JSON because an operator with nothing but `etcdctl` at three in the morning must be able to read
it. It is compact and its keys are sorted, so that equal records are equal bytes. Tokens are 16 hex
digits: a JSON number does not carry 64 bits through every tool.

Decoding is strict about what it needs (a missing field, a wrong type or an impossible value raises
`RecordError`, which names record and field) and passes over fields it does not know, so that a
newer FortDB may add one while the older still runs. `PartitionRecord.revision` is the store's, not
part of the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from fortdb.coordination.keys import Keys
from fortdb.coordination.store import Event, Listing
from fortdb.errors import RecordError
from fortdb.fields import Fields, dump_json
from fortdb.model import (
    Ack,
    ClusterView,
    Keyspace,
    Layout,
    Mode,
    NodeRecord,
    NodeState,
    PartitionRecord,
    Policy,
)
from fortdb.ring.layouts import layout_fields, layout_of

IN_STORE = "in the coordination store"

# --- one record ---------------------------------------------------------------------------------


def encode_layout(layout: Layout) -> bytes:
    """A layout; partitions are written sorted by token."""
    return dump_json(layout_fields(layout))


def decode_layout(value: bytes) -> Layout:
    """The layout in `value`. Raises `RecordError`, also for one that is not sound in itself."""
    return layout_of(_stored("layout", value))


def encode_node(record: NodeRecord) -> bytes:
    """A live node's membership."""
    return dump_json(
        {
            "name": record.name,
            "zone": record.zone,
            "client_address": record.client_address,
            "peer_address": record.peer_address,
            "status_address": record.status_address,
            "incarnation": record.incarnation,
            "state": record.state.value,
            "version": record.version,
            "reason": record.reason,
        }
    )


def decode_node(name: str, value: bytes) -> NodeRecord:
    """The membership under `nodes/<name>`. Raises `RecordError`."""
    fields = _stored(f"nodes/{name}", value)
    fields.must_be_named("name", name)
    return NodeRecord(
        name=name,
        zone=fields.text("zone"),
        client_address=fields.text("client_address"),
        peer_address=fields.text("peer_address"),
        status_address=fields.text("status_address"),
        incarnation=fields.text("incarnation"),
        state=fields.choice("state", NodeState),
        version=fields.text("version"),
        reason=fields.text("reason", empty=True),
    )


def encode_partition(record: PartitionRecord) -> bytes:
    """Who leads and who is in sync; `record.revision` is not part of it."""
    return dump_json(
        {
            "partition": record.partition,
            "leader": record.leader,
            "epoch": record.epoch,
            "isr": dict(record.isr),
            "replicas": list(record.replicas),
            "handover": record.handover,
            "preferred": record.preferred,
        }
    )


def decode_partition(name: str, value: bytes, revision: int) -> PartitionRecord:
    """The record under `partitions/<name>`, last changed at `revision`. Raises `RecordError`."""
    fields = _stored(f"partitions/{name}", value)
    fields.must_be_named("partition", name)
    return PartitionRecord(
        partition=name,
        leader=fields.text_or_none("leader"),
        epoch=fields.number("epoch", 0),
        isr=fields.named_texts("isr"),
        replicas=fields.texts("replicas"),
        handover=fields.truth("handover"),
        preferred=fields.text_or_none("preferred"),
        revision=revision,
    )


def encode_keyspaces(keyspaces: Mapping[str, Keyspace]) -> bytes:
    """All keyspaces by name."""
    return dump_json({name: _keyspace_fields(keyspace) for name, keyspace in keyspaces.items()})


def _keyspace_fields(keyspace: Keyspace) -> dict[str, object]:
    return {
        "ack": keyspace.ack.value,
        "policy": keyspace.policy.value,
        "retention_ms": keyspace.retention_ms,
        "keep": keyspace.keep,
        "version": keyspace.version,
        "closed": keyspace.closed,
        **({"mode": keyspace.mode.value} if keyspace.policy is Policy.WORM else {}),
    }


def decode_keyspaces(value: bytes) -> dict[str, Keyspace]:
    """All keyspaces by name. Raises `RecordError`."""
    items = _stored("keyspaces", value).all_objects()
    return {name: _keyspace(name, item) for name, item in items.items()}


def _keyspace(name: str, fields: Fields) -> Keyspace:
    ack = fields.choice("ack", Ack)
    if not fields.has("policy"):
        return Keyspace(name, ack)  # from before there were others
    return Keyspace(
        name=name,
        ack=ack,
        policy=fields.choice("policy", Policy),
        retention_ms=fields.number("retention_ms", 0),
        keep=fields.number("keep", 0),
        version=fields.number("version", 1),
        closed=fields.truth("closed"),
        mode=fields.choice("mode", Mode) if fields.has("mode") else Mode.GOVERNANCE,
    )


def encode_controller(name: str) -> bytes:
    """The controller's node name."""
    return name.encode()


def decode_controller(value: bytes) -> str:
    """The controller's node name. Raises `RecordError`."""
    try:
        name = value.decode()
    except UnicodeDecodeError:
        name = ""
    if not name:
        raise RecordError(
            f"controller in the coordination store holds {value[:64]!r}, not the name of a node"
        )
    return name


# --- all records together -----------------------------------------------------------------------


def view_of(keys: Keys, listing: Listing) -> ClusterView:
    """The view that a listing of `keys.prefix` makes; keys it does not know are passed over.
    Raises `RecordError`."""
    events = (Event(item.key, item.value, item.revision) for item in listing.items)
    return replace(apply_events(keys, ClusterView(), events), revision=listing.revision)


def apply_events(keys: Keys, view: ClusterView, events: Iterable[Event]) -> ClusterView:
    """The view after `events`, which are in revision order. Raises `RecordError`."""
    for event in events:
        view = apply_event(keys, view, event)
    return view


def apply_event(keys: Keys, view: ClusterView, event: Event) -> ClusterView:
    """The view after one change; `view` stays as it was. Raises `RecordError`."""
    kind, name = keys.split(event.key)
    revision = max(view.revision, event.revision)
    value = event.value
    changed_at = 0 if value is None else event.revision
    match kind, bool(name):
        case "layout", False:
            layout = None if value is None else decode_layout(value)
            return replace(view, revision=revision, layout=layout, layout_revision=changed_at)
        case "keyspaces", False:
            keyspaces = {} if value is None else decode_keyspaces(value)
            return replace(view, revision=revision, keyspaces=keyspaces, keyspaces_revision=changed_at)
        case "controller", False:
            holder = None if value is None else decode_controller(value)
            return replace(view, revision=revision, controller=holder, controller_revision=changed_at)
        case "nodes", True:
            node = None if value is None else decode_node(name, value)
            return replace(view, revision=revision, nodes=_with(view.nodes, name, node))
        case "partitions", True:
            record = None if value is None else decode_partition(name, value, event.revision)
            return replace(view, revision=revision, records=_with(view.records, name, record))
    return replace(view, revision=revision)


T = TypeVar("T")


def _with(mapping: Mapping[str, T], name: str, value: T | None) -> Mapping[str, T]:
    """A copy of `mapping` with `name` set, or absent for None."""
    changed = {other: held for other, held in mapping.items() if other != name}
    if value is not None:
        changed[name] = value
    return changed


def _stored(what: str, value: bytes) -> Fields:
    return Fields.parse(what, value, IN_STORE, RecordError)
