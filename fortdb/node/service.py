"""A data node: the partitions it holds, and the tick that drives them.

Everything here runs on one thread. A tick takes all requests and messages that have arrived, sends
new entries to followers, writes one batch with one fsync for all partitions, and answers:

    receive -> execute, propose -> seal, send entries ---------------> followers write too
                                -> one batch: log, data, state; fsync
                                -> acknowledge to leaders, answer clients

Answers to clients leave while the disk is at the batch of the next tick, if there is one at once: sending them
takes about as long as an fsync. If nothing has arrived, they leave before the loop waits.

Requests are executed while they are received (`Requests`, `Runner`). Where there are the functions in C, `lane` does
ticks in which nothing is written (`tick_way`), and in others what is plain in each step; it calls `_send_entries`,
`_write_replica` and `_go_on` for the other replicas.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import structlog

from fortdb.clock import steady_ms, wall_ms
from fortdb.native import bind, lane
from fortdb.net.loop import Loop, TickWay
from fortdb.net.peer import Greeting
from fortdb.net.status import LatencyHistogram
from fortdb.net.stream import Outbox
from fortdb.node.changes import Changes
from fortdb.node.core import NodeCore, Settings
from fortdb.node.disk import read_memory, write_replica
from fortdb.node.hosted import Hosted
from fortdb.node.links import Links
from fortdb.node.requests import Requests
from fortdb.node.runner import Runner
from fortdb.node.snapshots import SnapshotSender
from fortdb.node.upkeep import Upkeep
from fortdb.replication.leader import Leader
from fortdb.replication.log import Pending
from fortdb.replication.progress import Phase
from fortdb.storage.engine import Batch, Engine

log = structlog.get_logger(__name__)


class NodeService(NodeCore):
    """The node's replicas, their tick, and the parts of the node, which know the core of it."""

    __slots__ = ("changes", "links")

    def __init__(self, loop: Loop, outbox: Outbox, engine: Engine, own: Greeting, settings: Settings) -> None:
        super().__init__(loop, outbox, engine, own, settings)
        self._jobs = ThreadPoolExecutor(1, "fortdb-jobs")
        self.runner = Runner(self, self._jobs)
        self.requests = Requests(self, self.runner)
        self.changes = Changes(self)
        self.links = Links(self, self.requests)
        self.upkeep = Upkeep(self, self.requests, self.changes)
        self.leader_changes_total = 0
        self.sync_latency = LatencyHistogram()
        self.tick_latency = LatencyHistogram()
        loop.call_every(settings.heartbeat_ms, self._heartbeat)
        loop.call_every(100, self.upkeep.sweep)

    # --- partitions -----------------------------------------------------------------------------------

    def host(self, hosted: Hosted) -> None:
        """This node holds a partition from now on."""
        self.hosted[hosted.replica.partition] = hosted
        self.requests.take_early(hosted)

    def give_up(self, hosted: Hosted) -> None:
        """This node no longer holds the partition: answer what waits for it, forget it."""
        self.requests.refuse_all(hosted)
        replica, leader = hosted.replica, hosted.replica.leading
        for _, slot, _ in [*replica.abandoned, *(leader.resign() if leader is not None else ())]:
            slot.abandon(self.lost_leadership(replica), replica.epoch, None)
        for sender in hosted.senders.values():
            sender.close()
        self.touched.pop(hosted, None)
        self._to_answer.pop(hosted, None)
        self._to_apply.pop(hosted, None)
        del self.hosted[replica.partition]
        self.requests.not_hosted(replica.partition)

    def lease_renewed(self, until_ms: int) -> None:
        """The coordination store renewed this node's lease (0: it is lost)."""
        self.lease_until_ms = until_ms
        for hosted in self.hosted.values():
            if hosted.replica.leading is not None:
                self.requests.refresh(hosted)

    def _heartbeat(self) -> None:
        self.links.heartbeat(steady_ms(), self.settings.lease_ttl_ms)

    # --- the tick -------------------------------------------------------------------------------------

    @property
    def tick_way(self) -> TickWay | None:
        """In C, for ticks in which nothing is written."""
        return None if lane is None else (lane.tick, self)

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
        else:
            self.answers.flush()
        if self.changes.waiting:
            self.changes.look()
        self.outbox.flush()
        if self.answers.dirty:
            self.loop.before_waiting(self.answers.flush)
        self._wall_ms = wall_ms()

    def _give_answers(self) -> None:
        if lane is not None:
            lane.give_answers(self)
            return
        waiting = list(self._to_answer)
        self._to_answer.clear()
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
        for _, slot, _ in replica.abandoned:
            slot.abandon(self.lost_leadership(replica), replica.epoch, replica.leader_name)
        replica.abandoned.clear()

    def _feed_followers(self, hosted: Hosted, leader: Leader) -> None:
        partition = hosted.replica.partition
        leader.pump(lambda first, last, bytes_max: self.engine.entries(partition, first, last, bytes_max))
        self._send_snapshots(hosted, leader)

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

    def _write(self, touched: list[Hosted]) -> None:
        batch = self.engine.batch()
        if lane is None:
            written = [self._write_replica(batch, hosted) for hosted in touched]
        else:
            written = lane.write_replicas(self, batch, touched)
        must_sync = any(changed for changed, _ in written)
        if batch.is_empty():
            self.answers.flush()
        else:
            began_s = perf_counter()
            self.engine.write(batch, must_sync, self.answers.flush)
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
            self.requests.refresh(hosted)

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


bind(NodeService)
