"""What a router answers to WHY, as typed values; read as strictly as everything in `status`."""

from __future__ import annotations

from dataclasses import dataclass

from fortdb.client.status import Fields, load
from fortdb.model import Ack


@dataclass(frozen=True, slots=True)
class WhyFinding:
    """One thing to know. `level` is note, degraded or blocked; `blocks` says what waits or is refused."""

    level: str
    blocks: str
    text: str


@dataclass(frozen=True, slots=True)
class WhyReplica:
    """One node that holds the partition, or ought to. `lag` counts the entries that it is behind the leader,
    `lag_ms` the time since it was level with it; None while no leader tells them."""

    node: str
    state: str
    is_leader: bool
    in_layout: bool
    in_sync: bool
    last_offset: int | None
    lag: int | None
    lag_ms: int | None


@dataclass(frozen=True, slots=True)
class WhyRoute:
    """Where the router sends a request for the key now, and in which epoch. `unanswered`: how many wait."""

    leader: str | None
    address: str
    epoch: int
    is_up: bool
    unanswered: int


@dataclass(frozen=True, slots=True)
class WhyRecord:
    """What the coordination store says of the partition."""

    leader: str | None
    epoch: int
    isr: tuple[str, ...]
    replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a key lies and why it is served or not. `verdict` is served, degraded or blocked; `ranges` are the
    first and last token of each range that the partition serves; `record` is None if the store holds none."""

    verdict: str
    findings: tuple[WhyFinding, ...]
    key: str
    hashed: str
    hash: str
    token: str
    keyspace: str | None
    ack: Ack
    partition: str
    ranges: tuple[tuple[str, str], ...]
    share: float
    min_in_sync: int
    layout_replicas: tuple[str, ...]
    route: WhyRoute
    record: WhyRecord | None
    replicas: tuple[WhyReplica, ...]
    document: bytes
    """The JSON it was parsed from."""


def parse_why(document: bytes) -> Explanation:
    """Parse the answer to WHY."""
    why = Fields(load(document, "WHY"), "WHY")
    keyspace, partition, layout = why.object("keyspace"), why.object("partition"), why.object("layout")
    return Explanation(
        verdict=why.get("verdict", str),
        findings=tuple(
            WhyFinding(one.get("level", str), one.get("blocks", str), one.get("text", str))
            for one in why.objects("findings")
        ),
        key=why.get("key", str),
        hashed=why.get("hashed", str),
        hash=why.get("hash", str),
        token=why.get("token", str),
        keyspace=keyspace.optional("name", str),
        ack=Ack(keyspace.get("ack", str)),
        partition=partition.get("name", str),
        ranges=tuple((first, last) for first, last in partition.get("ranges", list)),
        share=partition.get("share", float),
        min_in_sync=layout.get("min_in_sync", int),
        layout_replicas=layout.names("replicas"),
        route=_route(why.object("route")),
        record=None if why.optional("record", dict) is None else _record(why.object("record")),
        replicas=tuple(map(_replica, why.objects("replicas"))),
        document=document,
    )


def _route(fields: Fields) -> WhyRoute:
    return WhyRoute(
        leader=fields.optional("leader", str),
        address=fields.get("address", str),
        epoch=fields.get("epoch", int),
        is_up=fields.get("is_up", bool),
        unanswered=fields.get("unanswered", int),
    )


def _record(fields: Fields) -> WhyRecord:
    return WhyRecord(
        leader=fields.optional("leader", str),
        epoch=fields.get("epoch", int),
        isr=fields.names("isr"),
        replicas=fields.names("replicas"),
    )


def _replica(fields: Fields) -> WhyReplica:
    return WhyReplica(
        node=fields.get("node", str),
        state=fields.get("state", str),
        is_leader=fields.get("is_leader", bool),
        in_layout=fields.get("in_layout", bool),
        in_sync=fields.get("in_sync", bool),
        last_offset=fields.optional("last_offset", int),
        lag=fields.optional("lag", int),
        lag_ms=fields.optional("lag_ms", int),
    )
