"""Whether what transactions were told can have been told by transactions that ran one after the other.

Each transaction appends unique elements to lists and reads lists; a list shows the order in which it was written, so
that what came before what can be worked out from the answers alone. Between two transactions there is an edge if one

    ww  appended to a list right before the other did,
    wr  appended what the other read last,
    rw  read a list right before the other appended to it,
    rt  had ended before the other began.

A cycle is the proof that no order exists: the transactions were not strictly serializable. Before that, four things
are wrong by themselves: reading what was refused, reading half of a transaction, reading without one's own appends,
and two reads of which neither continues the other. Source: Kingsbury and Alvaro, Elle (VLDB 2020). The edges of real
time go over one node for each end of a transaction, so that there are few of them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fortdb.torture.history import Outcome

Read = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Deed:
    """A transaction as its client saw it. `steps` are (key, element appended) or (key, list read), in order; the reads
    only if it is known to have been executed."""

    number: int
    outcome: Outcome
    started_ns: int
    ended_ns: int
    steps: tuple[tuple[str, str | tuple[str, ...]], ...]

    @property
    def appends(self) -> list[tuple[str, str]]:
        """(key, element)"""
        return [(key, what) for key, what in self.steps if isinstance(what, str)]

    @property
    def reads(self) -> list[Read]:
        """(key, list), as far as they are known."""
        return [(key, what) for key, what in self.steps if not isinstance(what, str)]


def judge(deeds: Sequence[Deed]) -> list[str]:
    """What is wrong with these transactions, in sentences."""
    return _Judge(deeds).sentences()


class _Judge:
    def __init__(self, deeds: Sequence[Deed]) -> None:
        self.deeds = {deed.number: deed for deed in deeds}
        self.writer = {what: deed for deed in deeds for what in deed.appends}
        self.longest: dict[str, tuple[str, ...]] = {}
        for deed in deeds:
            for key, read in deed.reads:
                if len(read) > len(self.longest.get(key, ())):
                    self.longest[key] = read

    def sentences(self) -> list[str]:
        found = [sentence for deed in self.deeds.values() for sentence in self._wrong_reads(deed)]
        return found or [_told(self.deeds, cycle) for cycle in cycles(self._edges())]

    # --- wrong by themselves ---------------------------------------------------------------------

    def _wrong_reads(self, deed: Deed) -> Iterator[str]:
        own: defaultdict[str, list[str]] = defaultdict(list)
        for key, what in deed.steps:
            if isinstance(what, str):
                own[key].append(what)
                continue
            who = f"transaction {deed.number} read {key} as [{' '.join(what[-8:])}]"
            if own[key] and list(what[-len(own[key]) :]) != own[key]:
                yield f"{who}, which does not end with what it had appended"
            if what and what != self.longest[key][: len(what)]:
                yield f"{who}, and another read it as [{' '.join(self.longest[key][-8:])}]"
            yield from self._wrong_elements(deed, key, what, who)

    def _wrong_elements(self, deed: Deed, key: str, read: tuple[str, ...], who: str) -> Iterator[str]:
        if len(set(read)) < len(read):
            yield f"{who}: an element is there twice"
        for element in read:
            writer = self.writer.get((key, element))
            if writer is None:
                yield f"{who}: nobody appended {element}"
            elif writer.outcome is Outcome.FAILED:
                yield f"{who}: the transaction that appended {element} was refused"
            elif writer is not deed:
                missing = {other for where, other in writer.appends if where == key} - set(read)
                if missing:
                    yield f"{who}: half of transaction {writer.number}, without {min(missing)}"

    # --- edges -----------------------------------------------------------------------------------------

    def _edges(self) -> dict[int, set[int]]:
        """Successors by transaction; real time goes by numbers below 0."""
        edges: defaultdict[int, set[int]] = defaultdict(set)
        later = self._never_seen()
        for key, order in self.longest.items():
            writers = [self.writer[key, element].number for element in order]
            for before, after in pairwise(writers):
                _join(edges, before, after)
            for number in later[key]:
                _join(edges, writers[-1], number)
        for deed in self.deeds.values():
            for key, read in deed.reads:
                order = self.longest.get(key, ())
                if read:
                    _join(edges, self.writer[key, read[-1]].number, deed.number)
                if len(read) < len(order):
                    _join(edges, deed.number, self.writer[key, order[len(read)]].number)
                else:
                    for number in later[key]:
                        _join(edges, deed.number, number)
        self._add_real_time(edges)
        return edges

    def _never_seen(self) -> defaultdict[str, set[int]]:
        """By key, transactions that were executed and whose appends nobody read: they come after all reads."""
        found: defaultdict[str, set[int]] = defaultdict(set)
        for (key, element), deed in self.writer.items():
            if deed.outcome is Outcome.OK and element not in self.longest.get(key, ()):
                found[key].add(deed.number)
        return found

    def _add_real_time(self, edges: defaultdict[int, set[int]]) -> None:
        done = sorted(
            (deed.ended_ns, deed.number) for deed in self.deeds.values() if deed.outcome is Outcome.OK
        )
        begun = sorted((deed.started_ns, deed.number) for deed in self.deeds.values())
        at = 0
        for started_ns, number in begun:
            while at < len(done) and done[at][0] < started_ns:
                at += 1
                edges[done[at - 1][1]].add(-at)
                if at > 1:
                    edges[1 - at].add(-at)
            if at:
                edges[-at].add(number)


def _join(edges: defaultdict[int, set[int]], before: int, after: int) -> None:
    if before != after:
        edges[before].add(after)


def cycles(edges: dict[int, set[int]]) -> list[list[int]]:
    """A short cycle in each strongly connected part of more than one node (Tarjan 1972)."""
    found = []
    for part in _connected(edges):
        if len(part) > 1:
            inside = set(part)
            found.append(_cycle(edges, min(one for one in inside if one >= 0), inside))
    return found


def _connected(edges: dict[int, set[int]]) -> Iterator[list[int]]:
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in list(edges):
        if root in index:
            continue
        work: list[tuple[int, Iterator[int]]] = [(root, iter(edges.get(root, ())))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, successors = work[-1]
            following = next((one for one in successors if one not in index or one in on_stack), None)
            if following is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    part = stack[at:]
                    del stack[at:]
                    on_stack.difference_update(part)
                    yield part
            elif following in on_stack:
                low[node] = min(low[node], index[following])
            else:
                index[following] = low[following] = len(index)
                stack.append(following)
                on_stack.add(following)
                work.append((following, iter(edges.get(following, ()))))


def _cycle(edges: dict[int, set[int]], start: int, inside: set[int]) -> list[int]:
    """The shortest way from a node back to itself."""
    came_from: dict[int, int] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for following in edges.get(node, set()) & inside:
            if following == start:
                way = [node]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if following not in came_from:
                came_from[following] = node
                queue.append(following)
    raise AssertionError("a strongly connected part has a cycle through each of its nodes")


def _told(deeds: dict[int, Deed], cycle: Iterable[int]) -> str:
    names = [f"{number} ({_steps(deeds[number])})" for number in cycle if number >= 0]
    return f"no order of these transactions explains their answers: {', '.join(names)}"


def _steps(deed: Deed) -> str:
    return "; ".join(
        f"append {key} {what}" if isinstance(what, str) else f"read {key} [{' '.join(what[-4:])}]"
        for key, what in deed.steps
    )
