"""Finishing transactions over several partitions whose router is gone: what routers and nodes do alike.

What a dead router leaves are *traces*: parts that are prepared, whose fate only the transaction's home knows, and
commits, of which not all parts may know. A trace is but a rumour: what a leader tells of may not be committed in its
log yet, and be lost with it. Whoever meets one asks the home for the decision, which is abort if there was none, and is
told only when it is committed (`RESOLVE`). It lets the part do so (`FINISH`); of a commit it tells all parts, and lets
the home forget it then (`FORGET`). Routers ask the nodes for traces (`router/transactions.py`), and the leader of a
partition meets its own (`node/finisher.py`), so that no router needs to live.

Any number may do so at once, and the first router may be alive and late: each step asks a partition's leader for an
entry in its log, the home decides once, and a step that was done before changes nothing. So what fails on the way is
just given up: the trace is still there, and is met again. The home forgets a commit only when every part has its
effects committed in its own log, so nobody can ask for it, find nothing and abort a part.

Source: Percolator 2010, section 2.2 (a transaction's locks are rolled forward or back by whoever runs into them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import structlog

from fortdb.limits import FINISHING_MAX
from fortdb.net.gather import Gather, Then
from fortdb.protocol.resp import OK
from fortdb.protocol.transactions import Trace

log = structlog.get_logger(__name__)

Ask = Callable[[int, list[bytes], Callable[[bytes], None]], None]
"""Ask the leader of a partition; the function gets its reply, or an error, later and once."""


def _nobody_waits(decision: bytes, all_did: bool) -> None:
    """For those who have done their part; a trace is left of what was not done."""


class Recovery:
    """Brings transactions to their end."""

    def __init__(self, ask: Ask) -> None:
        self.finished = {"committed": 0, "aborted": 0}
        """Traces that were brought to their end here, by the decision."""
        self._ask = ask
        self._finishing: set[tuple[int, bytes]] = set()

    # --- traces ---------------------------------------------------------------------------------------

    def meet(self, trace: Trace) -> None:
        """Finish what left this trace, unless that is under way, or too much else is."""
        place = (trace.partition, trace.transaction)
        if place in self._finishing or len(self._finishing) >= FINISHING_MAX:
            return
        self._finishing.add(place)
        done = partial(self._done, trace)
        if trace.is_commit:
            self._confirm(trace, done)
        else:
            self.resolve(trace.transaction, trace.began_ms, trace.others[0], [trace.partition], done)

    def _confirm(self, trace: Trace, done: Callable[[bytes, bool], None]) -> None:
        """Tell all parts of a commit, if there is one."""

        def decided(decision: bytes) -> None:
            if decision == b"COMMIT":
                self.committed(trace.transaction, trace.others, trace.partition, done)
            else:
                done(decision, False)  # it was lost, and each part is a trace, or it was forgotten meanwhile

        self._ask_home(trace.partition, trace.transaction, trace.began_ms, decided)

    def _done(self, trace: Trace, decision: bytes, all_did: bool) -> None:
        self._finishing.discard((trace.partition, trace.transaction))
        if all_did:
            outcome = "committed" if decision == b"COMMIT" else "aborted"
            self.finished[outcome] += 1
            log.info(
                "transaction_finished",
                transaction=trace.transaction.hex(),
                partition=trace.partition,
                outcome=outcome,
            )

    # --- steps ----------------------------------------------------------------------------------------

    def resolve(
        self,
        transaction: bytes,
        began_ms: int,
        home: int,
        parts: Sequence[int],
        done: Callable[[bytes, bool], None] = _nobody_waits,
    ) -> None:
        """Let parts do as the home has decided, or decides now. It goes on remembering a commit: there may be
        other parts. `done` hears the decision, empty if it is not known, and whether all did so."""

        def decided(decision: bytes) -> None:
            if decision:
                self.finish(transaction, decision, parts, done)
            else:
                done(b"", False)

        self._ask_home(home, transaction, began_ms, decided)

    def _ask_home(self, home: int, transaction: bytes, began_ms: int, then: Callable[[bytes], None]) -> None:
        """`then` gets the decision, `COMMIT` or `ABORT`, or nothing if it cannot be learned now."""

        def replied(reply: bytes) -> None:
            then(reply[1:-2] if reply[:1] == b"+" else b"")

        self._ask(home, [b"RESOLVE", transaction, b"%d" % began_ms], replied)

    def committed(
        self,
        transaction: bytes,
        participants: Sequence[int],
        home: int,
        done: Callable[[bytes, bool], None] = _nobody_waits,
    ) -> None:
        """Let all participants show their effects, and the home forget the decision then."""

        def shown(decision: bytes, all_did: bool) -> None:
            if all_did:
                forget = [b"FORGET", transaction]
                self._ask(home, forget, lambda reply: done(decision, reply == OK))
            else:
                done(decision, False)

        self.finish(transaction, b"COMMIT", participants, shown)

    def abort(self, transaction: bytes, parts: Sequence[int]) -> None:
        """Let parts forget their effects, as nothing was committed."""
        self.finish(transaction, b"ABORT", parts, _nobody_waits)

    def finish(
        self, transaction: bytes, decision: bytes, parts: Sequence[int], done: Callable[[bytes, bool], None]
    ) -> None:
        """Let parts do as was decided; `done` hears whether all did."""

        def finished(replies: list[bytes]) -> bytes:
            done(decision, all(reply == OK for reply in replies))
            return OK

        gather = Gather(Then(lambda reply: None), len(parts), finished)
        for index, part in enumerate(parts):
            self._ask(part, [b"FINISH", transaction, decision], gather.part(index).complete)
