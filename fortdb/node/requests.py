"""When a request runs: at once, after a wait, or not here.

It waits for the partition to become ready (the leases to hold, an election's first entry to be applied), for a record
of which this node has not heard, or for a lock that a transaction holds. Waiting executes nothing, so it may end in
a refusal or a time-out at any moment; of a copy of what was executed before, its router takes neither for the
outcome (`router/channels.py`).

A request is executed only while the partition's leases hold at a moment after it was received (`Stream.readable`
reads the clock after the socket): whoever sent it had begun to wait before anybody else could lead, so an answer
that leaves later, even after a pause, tells nothing stale (rule 14).
"""

from __future__ import annotations

from collections.abc import Callable

from fortdb.errors import Busy, FortError, NotLeader, Unavailable
from fortdb.limits import HELD_REQUESTS_MAX
from fortdb.node import transactions
from fortdb.node.core import NodeCore
from fortdb.node.hosted import Held, Hosted
from fortdb.node.ledger import Ledger
from fortdb.node.locks import LockTable, Queue, Wanted, meets
from fortdb.node.runner import Runner
from fortdb.node.slots import AnySlot, RequestSlot
from fortdb.protocol.commands import Command
from fortdb.protocol.resp import NIL
from fortdb.protocol.transactions import Trace
from fortdb.replication.entries import RequestId
from fortdb.replication.leader import Leader
from fortdb.storage.keys import chain_key, transaction_range
from fortdb.storage.values import PLAIN

_ALL = 1 << 62


class Requests:
    """The requests of all partitions of this node, and those that wait."""

    def __init__(self, node: NodeCore, runner: Runner) -> None:
        self._node = node
        self._loop = node.loop
        self._engine = node.engine
        self._is_ready = node.is_ready
        self._run = runner.run
        self._requests_total = runner.requests_total
        self._elsewhere: set[int] = set()  # partitions known to be held by other nodes
        self._early: dict[int, list[Held]] = {}  # requests that came before the partition's record
        self.held_count = 0
        self.ready_to_hand_over: Callable[[Hosted, Leader], None] = lambda hosted, leader: None

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
            slot.refuse(self._node.not_leader(replica), replica.epoch, replica.leader_name)
        elif hosted.held or epoch > replica.epoch or not self._is_ready(hosted, command, args):
            if self._may_wait(slot):
                hosted.held.append(Held(slot, command, args, request, epoch, self._deadline_ms()))
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
            or hosted.plain_until_ms <= self._loop.now_ms
            or key in leader.overlay
        ):
            return None
        try:
            stored = self._engine.get(key)
        except FortError as error:
            return self._node.failure_reply(error)
        if stored is None:
            reply = NIL
        elif stored and stored[0] == PLAIN:
            reply = b"$%d\r\n%b\r\n" % (len(stored) - 1, stored[1:])
        else:
            return None
        self._requests_total["GET"] += 1
        return reply

    # --- partitions that come and go ------------------------------------------------------------------

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
        if partition in self._elsewhere:
            slot.refuse(self._does_not_hold(), 0, None)
        elif self._may_wait(slot):
            held = Held(slot, command, args, request, epoch, self._deadline_ms())
            self._early.setdefault(partition, []).append(held)

    def take_early(self, hosted: Hosted) -> None:
        """This node holds a partition from now on: what came early waits with the rest."""
        partition = hosted.replica.partition
        self._elsewhere.discard(partition)
        hosted.held.extend(self._early.pop(partition, ()))

    def not_hosted(self, partition: int) -> None:
        """The partition is held by others."""
        if partition not in self._elsewhere:
            self._elsewhere.add(partition)
            self._refuse_early(partition)

    def refuse_all(self, hosted: Hosted) -> None:
        """This node no longer holds the partition: refuse what waits for it."""
        replica = hosted.replica
        waiting = [*hosted.held, *(held for held, _ in hosted.waiting)]
        for held in waiting:
            held.slot.refuse(self._node.not_leader(replica), replica.epoch, None)
        self.held_count -= len(waiting)

    def time_out_early(self) -> None:
        """Refuse what has waited for a partition's record for too long."""
        for partition, early in list(self._early.items()):
            if early[0].deadline_ms <= self._loop.now_ms:
                self._refuse_early(partition)

    def _refuse_early(self, partition: int) -> None:
        for held in self._early.pop(partition, ()):
            self.held_count -= 1
            held.slot.refuse(self._does_not_hold(), 0, None)

    def _does_not_hold(self) -> NotLeader:
        return NotLeader(f"{self._node.own.name} does not hold the partition")

    def refresh(self, hosted: Hosted) -> None:
        """Work out until when requests may be executed, and execute those that waited."""
        leader = hosted.replica.leading
        if leader is None or not leader.serves_at(self._loop.now_ms):
            hosted.serve_until(0)
        else:
            if hosted.locks.leader is not leader:
                self.read_locks(hosted, leader)
            until_ms = leader.lease_until_ms(self._node.lease_until_ms)
            hosted.members = leader.in_sync.members()
            hosted.serve_until(until_ms - self._node.settings.lease_margin_ms)
        if hosted.waiting:
            self._release_waiting(hosted)
        if leader is not None and leader.ready_to_hand_over():
            self.ready_to_hand_over(hosted, leader)
        if hosted.held:
            self._release(hosted)

    # --- waiting for the partition --------------------------------------------------------------------

    def _deadline_ms(self) -> int:
        return self._loop.now_ms + self._node.settings.write_ms_max

    def _may_wait(self, slot: AnySlot) -> bool:
        """Count one more request that waits; or, when there are too many, answer it."""
        if self.held_count >= HELD_REQUESTS_MAX:
            slot.complete(Busy(f"{self.held_count} requests wait on {self._node.own.name} already").wire())
            return False
        self.held_count += 1
        return True

    def _unhold(self, hosted: Hosted) -> Held:
        self.held_count -= 1
        return hosted.held.popleft()

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
                self._loop.tick_again()
            else:
                self._unhold(hosted)
                first.slot.refuse(self._node.not_leader(replica), replica.epoch, replica.leader_name)
                self._loop.tick_again()

    def time_out(self, hosted: Hosted) -> None:
        """Fail what has waited for the partition, or for a lock, for too long."""
        self._time_out_waiting(hosted)
        while hosted.held and hosted.held[0].deadline_ms <= self._loop.now_ms:
            held = self._unhold(hosted)
            self._node.fail(
                held.slot,
                Unavailable(
                    f"partition {hosted.replica.name} did not become ready on {self._node.own.name} in time; "
                    "the request was not executed"
                ),
            )

    # --- waiting for locks ----------------------------------------------------------------------------

    def _run_unlocked(self, hosted: Hosted, held: Held) -> None:
        """Run a request of a partition in which a transaction holds locks, unless it meets one, or a request
        that waits for one: those of one client on one key stay in order."""
        try:
            wanted = transactions.wanted_by(held.command, held.args, hosted.locks)
        except FortError as error:
            self._node.fail(held.slot, error)
            return
        except Exception as error:  # noqa: BLE001  logged there
            self._node.fail(held.slot, self._node.fault(hosted, held.command, error))
            return
        if _is_free(hosted, wanted) or self._was_executed(hosted, held):
            self._run_held(hosted, held)
        elif self._may_wait(held.slot):
            hosted.waiting.add(held, wanted)

    def _run_held(self, hosted: Hosted, held: Held) -> None:
        """Run a request, and what waited for locks that it took away."""
        were = len(hosted.locks.locked)
        self._run(hosted, held.slot, held.command, held.args, held.request)
        if hosted.waiting and len(hosted.locks.locked) < were:
            self._release_waiting(hosted)

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
        replica = hosted.replica
        waiting, hosted.waiting = hosted.waiting, Queue()
        for held, wanted in waiting:
            if isinstance(held.slot, RequestSlot) and not held.slot.peer.is_open:
                # A router that lives has sent it again; one that died would never unlock.
                self.held_count -= 1
                continue
            if replica.leading is None or (held.epoch and held.epoch != replica.epoch):
                self.held_count -= 1
                held.slot.refuse(self._node.not_leader(replica), replica.epoch, replica.leader_name)
            elif (_is_free(hosted, wanted) or self._was_executed(hosted, held)) and self._is_ready(
                hosted, held.command, held.args
            ):
                self.held_count -= 1
                self._run_held(hosted, held)
            else:
                hosted.waiting.add(held, wanted)
        hosted.look_at_locks()
        self._loop.tick_again()

    def refuse_waiting(self, hosted: Hosted) -> None:
        """This node does not lead the partition: who waits for locks may ask the next leader. (Nothing else looks
        after them when a lead was handed over.)"""
        if hosted.waiting:
            self._release_waiting(hosted)

    def _time_out_waiting(self, hosted: Hosted) -> None:
        while (first := hosted.waiting.first) is not None and first.deadline_ms <= self._loop.now_ms:
            held, wanted = hosted.waiting.pop()
            self.held_count -= 1
            key = next((key for key in hosted.locks.locked if meets(wanted, (key,))), b"")
            self._node.fail(
                held.slot,
                Unavailable(
                    f"a transaction holds key {key[:64].decode('utf-8', 'backslashreplace')!r} for too long, as its"
                    " outcome cannot be learned yet; the request was not executed"
                ),
            )

    def read_locks(self, hosted: Hosted, leader: Leader) -> None:
        """This node begins to serve: everything that it inherited is in the data."""
        hosted.locks = LockTable(leader)
        records = self._engine.scan(*transaction_range(hosted.replica.partition), _ALL)
        hosted.locks.read(records, self._loop.now_ms)
        outline = self._engine.get(chain_key(hosted.replica.partition, 0))
        hosted.ledger = Ledger(hosted.replica.partition, outline, self._loop.now_ms)

    def traces(self, age_ms: int) -> list[Trace]:
        """What transactions of that age left in partitions that this node leads, for somebody to finish."""
        until_ms = self._loop.now_ms - age_ms
        return [
            trace
            for partition, hosted in self._node.hosted.items()
            if hosted.serve_until_ms > self._loop.now_ms
            for trace in hosted.locks.old(partition, until_ms)
        ]


def _is_free(hosted: Hosted, wanted: Wanted) -> bool:
    """Whether no transaction has locked any of the keys, and nobody waits for one."""
    return not meets(wanted, hosted.locks.locked) and hosted.waiting.lets_pass(wanted)
