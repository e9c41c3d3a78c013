"""Receipts: where a write stands, and who has it on disk, told with its acknowledgement.

The answer to a write is kept in the log and given again to a copy of the request; a receipt is made from it when the
answer is given, and not before, because only then it is known who has the write. So a copy that is answered by the next
leader gets a receipt of its own, of the same entry in the log.
"""

from __future__ import annotations

from hashlib import sha256

import structlog

from fortdb.errors import Fault, FortError, OutcomeUnknown
from fortdb.model import RecordId, keyspace_name
from fortdb.node.core import NodeCore
from fortdb.node.hosted import Hosted
from fortdb.node.ledger import content_of
from fortdb.node.slots import AnySlot
from fortdb.protocol.records import encode_id_text, parse_id
from fortdb.protocol.resp import NIL, array, bulk, integer, payload_of_bulk
from fortdb.replication.leader import Leader
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import data_key_at, record_key
from fortdb.storage.values import decode_worm, is_worm_record

log = structlog.get_logger(__name__)


class ReceiptSlot:
    """Stands before the slot of a `SET` or `ADD` with `RECEIPT`."""

    __slots__ = ("_args", "_hosted", "_leader", "_node", "_slot", "offset")

    def __init__(
        self,
        slot: AnySlot,
        node: NodeCore,
        hosted: Hosted,
        leader: Leader,
        args: list[bytes],
    ) -> None:
        self._slot = slot
        self._node = node
        self._hosted = hosted
        self._leader = leader
        self._args = args
        self.offset: int | None = None  # of the entry, if something was written; 0 if that is no longer known

    def complete(self, reply: bytes) -> None:
        """The answer: as it is if nothing was written, else as a receipt."""
        if self.offset is not None and reply[:1] != b"-" and reply != NIL:
            try:
                reply = self._receipt(reply, self.offset)
            except FortError as error:
                reply = self._node.failure_reply(error)
            except Exception as error:  # the write stands, whatever is wrong with telling of it
                log.exception("receipt_failed", partition=self._hosted.replica.name)
                reply = self._node.failure_reply(Fault(error))
        self._slot.complete(reply)

    def refuse(self, error: FortError, epoch: int, leader: str | None) -> None:
        """Not executed."""
        self._slot.refuse(error, epoch, leader)

    def abandon(self, error: FortError, epoch: int, leader: str | None) -> None:
        """Perhaps executed."""
        self._slot.abandon(error, epoch, leader)

    def drop(self) -> None:
        """A late copy."""
        self._slot.drop()

    def _receipt(self, reply: bytes, offset: int) -> bytes:
        if not offset:  # a copy, and what is remembered came with a snapshot, or stands for a trimmed log
            raise OutcomeUnknown("the write was acknowledged already; where it stands is no longer known")
        key, value, name = self._args[1], self._args[2], self._args[0].upper()
        record = parse_id(payload_of_bulk(reply) or b"") if name == b"ADD" else None
        shape, nodes = self._leader.log.shape, self._node.view.layout
        replicas = self._replicas(offset)
        zones = {} if nodes is None else nodes.nodes
        told_zones = sorted({zones[node].zone for node in replicas if node in zones})
        replica = self._hosted.replica
        space = keyspace_name(key)
        is_declared = space.decode("utf-8", "replace") in self._node.view.keyspaces
        content = sha256(value).digest() if record is None else content_of(key, record, value)
        return array(
            [
                *(bulk(b"key"), bulk(key)),
                *(bulk(b"keyspace"), bulk(space if is_declared else b"")),
                *(bulk(b"partition"), bulk(replica.name.encode())),
                *(bulk(b"partition_id"), integer(replica.partition)),
                *(bulk(b"epoch"), integer(shape.epoch_at(max(offset, shape.base_offset)))),
                *(bulk(b"offset"), integer(offset)),
                *(bulk(b"id"), NIL if record is None else bulk(encode_id_text(record))),
                *(bulk(b"content"), bulk(content.hex().encode())),
                *self._link(key, record),
                *(bulk(b"replicas"), array([bulk(node.encode()) for node in replicas])),
                *(bulk(b"zones"), array([bulk(zone.encode()) for zone in told_zones])),
            ]
        )

    def _replicas(self, offset: int) -> list[str]:
        """Members of the in-sync set that have the entry on disk, this node among them."""
        leader = self._leader
        return sorted(
            node
            for node in leader.in_sync.committed
            if node == leader.node or (node in leader.progress and leader.progress[node].match >= offset)
        )

    def _link(self, key: bytes, record: RecordId | None) -> list[bytes]:
        """The place in the chain of a record of a WORM keyspace."""
        if record is not None:
            at = record_key(data_key_at(hash_of(key), key), record)
            stored = self._node.execution(self._hosted, self._leader, self._leader.log.timestamp_ms).at(at)
            if stored is not None and is_worm_record(stored):
                held = decode_worm(stored)
                place = [
                    bulk(b"ordinal"),
                    integer(held.ordinal),
                    bulk(b"chain"),
                    bulk(held.chain.hex().encode()),
                ]
                return [*place, bulk(b"until"), integer(held.until_ms)]
        return [bulk(b"ordinal"), NIL, bulk(b"chain"), NIL, bulk(b"until"), NIL]
