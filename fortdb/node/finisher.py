"""The leader of a partition finishes what dead routers left in it: no router needs to live.

Twice a second a node looks through the locks and decisions of the partitions that it leads. What is older than
`FINISH_AGE_MS` it brings to its end as a router would (`net/recovery.py`). It asks the leader of the transaction's
home, whom it knows from the coordination store: itself, or another node on the link between them, which with TLS is
mutual TLS. Where there is no link, because the two share no partition, one is dialled for as long as it is needed.

If a leader is missing, moves or does not answer, the trace is met again. If this node loses the lead, the next leader
reads the same trace from the log's data and meets it. A node has no request ids, so it asks for nothing but
steps that may be repeated.

Bounds: `TRACES_MAX` traces of a partition are looked at, `FINISHING_MAX` are finished at once, each once at a time;
links to nodes of the ring only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fortdb.limits import FINISH_AGE_MS
from fortdb.net.gather import Then
from fortdb.net.recovery import Recovery
from fortdb.node.service import NodeService
from fortdb.protocol.commands import INTERNAL

_LOOK_MS = 500


class Finisher:
    """Meets the traces in partitions that this node leads."""

    def __init__(
        self,
        service: NodeService,
        leader_of: Callable[[int], str],
        reach: Callable[[frozenset[str]], None],
    ) -> None:
        """`leader_of` names the leader of a partition, empty if there is none; `reach` keeps links to nodes."""
        self.recovery = Recovery(self._ask)
        self._service = service
        self._leader_of = leader_of
        self._reach = reach
        service.loop.call_every(_LOOK_MS, self.look)

    def look(self) -> None:
        """Begin to finish what is old enough."""
        traces = self._service.requests.traces(FINISH_AGE_MS)
        asked = {self._leader_of(other) for trace in traces for other in trace.others}
        self._reach(frozenset(asked - {self._service.own.name, ""}))
        for trace in traces:
            self.recovery.meet(trace)

    def _ask(self, partition: int, words: list[bytes], then: Callable[[bytes], None]) -> None:
        """In a moment: an answer may come in the middle of a tick, and leads to the next question."""
        self._service.loop.call_next(partial(self._ask_now, partition, words, then))

    def _ask_now(self, partition: int, words: list[bytes], then: Callable[[bytes], None]) -> None:
        service = self._service
        hosted = service.hosted.get(partition)
        if hosted is not None and hosted.replica.leading is not None:
            service.requests.submit(hosted, Then(then), INTERNAL[words[0].decode()], words)
        else:
            leader = self._leader_of(partition) or "its leader"
            service.links.ask(leader, [b"SETTLE", b"%d" % partition, *words], Then(then))
