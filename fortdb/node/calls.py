"""Commands to the node itself: what routers pass on for operators and for stale reads, and what finishes transactions."""

from __future__ import annotations

from fortdb.errors import BadRequest, FortError, NotLeader
from fortdb.limits import TRACE_AGE_MS
from fortdb.node.control import Control
from fortdb.node.describe import describe_node, describe_partition
from fortdb.node.service import NodeService
from fortdb.node.slots import CallSlot
from fortdb.protocol.arguments import parse_integer
from fortdb.protocol.commands import INTERNAL, CommandKind, check_arity, lookup
from fortdb.protocol.resp import OK, array, bulk, integer
from fortdb.protocol.transactions import REPEATABLE


class Calls:
    """`REPLICAS`, `REPLICA partition-id`, `KEYSPACES`, `TRACES`, `SETTLE partition-id command...`,
    `LEADER MOVE partition node`, `CHANGES partition-id after ...`, `STALE partition-id command...`."""

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
            case ["REPLICA", _]:
                slot.complete(bulk(describe_partition(self._service, parse_integer(args[1]))))
            case ["TRACES"]:
                traces = self._service.requests.traces(TRACE_AGE_MS)
                slot.complete(array([trace.encode() for trace in traces]))
            case ["SETTLE", _, _, *_]:
                self._settle(slot, parse_integer(args[1]), args[2:])
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
            case ["STALE", _, _, *_]:
                slot.complete(self._stale(parse_integer(args[1]), args[2:]))
            case _:
                raise BadRequest(f"unknown call {words[:1]}")

    def _settle(self, slot: CallSlot, partition: int, args: list[bytes]) -> None:
        """A step of the recovery of a transaction; another node asks, without an id, for what may be repeated."""
        command = INTERNAL.get(args[0].decode("utf-8", "replace"))
        if command is None or command.name not in REPEATABLE:
            raise BadRequest(f"SETTLE takes {', '.join(REPEATABLE)}")
        wrong = check_arity(command, args)
        if wrong is not None:
            raise wrong
        hosted = self._service.hosted.get(partition)
        if hosted is None:
            raise NotLeader(f"{self._service.own.name} does not hold partition {partition}")
        self._service.requests.submit(hosted, slot, command, args)

    def _stale(self, partition: int, args: list[bytes]) -> bytes:
        hosted = self._service.hosted.get(partition)
        command = lookup(args[0])
        may_read = command is not None and (command.kind is CommandKind.READ or command.name == "CHAIN")
        if hosted is None or command is None or not may_read:
            raise BadRequest(f"{self._service.own.name} cannot read from partition {partition}")
        return self._service.runner.stale(hosted, command, args)
