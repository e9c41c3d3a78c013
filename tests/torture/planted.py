"""FortDB's own program with one rule of replication broken, to see that the torture finds it:

    FORTDB_NATIVE=0 python -m tests.torture.planted NAME node --config FILE

Each plant replaces one function of the process that it starts. The product knows nothing of it; C would go its own
way beside what is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from fortdb.cli.main import main
from fortdb.replication.leader import Leader, Waiter
from fortdb.replication.replica import Replica

FOREVER_MS = 1 << 60


def acknowledge_early() -> None:
    """Rule 3 broken: a write is answered when the leader's own disk has it."""

    def take_answers(leader: Leader) -> list[Waiter]:
        answers = []
        for waiting in (leader.waiting_synced, leader.waiting):
            while waiting and waiting[0].offset <= leader.log.synced_offset:
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


PLANTS: dict[str, Callable[[], None]] = {
    "acknowledge-early": acknowledge_early,
    "read-after-lease": read_after_lease,
    "truncate-by-commit": truncate_by_commit,
    "skip-epoch-check": skip_epoch_check,
}

if __name__ == "__main__":
    PLANTS[sys.argv.pop(1)]()
    main()
