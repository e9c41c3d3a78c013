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

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, TypeVar

from fortdb.coordination.keys import Keys
from fortdb.coordination.store import Event, Listing
from fortdb.errors import RecordError
from fortdb.model import (
    TOKEN_SPACE,
    Ack,
    ClusterView,
    Keyspace,
    Layout,
    NodeRecord,
    NodeSpec,
    NodeState,
    Partition,
    PartitionRecord,
)

_TOKEN_DIGITS = 16

E = TypeVar("E", bound=Enum)

# --- one record ---------------------------------------------------------------------------------


def encode_layout(layout: Layout) -> bytes:
    """A layout; partitions are written sorted by token."""
    return _dump(
        {
            "version": layout.version,
            "replication": layout.replication,
            "min_in_sync": layout.min_in_sync,
            "nodes": {
                name: {"zone": spec.zone, "weight": spec.weight} for name, spec in layout.nodes.items()
            },
            "partitions": [
                {"id": p.id, "name": p.name, "token": f"{p.token:016x}", "replicas": list(p.replicas)}
                for p in sorted(layout.partitions, key=lambda partition: partition.token)
            ],
        }
    )


def decode_layout(value: bytes) -> Layout:
    """The layout in `value`. Raises `RecordError`, also for two partitions with one token, name or id."""
    fields = _Fields.parse("layout", value)
    partitions = tuple(_decode_partition(item) for item in fields.objects("partitions"))
    for word in ("id", "name", "token"):
        if len({getattr(partition, word) for partition in partitions}) < len(partitions):
            raise RecordError(f"the layout in the coordination store has two partitions with one {word}")
    return Layout(
        version=fields.number("version", 1),
        replication=fields.number("replication", 1),
        min_in_sync=fields.number("min_in_sync", 1),
        nodes={
            name: NodeSpec(zone=item.text("zone"), weight=item.weight("weight"))
            for name, item in fields.named_objects("nodes").items()
        },
        partitions=tuple(sorted(partitions, key=lambda partition: partition.token)),
    )


def _decode_partition(fields: _Fields) -> Partition:
    return Partition(
        id=fields.number("id", 0),
        name=fields.text("name"),
        token=fields.token("token"),
        replicas=fields.texts("replicas"),
    )


def encode_node(record: NodeRecord) -> bytes:
    """A live node's membership."""
    return _dump(
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
    fields = _Fields.parse(f"nodes/{name}", value)
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
    return _dump(
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
    fields = _Fields.parse(f"partitions/{name}", value)
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
    return _dump({name: {"ack": keyspace.ack.value} for name, keyspace in keyspaces.items()})


def decode_keyspaces(value: bytes) -> dict[str, Keyspace]:
    """All keyspaces by name. Raises `RecordError`."""
    items = _Fields.parse("keyspaces", value).all_objects()
    return {name: Keyspace(name=name, ack=item.choice("ack", Ack)) for name, item in items.items()}


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
            return replace(
                view, revision=revision, keyspaces={} if value is None else decode_keyspaces(value)
            )
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


# --- reading JSON strictly ------------------------------------------------------------------------


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


class _Fields:
    """A JSON object whose fields are asked for by name and type; every refusal names both."""

    def __init__(self, what: str, fields: Any) -> None:
        if not isinstance(fields, dict):
            raise RecordError(f"{what} in the coordination store is not a JSON object")
        self._what = what
        self._fields: dict[str, Any] = fields

    @classmethod
    def parse(cls, what: str, value: bytes) -> _Fields:
        try:
            return cls(what, json.loads(value))
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{what} in the coordination store is not JSON ({error})") from error

    def text(self, field: str, empty: bool = False) -> str:
        return str(self._get(field, "text", lambda v: isinstance(v, str) and (empty or v != "")))

    def text_or_none(self, field: str) -> str | None:
        value = self._get(field, "text or null", lambda v: v is None or (isinstance(v, str) and v != ""))
        return None if value is None else str(value)

    def number(self, field: str, least: int) -> int:
        return int(
            self._get(field, f"a whole number from {least}", lambda v: type(v) is int and v >= least),
        )

    def weight(self, field: str) -> float:
        # JSON has no NaN; Python's reader accepts one all the same.
        return float(
            self._get(
                field, "a number above 0", lambda v: type(v) in (int, float) and math.isfinite(v) and v > 0
            )
        )

    def truth(self, field: str) -> bool:
        return bool(self._get(field, "true or false", lambda v: isinstance(v, bool)))

    def token(self, field: str) -> int:
        digits = self._get(field, f"{_TOKEN_DIGITS} hex digits", _is_token)
        token = int(digits, 16)
        assert 0 <= token < TOKEN_SPACE
        return token

    def choice(self, field: str, choices: type[E]) -> E:
        allowed = [choice.value for choice in choices]
        return choices(self._get(field, f"one of {', '.join(allowed)}", lambda v: v in allowed))

    def texts(self, field: str) -> tuple[str, ...]:
        values = self._get(
            field,
            "a list of different names",
            lambda v: isinstance(v, list) and all(map(_is_name, v)) and len(set(v)) == len(v),
        )
        return tuple(values)

    def named_texts(self, field: str) -> dict[str, str]:
        return dict(
            self._get(
                field,
                "an object of texts",
                lambda v: isinstance(v, dict) and all(map(_is_name, (*v.keys(), *v.values()))),
            )
        )

    def objects(self, field: str) -> list[_Fields]:
        items = self._get(field, "a list", lambda v: isinstance(v, list))
        return [_Fields(f"{self._what}.{field}[{index}]", item) for index, item in enumerate(items)]

    def named_objects(self, field: str) -> dict[str, _Fields]:
        items = self._get(field, "an object", lambda v: isinstance(v, dict))
        return _Fields(f"{self._what}.{field}", items).all_objects()

    def all_objects(self) -> dict[str, _Fields]:
        return {name: _Fields(f"{self._what}.{name}", item) for name, item in self._fields.items()}

    def must_be_named(self, field: str, name: str) -> None:
        if self.text(field) != name:
            raise RecordError(f"{self._what} in the coordination store calls itself {self.text(field)!r}")

    def _get(self, field: str, wanted: str, is_right: Callable[[Any], bool]) -> Any:
        if field not in self._fields:
            raise RecordError(f"{self._what} in the coordination store lacks the field {field!r}")
        value = self._fields[field]
        if not is_right(value):
            raise RecordError(
                f"{self._what} in the coordination store: {field!r} must be {wanted}, not {value!r:.80}"
            )
        return value


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_token(value: object) -> bool:
    return isinstance(value, str) and len(value) == _TOKEN_DIGITS and set(value) <= set("0123456789abcdef")
