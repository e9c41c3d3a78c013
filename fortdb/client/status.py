"""What the router's admin commands answer, as typed values parsed strictly from JSON.

Strictly: a missing field or one of another type raises `ProtocolError` that names the place, so
that nobody decides on half a picture. Fields this version does not know are passed over, so that
an older client can look at a newer ring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fortdb.errors import BadRequest, FortError, ProtocolError
from fortdb.model import Ack, Keyspace, Mode, Policy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LayoutSummary:
    version: int
    replication: int
    min_in_sync: int


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """A partition as it stands. `share` is its part of the keyspace, 0 to 1; `lag` counts the
    entries that each follower is behind the leader; offsets are None while no leader tells them."""

    id: int
    name: str
    token: int
    share: float
    replicas: tuple[str, ...]
    leader: str | None
    epoch: int
    isr: tuple[str, ...]
    preferred: str | None
    moving: bool
    last_offset: int | None
    commit_offset: int | None
    lag: Mapping[str, int]

    @property
    def followers(self) -> tuple[str, ...]:
        return tuple(name for name in self.replicas if name != self.leader)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node. `state` is serving, draining, failed or down; `leads` and `holds` count partitions;
    sizes in bytes are None for a node that does not answer."""

    name: str
    zone: str
    state: str
    reason: str
    client_address: str
    peer_address: str
    status_address: str
    version: str
    leads: int
    holds: int
    bytes_on_disk: int | None
    bytes_free: int | None


@dataclass(frozen=True, slots=True)
class RingStatus:
    """The whole ring at one moment, as one router sees it."""

    cluster: str
    controller: str | None
    layout: LayoutSummary | None
    partitions: tuple[PartitionStatus, ...]
    nodes: tuple[NodeStatus, ...]
    keyspaces: tuple[Keyspace, ...]
    document: bytes
    """The JSON it was parsed from."""


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """What happens to one partition under a plan."""

    partition: str
    share: float
    add: tuple[str, ...]
    remove: tuple[str, ...]
    leader_before: str | None
    leader_after: str | None


@dataclass(frozen=True, slots=True)
class LayoutPlan:
    """A plan to look at and to apply. `document` is the JSON that APPLY takes, byte for byte."""

    base_version: int
    moves: tuple[PlannedMove, ...]
    share_moved: float
    loads: Mapping[str, Any]
    layout_version: int
    document: bytes


class Fields:
    """One JSON object, read field by field; `path` names it in errors."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise ProtocolError(f"{path} is not an object; do client and router fit together?")
        self._value: dict[str, Any] = value
        self._path = path

    def get(self, name: str, kind: type[T]) -> T:
        found = self._value.get(name)
        if kind is float and isinstance(found, int) and not isinstance(found, bool):
            found = float(found)
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            raise self._wrong(name, kind.__name__)
        return found

    def has(self, name: str) -> bool:
        return name in self._value

    def optional(self, name: str, kind: type[T]) -> T | None:
        if name not in self._value:
            raise self._wrong(name, f"{kind.__name__} or null")
        return None if self._value[name] is None else self.get(name, kind)

    def names(self, name: str) -> tuple[str, ...]:
        found = self.get(name, list)
        if not all(isinstance(item, str) for item in found):
            raise self._wrong(name, "list of names")
        return tuple(found)

    def objects(self, name: str) -> tuple[Fields, ...]:
        items = self.get(name, list)
        return tuple(Fields(item, f"{self._path}.{name}[{index}]") for index, item in enumerate(items))

    def object(self, name: str) -> Fields:
        return Fields(self._value.get(name), f"{self._path}.{name}")

    def counts(self, name: str) -> Mapping[str, int]:
        found = Fields(self._value.get(name), f"{self._path}.{name}")
        return {node: found.get(node, int) for node in found._value}

    def _wrong(self, name: str, expected: str) -> ProtocolError:
        found = json.dumps(self._value.get(name))[:80] if name in self._value else "nothing"
        return ProtocolError(f"{self._path}.{name} should be {expected}, not {found}")


def parse_ring(document: bytes) -> RingStatus:
    """Parse the answer to RING."""
    ring = Fields(load(document, "RING"), "RING")
    layout = None if ring.optional("layout", dict) is None else ring.object("layout")
    return RingStatus(
        cluster=ring.get("cluster", str),
        controller=ring.optional("controller", str),
        layout=None
        if layout is None
        else LayoutSummary(
            layout.get("version", int), layout.get("replication", int), layout.get("min_in_sync", int)
        ),
        partitions=tuple(map(_partition, ring.objects("partitions"))),
        nodes=tuple(map(_node, ring.objects("nodes"))),
        keyspaces=tuple(map(_keyspace, ring.objects("keyspaces"))),
        document=document,
    )


def parse_plan(document: bytes) -> LayoutPlan:
    """Parse the answer to LAYOUT PLAN."""
    plan = Fields(load(document, "plan"), "plan")
    return LayoutPlan(
        base_version=plan.get("base_version", int),
        moves=tuple(map(_move, plan.objects("moves"))),
        share_moved=plan.get("share_moved", float),
        loads=plan.get("loads", dict),
        layout_version=plan.object("layout").get("version", int),
        document=document,
    )


def read_plan(document: bytes) -> LayoutPlan:
    """Parse a plan that a person hands in; what is wrong with it is a `BadRequest`."""
    try:
        return parse_plan(document)
    except FortError as error:
        raise BadRequest(f"this is no layout plan: {error}; make one with LAYOUT PLAN") from error


def parse_keyspaces(document: bytes) -> tuple[Keyspace, ...]:
    """Parse the answer to KEYSPACE LIST."""
    keyspaces = Fields({"keyspaces": load(document, "keyspaces")}, "KEYSPACE LIST")
    return tuple(map(_keyspace, keyspaces.objects("keyspaces")))


def parse_keyspace(document: bytes) -> Keyspace:
    """Parse the answer to KEYSPACE SHOW."""
    return _keyspace(Fields(load(document, "keyspace"), "KEYSPACE SHOW"))


def load(document: bytes, what: str) -> object:
    """The JSON of an answer."""
    try:
        loaded: object = json.loads(document)
    except ValueError as error:
        raise ProtocolError(f"{what} is not JSON ({error}); is this a FortDB router?") from error
    return loaded


def _partition(fields: Fields) -> PartitionStatus:
    token = fields.get("token", str)
    try:
        token_number = int(token, 16)
    except ValueError as error:
        raise fields._wrong("token", "16 hex digits") from error
    return PartitionStatus(
        id=fields.get("id", int),
        name=fields.get("name", str),
        token=token_number,
        share=fields.get("share", float),
        replicas=fields.names("replicas"),
        leader=fields.optional("leader", str),
        epoch=fields.get("epoch", int),
        isr=fields.names("isr"),
        preferred=fields.optional("preferred", str),
        moving=fields.get("moving", bool),
        last_offset=fields.optional("last_offset", int),
        commit_offset=fields.optional("commit_offset", int),
        lag=fields.counts("lag"),
    )


def _node(fields: Fields) -> NodeStatus:
    return NodeStatus(
        name=fields.get("name", str),
        zone=fields.get("zone", str),
        state=fields.get("state", str),
        reason=fields.get("reason", str),
        client_address=fields.get("client_address", str),
        peer_address=fields.get("peer_address", str),
        status_address=fields.get("status_address", str),
        version=fields.get("version", str),
        leads=fields.get("leads", int),
        holds=fields.get("holds", int),
        bytes_on_disk=fields.optional("bytes_on_disk", int),
        bytes_free=fields.optional("bytes_free", int),
    )


def _keyspace(fields: Fields) -> Keyspace:
    """A router from before there were policies tells only the name and `ack`."""
    try:
        ack = Ack(fields.get("ack", str).lower())
    except ValueError as error:
        raise fields._wrong("ack", "sync or async") from error
    name = fields.get("name", str)
    if not fields.has("policy"):
        return Keyspace(name, ack)
    try:
        policy = Policy(fields.get("policy", str))
    except ValueError as error:
        raise fields._wrong("policy", "plain, records, versions or worm") from error
    return Keyspace(
        name,
        ack,
        policy,
        fields.get("retention_ms", int),
        fields.get("keep", int),
        fields.get("version", int),
        fields.get("closed", bool),
        _mode(fields),
    )


def _mode(fields: Fields) -> Mode:
    """Told of WORM keyspaces alone."""
    try:
        return Mode(fields.get("mode", str)) if fields.has("mode") else Mode.GOVERNANCE
    except ValueError as error:
        raise fields._wrong("mode", "governance or compliance") from error


def _move(fields: Fields) -> PlannedMove:
    return PlannedMove(
        partition=fields.get("partition", str),
        share=fields.get("share", float),
        add=fields.names("add"),
        remove=fields.names("remove"),
        leader_before=fields.optional("leader_before", str),
        leader_after=fields.optional("leader_after", str),
    )
