"""A node's dealings with the coordination store: records in, changes out.

The store's view arrives whole and immutable; from it follows which replicas this node holds, whom it
follows, whom it leads. Changes go out as compare-and-set on one partition record, at most one a
partition at a time, off the server's thread; a change whose outcome is unknown is asked for again
until the store says yes or shows a newer record (rules 1 and 4).

Besides its own partitions, one node at a time is the *controller*: it gives partitions without a
living leader the next one, and walks them to the layout's replicas (rules 6, 9, 15). The controller
only ever takes nodes out of an ISR; only a leader lets one in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from fortdb.clock import wall_ms
from fortdb.coordination.operations import read_record, take_controller, write_record
from fortdb.coordination.session import Session
from fortdb.errors import BadRequest, FortError, NotLeader, StoreConflict, Unavailable
from fortdb.limits import DRAIN_MS_MAX, HANDOVER_MS_MAX, STORE_BEHIND_MS_MAX
from fortdb.model import ClusterView, NodeState, Partition, PartitionRecord
from fortdb.node.disk import open_replica, wipe_replica
from fortdb.node.hosted import Hosted
from fortdb.node.service import NodeService
from fortdb.replication.election import elect, first_record, preferred_leader
from fortdb.replication.leader import Leader
from fortdb.ring.moves import next_step
from fortdb.ring.tokens import TokenMap, partition_name
from fortdb.storage.engine import ReplicaState

log = structlog.get_logger(__name__)

_PERIOD_MS = 100
_ASK_AGAIN_MS = 200

Done = Callable[[FortError | None], None]

T = TypeVar("T")


def _nobody_waits(error: FortError | None) -> None:
    """For a switchover that no operator asked for; the log tells."""


class Handover:
    """A planned switchover that is under way."""

    def __init__(self, target: str, preferred: str | None, deadline_ms: int, done: Done) -> None:
        self.target = target
        self.preferred = preferred
        self.deadline_ms = deadline_ms
        self.done = done


class StoreBehind:
    """Of which partitions the store knows an older epoch than this node's disk, and since when.

    That is nothing for a moment: a node hears of an epoch from its leader before the watch tells it. A store
    that is within reach and stays behind was restored or emptied, and that an operator has to hear, once.
    """

    def __init__(self) -> None:
        self._since_ms: dict[str, int] = {}
        self._said: set[str] = set()

    def lasts_too_long(self, partition: str, is_behind: bool, now_ms: int) -> bool:
        """Whether it is time to say so."""
        if not is_behind:
            self._since_ms.pop(partition, None)
            return False
        since_ms = self._since_ms.setdefault(partition, now_ms)
        if partition in self._said or now_ms - since_ms < STORE_BEHIND_MS_MAX:
            return False
        self._said.add(partition)
        return True


class Control:
    """Keeps a node's replicas, and the store's records, where they ought to be."""

    def __init__(self, service: NodeService, session: Session, states: dict[int, ReplicaState]) -> None:
        self._service = service
        self._session = session
        self._states = states
        self._name = service.own.name
        self._records: dict[str, PartitionRecord] = {}
        self._addresses: dict[str, str] = {}
        self._asked: frozenset[str] = frozenset()
        self._tokens: TokenMap | None = None
        self._layout_version = 0
        self._electing: set[str] = set()
        self._handovers: dict[int, Handover] = {}
        self._taking_control = False
        self._behind = StoreBehind()
        self._draining_until_ms = 0
        self._drained: Callable[[], None] | None = None
        service.requests.ready_to_hand_over = self._hand_over
        service.loop.call_every(_PERIOD_MS, self._work)

    # --- what the store says -------------------------------------------------------------------

    def see(self, view: ClusterView) -> None:
        """A newer picture of the cluster; on the server's thread."""
        service = self._service
        service.see(view)
        if view.layout is not None and view.layout.version != self._layout_version:
            self._layout_version = view.layout.version
            self._tokens = service.tokens = TokenMap(view.layout)
        for node in view.nodes.values():
            self._addresses[node.name] = node.peer_address
        for record in view.records.values():
            self._see_record(record)
        self._connect()
        self._work()

    def _see_record(self, record: PartitionRecord) -> None:
        known = self._records.get(record.partition)
        if known is not None and known.revision > record.revision:
            return
        self._records[record.partition] = record
        partition = self._partition(record.partition)
        if partition is None:
            return
        mine = self._name in record.replicas or self._name in record.isr
        hosted = self._service.hosted.get(partition.id)
        if hosted is None and mine:
            hosted = self._host(partition)
        if hosted is None:
            self._service.requests.not_hosted(partition.id)
            return
        if not mine:
            self._drop(hosted)
            return
        self._adopt(hosted, record)

    def _adopt(self, hosted: Hosted, record: PartitionRecord) -> None:
        service, replica = self._service, hosted.replica
        assert service.view.layout is not None
        if (
            record.leader == self._name
            and record.epoch > replica.epoch
            and record.revision > service.view.revision
        ):
            # This node read or wrote the record before the watch told of it. Whoever leads must have seen all
            # that the leader before had seen, of the keyspaces above all: the watch comes to it, in order.
            return
        begins = replica.adopt(record, service.view.layout.min_in_sync, service.loop.now_ms, wall_ms())
        if begins:
            service.leader_changes_total += 1
            hosted.serve_until(0)  # what an earlier reign was allowed to serve
            hosted.proposed.clear()
            hosted.may_return_ms = service.loop.now_ms + service.settings.leader_return_ms
            log.info(
                "leading",
                partition=replica.name,
                epoch=replica.epoch,
                isr=",".join(sorted(record.isr)),
                by="handover" if record.handover else "election",
            )
        handover = self._handovers.get(replica.partition)
        if handover is not None and replica.leading is None:
            del self._handovers[replica.partition]
            moved = record.leader == handover.target
            handover.done(None if moved else Unavailable(f"{record.leader} leads {record.partition} now"))
        service.links.greet_followers(hosted)  # also those whom the record has just added
        service.touch(hosted)
        service.loop.tick_again()

    def _host(self, partition: Partition) -> Hosted:
        service = self._service
        state = self._states.pop(partition.id, None)
        replica = open_replica(
            service.engine,
            partition.id,
            partition.name,
            self._name,
            service.own.incarnation,
            state,
        )
        # A promise given in an earlier life may still bind (rule 11).
        replica.promised_until_ms = service.started_ms + service.settings.lease_ttl_ms
        assert self._tokens is not None
        hosted = Hosted(replica, self._tokens.ranges(partition))
        service.host(hosted)
        return hosted

    def _drop(self, hosted: Hosted) -> None:
        """The partition lives elsewhere now: forget it."""
        service, partition = self._service, hosted.replica.partition
        log.info("replica_dropped", partition=hosted.replica.name)
        service.give_up(hosted)
        batch = service.engine.batch()
        wipe_replica(batch, partition, hosted.ranges)
        batch.delete_state(partition)
        service.engine.write(batch, True)

    def _partition(self, name: str) -> Partition | None:
        layout = self._service.view.layout
        if layout is None or self._tokens is None:
            return None
        return self._tokens.by_name(name)

    def leader_of(self, partition: int) -> str:
        """Who leads a partition by the newest record; empty if nobody does."""
        record = self._records.get(partition_name(partition))
        return (record.leader if record is not None else None) or ""

    def reach(self, nodes: frozenset[str]) -> None:
        """Keep links to these nodes, too."""
        if nodes != self._asked:
            self._asked = nodes
            self._connect()

    def _connect(self) -> None:
        """Links to every node that follows something this node leads, or soon may, and to those that are asked."""
        wanted: set[str] = set(self._asked)
        for hosted in self._service.hosted.values():
            record = self._records.get(hosted.replica.name)
            if record is not None:
                wanted.update(record.replicas, record.isr)
        wanted.discard(self._name)
        self._service.links.connect(
            {name: self._addresses[name] for name in wanted if name in self._addresses}
        )

    # --- now and then -----------------------------------------------------------------------------

    def _work(self) -> None:
        for hosted in list(self._service.hosted.values()):
            self._look_whether_store_is_behind(hosted)
            leader = hosted.replica.leading
            if leader is not None and not hosted.change_under_way:
                self._tend(hosted, leader)
        self._control()
        if self._drained is not None:
            self._drain_on()

    def _look_whether_store_is_behind(self, hosted: Hosted) -> None:
        service, replica = self._service, hosted.replica
        record, now_ms = self._records.get(replica.name), service.loop.now_ms
        is_behind = record is not None and record.epoch < replica.epoch and service.lease_until_ms > now_ms
        if self._behind.lasts_too_long(replica.name, is_behind, now_ms):
            log.error(
                "store_behind_disk",
                partition=replica.name,
                store_epoch=None if record is None else record.epoch,
                disk_epoch=replica.epoch,
                advice="the coordination store was restored or emptied; do not write before this is understood",
            )

    def _tend(self, hosted: Hosted, leader: Leader) -> None:
        """One partition that this node leads: hand it over, mend its ISR, give it back."""
        now_ms = self._service.loop.now_ms
        if leader.in_sync.proposed is not None:
            self._ask(hosted, leader.in_sync.proposed)
            return
        handover = self._handovers.get(leader.partition)
        if handover is not None:
            if leader.ready_to_hand_over():
                self._hand_over(hosted, leader)
                return
            if now_ms > handover.deadline_ms:
                self._give_up_handover(hosted, leader, handover)
        change = leader.isr_change(
            now_ms,
            self._service.settings.isr_lag_ms_max,
            self._is_over,
            self._is_leaving,
        )
        if change is not None:
            log.info("isr_change", partition=hosted.replica.name, isr=",".join(sorted(change.isr)))
            self._service.requests.refresh(hosted)  # who joins has promised less, perhaps, than the others
            self._ask(hosted, change)
            return
        leader.ask_again(now_ms)
        if leader.outbox:
            self._service.touch(hosted)
        self._maybe_return(hosted, leader, now_ms)

    def _maybe_return(self, hosted: Hosted, leader: Leader, now_ms: int) -> None:
        """Give the partition to the node that ought to lead it: once that has been well a while, or at
        once if this node is to give it up and every replica of the layout is in sync."""
        wait_ms = self._service.settings.leader_return_ms
        record, partition = leader.in_sync.record, self._partition(leader.in_sync.record.partition)
        wanted = preferred_leader(record, partition)
        if (
            partition is not None
            and self._name not in partition.replicas
            and all(map(record.isr.__contains__, partition.replicas))
        ):
            hosted.may_return_ms, wait_ms = now_ms, self._service.settings.heartbeat_ms
        if wanted in (None, self._name) or not self._is_serving(wanted) or leader.transfer_to is not None:
            hosted.may_return_ms = now_ms + wait_ms
        elif wait_ms and now_ms >= hosted.may_return_ms:
            hosted.may_return_ms = now_ms + wait_ms
            assert wanted is not None
            self._begin_handover(hosted, leader, wanted, record.preferred, _nobody_waits)

    def _is_over(self, node: str, incarnation: str) -> bool:
        record = self._service.view.nodes.get(node)
        return record is None or record.incarnation != incarnation or record.state is NodeState.FAILED

    def _is_leaving(self, node: str) -> bool:
        record = self._service.view.nodes.get(node)
        return record is not None and record.state is NodeState.DRAINING

    def _is_serving(self, node: str | None) -> bool:
        record = self._service.view.nodes.get(node or "")
        return record is not None and record.state is NodeState.SERVING

    # --- compare-and-set ------------------------------------------------------------------------------

    def _ask(self, hosted: Hosted, proposal: PartitionRecord) -> None:
        """Ask the store for a change of a partition that this node leads."""
        hosted.change_under_way = True

        def done(outcome: PartitionRecord | FortError) -> None:
            if isinstance(outcome, PartitionRecord):
                hosted.change_under_way = False
                self._see_record(outcome)
            elif isinstance(outcome, StoreConflict):
                self._read(proposal.partition, answered)
            else:
                self._service.loop.call_later(_ASK_AGAIN_MS, lambda: self._end_change(hosted))

        def answered(outcome: PartitionRecord | FortError | None) -> None:
            hosted.change_under_way = False
            if isinstance(outcome, PartitionRecord):
                self._see_record(outcome)

        self._submit(
            lambda: write_record(self._session.store, self._session.keys, proposal),
            done,
        )

    def _end_change(self, hosted: Hosted) -> None:
        hosted.change_under_way = False

    def _read(self, partition: str, done: Callable[[PartitionRecord | FortError | None], None]) -> None:
        self._submit(
            lambda: read_record(self._session.store, self._session.keys, partition),
            done,
        )

    def _submit(self, work: Callable[[], T], done: Callable[[T | FortError], None]) -> None:
        """Do blocking work with the store elsewhere; hear of it on the server's thread."""
        self._session.submit(
            lambda store: work(),
            lambda outcome: self._service.loop.call_soon(lambda: done(outcome)),
        )

    # --- switchover ------------------------------------------------------------------------------------

    def move_leader(self, name: str, target: str, done: Done) -> None:
        """Hand a partition that this node leads to another in-sync node (an operator asks)."""
        partition = self._partition(name)
        hosted = self._service.hosted.get(partition.id) if partition is not None else None
        if hosted is None or hosted.replica.leading is None:
            done(NotLeader(f"{self._name} does not lead {name}"))
            return
        leader = hosted.replica.leading
        if target == self._name:
            done(None)
        elif target not in leader.in_sync.committed:
            in_sync = ", ".join(sorted(leader.in_sync.committed))
            done(BadRequest(f"{target} is not in sync for {name}; in sync are {in_sync}"))
        elif leader.transfer_to is not None:
            done(BadRequest(f"{name} is being handed to {leader.transfer_to} already"))
        else:
            self._begin_handover(hosted, leader, target, target, done)

    def _begin_handover(
        self,
        hosted: Hosted,
        leader: Leader,
        target: str,
        preferred: str | None,
        done: Done,
    ) -> None:
        log.info("handover", partition=hosted.replica.name, target=target)
        leader.transfer_to = target
        deadline_ms = self._service.loop.now_ms + HANDOVER_MS_MAX
        self._handovers[leader.partition] = Handover(target, preferred, deadline_ms, done)
        self._service.requests.refresh(hosted)
        self._service.touch(hosted)

    def _hand_over(self, hosted: Hosted, leader: Leader) -> None:
        """Everything is committed and the successor has it: say so in the store."""
        handover = self._handovers.get(leader.partition)
        if handover is not None and not hosted.change_under_way:
            self._ask(
                hosted,
                leader.in_sync.propose_leader(
                    handover.target,
                    handover.preferred,
                    leader.is_alone(self._service.loop.now_ms),
                ),
            )

    def _give_up_handover(self, hosted: Hosted, leader: Leader, handover: Handover) -> None:
        log.warning("handover_given_up", partition=hosted.replica.name, target=handover.target)
        leader.transfer_to = None
        del self._handovers[leader.partition]
        self._service.requests.refresh(hosted)
        handover.done(
            Unavailable(f"{handover.target} did not catch up in {HANDOVER_MS_MAX} ms; nothing was changed")
        )

    # --- the controller's part ---------------------------------------------------------------------------

    def _control(self) -> None:
        view = self._service.view
        if view.controller is None:
            self._take_control()
        elif view.controller == self._name and view.layout is not None:
            for partition in view.layout.partitions:
                if partition.name not in self._electing:
                    self._decide(partition)

    def _take_control(self) -> None:
        lease = self._session.lease
        if self._taking_control or lease is None or self._draining_until_ms:
            return
        self._taking_control = True

        def done(outcome: bool | FortError) -> None:
            self._taking_control = False
            if outcome is True:
                log.info("controller", node=self._name)

        self._submit(
            lambda: take_controller(self._session.store, self._session.keys, self._name, lease),
            done,
        )

    def _decide(self, partition: Partition) -> None:
        view = self._service.view
        assert view.layout is not None
        record = self._records.get(partition.name)
        if record is None:
            change = first_record(partition, view.nodes)
        else:
            change = elect(record, partition, view.nodes) or next_step(
                record, partition.replicas, view.nodes.keys(), view.layout.min_in_sync
            )
        if change is None:
            return
        self._electing.add(partition.name)
        log.info(
            "record_change",
            partition=partition.name,
            leader=change.leader,
            epoch=change.epoch,
            isr=",".join(sorted(change.isr)),
            replicas=",".join(change.replicas),
        )

        def done(outcome: PartitionRecord | FortError | None) -> None:
            if isinstance(outcome, PartitionRecord):
                self._electing.discard(partition.name)
                self._see_record(outcome)
            elif isinstance(outcome, StoreConflict):
                self._read(partition.name, done)
            else:
                self._service.loop.call_later(_ASK_AGAIN_MS, lambda: self._electing.discard(partition.name))

        self._submit(lambda: write_record(self._session.store, self._session.keys, change), done)

    # --- going away ------------------------------------------------------------------------------------------

    def drain(self, drained: Callable[[], None]) -> None:
        """Hand everything over, leave the ISRs where enough others remain, then call `drained`."""
        self._drained = drained
        self._draining_until_ms = self._service.loop.now_ms + DRAIN_MS_MAX
        self._work()

    def _drain_on(self) -> None:
        now_ms = self._service.loop.now_ms
        busy = False
        for hosted in self._service.hosted.values():
            leader = hosted.replica.leading
            if leader is None:
                busy |= self._will_be_let_go(hosted.replica.name)
            elif leader.partition in self._handovers:
                busy = True
            else:
                target = next(filter(self._is_serving, self._others_in_sync(leader)), None)
                if target is not None:
                    self._begin_handover(
                        hosted,
                        leader,
                        target,
                        leader.in_sync.record.preferred,
                        _nobody_waits,
                    )
                    busy = True
        if (not busy or now_ms > self._draining_until_ms) and self._drained is not None:
            drained, self._drained = self._drained, None
            drained()

    def _others_in_sync(self, leader: Leader) -> Iterable[str]:
        return sorted(name for name in leader.in_sync.committed if name != self._name)

    def _will_be_let_go(self, name: str) -> bool:
        """Whether this node is still in an ISR that can and will do without it."""
        record, layout = self._records.get(name), self._service.view.layout
        return (
            record is not None
            and layout is not None
            and self._name in record.isr
            and len(record.isr) > layout.min_in_sync
            and self._is_serving(record.leader)
        )
