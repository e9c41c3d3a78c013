"""Transactions over several partitions: a router leads them through two phases, and finishes those of others.

    BEGIN at the home -> PREPARE at every other partition in turn -> COMMIT at the home -> the client's answer
                                                                  -> FINISH at the others -> FORGET at the home

What the phases mean on the nodes is told in `node/transactions.py`. The home is the partition with the highest
id, and the others prepare in ascending order: a part waits for locks in its partition only while it holds locks in
lower ones, so that no two transactions ever wait for each other (ordered resource allocation, Havender 1968).

The requests go through the partitions' channels, which repeat them to the next leader under the same id: a
failover at any point is but a delay. A router that dies leaves traces: prepared parts and commits. Each
router asks every node for traces older than `TRACE_AGE_MS` and finishes them (`net/recovery.py`).

A transaction that was given up because it took too long is begun anew, until its client's deadline.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from hiredis import Reader

from fortdb.errors import Aborted, BadRequest, OutcomeUnknown, Unavailable
from fortdb.limits import REPLY_BYTES_MAX, TRANSACTION_BYTES_MAX
from fortdb.net.gather import Completes, Then
from fortdb.net.recovery import Recovery
from fortdb.protocol.resp import EMPTY_ARRAY, NIL_ARRAY, pack
from fortdb.protocol.transactions import Distributed, Trace
from fortdb.router.channels import Unanswered

if TYPE_CHECKING:
    from fortdb.router.service import RouterService

_ASK_MS = 500  # between two questions for traces

_PREPARED_REPLY_BYTES_MAX = REPLY_BYTES_MAX - TRANSACTION_BYTES_MAX - 64 * 1024
"""Of all answers but the home's, so that all together are no more than a client can be told."""

_TOO_LARGE = BadRequest(
    f"the transaction's answers take more than {_PREPARED_REPLY_BYTES_MAX} bytes; nothing was executed, make"
    " several of it"
).wire()
_UNKNOWN = f"-{OutcomeUnknown.code} ".encode()
_ABORTED = f"-{Aborted.code} ".encode()


class Coordinator:
    """The transactions that this router leads, and the traces that it finishes."""

    def __init__(self, router: RouterService, session: int) -> None:
        self.router = router
        self.running: set[bytes] = set()
        self.outcomes = dict.fromkeys(("committed", "refused", "given up", "unknown"), 0)
        self.recovery = Recovery(self.ask)
        self._ids = (session.to_bytes(8) + number.to_bytes(8) for number in itertools.count(1))
        router.loop.call_every(_ASK_MS, self._ask_for_traces)

    def run(self, slot: Completes, distributed: Distributed) -> None:
        """Execute a transaction; `slot` gets its answer."""
        _Run(self, slot, distributed, self.router.loop.now_ms + self.router.deadline_ms).start()

    def new_id(self) -> bytes:
        """Of a transaction, unlike every other."""
        return next(self._ids)

    def ask(
        self, partition: int, words: list[bytes], then: Callable[[bytes], None], deadline_ms: int = 0
    ) -> None:
        """A request to a partition's leader; `then` gets its reply."""
        deadline_ms = deadline_ms or self.router.loop.now_ms + self.router.deadline_ms
        self.router.channels[partition].send(Unanswered(pack(words), Then(then), True, deadline_ms))

    # --- traces of others -----------------------------------------------------------------------------

    def _ask_for_traces(self) -> None:
        for name, link in self.router.links.items():
            if link.is_up:
                self.router.call(name, [b"TRACES"], Then(self._heard_traces))

    def _heard_traces(self, reply: bytes) -> None:
        if reply[:1] != b"*" or reply == EMPTY_ARRAY:
            return
        reader = Reader()
        reader.feed(reply)
        for fields in reader.gets():
            trace = Trace.decode(fields)
            is_known = self.router.channels.keys() >= {
                trace.partition,
                *trace.others,
            }  # or the layout is not here yet
            if is_known and trace.transaction not in self.running:
                self.recovery.meet(trace)


class _Run:
    """One transaction, in one attempt after the other."""

    def __init__(
        self, coordinator: Coordinator, slot: Completes, distributed: Distributed, deadline_ms: int
    ) -> None:
        self._coordinator = coordinator
        self._slot = slot
        self._distributed = distributed
        self._deadline_ms = deadline_ms
        *self._others, self._home = sorted(distributed.parts)
        self._id = b""
        self._began = b""
        self._asked: list[int] = []  # to prepare
        self._replies: dict[int, bytes] = {}

    def start(self) -> None:
        """Begin, or begin anew."""
        self._id = self._coordinator.new_id()
        self._asked, self._replies = [], {}
        self._coordinator.running.add(self._id)
        self._ask(self._home, [b"BEGIN"], self._begun)

    def _ask(self, group: int, words: list[bytes], then: Callable[[bytes], None]) -> None:
        self._coordinator.ask(group, words, then, self._deadline_ms)

    def _begun(self, reply: bytes) -> None:
        if reply[:1] != b":":
            self._give_up(reply)
            return
        self._began = reply[1:-2]
        self._next()

    def _next(self) -> None:
        """Prepare the next part, or decide."""
        if len(self._asked) < len(self._others):
            group = self._others[len(self._asked)]
            self._asked.append(group)
            head = [b"PREPARE", self._id, self._began, b"%d" % self._home]
            self._ask(group, head + self._distributed.parts[group].encode(), partial(self._prepared, group))
        else:
            participants = b",".join(b"%d" % group for group in self._others)
            head = [b"COMMIT", self._id, self._began, participants]
            self._ask(self._home, head + self._distributed.parts[self._home].encode(), self._decided)

    def _prepared(self, group: int, reply: bytes) -> None:
        if reply == NIL_ARRAY or reply[:1] != b"*":
            self._give_up(reply)
        else:
            self._replies[group] = reply
            if sum(map(len, self._replies.values())) > _PREPARED_REPLY_BYTES_MAX:
                self._give_up(_TOO_LARGE)
            else:
                self._next()

    def _decided(self, reply: bytes) -> None:
        coordinator = self._coordinator
        if reply.startswith(_UNKNOWN):
            coordinator.recovery.resolve(self._id, int(self._began), self._home, self._others)
            self._end("unknown", reply)
        elif reply.startswith(_ABORTED) and coordinator.router.loop.now_ms < self._deadline_ms:
            coordinator.recovery.abort(self._id, self._asked)
            coordinator.running.discard(self._id)
            self.start()
        elif reply == NIL_ARRAY or reply[:1] != b"*":
            self._give_up(reply)
        else:
            self._replies[self._home] = reply
            coordinator.recovery.committed(self._id, self._others, self._home)
            self._end("committed", self._distributed.join(self._replies))

    def _give_up(self, reply: bytes) -> None:
        """It was not committed and never will be: only this router could, and no copy of its request is left."""
        self._coordinator.recovery.abort(self._id, self._asked)
        if reply.startswith((_UNKNOWN, _ABORTED)):
            sentence = reply.partition(b" ")[2].decode("utf-8", "replace")
            reply = Unavailable(f"{sentence.strip()} (nothing of the transaction was executed)").wire()
        self._end("refused" if reply == NIL_ARRAY else "given up", reply)

    def _end(self, outcome: str, reply: bytes) -> None:
        self._coordinator.outcomes[outcome] += 1
        self._coordinator.running.discard(self._id)
        self._slot.complete(reply)
