"""Running a request of a partition: what it finds and leaves, and when whoever asked gets the answer.

A read is answered at once, unless it saw an effect that is not committed: then with the commit. The effects of a
write become part of the entry that this tick builds, and the answer waits until that is committed, or, with `ACK
ASYNC`, on this node's disk. A copy of a request gets the answer that the log has.
"""

from __future__ import annotations

from concurrent.futures import Executor

from fortdb.clock import wall_ms
from fortdb.errors import BadRequest, FortError, Unavailable
from fortdb.model import Ack, RecordId, keyspace_name
from fortdb.node import worm
from fortdb.node.core import WALKS, NodeCore
from fortdb.node.execute import HANDLERS, Around, Execution
from fortdb.node.hosted import Hosted
from fortdb.node.receipts import ReceiptSlot
from fortdb.node.scan import scan_page
from fortdb.node.slots import AnySlot
from fortdb.node.transactions import TRANSACTIONAL, Place
from fortdb.node.walks import Walks
from fortdb.protocol.arguments import ends_with_acknowledgement, ends_with_receipt, tells_former_value
from fortdb.protocol.commands import INTERNAL, RECEIPTED, Command, CommandKind, keys_of
from fortdb.replication.entries import RequestId

RUN_HERE = frozenset((*HANDLERS, "SCAN", *WALKS))
"""The names of those commands of clients that partitions execute."""


def _id_of_nothing(now_ms: int) -> RecordId:
    """For requests whose effects nobody takes."""
    return RecordId(now_ms, 0)


class Runner:
    """Runs requests; whoever calls has found that they may run now."""

    def __init__(self, node: NodeCore, jobs: Executor) -> None:
        self._node = node
        self._walks = Walks(node, jobs)
        self.requests_total: dict[str, int] = dict.fromkeys((*sorted(RUN_HERE), *INTERNAL), 0)

    def run(
        self,
        hosted: Hosted,
        slot: AnySlot,
        command: Command,
        args: list[bytes],
        request: RequestId | None,
    ) -> None:
        """Run a request of a partition that this node leads and serves."""
        node, leader = self._node, hosted.replica.leading
        assert leader is not None
        name = command.name
        self.requests_total[name] += 1
        if name in RECEIPTED and ends_with_receipt(args):
            args = args[:-1]
            if tells_former_value(args):
                node.fail(slot, BadRequest("RECEIPT and GET exclude each other: both are the answer"))
                return
            slot = ReceiptSlot(slot, node, hosted, leader, args)
        if request is not None and command.kind is CommandKind.WRITE:
            if (known := leader.log.memory.find(request)) is not None:
                if isinstance(slot, ReceiptSlot):
                    slot.offset = known[0]
                leader.wait(leader.proposed_offset, slot, known[1])
                node.touch(hosted)
                return
            if leader.log.memory.is_stale(request):
                slot.drop()
                return
        execution, begun = node.execution(hosted, leader), leader.next_offset
        try:
            if name == "DBSIZE":
                self._walks.count(hosted, slot, args)
                return
            if name == "PURGEALL":
                self._walks.purge(hosted, leader, slot, args[1], request)
                return
            ack = Ack.SYNC
            if command.kind is CommandKind.WRITE:
                args, ack = self._acknowledgement(command, args)
            handler = HANDLERS.get(name)
            if handler is not None:
                reply = handler(execution.bound(), args)
            elif name == "SCAN":
                reply = scan_page(execution.bound(), hosted.token_ranges, args)
            else:
                place = Place(execution.bound(), node.engine, leader, hosted.locks)
                reply = TRANSACTIONAL[name](place, args)
            if execution.operations:
                if execution.wants_links:
                    worm.link(execution)
                node.check_writable(leader)
        except FortError as error:
            node.fail(slot, error)
            return
        except Exception as error:
            if leader.next_offset != begun:
                raise  # the log was touched, and may be half changed: this node must not go on
            node.fail(slot, node.fault(hosted, command, error))
            return
        if execution.operations:
            offset = node.propose(hosted, leader, execution, request, reply)
            if isinstance(slot, ReceiptSlot):
                slot.offset = offset
            if ack is Ack.ASYNC and not execution.saw_uncommitted:
                leader.wait_synced(offset, slot, reply)
            else:
                leader.wait(offset, slot, reply)
            if handler is None:
                hosted.note_locks(execution.operations, node.loop.now_ms)
        elif execution.saw_uncommitted:
            leader.wait(leader.proposed_offset, slot, reply)
            node.touch(hosted)
        else:
            slot.complete(reply)

    def _acknowledgement(self, command: Command, args: list[bytes]) -> tuple[list[bytes], Ack]:
        """The acknowledgement that the request asks for by itself, or else by the keyspaces of its keys:
        async only if all of them say so."""
        if command.name == "SET" and ends_with_acknowledgement(args):
            word = args[-1].decode("ascii", "replace").lower()
            if word not in ("sync", "async"):
                raise BadRequest("ACK takes SYNC or ASYNC")
            return args[:-2], Ack(word)
        if self._node.policies and all(map(self._is_async, keys_of(command, args))):
            return args, Ack.ASYNC
        return args, Ack.SYNC

    def _is_async(self, key: bytes) -> bool:
        keyspace = self._node.policies.get(keyspace_name(key))
        return keyspace is not None and keyspace.ack is Ack.ASYNC

    def stale(self, hosted: Hosted, command: Command, args: list[bytes]) -> bytes:
        """Answer a read from what this replica has applied, leader or not; it may be old."""
        try:
            if hosted.replica.installing:
                raise Unavailable(f"{self._node.own.name} is still fetching partition {hosted.replica.name}")
            around = Around(self._node.engine, self._node.policies, _id_of_nothing, hosted.ledger)
            return HANDLERS[command.name](Execution(around, {}, wall_ms()).bound(), args)
        except FortError as error:
            return self._node.failure_reply(error)
        except Exception as error:  # noqa: BLE001  logged there
            return self._node.failure_reply(self._node.fault(hosted, command, error))
