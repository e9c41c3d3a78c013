"""Requests that walk over all keys of a partition: these are read on another thread, and the rest is done here.

Such a walk sees the engine alone, so it begins only when what is committed is in it (`NodeCore.is_ready`). The keys of
a keyspace are fixed at that moment, by cursors: later the partition may be led elsewhere, and its data given up.

One thread does all walks of a node, one after the other. So only few may wait, and none is begun after
`ROUTER_DEADLINE_MS_MAX`: no router waits for it any more, and who asked a node itself is told.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

from fortdb.clock import steady_ms
from fortdb.errors import BadRequest, Busy, FortError, Unavailable
from fortdb.limits import PURGE_COUNT, ROUTER_DEADLINE_MS_MAX, WALKS_MAX
from fortdb.model import keyspace_name
from fortdb.node import versions
from fortdb.node.core import NodeCore
from fortdb.node.hosted import Hosted
from fortdb.node.keyspaces import keyspace_members
from fortdb.node.slots import AnySlot
from fortdb.protocol.commands import TABLE
from fortdb.protocol.resp import integer
from fortdb.replication.entries import RequestId
from fortdb.replication.leader import Leader

Found = TypeVar("Found")


class Walks:
    """`DBSIZE` and `PURGEALL` of a node's partitions."""

    def __init__(self, node: NodeCore, jobs: Executor) -> None:
        self._node = node
        self._jobs = jobs
        self._under_way = 0

    def count(self, hosted: Hosted, slot: AnySlot, args: list[bytes]) -> None:
        """Counting walks all keys, so it happens on another thread."""

        def counted(future: Future[int]) -> None:
            failure = future.exception()
            slot.complete(integer(future.result()) if failure is None else Unavailable(str(failure)).wire())

        if self._are_too_many(slot) or (len(args) == 2 and self._is_locked(hosted, slot, args[1])):
            return
        if len(args) == 1:
            ranges = hosted.key_ranges
            self._begin(lambda: sum(self._node.engine.count(*bounds) for bounds in ranges), counted)
        else:
            members = keyspace_members(self._node.engine, hosted.token_ranges, args[1])
            self._begin(lambda: sum(1 for _ in members), counted)

    def purge(
        self, hosted: Hosted, leader: Leader, slot: AnySlot, name: bytes, request: RequestId | None
    ) -> None:
        """Purge some keys of a keyspace that is closed; answers how many. They are found on another thread."""
        keyspace = self._node.policies.get(name)
        if keyspace is None or not keyspace.closed:
            self._node.fail(slot, BadRequest("PURGEALL is a step of KEYSPACE DROP name DELETE-KEYS"))
            return

        def purge(future: Future[list[bytes]]) -> None:
            if hosted.replica.leading is not leader or not self._node.is_ready(hosted, TABLE["PURGE"], []):
                slot.refuse(self._node.not_leader(hosted.replica), hosted.replica.epoch, None)
                return
            if self._is_locked(hosted, slot, name):
                return
            execution = self._node.execution(hosted, leader)
            try:
                self._node.check_writable(leader)
                reply = integer(sum(versions.forget(execution, at) for at in future.result()))
            except FortError as error:
                self._node.fail(slot, error)
                return
            if execution.operations:
                leader.wait(self._node.propose(hosted, leader, execution, request, reply), slot, reply)
            else:
                slot.complete(reply)

        if self._are_too_many(slot):
            return
        members = keyspace_members(self._node.engine, hosted.token_ranges, name)
        self._begin(lambda: list(islice(members, PURGE_COUNT)), purge)

    def _begin(self, walk: Callable[[], Found], done: Callable[[Future[Found]], None]) -> None:
        """Have a walk done on the other thread; `done` is told on this one."""
        until_ms = steady_ms() + ROUTER_DEADLINE_MS_MAX

        def in_turn() -> Found:
            if steady_ms() > until_ms:
                raise Unavailable(
                    f"{self._node.own.name} was busy with other walks over all keys for {ROUTER_DEADLINE_MS_MAX} ms; "
                    "try again"
                )
            return walk()

        def ended(future: Future[Found]) -> None:
            self._under_way -= 1
            done(future)

        self._under_way += 1
        job = self._jobs.submit(in_turn)
        job.add_done_callback(lambda future: self._node.loop.call_soon(lambda: ended(future)))

    def _are_too_many(self, slot: AnySlot) -> bool:
        """Whether no other walk may begin now; then the slot has its answer."""
        most = WALKS_MAX * len(self._node.hosted)
        if too_many := self._under_way >= most:
            self._node.fail(
                slot, Busy(f"{most} walks over all keys wait in {self._node.own.name}; try again")
            )
        return too_many

    def _is_locked(self, hosted: Hosted, slot: AnySlot, name: bytes) -> bool:
        """Whether a transaction may yet leave something in a keyspace; then the slot has its answer."""
        locked = any(keyspace_name(key) == name for key in hosted.locks.locked)
        if locked:
            self._node.fail(
                slot,
                Busy(
                    f"a transaction is about to change keys of {name.decode('utf-8', 'backslashreplace')}; try again"
                ),
            )
        return locked
