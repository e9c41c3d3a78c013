"""What becomes due by time alone: time-outs, values past their TTL, the end of the log.

What a leader deletes here goes through its log as any other write does, a little at a time, so that requests find their
turn between.
"""

from __future__ import annotations

from time import perf_counter

from fortdb.clock import wall_ms
from fortdb.errors import OutcomeUnknown
from fortdb.limits import CLEAN_COUNT, SWEEP_COUNT, TRANSACTION_MS_MAX, UNCOMMITTED_BYTES_MAX
from fortdb.node import worm
from fortdb.node.changes import Changes
from fortdb.node.core import NodeCore
from fortdb.node.execute import end
from fortdb.node.hosted import Hosted
from fortdb.node.requests import Requests
from fortdb.replication.entries import DELETE, Operation
from fortdb.replication.leader import Leader
from fortdb.replication.progress import Phase
from fortdb.storage.keys import owner, transaction_key


class Upkeep:
    """Looks at every replica ten times a second."""

    def __init__(self, node: NodeCore, requests: Requests, changes: Changes) -> None:
        self._node = node
        self._requests = requests
        self._changes = changes

    def sweep(self) -> None:
        """Time-outs, and what has become due by time alone."""
        self._node.touch_committed()
        self._changes.time_out()
        self._requests.time_out_early()
        for hosted in self._node.hosted.values():
            leader = hosted.replica.leading
            if leader is not None:
                self._time_out(hosted, leader)
                self._expire(hosted, leader)
                self._forget_aborts(hosted, leader)
                self._trim(hosted, leader)
                self._requests.refresh(hosted)
            else:
                hosted.proposed.clear()
                self._trim(hosted, None)
                self._requests.refuse_waiting(hosted)
            self._requests.time_out(hosted)

    def _may_clean_up(self, hosted: Hosted, leader: Leader) -> bool:
        """Whether the partition takes writes of its own now."""
        return (
            hosted.serve_until_ms > self._node.loop.now_ms
            and self._node.refusal is None
            and leader.enough_in_sync()
            and leader.uncommitted_bytes <= UNCOMMITTED_BYTES_MAX
        )

    def _time_out(self, hosted: Hosted, leader: Leader) -> None:
        """Tell clients whose writes could not be committed in time that the outcome is unknown."""
        proposed = hosted.proposed
        overdue_s = perf_counter() - self._node.settings.write_ms_max / 1000
        offset = -1
        while proposed and proposed[0].began_s <= overdue_s:
            offset = proposed.popleft().offset
        while leader.waiting and leader.waiting[0][0] <= offset:
            _, slot, _ = leader.waiting.popleft()
            self._node.fail(
                slot,
                OutcomeUnknown(
                    f"not every in-sync replica of {hosted.replica.name} confirmed within "
                    f"{self._node.settings.write_ms_max} ms; the write may or may not have been applied"
                ),
            )

    def _expire(self, hosted: Hosted, leader: Leader) -> None:
        """Delete what is past its TTL, as any other write, a little at a time."""
        if not self._may_clean_up(hosted, leader):
            return
        now_ms = max(wall_ms(), leader.log.timestamp_ms)
        execution = self._node.execution(hosted, leader, now_ms)
        for expiry_ms, key in self._node.engine.due(hosted.replica.partition, now_ms, SWEEP_COUNT):
            if owner(key) in hosted.locks.locked:
                continue  # what a transaction will leave there was worked out already
            end(execution, key, expiry_ms)
            if len(execution.operations) > CLEAN_COUNT:
                break
        if execution.wants_links or hosted.ledger.is_due():
            worm.link(execution, CLEAN_COUNT)
        if execution.operations:
            self._node.propose(hosted, leader, execution, None, b"")

    def _forget_aborts(self, hosted: Hosted, leader: Leader) -> None:
        """Delete the records of aborted transactions that could not be committed any more."""
        if not hosted.locks.decisions or not self._may_clean_up(hosted, leader):
            return
        until_ms = leader.log.timestamp_ms - TRANSACTION_MS_MAX
        over = hosted.locks.over(until_ms, SWEEP_COUNT)
        if over:
            execution = self._node.execution(hosted, leader, leader.log.timestamp_ms)
            for one in over:
                execution.effect(Operation(DELETE, transaction_key(leader.partition, one)))
            self._node.propose(hosted, leader, execution, None, b"")
            hosted.note_locks(execution.operations, self._node.loop.now_ms)

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
            self._node.touch(hosted)
