"""Commands to the node itself, which routers pass on for operators and for stale reads."""

from __future__ import annotations

from fortdb.errors import BadRequest, FortError
from fortdb.node.control import Control
from fortdb.node.describe import describe_node, describe_partition
from fortdb.node.locks import Prepared, Trace
from fortdb.node.service import NodeService
from fortdb.node.slots import CallSlot
from fortdb.protocol.commands import CommandKind, lookup
from fortdb.protocol.resp import OK, array, bulk, integer


class Calls:
    """`REPLICAS`, `REPLICA partition-id`, `KEYSPACES`, `TRACES`, `LEADER MOVE partition node`,
    `CHANGES partition-id after ...`, `STALE partition-id command...`."""

    def __init__(self, service: NodeService, control: Control) -> None:
        self._service = service
        self._control = control

    def __call__(self, slot: CallSlot, args: list[bytes]) -> None:
        """Execute one call; its slot is completed now or later."""
        try:
            self._execute(slot, args)
        except FortError as error:
            slot.complete(error.wire())

    def _execute(self, slot: CallSlot, args: list[bytes]) -> None:
        words = [argument.decode("utf-8", "replace") for argument in args[:4]]
        match words:
            case ["REPLICAS"]:
                slot.complete(bulk(describe_node(self._service)))
            case ["REPLICA", partition] if partition.isdigit():
                slot.complete(bulk(describe_partition(self._service, int(partition))))
            case ["TRACES"]:
                slot.complete(array([_trace(trace) for trace in self._service.requests.traces()]))
            case ["CHANGES", _, _, _] if len(args) > 5:
                self._service.changes.ask(slot, args)
            case ["KEYSPACES"]:
                slot.complete(integer(self._service.view.keyspaces_revision))
            case ["LEADER", "MOVE", partition, target]:
                self._control.move_leader(
                    partition,
                    target,
                    lambda error: slot.complete(OK if error is None else error.wire()),
                )
            case ["STALE", partition, *_] if partition.isdigit() and len(args) > 2:
                slot.complete(self._stale(int(partition), args[2:]))
            case _:
                raise BadRequest(f"unknown call {words[:1]}")

    def _stale(self, partition: int, args: list[bytes]) -> bytes:
        hosted = self._service.hosted.get(partition)
        command = lookup(args[0])
        may_read = command is not None and (command.kind is CommandKind.READ or command.name == "CHAIN")
        if hosted is None or command is None or not may_read:
            raise BadRequest(f"{self._service.own.name} cannot read from partition {partition}")
        return self._service.runner.stale(hosted, command, args)


def _trace(trace: Trace) -> bytes:
    """`partition id began PREPARED home`, or `... COMMITTED participants`."""
    record = trace.record
    if isinstance(record, Prepared):
        kind, others = b"PREPARED", [record.home]
    else:
        kind, others = b"COMMITTED", list(record.participants)
    fields = [b"%d" % trace.partition, trace.transaction, b"%d" % record.began_ms, kind]
    return array([bulk(field) for field in [*fields, b",".join(b"%d" % other for other in others)]])
