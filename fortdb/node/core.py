"""What the parts of a data node share: its replicas, its engine and clock, what it knows of the ring, and what
holds for every request, whoever executes it.

The parts stand above and are not known here: `Runner` and `Requests` execute, `Changes` tells feeds, `Links` talks
to other processes, `Upkeep` cleans up; `NodeService` is this core with the tick, and drives them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from fortdb.clock import steady_ms, wall_ms
from fortdb.errors import (
    Busy,
    DiskFull,
    Fault,
    FortError,
    NotEnoughReplicas,
    NotLeader,
    OutcomeUnknown,
    StorageFailed,
)
from fortdb.limits import UNCOMMITTED_BYTES_MAX
from fortdb.model import Ack, ClusterView, Keyspace, Policy
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting
from fortdb.net.status import LatencyHistogram
from fortdb.net.stream import Outbox
from fortdb.node.execute import Around, Execution
from fortdb.node.hosted import Hosted
from fortdb.node.slots import AnySlot
from fortdb.protocol.commands import Command, CommandKind
from fortdb.replication.entries import RequestId
from fortdb.replication.leader import Leader
from fortdb.replication.replica import Replica
from fortdb.ring.tokens import TokenMap
from fortdb.storage.engine import Engine

log = structlog.get_logger(__name__)

WALKS = ("DBSIZE", "PURGEALL")
"""Commands that see the data in the engine and not the overlay."""


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


class NodeCore:
    """The node's replicas, and what everybody who works on them needs to know."""

    __slots__ = (
        *("__dict__", "loop", "tokens", "hosted", "engine", "refusal", "policies", "touched"),
        *("answers", "commit_latency", "outbox", "_to_answer", "_to_apply", "_wall_ms"),
    )

    def __init__(self, loop: Loop, outbox: Outbox, engine: Engine, own: Greeting, settings: Settings) -> None:
        self.loop = loop
        self.outbox = outbox  # of members and routers
        self.answers = Outbox()  # to clients, which are sent while the disk writes
        self.engine = engine
        self.own = own
        self.settings = settings
        self.view = ClusterView()
        self.policies: dict[bytes, Keyspace] = {}  # of keyspaces that ask for anything special, by name
        self.tokens: TokenMap | None = None
        self.started_ms = steady_ms()
        self.hosted: dict[int, Hosted] = {}
        self.lease_until_ms = 0
        self.refusal: FortError | None = None  # why no write is accepted at all, say a full disk
        self.errors_total: dict[str, int] = {}
        self.commit_latency = LatencyHistogram()
        self.touched: dict[Hosted, None] = {}
        self._to_answer: dict[Hosted, None] = {}  # led, with an acknowledgement that came in this tick
        self._to_apply: dict[Hosted, None] = {}  # led, perhaps with committed entries not in the data
        self._wall_ms = wall_ms()

    # --- what the tick is to look at ------------------------------------------------------------------

    def touch(self, hosted: Hosted) -> None:
        """Look at the replica at the end of this tick."""
        self.touched[hosted] = None

    def touch_committed(self) -> None:
        """Look also at the replicas that have committed entries which no batch has taken into the data yet."""
        self.touched |= self._to_apply

    def acknowledged(self, hosted: Hosted, leader: Leader) -> None:
        """A follower has more on its disk: give the answers that waited for that at the end of this tick. What
        is committed comes into the data with the next batch that is written anyway; until then readers find it
        in the overlay, and whoever walks over the data waits (`is_ready`)."""
        if hosted.serve_until_ms and not hosted.held and leader.transfer_to is None and leader.has_sent_all():
            self._to_answer[hosted] = None
            self._to_apply[hosted] = None
        else:
            self.touch(hosted)

    def propose(
        self, hosted: Hosted, leader: Leader, execution: Execution, request: RequestId | None, reply: bytes
    ) -> int:
        """Add what was executed to the entry of this tick; the offset that it will have."""
        offset = leader.propose(execution.operations, request, reply, execution.now_ms)
        hosted.began(offset)
        self.touch(hosted)
        return offset

    # --- what a request sees, and whether it may run ----------------------------------------------------

    def see(self, view: ClusterView) -> None:
        """A newer picture of the cluster."""
        self.view = view
        self.policies = {
            name.encode(): keyspace
            for name, keyspace in view.keyspaces.items()
            if keyspace.policy is not Policy.PLAIN or keyspace.ack is not Ack.SYNC or keyspace.closed
        }

    def execution(self, hosted: Hosted, leader: Leader, now_ms: int | None = None) -> Execution:
        """What a request of a partition that this node leads sees and does: at a time in its log, or now."""
        if now_ms is None:
            now_ms = max(self._wall_ms, leader.log.timestamp_ms)
        ledger = hosted.ledger
        ledger.steady_ms = self.loop.now_ms
        around = Around(self.engine, self.policies, leader.new_id, ledger)
        return Execution(around, leader.overlay, now_ms, leader.log.commit)

    def is_ready(self, hosted: Hosted, command: Command, args: list[bytes]) -> bool:
        """Whether the partition can execute a command now. After an election the ISR may be small for a
        moment: writes wait that long for followers to join, rather than fail. What walks over the data waits
        until all that is committed is in it."""
        now_ms = self.loop.now_ms
        if hosted.serve_until_ms <= now_ms:
            return False
        leader, log_ = hosted.replica.leading, hosted.replica.log
        if command.name in WALKS:
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

    def check_writable(self, leader: Leader) -> None:
        """Raises why a partition takes no writes now: `DiskFull`, `NotEnoughReplicas`, `Busy`."""
        if self.refusal is not None:
            raise self.refusal
        if not leader.enough_in_sync():
            raise NotEnoughReplicas(
                f"{len(leader.in_sync.committed)} of at least {leader.min_in_sync} replicas are in sync; "
                "the write was not begun, try again when a node is back"
            )
        if leader.uncommitted_bytes > UNCOMMITTED_BYTES_MAX:
            raise Busy("too many writes wait for the followers; try again")

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

    # --- errors ---------------------------------------------------------------------------------------

    def fail(self, slot: AnySlot, error: FortError) -> None:
        """Answer with an error."""
        slot.complete(self.failure_reply(error))

    def failure_reply(self, error: FortError) -> bytes:
        """The answer that tells an error. Of an engine that failed nobody is told in an answer: the node gives up,
        and whoever asked asks the next leader."""
        if isinstance(error, StorageFailed) and self.engine.failure is not None:
            raise error
        self.errors_total[error.code] = self.errors_total.get(error.code, 0) + 1
        return error.wire()

    def fault(self, hosted: Hosted, command: Command, error: Exception) -> Fault:
        """What to answer for a command that met a defect and left nothing half done; for its `except`, whose trace is
        logged."""
        log.exception("command_failed", command=command.name, partition=hosted.replica.name)
        return Fault(error)

    def not_leader(self, replica: Replica) -> NotLeader:
        """For requests that were not executed: another node leads."""
        leader = replica.leader_name or "nobody"
        return NotLeader(f"partition {replica.name} is led by {leader}, not by {self.own.name}")

    def lost_leadership(self, replica: Replica) -> OutcomeUnknown:
        """For writes that were proposed and whose commit this node will not hear of."""
        return OutcomeUnknown(
            f"{self.own.name} lost the leadership of {replica.name} meanwhile; "
            "the write may or may not have been applied"
        )
