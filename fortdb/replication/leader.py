"""What a replica is besides while it leads: followers, the entry being built, answers that wait.

Three numbers order everything. An entry is *proposed* when the first request of a tick asks for it,
*appended* when the tick seals it, *committed* when every member of the maximal ISR has it on disk.
A read sees everything proposed before it (`overlay` over the data) and is answered once that is
committed, so nobody sees what may still be lost.

`min_in_sync` guards acknowledgements, not commits: with fewer members in the committed ISR no write
is begun, and writes under way keep waiting (rule 3), while entries that all members have are still
committed, so that a new leader that is the last of its ISR can serve what was acknowledged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from fortdb.limits import (
    ASK_AGAIN_MS,
    CATCH_UP_BYTES,
    ENTRY_BYTES_MAX,
    FLIGHT_BYTES_MAX,
)
from fortdb.model import PartitionRecord, RecordId
from fortdb.native import bind
from fortdb.replication.entries import (
    FORGET,
    Operation,
    RequestId,
    encode_entry,
    encode_operation,
)
from fortdb.replication.epochs import common_offset
from fortdb.replication.isr import InSync
from fortdb.replication.log import Pending, ReplicaLog
from fortdb.replication.messages import Align, Append, Message, Position, Query
from fortdb.replication.progress import Phase, Progress

ReadLog = Callable[[int, int, int], list[bytes]]
"""(first offset, last offset, bytes_max) -> entries from the log on disk."""


Waiter = tuple[int, Any, bytes]
"""An answer that is given once an offset is committed (or synced): that offset, the node's slot, the reply. A
plain tuple, of which the interpreter keeps free ones: each write has one."""


class Leader:
    """The leader's side of a replica, for one epoch. Times are the node's steady clock, in ms."""

    __slots__ = (
        *("node", "partition", "epoch", "log", "min_in_sync", "in_sync", "progress", "since_ms"),
        *("serve_from_ms", "transfer_to", "overlay", "uncommitted_bytes", "outbox", "waiting"),
        *("waiting_synced", "proposal", "operations", "opening_offset"),
        *("next_offset", "has_enough", "newest_id"),
    )

    def __init__(
        self,
        node: str,
        partition: int,
        record: PartitionRecord,
        log: ReplicaLog,
        min_in_sync: int,
        now_ms: int,
        serve_from_ms: int,
        wall_ms: int,
    ) -> None:
        self.node = node
        self.partition = partition
        self.epoch = record.epoch
        self.log = log
        self.min_in_sync = min_in_sync
        self.in_sync = InSync(record)
        self.progress: dict[str, Progress] = {}
        self.since_ms = now_ms
        self.serve_from_ms = serve_from_ms
        self.transfer_to: str | None = None
        self.overlay: dict[bytes, tuple[Operation, int]] = {}
        self.uncommitted_bytes = sum(len(pending.entry) for pending in log.pending)
        self.outbox: list[tuple[str, Message]] = []
        self.waiting: deque[Waiter] = deque()
        self.waiting_synced: deque[Waiter] = deque()
        self.proposal = bytearray()  # the operations of the entry being built, encoded
        self.operations: list[Operation] = []
        self.has_enough = self.enough_in_sync()
        self.next_offset = 0  # of the entry being built; set by `_append`
        # Rule 8: a no-op opens the epoch; committing it commits everything inherited. Its time is above that of
        # every entry before it, and ids begin there (`new_id`).
        self.opening_offset = self._append(max(wall_ms, log.timestamp_ms + 1))
        self.newest_id = RecordId(log.timestamp_ms, -1)

    # --- serving ------------------------------------------------------------------------------

    def serves_at(self, now_ms: int) -> bool:
        """Whether requests may be executed now, leases apart: everything inherited is in the data,
        nobody's read lease is left from the epoch before, and no handover is under way."""
        return self.log.applied >= self.opening_offset and self.is_alone(now_ms) and self.transfer_to is None

    def is_alone(self, now_ms: int) -> bool:
        """Whether no leader of an earlier epoch can serve any more."""
        return now_ms >= self.serve_from_ms

    def lease_until_ms(self, own_lease_until_ms: int) -> int:
        """Until when nobody else can have become leader and served (rules 11 to 14): the node's lease
        in the coordination store, and the promise of every other member of the maximal ISR."""
        until = own_lease_until_ms
        for node, incarnation in self.in_sync.members():
            if node != self.node:
                progress = self.progress.get(node)
                if progress is None or progress.incarnation != incarnation:
                    return 0
                until = min(until, progress.promised_until_ms)
        return until

    def enough_in_sync(self) -> bool:
        """Rule 3: whether the committed ISR is large enough to acknowledge writes."""
        return len(self.in_sync.committed) >= self.min_in_sync

    # --- the entry being built -------------------------------------------------------------------

    def propose(
        self,
        operations: list[Operation],
        request: RequestId | None,
        reply: bytes,
        wall_ms: int,
    ) -> int:
        """Add the effects of one request to the entry being built; returns the offset it will have.

        Effects of one request are never split over entries, so that they stay atomic. The entry's time is not
        below `wall_ms`, so whoever leads next agrees on what had ended by then.
        """
        log = self.log
        if wall_ms > log.timestamp_ms:
            log.timestamp_ms = wall_ms
        encoded = encode_operation(operations[-1], request, reply)
        if len(operations) > 1:
            encoded = b"".join([*map(encode_operation, operations[:-1]), encoded])
        if self.proposal and len(self.proposal) + len(encoded) > ENTRY_BYTES_MAX:
            self._append(wall_ms)
        offset = self.next_offset
        overlay = self.overlay
        for operation in operations:
            if operation.kind != FORGET:
                overlay[operation.key] = (operation, offset)
        if request is not None:
            log.memory.remember(request, offset, reply)
        self.proposal += encoded
        self.operations += operations
        return offset

    def new_id(self, now_ms: int) -> RecordId:
        """An id for what a request at `now_ms` adds: greater than every id in the log, and never given again.

        Proof. In an epoch ids grow, since they are counted here. An entry's time is not below that of an id in
        it: the log's time is raised here, before the entry is closed, and never goes down along a log. A leader
        has every committed entry in its log, or a time not below theirs beside it (`ReplicaLog.encode_memory`),
        whatever its clock says, and its opening entry, where its ids begin, is later than all of them. So an id
        that was acknowledged is below every id that a later leader gives. (What was only on a dead leader's
        disk, `ACK ASYNC`, goes with its id.)
        """
        ms, number = self.newest_id
        self.newest_id = newest = RecordId(now_ms, 0) if now_ms > ms else RecordId(ms, number + 1)
        self.log.timestamp_ms = max(self.log.timestamp_ms, newest.ms)
        return newest

    @property
    def proposed_offset(self) -> int:
        """What a reader waits for so as to see only what is committed."""
        return self.log.last_offset + (1 if self.proposal else 0)

    def seal(self, wall_ms: int) -> None:
        """Close the entry being built, if there is one: it is in the log from here on."""
        if self.proposal:
            self._append(wall_ms)

    def _append(self, wall_ms: int) -> int:
        log = self.log
        log.timestamp_ms = max(log.timestamp_ms, wall_ms)
        entry = encode_entry(self.epoch, log.last_offset + 1, log.timestamp_ms, [self.proposal])
        offset = log.append(self.epoch, entry, self.operations)
        self.proposal, self.operations = bytearray(), []
        self.uncommitted_bytes += len(entry)
        self.next_offset = offset + 1
        return offset

    def wait(self, offset: int, slot: Any, reply: bytes) -> None:
        """Give `reply` to `slot` once `offset` is committed; offsets never decrease."""
        self.waiting.append((offset, slot, reply))

    def wait_synced(self, offset: int, slot: Any, reply: bytes) -> None:
        """Give `reply` to `slot` once `offset` is on this node's own disk (async)."""
        self.waiting_synced.append((offset, slot, reply))

    def resign(self) -> list[Waiter]:
        """Leadership is over. Returns the answers that will not come from this replica."""
        if self.proposal:
            self.log.memory_is_stale = True  # it remembers requests that never reached the log
        return [*self.waiting, *self.waiting_synced]

    # --- followers ---------------------------------------------------------------------------------

    def follower_up(self, node: str, incarnation: str, now_ms: int) -> None:
        """A connection to a node stands, in this life of its process: ask where its log ends."""
        if not self.is_replica(node):
            return
        former = self.progress.get(node)
        self.progress[node] = progress = Progress(incarnation, now_ms)
        if former is not None:
            progress.attempt = former.attempt
        if former is not None and former.incarnation == incarnation:
            progress.match = former.match
            progress.caught_up_ms = former.caught_up_ms
            progress.promised_until_ms = former.promised_until_ms
        self._ask(node, progress, now_ms)

    def _ask(self, node: str, progress: Progress, now_ms: int) -> None:
        self.outbox.append((node, Query(self.partition, self.epoch, progress.ask(now_ms))))

    def ask_again(self, now_ms: int) -> None:
        """Repeat the question to followers that gave no answer: they may not have known that they
        hold the partition."""
        for node, progress in self.progress.items():
            if progress.phase is Phase.PROBE and now_ms - progress.asked_ms > ASK_AGAIN_MS:
                self._ask(node, progress, now_ms)

    def follower_down(self, node: str) -> None:
        """The connection broke; what was in flight may or may not have arrived."""
        progress = self.progress.get(node)
        if progress is not None:
            progress.phase = Phase.DOWN

    def is_replica(self, node: str) -> bool:
        """Whether the node is one that this leader replicates to."""
        record = self.in_sync.record
        return node != self.node and (node in record.replicas or node in record.isr)

    def heard_position(self, node: str, message: Position, now_ms: int) -> None:
        """A follower told the outline of its log: align it, or mark it for a snapshot.

        Only the answer to the latest question counts. An earlier one describes a log that may have
        grown since, and to align by it would cut off what was acknowledged.
        """
        progress = self.progress.get(node)
        if progress is None:
            return
        if not message.attempt:
            self._ask(node, progress, now_ms)
            return
        if progress.phase is not Phase.PROBE or message.attempt != progress.attempt:
            return
        common = common_offset(self.log.shape, message.shape)
        if common is None:
            progress.needs_snapshot()
            return
        epoch = self.log.shape.epoch_at(common)
        self.outbox.append((node, Align(self.partition, self.epoch, common, epoch)))
        progress.stream_from(common + 1)

    def heard_ack(self, node: str, offset: int, now_ms: int) -> None:
        """A follower has everything up to an offset on disk."""
        progress = self.progress.get(node)
        if progress is None:
            return
        if progress.phase is Phase.INSTALL and offset == progress.next - 1:
            progress.stream_from(progress.next)
        if progress.phase is Phase.STREAM:
            progress.acknowledged(offset, self.log.last_offset, now_ms)
            self.advance_commit()

    def heard_promise(self, node: str, until_ms: int, now_ms: int) -> None:
        """A follower promised to serve nothing of its own until `until_ms`."""
        progress = self.progress.get(node)
        if progress is None:
            return
        progress.promised_until_ms = max(progress.promised_until_ms, until_ms)
        if progress.phase is Phase.STREAM and progress.match >= self.log.last_offset:
            progress.caught_up_ms = now_ms

    def pump(self, read_log: ReadLog) -> None:
        """Send every follower what it lacks, within its flight window. Followers that lack the same get the
        same message."""
        log, made = self.log, dict[int, Append]()
        for node, progress in self.progress.items():
            while (
                progress.phase is Phase.STREAM
                and progress.next <= log.last_offset
                and progress.flight_bytes < FLIGHT_BYTES_MAX
            ):
                if progress.next <= log.shape.base_offset:
                    progress.needs_snapshot()
                    break
                message = made.get(progress.next)
                if message is None:
                    message = made[progress.next] = self._entries_from(progress.next, read_log)
                self.outbox.append((node, message))
                progress.sent(len(message.entries), sum(map(len, message.entries)))

    def has_sent_all(self) -> bool:
        """Whether no follower that is fed from the log lacks an entry that was not sent to it."""
        last = self.log.last_offset
        return all(
            progress.phase is not Phase.STREAM or progress.next > last for progress in self.progress.values()
        )

    def _entries_from(self, offset: int, read_log: ReadLog) -> Append:
        log = self.log
        first_pending = log.pending[0].offset if log.pending else log.last_offset + 1
        if offset < first_pending:
            entries = read_log(offset, first_pending - 1, CATCH_UP_BYTES)
        else:
            entries = _slice(log.pending, offset - first_pending)
        epoch = log.shape.epoch_at(offset - 1)
        return Append(self.partition, self.epoch, offset - 1, epoch, log.commit, entries)

    # --- commit -------------------------------------------------------------------------------------

    def commit_with(self, own_offset: int) -> int:
        """The commit offset, given how far this node's own disk is."""
        lowest = own_offset
        for node, incarnation in self.in_sync.members():
            if node != self.node:
                progress = self.progress.get(node)
                if progress is None or progress.incarnation != incarnation:
                    return self.log.commit
                lowest = min(lowest, progress.match)
        return max(self.log.commit, lowest)

    def advance_commit(self) -> None:
        """Look again at what is committed, after an acknowledgement, an fsync or another ISR."""
        self.log.commit = self.commit_with(self.log.synced_offset)

    def take_answers(self) -> list[Waiter]:
        """The answers that may be given now."""
        answers: list[Waiter] = []
        _take(self.waiting_synced, self.log.synced_offset, answers)
        if self.has_enough:
            _take(self.waiting, self.log.commit, answers)
        return answers

    def applied(self, taken: list[Pending]) -> None:
        """`taken` is in the data: readers need the overlay for it no more."""
        overlay = self.overlay
        for offset, entry, operations in taken:
            self.uncommitted_bytes -= len(entry)
            _forget(overlay, operations, offset)

    # --- the in-sync set ------------------------------------------------------------------------------

    def accept_record(self, record: PartitionRecord) -> None:
        """The store holds this record of the same epoch now."""
        self.in_sync.accepted(record)
        for node in [node for node in self.progress if not self.is_replica(node)]:
            del self.progress[node]
        self.has_enough = self.enough_in_sync()
        self.advance_commit()

    def isr_change(
        self,
        now_ms: int,
        lag_ms_max: int,
        is_over: Callable[[str, str], bool],
        is_leaving: Callable[[str], bool],
    ) -> PartitionRecord | None:
        """The next change of the ISR to ask the store for, if one is due and none is under way.

        `is_over(node, incarnation)`: that life of the node has certainly ended.
        `is_leaving(node)`: it drains and asks to be let go.
        """
        if self.in_sync.proposed is not None:
            return None
        committed = self.in_sync.committed
        keep = {
            node: incarnation
            for node, incarnation in committed.items()
            if node == self.node
            or not (is_over(node, incarnation) or self._lags(node, incarnation, now_ms, lag_ms_max))
        }
        for node in [node for node in keep if node != self.node and is_leaving(node)]:
            if len(keep) > self.min_in_sync:
                del keep[node]
        for node, progress in self.progress.items():
            if (
                keep.get(node) != progress.incarnation
                and not is_leaving(node)
                and not is_over(node, progress.incarnation)
                and self._may_join(node, progress)
            ):
                keep[node] = progress.incarnation
        return None if keep == committed else self.in_sync.propose_isr(keep, self.is_alone(now_ms))

    def _lags(self, node: str, incarnation: str, now_ms: int, lag_ms_max: int) -> bool:
        progress = self.progress.get(node)
        if progress is None:
            return now_ms - self.since_ms > lag_ms_max
        return progress.incarnation != incarnation or now_ms - progress.caught_up_ms > lag_ms_max

    def _may_join(self, node: str, progress: Progress) -> bool:
        """Rule 5: it has reached the commit offset and this epoch's first offset, in this epoch (a
        match is only ever learned in it) and in the current life of its process. And it has promised to
        serve nothing beside this leader: it may be elected next, and then knows whom to wait for."""
        return (
            node in self.in_sync.record.replicas
            and progress.phase is Phase.STREAM
            and progress.promised_until_ms > 0
            and progress.match >= max(self.log.commit, self.opening_offset)
        )

    def ready_to_hand_over(self) -> bool:
        """Whether the planned successor has everything and nothing else is under way."""
        if self.transfer_to is None or self.in_sync.proposed is not None or self.proposal:
            return False
        progress = self.progress.get(self.transfer_to)
        last = self.log.last_offset
        return (
            progress is not None
            and self.in_sync.committed.get(self.transfer_to) == progress.incarnation
            and self.log.commit == last
            and progress.match == last
        )


def _take(waiting: deque[Waiter], offset: int, into: list[Waiter]) -> None:
    """Move the waiters up to `offset` from a queue to a list."""
    while waiting and waiting[0][0] <= offset:
        into.append(waiting.popleft())


def _forget(overlay: dict[bytes, tuple[Operation, int]], operations: list[Operation], offset: int) -> None:
    """The effects of the entry at `offset` are in the data now."""
    for _, key, _, _ in operations:
        known = overlay.get(key)
        if known is not None and known[1] == offset:
            del overlay[key]


bind(Leader)


def _slice(pending: deque[Pending], start: int) -> list[bytes]:
    """Entries from index `start` on, up to about CATCH_UP_BYTES."""
    entries: list[bytes] = []
    size = 0
    for index in range(start, len(pending)):
        entry = pending[index].entry
        entries.append(entry)
        size += len(entry)
        if size >= CATCH_UP_BYTES:
            break
    return entries
