"""FortDB's own program with one rule broken, to see that the torture finds it:

    FORTDB_NATIVE=0 python -m tests.torture.planted NAME node --config FILE

Each plant replaces one function of the process that it starts. The product knows nothing of it; C would go its own
way beside what is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

from fortdb.cli.main import main
from fortdb.model import Keyspace
from fortdb.node import versions
from fortdb.node.execute import Execution
from fortdb.node.ledger import Ledger
from fortdb.replication.leader import Leader, Waiter
from fortdb.replication.replica import Replica
from fortdb.storage.values import HistoryHead

FOREVER_MS = 1 << 60
VERSIONS_LEFT = 4  # few enough for every workload with versions to miss some


def acknowledge_early() -> None:
    """Rule 3 broken: a write is answered when the leader's own disk has it."""

    def take_answers(leader: Leader) -> list[Waiter]:
        answers = []
        for waiting in (leader.waiting_synced, leader.waiting):
            while waiting and waiting[0][0] <= leader.log.synced_offset:
                answers.append(waiting.popleft())
        return answers

    Leader.take_answers = take_answers  # type: ignore[assignment, method-assign]


def read_after_lease() -> None:
    """Rules 11, 12 and 14 broken: who once led serves reads until it hears of another leader."""

    def lease_until_ms(leader: Leader, own_lease_until_ms: int) -> int:
        return FOREVER_MS

    Leader.lease_until_ms = lease_until_ms  # type: ignore[assignment, method-assign]


def truncate_by_commit() -> None:
    """Rule 7 broken: at a change of leader a replica drops what it does not know to be committed."""
    enter = Replica._enter

    def entering(replica: Replica, epoch: int, leader: str | None) -> None:
        is_new = epoch > replica.epoch
        enter(replica, epoch, leader)
        log = replica.log
        if is_new and log.shape.base_offset <= log.commit < log.last_offset:
            log.truncate_after(log.commit)

    Replica._enter = entering  # type: ignore[assignment, method-assign]


def skip_epoch_check() -> None:
    """Rule 2 broken: a replica follows whoever calls itself its leader, in whichever epoch, and one that
    leads does not hear of higher ones."""

    def heard_from(replica: Replica, sender: str, epoch: int) -> bool:
        leads = replica.leading is not None
        if leads and epoch > replica.epoch:
            return False
        if leads or epoch != replica.epoch or replica.leader_name != sender:
            replica._enter(epoch, sender)
            replica.epoch = epoch
        return True

    Replica._heard_from = heard_from  # type: ignore[assignment, method-assign]


def prune_early() -> None:
    """Versions go that their keyspace keeps."""
    trimmed = versions._trimmed

    def trim(
        execution: Execution, keyspace: Keyspace, at: bytes, head: HistoryHead, count: int
    ) -> HistoryHead:
        return trimmed(execution, replace(keyspace, keep=VERSIONS_LEFT), at, head, count)

    versions._trimmed = trim


def retain_by_the_wall() -> None:
    """A retention passes by the time of day, which somebody puts forward."""

    def now_ms(ledger: Ledger, wall_ms: int) -> int:
        return wall_ms

    Ledger.now_ms = now_ms  # type: ignore[assignment, method-assign]


PLANTS: dict[str, Callable[[], None]] = {
    "acknowledge-early": acknowledge_early,
    "read-after-lease": read_after_lease,
    "truncate-by-commit": truncate_by_commit,
    "skip-epoch-check": skip_epoch_check,
    "prune-early": prune_early,
    "retain-by-the-wall": retain_by_the_wall,
}

if __name__ == "__main__":
    PLANTS[sys.argv.pop(1)]()
    main()
