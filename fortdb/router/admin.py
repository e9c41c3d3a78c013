"""What an operator asks of the ring, through any router: its state, its leaders, its layout.

Everything that changes something goes through the coordination store by compare-and-set, or to the
node that must do it; a router only carries the word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from fortdb.coordination.operations import write_layout, write_record
from fortdb.coordination.session import Session
from fortdb.errors import BadRequest, FortError, LayoutError, StoreConflict, Unavailable
from fortdb.fields import Fields, dump_json
from fortdb.model import (
    ClusterView,
    Layout,
    NodeSpec,
    NodeState,
    PartitionRecord,
)
from fortdb.net.front import Slot
from fortdb.net.gather import Gather
from fortdb.protocol.commands import Command
from fortdb.protocol.resp import OK, bulk, payload_of_bulk
from fortdb.replication.election import elect, leader_lives, seize
from fortdb.ring.layouts import layout_fields
from fortdb.ring.moves import Plan, plan, plan_from_json, plan_to_json, verify
from fortdb.ring.placement import first_layout, next_layout
from fortdb.router.keyspaces import KeyspaceCommands, fields_of
from fortdb.router.service import RouterService
from fortdb.router.why import ask_why

log = structlog.get_logger(__name__)

_PARTITIONS_DEFAULT = 24
_REPLICATION_DEFAULT = 3


class Admin:
    """Answers the commands of kind ADMIN."""

    def __init__(self, service: RouterService, session: Session, cluster: str) -> None:
        self._service = service
        self._session = session
        self._cluster = cluster
        self._keyspaces = KeyspaceCommands(service, session)

    def __call__(self, slot: Slot, command: Command, args: list[bytes]) -> None:
        """Execute one command; its slot is completed now or later."""
        try:
            if command.name == "WHY":
                ask_why(self._service, self._session, slot, args[1])
                return
            words = [argument.decode() for argument in args[1:]]
            self._execute(slot, command.name, words)
        except UnicodeDecodeError:
            slot.complete(BadRequest("arguments must be UTF-8").wire())
        except FortError as error:
            slot.complete(error.wire())

    def _execute(self, slot: Slot, name: str, words: list[str]) -> None:
        match [name, *(word.upper() for word in words[:1]), *words[1:]]:
            case ["RING"]:
                self._describe(slot)
            case ["LEADER", "MOVE", partition, node]:
                self._move_leader(slot, partition, node)
            case ["LEADER", "SEIZE", partition, node, word] if word.upper() == "ACCEPT-DATA-LOSS":
                self._seize_leader(slot, partition, node)
            case ["LEADER", "SEIZE", *_]:
                raise BadRequest(
                    "a seized partition may lose acknowledged writes; say so: "
                    "LEADER SEIZE partition node ACCEPT-DATA-LOSS"
                )
            case ["LAYOUT", "PLAN"]:
                slot.complete(bulk(plan_to_json(self._plan(_Options())).encode()))
            case ["LAYOUT", "PLAN", options]:
                slot.complete(bulk(plan_to_json(self._plan(_options(options))).encode()))
            case ["LAYOUT", "SHOW"]:
                present = self._service.view.layout
                fields = None if present is None else layout_fields(present)
                slot.complete(bulk(dump_json(fields)))
            case ["LAYOUT", "APPLY", document]:
                self._apply(slot, document)
            case ["KEYSPACE", *_]:
                self._keyspaces.execute(slot, words)
            case _:
                raise BadRequest(f"syntax error: see the usage of {name}")

    # --- layout ---------------------------------------------------------------------------------

    def _plan(self, options: _Options) -> Plan:
        view = self._service.view
        present = view.layout
        nodes = _nodes_after(view, options)
        if present is None:
            replication = options.replication or min(_REPLICATION_DEFAULT, len(nodes))
            target = first_layout(
                nodes,
                options.partitions or _PARTITIONS_DEFAULT,
                replication,
                options.min_in_sync or replication // 2 + 1,
            )
        elif options.partitions not in (None, len(present.partitions)):
            raise LayoutError("partitions: their number is chosen with the first layout and stays")
        else:
            target = next_layout(present, nodes, options.replication, options.min_in_sync)
        return plan(present, target)

    def _apply(self, slot: Slot, document: str) -> None:
        view = self._service.view
        base_version, target = plan_from_json(document)
        verify(base_version, target, view.layout)
        unknown = [name for name in target.nodes if name not in view.nodes and not _has(view.layout, name)]
        if unknown:
            raise LayoutError(f"nodes that never joined: {', '.join(sorted(unknown))}")
        self._store(
            slot,
            lambda: write_layout(
                self._session.store,
                self._session.keys,
                target,
                view.layout_revision,
            ),
            "the layout was changed by somebody else meanwhile; make a new plan",
        )

    # --- leaders -----------------------------------------------------------------------------------

    def _record(self, partition: str) -> PartitionRecord:
        record = self._service.view.records.get(partition)
        if record is None:
            known = ", ".join(sorted(self._service.view.records)) or "none yet"
            raise BadRequest(f"no partition {partition!r}; there are {known}")
        return record

    def _seize_leader(self, slot: Slot, partition: str, name: str) -> None:
        """An operator's word (rule 6): only where nobody in sync is left to elect."""
        record, nodes = self._record(partition), self._service.view.nodes
        node = nodes.get(name)
        if node is None or node.state is not NodeState.SERVING:
            raise BadRequest(f"{name} is not a serving node; there are {', '.join(sorted(nodes))}")
        if leader_lives(record, nodes) or elect(record, None, nodes) is not None:
            raise BadRequest(
                f"{partition} has, or is about to have, a leader that was in sync; nothing to seize"
            )
        log.warning(
            "leader_seized", partition=partition, leader=name, was=record.leader, isr=sorted(record.isr)
        )
        seized = seize(record, node)
        self._store(
            slot,
            lambda: write_record(self._session.store, self._session.keys, seized),
            f"{partition} changed meanwhile; look at it again",
        )

    def _move_leader(self, slot: Slot, partition: str, node: str) -> None:
        record = self._record(partition)
        if record.leader is None:
            raise Unavailable(f"partition {partition} has no leader")
        move = [b"LEADER", b"MOVE", partition.encode(), node.encode()]
        self._service.call(record.leader, move, slot, waits=True)

    def _store(self, slot: Slot, work: Callable[[], object], conflict: str) -> None:
        """Change something in the coordination store, elsewhere; answer when it is done."""

        def done(outcome: object) -> None:
            if isinstance(outcome, StoreConflict):
                slot.complete(StoreConflict(conflict).wire())
            elif isinstance(outcome, FortError):
                slot.complete(outcome.wire())
            else:
                slot.complete(OK)

        self._session.submit(
            lambda store: work(),
            lambda outcome: self._service.loop.call_soon(lambda: done(outcome)),
        )

    # --- the state of the ring ----------------------------------------------------------------------------

    def _describe(self, slot: Slot) -> None:
        """Ask every node for its replicas, then tell everything at once."""
        nodes = [name for name, link in self._service.links.items() if link.is_up]

        def join(replies: list[bytes]) -> bytes:
            reports: dict[str, Any] = {}
            for name, reply in zip(nodes, replies, strict=False):
                payload = payload_of_bulk(reply)
                if payload is not None:
                    reports[name] = json.loads(payload)
            return bulk(json.dumps(self._ring(reports)).encode())

        if not nodes:
            slot.complete(join([]))
            return
        gather = Gather(slot, len(nodes), join)
        for index, name in enumerate(nodes):
            self._service.call(name, [b"REPLICAS"], gather.part(index))

    def _ring(self, reports: Mapping[str, Any]) -> dict[str, object]:
        view, tokens = self._service.view, self._service.tokens
        layout = view.layout
        return {
            "cluster": self._cluster,
            "controller": view.controller,
            "layout": None
            if layout is None
            else {
                "version": layout.version,
                "replication": layout.replication,
                "min_in_sync": layout.min_in_sync,
            },
            "partitions": []
            if layout is None or tokens is None
            else [
                {
                    "id": partition.id,
                    "name": partition.name,
                    "token": f"{partition.token:016x}",
                    "share": tokens.share(partition),
                    **_partition(
                        view.records.get(partition.name),
                        partition.replicas,
                        view,
                        reports,
                    ),
                }
                for partition in layout.partitions
            ],
            "nodes": [_node(name, view, reports.get(name)) for name in _names(view)],
            "keyspaces": [fields_of(keyspace) for keyspace in view.keyspaces.values()],
        }


@dataclass(frozen=True, slots=True)
class _Options:
    """What `LAYOUT PLAN` is asked for. None: as it is, or the usual."""

    partitions: int | None = None
    replication: int | None = None
    min_in_sync: int | None = None
    remove: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)


def _options(text: str) -> _Options:
    """Raises `BadRequest` naming what is wrong."""
    fields = Fields.parse("options", text, "of LAYOUT PLAN", BadRequest)
    known = _Options.__slots__
    if unknown := fields.names - {*known}:
        raise fields.wrong(f"know no {min(unknown)!r}; there are {', '.join(known)}")
    numbers = {
        name: fields.number(name, 1)
        for name in ("partitions", "replication", "min_in_sync")
        if fields.has(name)
    }
    weights = fields.object("weights") if fields.has("weights") else None
    return _Options(
        **numbers,
        remove=fields.texts("remove") if fields.has("remove") else (),
        weights={name: weights.weight(name) for name in weights.names} if weights is not None else {},
    )


def _has(layout: Layout | None, name: str) -> bool:
    return layout is not None and name in layout.nodes


def _nodes_after(view: ClusterView, options: _Options) -> dict[str, NodeSpec]:
    """The nodes of the next layout: those of the present one and all that joined, less the removed."""
    nodes = dict(view.layout.nodes) if view.layout is not None else {}
    for node in view.nodes.values():
        if node.name not in nodes and node.state is NodeState.SERVING:
            nodes[node.name] = NodeSpec(node.zone)
    for name in options.remove:
        if nodes.pop(name, None) is None:
            raise LayoutError(f"cannot remove {name!r}: no such node; there are {', '.join(sorted(nodes))}")
    for name, weight in options.weights.items():
        if name not in nodes:
            raise LayoutError(f"cannot weigh {name!r}: no such node; there are {', '.join(sorted(nodes))}")
        nodes[name] = replace(nodes[name], weight=weight)
    return nodes


def _names(view: ClusterView) -> list[str]:
    return sorted({*view.nodes, *(view.layout.nodes if view.layout is not None else ())})


def _partition(
    record: PartitionRecord | None,
    wanted: tuple[str, ...],
    view: ClusterView,
    reports: Mapping[str, Any],
) -> dict[str, object]:
    if record is None:
        nothing: dict[str, object] = dict.fromkeys(("leader", "preferred", "last_offset", "commit_offset"))
        return {
            **nothing,
            "replicas": list(wanted),
            "epoch": 0,
            "isr": [],
            "moving": True,
            "lag": {},
        }
    leader = record.leader if record.leader in view.nodes else None
    report = reports.get(leader or "", {}).get("replicas", {}).get(record.partition, {})
    if (report.get("role"), report.get("epoch")) != ("leader", record.epoch):
        report = {}  # elected, but it has not seen it yet, or it does not answer
    return {
        "replicas": list(record.replicas),
        "leader": leader,
        "epoch": record.epoch,
        "isr": sorted(record.isr),
        "preferred": record.preferred,
        "moving": set(record.replicas) != set(wanted),
        "last_offset": report.get("last_offset"),
        "commit_offset": report.get("commit_offset"),
        "lag": report.get("lag", {}),
    }


def _node(name: str, view: ClusterView, report: Mapping[str, Any] | None) -> dict[str, object]:
    node = view.nodes.get(name)
    spec = view.layout.nodes.get(name) if view.layout is not None else None
    leads = sum(record.leader == name for record in view.records.values())
    report = report or {}
    return {
        "name": name,
        "zone": node.zone if node is not None else spec.zone if spec is not None else "",
        "state": node.state.value if node is not None else "down",
        "reason": (node.reason or report.get("refusal") or "") if node is not None else "its lease has ended",
        "client_address": node.client_address if node is not None else "",
        "peer_address": node.peer_address if node is not None else "",
        "status_address": node.status_address if node is not None else "",
        "version": node.version if node is not None else "",
        "leads": leads if node is not None else 0,
        "holds": sum(name in record.replicas for record in view.records.values()),
        "bytes_on_disk": report.get("bytes_on_disk"),
        "bytes_free": report.get("bytes_free"),
    }
