"""Requests that walk over all keys of a partition: these are read on another thread, and the rest is done here.

Such a walk sees the engine alone, so it begins only when what is committed is in it (`NodeCore.is_ready`).
"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from itertools import islice

from fortdb.errors import BadRequest, Busy, FortError, Unavailable
from fortdb.limits import PURGE_COUNT
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


class Walks:
    """`DBSIZE` and `PURGEALL` of one partition."""

    def __init__(self, node: NodeCore, jobs: Executor) -> None:
        self._node = node
        self._jobs = jobs

    def count(self, hosted: Hosted, slot: AnySlot, args: list[bytes]) -> None:
        """Counting walks all keys, so it happens on another thread."""

        def counted(future: Future[int]) -> None:
            failure = future.exception()
            reply = integer(future.result()) if failure is None else Unavailable(str(failure)).wire()
            self._node.loop.call_soon(lambda: slot.complete(reply))

        if len(args) == 2 and self._is_locked(hosted, slot, args[1]):
            return
        if len(args) == 1:
            ranges = hosted.key_ranges
            job = self._jobs.submit(lambda: sum(self._node.engine.count(*bounds) for bounds in ranges))
        else:
            members = keyspace_members(self._node.engine, hosted.token_ranges, args[1])
            job = self._jobs.submit(lambda: sum(1 for _ in members))
        job.add_done_callback(counted)

    def purge(
        self, hosted: Hosted, leader: Leader, slot: AnySlot, name: bytes, request: RequestId | None
    ) -> None:
        """Purge some keys of a keyspace that is closed; answers how many. They are found on another thread."""
        keyspace = self._node.policies.get(name)
        if keyspace is None or not keyspace.closed:
            self._node.fail(slot, BadRequest("PURGEALL is a step of KEYSPACE DROP name DELETE-KEYS"))
            return

        def found(future: Future[list[bytes]]) -> None:
            self._node.loop.call_soon(lambda: purge(future))

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

        members = keyspace_members(self._node.engine, hosted.token_ranges, name)
        self._jobs.submit(lambda: list(islice(members, PURGE_COUNT))).add_done_callback(found)

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
