"""One partition on one node, without sockets: commands in, answers out, and time as the test says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hiredis import Reader

from fortdb.errors import FortError
from fortdb.limits import CLEAN_COUNT, SWEEP_COUNT
from fortdb.model import Keyspace, PartitionRecord
from fortdb.node import worm
from fortdb.node.disk import Segments, data_ranges, open_replica, write_replica
from fortdb.node.execute import HANDLERS, Around, Execution, end
from fortdb.node.ledger import Ledger
from fortdb.protocol.commands import check_arity, lookup
from fortdb.replication.leader import Leader
from fortdb.replication.replica import Replica
from fortdb.storage.keys import chain_key, chain_range
from fortdb.storage.rocks import RocksEngine

WHOLE_RING = ((0, 1 << 64),)
RANGES = data_ranges(WHOLE_RING)
CHAIN = chain_range(1)


class OnePartition:
    """Its only replica leads. What is proposed comes into the engine with `write`, and is found in the overlay
    until then."""

    def __init__(self, directory: Path, *keyspaces: Keyspace, now_ms: int = 1_000_000) -> None:
        self._directory = directory
        self.policies = {keyspace.name.encode(): keyspace for keyspace in keyspaces}
        self.now_ms = now_ms
        self.jumped_ms = 0  # of `now_ms`, by which the wall clock is ahead of the time that passed
        self.epoch = 0
        self._segments = Segments()
        self._open()

    def _open(self) -> None:
        self.engine = RocksEngine(
            self._directory / "engine", cache_bytes=1 << 20, memtable_bytes=1 << 20, sync=False
        )
        self.replica: Replica = open_replica(
            self.engine, 1, "p-001", "node", "life", self.engine.states().get(1)
        )
        self.elect()

    def elect(self) -> None:
        """Let an epoch begin, once all that was answered is committed."""
        if self.replica.leading is not None:
            self.write()
        self.epoch += 1
        record = PartitionRecord("p-001", "node", self.epoch, {"node": "life"}, ("node",), handover=True)
        assert self.replica.adopt(record, 1, 0, self.now_ms)
        self.write()
        self.ledger = Ledger(1, self.engine.get(chain_key(1, 0)), self.now_ms - self.jumped_ms)

    @property
    def leader(self) -> Leader:
        assert self.replica.leading is not None
        return self.replica.leading

    def restart(self) -> None:
        """The process ends and begins again."""
        self.write()
        self.engine.close()
        self._open()

    def close(self) -> None:
        self.engine.close()

    def execution(self) -> Execution:
        now_ms = max(self.now_ms, self.leader.log.timestamp_ms)
        self.ledger.steady_ms = self.now_ms - self.jumped_ms
        around = Around(self.engine, self.policies, self.leader.new_id, self.ledger)
        return Execution(around, self.leader.overlay, now_ms, self.leader.log.commit)

    def run(self, *words: object) -> Any:
        """The answer to a command, an error as a string with its code."""
        args = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        command = lookup(args[0])
        assert command is not None
        execution = self.execution()
        try:
            wrong = check_arity(command, args)
            if wrong is not None:
                raise wrong
            reply = HANDLERS[command.name](execution, args)
        except FortError as error:
            return f"{error.code} {error}"
        if execution.wants_links:
            worm.link(execution)
        self._propose(execution)
        reader = Reader()
        reader.feed(reply)
        return reader.gets()

    def sweep(self) -> int:
        """Remove what has ended, as far as one sweep of the node goes; how many notes were due."""
        self.write()
        execution = self.execution()
        due = self.engine.due(1, execution.now_ms, SWEEP_COUNT)
        for expiry_ms, key in due:
            end(execution, key, expiry_ms)
        if execution.wants_links or self.ledger.is_due():
            worm.link(execution, CLEAN_COUNT)
        self._propose(execution)
        self.write()
        return len(due)

    def write(self) -> None:
        """One tick: everything proposed is in the log, on the disk and in the engine."""
        self.leader.seal(self.now_ms)
        batch = self.engine.batch()
        _, taken = write_replica(batch, self.replica, (*RANGES, CHAIN), self._segments)
        self.engine.write(batch, False)
        self.leader.applied(taken)
        self.replica.synced()

    def contents(self) -> dict[bytes, bytes]:
        """Everything in the engine that belongs to users' keys."""
        self.write()
        return {key: value for bounds in RANGES for key, value in self.engine.scan(*bounds, 1 << 30)}

    def _propose(self, execution: Execution) -> None:
        if execution.operations:
            self.leader.propose(execution.operations, None, b"", execution.now_ms)
