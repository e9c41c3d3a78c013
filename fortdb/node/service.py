"""A data node: the replicas it holds, the tick that drives them, the requests it executes.

Everything here runs on one thread. A tick takes all requests and messages that have arrived, sends
new entries to followers, writes one batch with one fsync for all partitions, and answers:

    receive -> execute, propose -> seal, send entries ---------------> followers write too
                                -> one batch: log, data, state; fsync
                                -> acknowledge to leaders, answer clients

A request is executed only while the partition's leases hold at a moment after it was received
(`Stream.readable` reads the clock after the socket): whoever sent it had begun to wait before anybody
else could lead, so an answer that leaves later, even after a pause, tells nothing stale (rule 14).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import NamedTuple, TypeVar

import structlog

from fortdb.clock import steady_ms, wall_ms
from fortdb.errors import (
    BadRequest,
    Busy,
    DiskFull,
    FortError,
    NotEnoughReplicas,
    NotLeader,
    OutcomeUnknown,
    StorageFailed,
    Unavailable,
)
from fortdb.limits import (
    CLEAN_COUNT,
    HELD_REQUESTS_MAX,
    PURGE_COUNT,
    SWEEP_COUNT,
    TRANSACTION_MS_MAX,
    UNCOMMITTED_BYTES_MAX,
)
from fortdb.model import Ack, ClusterView, Keyspace, Policy, RecordId, keyspace_name
from fortdb.native import bind, lane
from fortdb.net.front import Slot
from fortdb.net.gather import Part
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting
from fortdb.net.status import LatencyHistogram
from fortdb.net.stream import Outbox
from fortdb.node import transactions, versions, worm
from fortdb.node.changes import Changes
from fortdb.node.disk import (
    DataRange,
    Segments,
    key_ranges,
    read_memory,
    replica_ranges,
    write_replica,
)
from fortdb.node.execute import HANDLERS, Around, Execution, end
from fortdb.node.keyspaces import keyspace_members
from fortdb.node.ledger import Ledger
from fortdb.node.links import CallSlot, Links, RequestSlot
from fortdb.node.locks import Ahead, LockTable, Trace, Wanted, apart, meets
from fortdb.node.receipts import ReceiptSlot
from fortdb.node.scan import scan_page
from fortdb.node.snapshots import SnapshotInstall, SnapshotSender
from fortdb.node.transactions import TRANSACTIONAL, Place
from fortdb.protocol.arguments import ends_with_acknowledgement, ends_with_receipt, tells_former_value
from fortdb.protocol.commands import INTERNAL, RECEIPTED, TABLE, Command, CommandKind, keys_of
from fortdb.protocol.resp import NIL, integer
from fortdb.replication.entries import DELETE, Operation, RequestId
from fortdb.replication.leader import Leader
from fortdb.replication.log import Pending
from fortdb.replication.progress import Phase
from fortdb.replication.replica import Replica
from fortdb.ring.tokens import TokenMap
from fortdb.storage.engine import Batch, Engine
from fortdb.storage.keys import chain_key, owner, transaction_key, transaction_range
from fortdb.storage.values import PLAIN

log = structlog.get_logger(__name__)

_WALKS = ("DBSIZE", "PURGEALL")
"""Commands that see the data in the engine and not the overlay."""

_ALL = 1 << 62

AnySlot = Slot | RequestSlot | Part | ReceiptSlot
H = TypeVar("H")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a node needs to know of its configuration; times in milliseconds."""

    lease_ttl_ms: int
    heartbeat_ms: int
    isr_lag_ms_max: int
    write_ms_max: int
    leader_return_ms: int
    disk_free_bytes_min: int

    @property
    def lease_margin_ms(self) -> int:
        """How long before its end a lease counts as over: clocks drift, answers travel."""
        return self.lease_ttl_ms // 10


class Held:
    """A request that waits for its partition to become ready. It was not executed."""

    __slots__ = ("args", "command", "deadline_ms", "epoch", "request", "slot")

    def __init__(
        self,
        slot: AnySlot,
        command: Command,
        args: list[bytes],
        request: RequestId | None,
        epoch: int,
        deadline_ms: int,
    ) -> None:
        self.slot = slot
        self.command = command
        self.args = args
        self.request = request
        self.epoch = epoch
        self.deadline_ms = deadline_ms


class Proposed(NamedTuple):
    """An entry that waits for its commit."""

    began_s: float
    offset: int


bind(Proposed)


class Hosted:
    """A replica and what this node keeps beside its state machine."""

    __slots__ = (
        *(
            "replica",
            "token_ranges",
            "ranges",
            "key_ranges",
            "segments",
            "held",
            "members",
            "serve_until_ms",
            "plain_until_ms",
            "locks",
            "waiting",
            "senders",
            "install",
        ),
        *("proposed", "change_under_way", "may_return_ms", "ledger"),
    )

    def __init__(self, replica: Replica, token_ranges: tuple[tuple[int, int], ...]) -> None:
        self.replica = replica
        self.token_ranges = token_ranges
        self.ranges: tuple[DataRange, ...] = replica_ranges(replica.partition, token_ranges)
        self.key_ranges: tuple[DataRange, ...] = key_ranges(token_ranges)
        self.segments = Segments()
        self.held: deque[Held] = deque()
        self.serve_until_ms = 0  # requests are executed before this moment
        self.plain_until_ms = 0  # the same, without a look at locks; 0 while there may be any
        self.locks = LockTable()
        self.waiting: deque[tuple[Held, Wanted]] = deque()  # for locks on some of these keys
        self.members: tuple[tuple[str, str], ...] = ()  # whose promises that rests upon
        self.senders: dict[str, SnapshotSender] = {}
        self.install: SnapshotInstall | None = None
        self.proposed: deque[Proposed] = deque()  # entries that wait for a commit
        self.change_under_way = False  # of the partition record
        self.may_return_ms = 0  # when the preferred leader may take over again
        self.ledger = Ledger(replica.partition)

    def serve_until(self, until_ms: int) -> None:
        """Requests may be executed before this moment, and not after it."""
        self.serve_until_ms = until_ms
        self.look_at_locks()

    def look_at_locks(self) -> None:
        """The short way knows nothing of locks and of those who wait for them."""
        is_free = not (self.locks.locked or self.waiting)
        self.plain_until_ms = self.serve_until_ms if is_free else 0

    def began(self, offset: int) -> None:
        """A write was proposed; those with one offset count as begun with the first."""
        proposed = self.proposed
        if not proposed or proposed[-1].offset != offset:
            proposed.append(Proposed(perf_counter(), offset))


bind(Hosted)


def _id_of_nothing(now_ms: int) -> RecordId:
    """For requests whose effects nobody takes."""
    return RecordId(now_ms, 0)


class NodeService:
    """The node's replicas and their tick. `Control` feeds it records, `Links` messages."""

    __slots__ = (
        *("__dict__", "loop", "tokens", "hosted", "engine", "refusal", "policies", "touched", "links"),
        *("commit_latency", "_to_answer", "_to_apply", "_wall_ms"),
    )

    def __init__(
        self,
        loop: Loop,
        outbox: Outbox,
        engine: Engine,
        own: Greeting,
        settings: Settings,
    ) -> None:
        self.loop = loop
        self.outbox = outbox
        self.engine = engine
        self.own = own
        self.settings = settings
        self.view = ClusterView()
        self.policies: dict[bytes, Keyspace] = {}  # of keyspaces that ask for anything special, by name
        self.tokens: TokenMap | None = None
        self.started_ms = steady_ms()
        self.ready_to_hand_over: Callable[[Hosted, Leader], None] = lambda hosted, leader: None
        self.hosted: dict[int, Hosted] = {}
        self.lease_until_ms = 0
        self.call: Callable[[CallSlot, list[bytes]], None] = lambda slot, args: None
        self.refusal: FortError | None = None  # why no write is accepted at all, say a full disk
        self.links = Links(self)
        self.changes = Changes(self)
        self._to_answer: dict[Hosted, None] = {}  # led, with an acknowledgement that came in this tick
        self._to_apply: dict[
            Hosted, None
        ] = {}  # led, perhaps with entries that are committed and not in the data
        self.held_count = 0
        self.requests_total: dict[str, int] = dict.fromkeys((*HANDLERS, "SCAN", *_WALKS, *INTERNAL), 0)
        self.errors_total: dict[str, int] = {}
        self.leader_changes_total = 0
        self.commit_latency = LatencyHistogram()
        self.sync_latency = LatencyHistogram()
        self.tick_latency = LatencyHistogram()
        self.elsewhere: set[int] = set()  # partitions known to be held by other nodes
        self._early: dict[int, list[Held]] = {}  # requests that came before the partition's record
        self.touched: dict[Hosted, None] = {}
        self._jobs = ThreadPoolExecutor(1, "fortdb-jobs")
        self._wall_ms = wall_ms()
        loop.call_every(settings.heartbeat_ms, self._heartbeat)
        loop.call_every(100, self._sweep)

    # --- requests ---------------------------------------------------------------------------

    def touch(self, hosted: Hosted) -> None:
        """Look at the replica at the end of this tick."""
        self.touched[hosted] = None

    def acknowledged(self, hosted: Hosted, leader: Leader) -> None:
        """A follower has more on its disk: give the answers that waited for that at the end of this tick. What
        is committed comes into the data with the next batch that is written anyway; until then readers find it
        in the overlay, and whoever walks over the data waits (`_is_ready`)."""
        if hosted.serve_until_ms and not hosted.held and leader.transfer_to is None and leader.has_sent_all():
            self._to_answer[hosted] = None
            self._to_apply[hosted] = None
        else:
            self.touch(hosted)

    def submit(
        self,
        hosted: Hosted,
        slot: AnySlot,
        command: Command,
        args: list[bytes],
        request: RequestId | None = None,
        epoch: int = 0,
    ) -> None:
        """Execute a request now, or hold it until the partition is ready, or refuse it.

        `epoch` is the one in which the request wants to be executed, 0 for any. A node that is behind
        holds the request until it knows that epoch; one that is ahead refuses it.
        """
        replica = hosted.replica
        if (epoch and epoch < replica.epoch) or (replica.leading is None and epoch <= replica.epoch):
            slot.refuse(self._not_leader(replica), replica.epoch, replica.leader_name)
        elif hosted.held or epoch > replica.epoch or not self._is_ready(hosted, command, args):
            held = Held(slot, command, args, request, epoch, self._deadline_ms())
            self._hold(hosted.held, held, held)
        elif hosted.plain_until_ms:
            self._run(hosted, slot, command, args, request)
        else:
            self._run_unlocked(hosted, Held(slot, command, args, request, epoch, self._deadline_ms()))

    def read_plain(self, hosted: Hosted, key: bytes) -> bytes | None:
        """The answer to `GET` for a data key, if nothing is special: the partition serves now, no effect on
        the key is under way, and the value does not expire. None: `submit` must decide.

        For machines without the functions in C: a router's `GET` takes 6 us of a turn this way, frames and
        sending included, and 8 us by `submit` (100 in a turn, on the machine of docs/performance.md)."""
        leader = hosted.replica.leading
        if (
            leader is None
            or hosted.held
            or hosted.plain_until_ms <= self.loop.now_ms
            or key in leader.overlay
        ):
            return None
        try:
            stored = self.engine.get(key)
        except FortError as error:
            return self.failure_reply(error)
        if stored is None:
            reply = NIL
        elif stored and stored[0] == PLAIN:
            reply = b"$%d\r\n%b\r\n" % (len(stored) - 1, stored[1:])
        else:
            return None
        self.requests_total["GET"] += 1
        return reply

    def submit_early(
        self,
        partition: int,
        slot: AnySlot,
        command: Command,
        args: list[bytes],
        request: RequestId,
        epoch: int,
    ) -> None:
        """A request for a partition that this node does not hold, or does not know yet that it holds."""
        if partition in self.elsewhere:
            slot.refuse(NotLeader(f"{self.own.name} does not hold the partition"), 0, None)
        elif self.held_count >= HELD_REQUESTS_MAX:
            slot.complete(Busy(f"{self.held_count} requests wait on {self.own.name} already").wire())
        else:
            self.held_count += 1
            held = Held(slot, command, args, request, epoch, self._deadline_ms())
            self._early.setdefault(partition, []).append(held)

    def host(self, hosted: Hosted) -> None:
        """This node holds a partition from now on."""
        partition = hosted.replica.partition
        self.hosted[partition] = hosted
        self.elsewhere.discard(partition)
        hosted.held.extend(self._early.pop(partition, ()))

    def not_hosted(self, partition: int) -> None:
        """The partition is held by others."""
        if partition not in self.elsewhere:
            self.elsewhere.add(partition)
            for held in self._early.pop(partition, ()):
                self.held_count -= 1
                held.slot.refuse(NotLeader(f"{self.own.name} does not hold the partition"), 0, None)

    def _deadline_ms(self) -> int:
        return self.loop.now_ms + self.settings.write_ms_max

    def _not_leader(self, replica: Replica) -> NotLeader:
        leader = replica.leader_name or "nobody"
        return NotLeader(f"partition {replica.name} is led by {leader}, not by {self.own.name}")

    def _hold(self, queue: deque[H], held: Held, item: H) -> None:
        if self.held_count >= HELD_REQUESTS_MAX:
            held.slot.complete(Busy(f"{self.held_count} requests wait on {self.own.name} already").wire())
            return
        self.held_count += 1
        queue.append(item)

    # --- locks ----------------------------------------------------------------------------------------

    def _run_unlocked(self, hosted: Hosted, held: Held) -> None:
        """Run a request of a partition in which a transaction holds locks, unless it meets one, or a request
        that waits for one: those of one client on one key stay in order."""
        try:
            wanted = transactions.wanted_by(held.command, held.args, hosted.locks)
        except FortError as error:
            self._fail(held.slot, error)
            return
        is_held = meets(wanted, hosted.locks.locked)
        is_free = not is_held and all(apart(wanted, other) for _, other in hosted.waiting)
        if is_free or self._was_executed(hosted, held):
            self._run(hosted, held.slot, held.command, held.args, held.request)
        else:
            self._hold(hosted.waiting, held, (held, wanted))

    def _was_executed(self, hosted: Hosted, held: Held) -> bool:
        """Whether the request is a copy, which has its answer already. It may have been the one to lock."""
        leader = hosted.replica.leading
        return (
            leader is not None
            and held.request is not None
            and leader.log.memory.find(held.request) is not None
        )

    def _release_waiting(self, hosted: Hosted) -> None:
        """Run those who waited for locks that are gone, in order, or refuse them if this node lost the lead."""
        replica, locks = hosted.replica, hosted.locks
        waiting, hosted.waiting = hosted.waiting, deque()
        ahead = Ahead()
        for held, wanted in waiting:
            is_free = not meets(wanted, locks.locked) and ahead.lets_pass(wanted)
            if isinstance(held.slot, RequestSlot) and not held.slot.peer.is_open:
                self.held_count -= (
                    1  # a router that lives has sent it again; one that died would never unlock
                )
                continue
            if replica.leading is None or (held.epoch and held.epoch != replica.epoch):
                self.held_count -= 1
                held.slot.refuse(self._not_leader(replica), replica.epoch, replica.leader_name)
            elif (is_free or self._was_executed(hosted, held)) and self._is_ready(
                hosted, held.command, held.args
            ):
                self.held_count -= 1
                self._run(hosted, held.slot, held.command, held.args, held.request)
            else:
                ahead.add(wanted)
                hosted.waiting.append((held, wanted))
        hosted.look_at_locks()
        self.loop.tick_again()

    def _note_locks(self, hosted: Hosted, operations: list[Operation]) -> None:
        """Follow what a transaction proposed."""
        were = len(hosted.locks.locked)
        hosted.locks.note(operations, self.loop.now_ms)
        hosted.look_at_locks()
        if hosted.waiting and len(hosted.locks.locked) < were:
            self._release_waiting(hosted)

    def _read_locks(self, hosted: Hosted, leader: Leader) -> None:
        """This node begins to serve: everything that it inherited is in the data."""
        hosted.locks = LockTable(leader)
        records = self.engine.scan(*transaction_range(hosted.replica.partition), _ALL)
        hosted.locks.read(records, self.loop.now_ms)
        outline = self.engine.get(chain_key(hosted.replica.partition, 0))
        hosted.ledger = Ledger(hosted.replica.partition, outline, self.loop.now_ms)

    def traces(self) -> list[Trace]:
        """What old transactions left in partitions that this node leads, for a router to finish."""
        return [
            trace
            for partition, hosted in self.hosted.items()
            if hosted.serve_until_ms > self.loop.now_ms
            for trace in hosted.locks.old(partition, self.loop.now_ms)
        ]

    def _forget_aborts(self, hosted: Hosted, leader: Leader) -> None:
        """Delete the records of aborted transactions that could not be committed any more."""
        if not hosted.locks.decisions or not self._may_clean_up(hosted, leader):
            return
        until_ms = leader.log.timestamp_ms - TRANSACTION_MS_MAX
        over = hosted.locks.over(until_ms, SWEEP_COUNT)
        if over:
            partition = hosted.replica.partition
            operations = [Operation(DELETE, transaction_key(partition, one)) for one in over]
            leader.propose(operations, None, b"", leader.log.timestamp_ms)
            self._note_locks(hosted, operations)
            self.touch(hosted)

    # --- execution ------------------------------------------------------------------------------------

    def _run(
        self,
        hosted: Hosted,
        slot: AnySlot,
        command: Command,
        args: list[bytes],
        request: RequestId | None,
    ) -> None:
        leader = hosted.replica.leading
        assert leader is not None
        name = command.name
        self.requests_total[name] += 1
        if name in RECEIPTED and ends_with_receipt(args):
            args = args[:-1]
            if tells_former_value(args):
                self._fail(slot, BadRequest("RECEIPT and GET exclude each other: both are the answer"))
                return
            slot = ReceiptSlot(slot, self, hosted, leader, args)
        if request is not None and command.kind is CommandKind.WRITE:
            if (known := leader.log.memory.find(request)) is not None:
                if isinstance(slot, ReceiptSlot):
                    slot.offset = known[0]
                leader.wait(leader.proposed_offset, slot, known[1])
                self.touch(hosted)
                return
            if leader.log.memory.is_stale(request):
                slot.drop()
                return
        now_ms = max(self._wall_ms, leader.log.timestamp_ms)
        execution = self.execution(leader, now_ms)
        if name == "DBSIZE":
            self._count(hosted, slot, args)
            return
        if name == "PURGEALL":
            self._purge_all(hosted, leader, slot, args[1], request)
            return
        try:
            ack = Ack.SYNC
            if command.kind is CommandKind.WRITE:
                args, ack = self._acknowledgement(command, args)
            handler = HANDLERS.get(name)
            if handler is not None:
                reply = handler(execution, args)
            elif name == "SCAN":
                reply = scan_page(execution, hosted.token_ranges, args)
            else:
                place = Place(execution, self.engine, leader, hosted.locks)
                reply = TRANSACTIONAL[name](place, args)
            if execution.operations:
                if execution.wants_links:
                    worm.link(execution)
                self._check_writable(leader)
        except FortError as error:
            self._fail(slot, error)
            return
        except Exception as error:
            log.exception("command_failed", command=name, partition=hosted.replica.name)
            self._fail(
                slot, BadRequest(f"this is a fault in fortdb ({type(error).__name__}); see the node's log")
            )
            return
        if execution.operations:
            offset = self._propose(hosted, leader, execution, request, reply)
            if isinstance(slot, ReceiptSlot):
                slot.offset = offset
            if ack is Ack.ASYNC and not execution.saw_uncommitted:
                leader.wait_synced(offset, slot, reply)
            else:
                leader.wait(offset, slot, reply)
            if handler is None:
                self._note_locks(hosted, execution.operations)
        elif execution.saw_uncommitted:
            leader.wait(leader.proposed_offset, slot, reply)
            self.touch(hosted)
        else:
            slot.complete(reply)

    def _propose(
        self, hosted: Hosted, leader: Leader, execution: Execution, request: RequestId | None, reply: bytes
    ) -> int:
        """Add what was executed to the entry of this tick; the offset that it will have."""
        offset = leader.propose(execution.operations, request, reply, execution.now_ms)
        hosted.began(offset)
        self.touch(hosted)
        return offset

    def _check_writable(self, leader: Leader) -> None:
        if self.refusal is not None:
            raise self.refusal
        if not leader.enough_in_sync():
            raise NotEnoughReplicas(
                f"{len(leader.in_sync.committed)} of at least {leader.min_in_sync} replicas are in sync; "
                "the write was not begun, try again when a node is back"
            )
        if leader.uncommitted_bytes > UNCOMMITTED_BYTES_MAX:
            raise Busy("too many writes wait for the followers; try again")

    def _acknowledgement(self, command: Command, args: list[bytes]) -> tuple[list[bytes], Ack]:
        """The acknowledgement that the request asks for by itself, or else by the keyspaces of its keys:
        async only if all of them say so."""
        if command.name == "SET" and ends_with_acknowledgement(args):
            word = args[-1].decode("ascii", "replace").lower()
            if word not in ("sync", "async"):
                raise BadRequest("ACK takes SYNC or ASYNC")
            return args[:-2], Ack(word)
        if self.policies and all(map(self._is_async, keys_of(command, args))):
            return args, Ack.ASYNC
        return args, Ack.SYNC

    def _is_async(self, key: bytes) -> bool:
        keyspace = self.policies.get(keyspace_name(key))
        return keyspace is not None and keyspace.ack is Ack.ASYNC

    def see(self, view: ClusterView) -> None:
        """A newer picture of the cluster."""
        self.view = view
        self.policies = {
            name.encode(): keyspace
            for name, keyspace in view.keyspaces.items()
            if keyspace.policy is not Policy.PLAIN or keyspace.ack is not Ack.SYNC or keyspace.closed
        }

    def execution(self, leader: Leader, now_ms: int) -> Execution:
        """What a request of a partition that this node leads sees and does."""
        ledger = self.hosted[leader.partition].ledger
        ledger.steady_ms = self.loop.now_ms
        around = Around(self.engine, self.policies, leader.new_id, ledger)
        return Execution(around, leader.overlay, now_ms, leader.log.commit)

    def _fail(self, slot: AnySlot, error: FortError) -> None:
        slot.complete(self.failure_reply(error))

    def failure_reply(self, error: FortError) -> bytes:
        """The answer that tells an error. Of an engine that failed nobody is told in an answer: the node gives up,
        and whoever asked asks the next leader."""
        if isinstance(error, StorageFailed) and self.engine.failure is not None:
            raise error
        self.errors_total[error.code] = self.errors_total.get(error.code, 0) + 1
        return error.wire()

    def _count(self, hosted: Hosted, slot: AnySlot, args: list[bytes]) -> None:
        """Counting walks all keys, so it happens on another thread."""

        def counted(future: Future[int]) -> None:
            failure = future.exception()
            reply = integer(future.result()) if failure is None else Unavailable(str(failure)).wire()
            self.loop.call_soon(lambda: slot.complete(reply))

        if len(args) == 2 and self._is_locked(hosted, slot, args[1]):
            return
        if len(args) == 1:
            ranges = hosted.key_ranges
            job = self._jobs.submit(lambda: sum(self.engine.count(*bounds) for bounds in ranges))
        else:
            members = keyspace_members(self.engine, hosted.token_ranges, args[1])
            job = self._jobs.submit(lambda: sum(1 for _ in members))
        job.add_done_callback(counted)

    def _is_locked(self, hosted: Hosted, slot: AnySlot, name: bytes) -> bool:
        """Whether a transaction may yet leave something in a keyspace; then the slot has its answer."""
        locked = any(keyspace_name(key) == name for key in hosted.locks.locked)
        if locked:
            self._fail(slot, Busy(f"a transaction is about to change keys of {name.decode()}; try again"))
        return locked

    def _purge_all(
        self, hosted: Hosted, leader: Leader, slot: AnySlot, name: bytes, request: RequestId | None
    ) -> None:
        """Purge some keys of a keyspace that is closed; answers how many. They are found on another thread."""
        keyspace = self.policies.get(name)
        if keyspace is None or not keyspace.closed:
            self._fail(slot, BadRequest("PURGEALL is a step of KEYSPACE DROP name DELETE-KEYS"))
            return

        def found(future: Future[list[bytes]]) -> None:
            self.loop.call_soon(lambda: purge(future))

        def purge(future: Future[list[bytes]]) -> None:
            if hosted.replica.leading is not leader or not self._is_ready(hosted, TABLE["PURGE"], []):
                slot.refuse(self._not_leader(hosted.replica), hosted.replica.epoch, None)
                return
            if self._is_locked(hosted, slot, name):
                return
            now_ms = max(self._wall_ms, leader.log.timestamp_ms)
            execution = self.execution(leader, now_ms)
            try:
                self._check_writable(leader)
                reply = integer(sum(versions.forget(execution, at) for at in future.result()))
            except FortError as error:
                self._fail(slot, error)
                return
            if execution.operations:
                leader.wait(self._propose(hosted, leader, execution, request, reply), slot, reply)
            else:
                slot.complete(reply)

        members = keyspace_members(self.engine, hosted.token_ranges, name)
        self._jobs.submit(lambda: list(islice(members, PURGE_COUNT))).add_done_callback(found)

    def give_up(self, hosted: Hosted) -> None:
        """This node no longer holds the partition: refuse what waits for it, forget it."""
        replica = hosted.replica
        waiting = [*hosted.held, *(held for held, _ in hosted.waiting)]
        for held in waiting:
            held.slot.refuse(self._not_leader(replica), replica.epoch, None)
        self.held_count -= len(waiting)
        leader = replica.leading
        for waiter in [
            *replica.abandoned,
            *(leader.resign() if leader is not None else ()),
        ]:
            waiter.slot.abandon(self._lost_leadership(replica), replica.epoch, None)
        for sender in hosted.senders.values():
            sender.close()
        self.touched.pop(hosted, None)
        self._to_answer.pop(hosted, None)
        self._to_apply.pop(hosted, None)
        del self.hosted[replica.partition]
        self.not_hosted(replica.partition)

    def stale(self, hosted: Hosted, command: Command, args: list[bytes]) -> bytes:
        """Answer a read from what this replica has applied, leader or not; it may be old."""
        try:
            if hosted.replica.installing:
                raise Unavailable(f"{self.own.name} is still fetching partition {hosted.replica.name}")
            around = Around(self.engine, self.policies, _id_of_nothing, hosted.ledger)
            return HANDLERS[command.name](Execution(around, {}, wall_ms()), args)
        except FortError as error:
            return self.failure_reply(error)

    # --- the tick --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Everything that has arrived is in: send, write, answer."""
        if self._to_answer:
            self._give_answers()
        if self.touched:
            began_s = perf_counter()
            touched = list(self.touched | self._to_apply)
            self.touched.clear()
            self._to_apply.clear()
            self._send_all_entries(touched)
            self.outbox.flush()  # followers write while this node does
            self._write(touched)
            self.tick_latency.observe(perf_counter() - began_s)
        if self.changes.waiting:
            self.changes.look()
        self.outbox.flush()
        self._wall_ms = wall_ms()

    def _give_answers(self) -> None:
        waiting = list(self._to_answer)
        self._to_answer.clear()
        if lane is not None:
            lane.give_answers(self, waiting)
            return
        for hosted in waiting:
            if (leader := hosted.replica.leading) is not None:
                self._answer(hosted, leader)

    def _send_all_entries(self, touched: list[Hosted]) -> None:
        if lane is not None:
            lane.send_entries(self, touched)
            return
        for hosted in touched:
            self._send_entries(hosted)

    def _send_entries(self, hosted: Hosted) -> None:
        replica = hosted.replica
        leader = replica.leading
        if leader is not None:
            leader.seal(self._wall_ms)
            if leader.progress:
                self._feed_followers(hosted, leader)
            if leader.outbox:
                self.links.send_all(leader.outbox)
            self._answer(hosted, leader)
        if replica.replies:
            self.links.answer_all(replica.replies)
        for waiter in replica.abandoned:
            waiter.slot.abandon(self._lost_leadership(replica), replica.epoch, replica.leader_name)
        replica.abandoned.clear()

    def _feed_followers(self, hosted: Hosted, leader: Leader) -> None:
        partition = hosted.replica.partition
        leader.pump(lambda first, last, bytes_max: self.engine.entries(partition, first, last, bytes_max))
        self._send_snapshots(hosted, leader)

    def _lost_leadership(self, replica: Replica) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"{self.own.name} lost the leadership of {replica.name} meanwhile; "
            "the write may or may not have been applied"
        )

    def _write(self, touched: list[Hosted]) -> None:
        batch = self.engine.batch()
        if lane is None:
            written = [self._write_replica(batch, hosted) for hosted in touched]
        else:
            written = lane.write_replicas(self, batch, touched)
        must_sync = any(changed for changed, _ in written)
        if not batch.is_empty():
            began_s = perf_counter()
            self.engine.write(batch, must_sync)
            if must_sync:
                self.sync_latency.observe(perf_counter() - began_s)
        if lane is not None:
            lane.go_on(self, touched, written)
            return
        for hosted, (_, taken) in zip(touched, written, strict=True):
            self._go_on(hosted, taken)

    def _write_replica(self, batch: Batch, hosted: Hosted) -> tuple[bool, list[Pending]]:
        written = write_replica(batch, hosted.replica, hosted.ranges, hosted.segments)
        if hosted.install is not None:
            hosted.install.write(batch, hosted.replica.partition)
        return written

    def _go_on(self, hosted: Hosted, taken: list[Pending]) -> None:
        """What a replica wrote is on the disk: tell everybody who waits for that."""
        replica = hosted.replica
        leader = replica.leading
        if taken and leader is not None:
            leader.applied(taken)
        replica.synced()
        self._acknowledge(hosted)
        if leader is not None:
            self._answer(hosted, leader)
        if replica.log.memory_is_stale:
            read_memory(self.engine, replica.partition, replica.log)
        if replica.log.commit > replica.log.applied and replica.log.pending:
            self.touch(hosted)
            self.loop.tick_again()
        if hosted.held or not self._knows_until_when(hosted):
            self.refresh(hosted)

    def _knows_until_when(self, hosted: Hosted) -> bool:
        """Whether `refresh` was called since something changed that only a tick brings. Leases, promises and
        records call it themselves, and a sweep does ten times a second."""
        leader = hosted.replica.leading
        if leader is None:
            return hosted.serve_until_ms == 0
        return (
            hosted.serve_until_ms > 0
            and leader.transfer_to is None
            and hosted.members is leader.in_sync.members()
        )

    def _answer(self, hosted: Hosted, leader: Leader) -> None:
        for _, slot, reply in leader.take_answers():
            slot.complete(reply)
        proposed, commit = hosted.proposed, leader.log.commit
        if proposed and proposed[0].offset <= commit:
            now_s = perf_counter()
            while proposed and proposed[0].offset <= commit:
                self.commit_latency.observe(now_s - proposed.popleft().began_s)

    def _acknowledge(self, hosted: Hosted) -> None:
        install = hosted.install
        if install is not None:
            self.links.snapshot_taken_in(hosted.replica, install)
            if install.is_complete:
                hosted.replica.end_snapshot(install.sender, install.shape)
                hosted.install = None
                self.touch(hosted)  # its state must be on disk before it is acknowledged
                self.loop.tick_again()
                return
        if hosted.replica.acknowledgements:
            self.links.answer_all(hosted.replica.acknowledgements)

    def refresh(self, hosted: Hosted) -> None:
        """Work out until when requests may be executed, and execute those that waited."""
        leader = hosted.replica.leading
        if leader is None or not leader.serves_at(self.loop.now_ms):
            hosted.serve_until(0)
        else:
            if hosted.locks.leader is not leader:
                self._read_locks(hosted, leader)
            until_ms = leader.lease_until_ms(self.lease_until_ms)
            hosted.members = leader.in_sync.members()
            hosted.serve_until(until_ms - self.settings.lease_margin_ms)
        if hosted.waiting:
            self._release_waiting(hosted)
        if leader is not None and leader.ready_to_hand_over():
            self.ready_to_hand_over(hosted, leader)
        if hosted.held:
            self._release(hosted)

    def _release(self, hosted: Hosted) -> None:
        """Run what was held, now that the partition is ready, or refuse what cannot be run here."""
        replica = hosted.replica
        while hosted.held:
            first = hosted.held[0]
            if first.epoch > replica.epoch:
                return
            if replica.leading is not None and (not first.epoch or first.epoch == replica.epoch):
                if not self._is_ready(hosted, first.command, first.args):
                    return
                self._unhold(hosted)
                self._run_unlocked(hosted, first)
                self.loop.tick_again()
            else:
                self._unhold(hosted)
                first.slot.refuse(self._not_leader(replica), replica.epoch, replica.leader_name)
                self.loop.tick_again()

    def _is_ready(self, hosted: Hosted, command: Command, args: list[bytes]) -> bool:
        """Whether the partition can execute a command now. After an election the ISR may be small for a
        moment: writes wait that long for followers to join, rather than fail. What walks over the data waits
        until all that is committed is in it."""
        now_ms = self.loop.now_ms
        if hosted.serve_until_ms <= now_ms:
            return False
        leader, log_ = hosted.replica.leading, hosted.replica.log
        if command.name in _WALKS:
            # In a keyspace also what is on its way: whoever counts it may have closed it.
            wanted = log_.commit if leader is None or len(args) == 1 else leader.proposed_offset
            if log_.applied < wanted:
                self.touch(hosted)
                return False
        return (
            leader is None
            or command.kind is not CommandKind.WRITE
            or leader.enough_in_sync()
            or now_ms - leader.since_ms > self.settings.isr_lag_ms_max
        )

    def _unhold(self, hosted: Hosted) -> Held:
        self.held_count -= 1
        return hosted.held.popleft()

    def lease_renewed(self, until_ms: int) -> None:
        """The coordination store renewed this node's lease (0: it is lost)."""
        self.lease_until_ms = until_ms
        for hosted in self.hosted.values():
            if hosted.replica.leading is not None:
                self.refresh(hosted)

    # --- now and then ---------------------------------------------------------------------------------

    def _heartbeat(self) -> None:
        self.links.heartbeat(steady_ms(), self.settings.lease_ttl_ms)

    def _sweep(self) -> None:
        """Every 100 ms: time-outs, and what has become due by time alone."""
        now_ms = self.loop.now_ms
        self.touched |= self._to_apply
        self.changes.time_out()
        for partition, early in list(self._early.items()):
            if early[0].deadline_ms <= now_ms:
                self.not_hosted(partition)
                self.elsewhere.discard(partition)
        for hosted in self.hosted.values():
            leader = hosted.replica.leading
            if leader is not None:
                self._time_out(hosted, leader)
                self._expire(hosted, leader)
                self._forget_aborts(hosted, leader)
                self._trim(hosted, leader)
                self.refresh(hosted)
            else:
                hosted.proposed.clear()
                self._trim(hosted, None)
            self._time_out_waiting(hosted, now_ms)
            while hosted.held and hosted.held[0].deadline_ms <= now_ms:
                held = self._unhold(hosted)
                self._fail(
                    held.slot,
                    Unavailable(
                        f"partition {hosted.replica.name} did not become ready on {self.own.name} in time; "
                        "the request was not executed"
                    ),
                )

    def _time_out_waiting(self, hosted: Hosted, now_ms: int) -> None:
        while hosted.waiting and hosted.waiting[0][0].deadline_ms <= now_ms:
            held, wanted = hosted.waiting.popleft()
            self.held_count -= 1
            key = next((key for key in hosted.locks.locked if meets(wanted, (key,))), b"")
            self._fail(
                held.slot,
                Unavailable(
                    f"a transaction holds key {key[:64].decode('utf-8', 'backslashreplace')!r} for too long, as no router"
                    " finishes it; the request was not executed"
                ),
            )

    def _may_clean_up(self, hosted: Hosted, leader: Leader) -> bool:
        """Whether the partition takes writes of its own now."""
        return (
            hosted.serve_until_ms > self.loop.now_ms
            and self.refusal is None
            and leader.enough_in_sync()
            and leader.uncommitted_bytes <= UNCOMMITTED_BYTES_MAX
        )

    def _time_out(self, hosted: Hosted, leader: Leader) -> None:
        """Tell clients whose writes could not be committed in time that the outcome is unknown."""
        proposed = hosted.proposed
        overdue_s = perf_counter() - self.settings.write_ms_max / 1000
        offset = -1
        while proposed and proposed[0].began_s <= overdue_s:
            offset = proposed.popleft().offset
        while leader.waiting and leader.waiting[0].offset <= offset:
            self._fail(
                leader.waiting.popleft().slot,
                OutcomeUnknown(
                    f"not every in-sync replica of {hosted.replica.name} confirmed within "
                    f"{self.settings.write_ms_max} ms; the write may or may not have been applied"
                ),
            )

    def _expire(self, hosted: Hosted, leader: Leader) -> None:
        """Delete what is past its TTL, as any other write, a little at a time."""
        if not self._may_clean_up(hosted, leader):
            return
        now_ms = max(wall_ms(), leader.log.timestamp_ms)
        execution = self.execution(leader, now_ms)
        for expiry_ms, key in self.engine.due(hosted.replica.partition, now_ms, SWEEP_COUNT):
            if owner(key) in hosted.locks.locked:
                continue  # what a transaction will leave there was worked out already
            end(execution, key, expiry_ms)
            if len(execution.operations) > CLEAN_COUNT:
                break
        if execution.wants_links or hosted.ledger.is_due():
            worm.link(execution, CLEAN_COUNT)
        if execution.operations:
            leader.propose(execution.operations, None, b"", now_ms)
            self.touch(hosted)

    def _trim(self, hosted: Hosted, leader: Leader | None) -> None:
        log_ = hosted.replica.log
        needed_after = log_.applied
        if leader is not None:
            for progress in leader.progress.values():
                if progress.phase is Phase.STREAM:
                    needed_after = min(needed_after, progress.match)
                elif progress.phase in (Phase.SNAPSHOT, Phase.INSTALL):
                    needed_after = 0
        target = hosted.segments.trim_to(needed_after)
        if target is not None and log_.shape.base_offset < target <= log_.applied:
            log_.trim(target)
            self.touch(hosted)

    def _send_snapshots(self, hosted: Hosted, leader: Leader) -> None:
        for node, progress in leader.progress.items():
            if progress.phase is Phase.SNAPSHOT and node not in hosted.senders:
                log.info("snapshot_started", partition=hosted.replica.name, to=node)
                hosted.senders[node] = SnapshotSender(self.engine, leader, node, hosted.ranges)
        for node, sender in list(hosted.senders.items()):
            if not sender.is_for(leader) or not sender.step():
                log.info("snapshot_ended", partition=hosted.replica.name, to=node)
                sender.close()
                del hosted.senders[node]
            elif sender.wants_to_send:
                self.touch(hosted)
                self.loop.tick_again()

    def check_disk(self, check: Callable[[], None]) -> None:
        """Refuse writes while the disk is too full to be safe, and say so."""
        try:
            check()
        except DiskFull as error:
            if self.refusal is None:
                log.error("disk_full", reason=str(error))
            self.refusal = error
        else:
            if self.refusal is not None:
                log.info("disk_has_room_again")
            self.refusal = None


bind(NodeService)
