"""One replica of one partition: its epoch, its role, and how it follows.

Values in, values out: records, messages, requests and the clock come in by method calls; what has to
be written and sent collects in the replica until its node takes it. The node's tick is

    1. records, messages and requests go in
    2. `Leader.seal`, `Leader.pump`: frames to send now     (followers write while we write)
    3. `take_writes`, `take_committed`: one batch, one fsync
    4. `synced`: frames to send after the fsync, answers to give

The leader sends an entry to its followers in the same moment in which it writes it itself (Raft
dissertation, section 10.2.1); a follower acknowledges only what is on its disk (rule 10).

A follower's log is trusted in an epoch only once it is *aligned* with the leader's: the leader asks
for the outline of the log (`Query`, `Position`), finds where the two part, and says so (`Align`);
from there entries follow in order on one connection. A connection that breaks starts over with a
question, and so does every epoch.
"""

from __future__ import annotations

from fortdb.model import PartitionRecord
from fortdb.native import bind
from fortdb.replication.epochs import LogShape
from fortdb.replication.leader import Leader, Waiter
from fortdb.replication.log import Pending, ReplicaLog
from fortdb.replication.messages import (
    Ack,
    Align,
    Append,
    Message,
    Position,
    Query,
    Refuse,
    SnapshotBegin,
)


class Replica:
    """The state machine of one replica. Times are the node's steady clock, in milliseconds."""

    __slots__ = (
        *("partition", "name", "node", "incarnation", "epoch", "log", "leader_name", "leading", "aligned"),
        *("installing", "promised_until_ms", "replies", "acknowledgements", "abandoned"),
    )

    def __init__(
        self,
        partition: int,
        name: str,
        node: str,
        incarnation: str,
        epoch: int,
        log: ReplicaLog,
    ) -> None:
        self.partition = partition
        self.name = name
        self.node = node
        self.incarnation = incarnation
        self.epoch = epoch  # the highest seen, ever (rule 2)
        self.log = log
        self.leader_name: str | None = None
        self.leading: Leader | None = None
        self.aligned = False
        self.installing = False
        self.promised_until_ms = 0
        self.replies: list[tuple[str, Message]] = []  # to send at once
        self.acknowledgements: list[tuple[str, Message]] = []  # to send after the fsync
        self.abandoned: list[Waiter] = []  # answers that will not come from here

    # --- role ---------------------------------------------------------------------------------

    def adopt(self, record: PartitionRecord, min_in_sync: int, now_ms: int, wall_ms: int) -> bool:
        """Take over the record that the coordination store holds. True if this replica begins to lead.

        A record of a lower epoch than one seen before is not followed (rule 2).
        """
        if record.epoch < self.epoch:
            return False
        if self.leading is not None and record.epoch == self.epoch:
            self.leading.min_in_sync = min_in_sync
            self.leading.accept_record(record)
            return False
        mine = record.leader == self.node and record.isr.get(self.node) == self.incarnation
        begins = mine and record.epoch > self.epoch and not self.installing
        self._enter(record.epoch, record.leader)
        if begins:
            # Nobody serves before the promises given to former leaders have run out, unless these
            # are known to be over, all of them.
            serve_from_ms = now_ms if record.handover else max(now_ms, self.promised_until_ms)
            self.leading = Leader(
                self.node,
                self.partition,
                record,
                self.log,
                min_in_sync,
                now_ms,
                serve_from_ms,
                wall_ms,
            )
        return begins

    def _enter(self, epoch: int, leader: str | None) -> None:
        """Be a follower in an epoch at least as high as the present one."""
        if self.leading is not None:
            self.abandoned += self.leading.resign()
            self.leading = None
        if epoch > self.epoch:
            self.epoch = epoch
            self.log.state_changed = True
            self.aligned = False
            self.acknowledgements.clear()  # the leader of a lower epoch hears nothing more
        self.leader_name = leader

    def _heard_from(self, sender: str, epoch: int) -> bool:
        """Check the epoch of a leader's message, adopting a higher one. False: it was refused."""
        if epoch < self.epoch or (epoch == self.epoch and self.leading is not None):
            self.replies.append((sender, Refuse(self.partition, self.epoch)))
            return False
        if epoch > self.epoch or self.leader_name != sender:
            self._enter(epoch, sender)
        return True

    def refused(self, epoch: int) -> bool:
        """A follower has seen a higher epoch: stop leading. True if this replica led."""
        led = self.leading is not None and epoch > self.epoch
        if epoch > self.epoch:
            self._enter(epoch, None)
        return led

    # --- the follower's side ----------------------------------------------------------------------

    def promise(self, sender: str, epoch: int, commit: int, until_ms: int) -> bool:
        """Accept a leader's claim: serve nothing as another leader until `until_ms`."""
        if not self._heard_from(sender, epoch):
            return False
        self.promised_until_ms = max(self.promised_until_ms, until_ms)
        self._commit_up_to(commit)
        return True

    def heard_query(self, sender: str, message: Query) -> bool:
        """The leader asks for the outline of this log; what it hears is on disk first. A snapshot that was
        half in is given up: whoever asks begins anew. False: it was refused."""
        if not self._heard_from(sender, message.epoch):
            return False
        self.aligned = False
        if self.installing:
            self.installing = False
            self.log.reset(LogShape())
        self._tell_position(sender, message.attempt)
        return True

    def heard_align(self, sender: str, message: Align) -> None:
        """The leader's log and this one are the same up to an offset: drop the rest (rule 7)."""
        if not self._heard_from(sender, message.epoch):
            return
        log, shape = self.log, self.log.shape
        if (
            self.installing
            or not shape.base_offset <= message.offset <= shape.last_offset
            or shape.epoch_at(message.offset) != message.offset_epoch
        ):
            self._tell_position(sender)
            return
        if message.offset < log.applied:
            # Only an election outside the ISR (an operator's word) leads here: what was applied
            # cannot be taken back one by one, so all of it is fetched anew.
            log.reset(LogShape())
            self._tell_position(sender)
            return
        if message.offset < shape.last_offset:
            log.truncate_after(message.offset)
        self.aligned = True
        self.acknowledgements.append((sender, Ack(self.partition, self.epoch, message.offset)))

    def heard_append(self, sender: str, message: Append) -> None:
        """Entries from the leader: into the log now, acknowledged after the fsync."""
        if not self._heard_from(sender, message.epoch) or not self.aligned:
            return
        log = self.log
        if (message.previous_offset, message.previous_epoch) != (
            log.last_offset,
            log.shape.last_epoch,
        ):
            self.aligned = False
            self._tell_position(sender)
            return
        for entry in message.entries:
            log.append_received(entry)
        self._commit_up_to(message.commit)
        acknowledgement = (sender, Ack(self.partition, self.epoch, log.last_offset))
        latest = self.acknowledgements[-1] if self.acknowledgements else None
        if latest is not None and latest[0] == sender and type(latest[1]) is Ack:
            self.acknowledgements[-1] = acknowledgement  # one for all appends of a tick
        else:
            self.acknowledgements.append(acknowledgement)

    def begin_snapshot(self, sender: str, message: SnapshotBegin) -> bool:
        """Forget everything and wait for the data. False: the leader was refused."""
        if not self._heard_from(sender, message.epoch):
            return False
        self.installing = True
        self.aligned = False
        self.log.reset(LogShape())
        return True

    def end_snapshot(self, sender: str, shape: LogShape) -> None:
        """All data is in: go on from the snapshot's offset; acknowledged after the fsync."""
        log = self.log
        self.installing = False
        self.aligned = True
        log.shape = shape
        log.commit = log.applied = log.synced_offset = shape.last_offset
        log.state_changed = True
        log.memory_is_stale = True
        self.acknowledgements.append((sender, Ack(self.partition, self.epoch, shape.last_offset)))

    def _tell_position(self, sender: str, attempt: int = 0) -> None:
        shape = LogShape() if self.installing else self.log.shape
        self.acknowledgements.append((sender, Position(self.partition, self.epoch, attempt, shape)))

    def _commit_up_to(self, commit: int) -> None:
        """The leader's commit offset means something only for an aligned log."""
        if self.aligned:
            self.log.commit = max(self.log.commit, min(commit, self.log.last_offset))

    # --- what the node takes ------------------------------------------------------------------------

    def take_committed(self) -> list[Pending]:
        """Committed entries for the data, as of the moment the batch will be on disk."""
        log, leading = self.log, self.leading
        return log.take_committed(log.commit if leading is None else leading.commit_with(log.last_offset))

    def synced(self) -> None:
        """Everything taken is on disk."""
        self.log.synced_offset = self.log.last_offset
        if self.leading is not None:
            self.leading.advance_commit()


bind(Replica)
