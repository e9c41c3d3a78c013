"""Which nodes hold which partition: spread over zones, balanced by weight, moving the least.

Every partition has `replication` replicas on distinct nodes, spread over zones as evenly as the
number of nodes in each allows: no zone holds two before every zone that can holds one. Within that,
a node's load, the sum of the shares of the keyspace that it holds, is brought to within
`TOLERANCE` of its fair load. Partitions are not split, so a ring with few or very uneven ones may
end up further off, by at most the widest of them.

A *fair load* follows from weights, but is capped: a node cannot hold more than every partition once,
a zone no more than its turn of each. What the capped cannot take is divided among the others
(water-filling).

From one layout to the next, replicas that may stay do. Then the single replica whose move lowers the
squared excess the most is moved (or two are swapped), and again, until every node is within the
tolerance or no move helps. Each move takes from a node with too much and gives to one with too
little, so little more travels than must. Everything is deterministic: ties are broken by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from fortdb.errors import LayoutError
from fortdb.model import Layout, NodeSpec, Partition
from fortdb.ring.tokens import TokenMap, even_tokens, partition_name

TOLERANCE = 0.05
_STEPS_MAX = 10_000  # of the search; each lowers the excess, so it ends by itself long before
_EPSILON = 1e-12
PARTITIONS_MAX = 4096  # every one costs a heartbeat line and a record in the store


def first_layout(
    nodes: Mapping[str, NodeSpec], partitions: int, replication: int, min_in_sync: int
) -> Layout:
    """The layout of a new ring, its partitions of equal width. Raises `LayoutError`."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise LayoutError(f"partitions must be from 1 to {PARTITIONS_MAX}, not {partitions}")
    empty = tuple(
        Partition(number, partition_name(number), token, ())
        for number, token in enumerate(even_tokens(partitions))
    )
    return place(Layout(0, replication, min_in_sync, dict(nodes), empty))


def next_layout(
    layout: Layout,
    nodes: Mapping[str, NodeSpec],
    replication: int | None = None,
    min_in_sync: int | None = None,
) -> Layout:
    """The layout after `layout` on these nodes. Raises `LayoutError`."""
    return place(
        replace(
            layout,
            nodes=dict(nodes),
            replication=layout.replication if replication is None else replication,
            min_in_sync=layout.min_in_sync if min_in_sync is None else min_in_sync,
        )
    )


def place(layout: Layout) -> Layout:
    """`layout` with replicas for its own nodes, near those it has, and the next version.

    Raises `LayoutError` for what cannot be: more replicas than nodes, `min_in_sync` above them.
    """
    _check(layout)
    placement = _Placement(layout)
    placement.fill()
    placement.balance(0.0 if layout.version == 0 else TOLERANCE)
    leaders = _Leaders(layout, placement)
    leaders.balance()
    partitions = tuple(
        replace(partition, replicas=leaders.ordered(partition)) for partition in layout.partitions
    )
    return replace(layout, version=layout.version + 1, partitions=partitions)


def loads(layout: Layout) -> dict[str, float]:
    """Node -> share of the keyspace that it holds (1.0: a whole copy)."""
    tokens = TokenMap(layout)
    held = dict.fromkeys(layout.nodes, 0.0)
    for partition in layout.partitions:
        for node in partition.replicas:
            held[node] += tokens.share(partition)
    return held


def fair_loads(layout: Layout) -> dict[str, float]:
    """Node -> the share that it ought to hold, by weight, within the caps of nodes and zones."""
    return _fair(layout.nodes, _spread(layout.nodes, layout.replication), layout.replication)


def _check(layout: Layout) -> None:
    usable = [name for name, spec in layout.nodes.items() if spec.weight > 0]
    if not usable:
        raise LayoutError("a layout needs at least one node")
    if not 1 <= layout.replication <= len(usable):
        raise LayoutError(
            f"replication is {layout.replication}, but there are {len(usable)} nodes: a node holds one "
            "replica of a partition at most; add nodes or choose fewer replicas"
        )
    if not 1 <= layout.min_in_sync <= layout.replication:
        raise LayoutError(
            f"min_in_sync must be from 1 to the replication, {layout.replication}; not {layout.min_in_sync}"
        )


def _spread(nodes: Mapping[str, NodeSpec], replication: int) -> dict[str, tuple[int, int]]:
    """Zone -> the least and the most replicas of one partition that it holds."""
    sizes = Counter(spec.zone for spec in nodes.values() if spec.weight > 0)
    level = 1
    while sum(min(level, size) for size in sizes.values()) < replication:
        level += 1
    return {zone: (min(level - 1, size), min(level, size)) for zone, size in sorted(sizes.items())}


def _fair(
    nodes: Mapping[str, NodeSpec], spread: Mapping[str, tuple[int, int]], replication: int
) -> dict[str, float]:
    members = {
        zone: {name: spec.weight for name, spec in nodes.items() if spec.zone == zone and spec.weight > 0}
        for zone in spread
    }
    zone_weights = {zone: sum(weights.values()) for zone, weights in members.items()}
    by_zone = _fill(
        zone_weights, replication, {zone: (float(a), float(b)) for zone, (a, b) in spread.items()}
    )
    fair = dict.fromkeys(nodes, 0.0)
    for zone, weights in members.items():
        fair |= _fill(weights, by_zone[zone], dict.fromkeys(weights, (0.0, 1.0)))
    return fair


def _fill(
    weights: Mapping[str, float], total: float, bounds: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """`total` divided by weight, each within its bounds: those outside are set, the rest divided anew."""
    settled: dict[str, float] = {}
    while True:
        free = {name: weight for name, weight in weights.items() if name not in settled}
        left, weight = total - sum(settled.values()), sum(free.values())
        parts = {name: left * own / weight for name, own in free.items()}
        over = {n: bounds[n][1] for n, part in parts.items() if part > bounds[n][1] + _EPSILON}
        under = {n: bounds[n][0] for n, part in parts.items() if part < bounds[n][0] - _EPSILON}
        if not over and not under:
            return settled | parts
        excess = sum(parts[name] - bound for name, bound in over.items())
        lack = sum(bound - parts[name] for name, bound in under.items())
        settled |= over if excess >= lack else under


class _Placement:
    """Replicas as sets, loads, and the search for a balance."""

    def __init__(self, layout: Layout) -> None:
        self._nodes = layout.nodes
        self._replication = layout.replication
        self._zones = {name: spec.zone for name, spec in layout.nodes.items()}
        self._spread = _spread(layout.nodes, layout.replication)
        self.fair = fair_loads(layout)
        self._names = sorted(name for name, spec in layout.nodes.items() if spec.weight > 0)
        tokens = TokenMap(layout)
        self._width = {partition.name: tokens.share(partition) for partition in layout.partitions}
        self._order = sorted(self._width, key=lambda name: (-self._width[name], name))
        self.replicas = {p.name: self._kept(p.replicas) for p in layout.partitions}
        self._load = dict.fromkeys(self._names, 0.0)
        for name, holders in self.replicas.items():
            for node in holders:
                self._load[node] += self._width[name]

    def _kept(self, replicas: Iterable[str]) -> list[str]:
        """Those that may stay: on nodes that are left, and no more of a zone than its turn."""
        kept: list[str] = []
        for node in replicas:
            if node in self.fair and self.fair[node] > 0 and len(kept) < self._replication:
                kept.append(node)
                if not self._can_complete(kept):
                    kept.pop()
        return kept

    def _can_complete(self, holders: list[str]) -> bool:
        """Whether these can be part of a spread that is as even as it can be."""
        counts = Counter(self._zones[node] for node in holders)
        lacking = sum(max(0, least - counts[zone]) for zone, (least, _) in self._spread.items())
        return len(holders) + lacking <= self._replication and all(
            counts[zone] <= most for zone, (_, most) in self._spread.items()
        )

    def _excess(self, node: str) -> float:
        return self._load[node] - self.fair[node]

    def _change(self, node: str, by: float) -> float:
        """What changing a node's load does to its squared excess, relative to what is fair."""
        return by * (2 * self._excess(node) + by) / self.fair[node]

    def fill(self) -> None:
        """Give every partition all its replicas, the widest first, each to the emptiest node."""
        for name in self._order:
            holders = self.replicas[name]
            while len(holders) < self._replication:
                allowed = [
                    node
                    for node in self._names
                    if node not in holders and self._can_complete([*holders, node])
                ]
                best = min(allowed, key=lambda node: (self._load[node] / self.fair[node], node))
                self._put(name, best)

    def balance(self, tolerance: float) -> None:
        """Move replicas until every node is within the tolerance, or no move helps."""
        for _ in range(_STEPS_MAX):
            off = [n for n in self._names if abs(self._excess(n)) > tolerance * self.fair[n] + _EPSILON]
            step = min(self._steps(set(off)), default=None)
            if step is None or step[0] > -_EPSILON:
                return
            for name, source, target in step[2]:
                self.replicas[name].remove(source)
                self._load[source] -= self._width[name]
                self._put(name, target)

    def _put(self, name: str, node: str) -> None:
        self.replicas[name].append(node)
        self._load[node] += self._width[name]

    def _steps(self, off: set[str]) -> Iterable[tuple[float, int, tuple[tuple[str, str, str], ...]]]:
        """Moves and swaps that touch a node out of balance: (change, length, moves)."""
        if not off:
            return
        best_single = False
        for name in self._order:
            for source in self.replicas[name]:
                for target in self._names:
                    if (source in off or target in off) and self._may_move(name, source, target):
                        change = self._moved(source, target, self._width[name])
                        if change < -_EPSILON:
                            best_single = True
                            yield change, 1, ((name, source, target),)
        if not best_single:
            yield from self._swaps(off)

    def _moved(self, source: str, target: str, width: float) -> float:
        return self._change(source, -width) + self._change(target, width)

    def _swaps(self, off: set[str]) -> Iterable[tuple[float, int, tuple[tuple[str, str, str], ...]]]:
        """Two partitions change places: for when every single one is too wide."""
        for source in self._names:
            for target in self._names:
                if source not in off and target not in off:
                    continue
                if self._excess(source) / self.fair[source] <= self._excess(target) / self.fair[target]:
                    continue
                out = [n for n in self._order if self._may_move(n, source, target)]
                back = [n for n in self._order if self._may_move(n, target, source)]
                for one in out:
                    for other in back:
                        width = self._width[one] - self._width[other]
                        if width > 0:
                            change = self._moved(source, target, width)
                            yield change, 2, ((one, source, target), (other, target, source))

    def _may_move(self, name: str, source: str, target: str) -> bool:
        holders = self.replicas[name]
        if source not in holders or target in holders:
            return False
        if self._zones[source] == self._zones[target]:
            return True
        return self._can_complete([node for node in holders if node != source] + [target])


class _Leaders:
    """Who ought to lead: as even as the replicas allow, changing few."""

    def __init__(self, layout: Layout, placement: _Placement) -> None:
        tokens = TokenMap(layout)
        self._width = {partition.name: tokens.share(partition) for partition in layout.partitions}
        self._replicas = placement.replicas
        weights = {name: layout.nodes[name].weight for name, fair in placement.fair.items() if fair > 0}
        self._fair = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        self._load = dict.fromkeys(self._fair, 0.0)
        self._leader: dict[str, str] = {}
        for partition in layout.partitions:  # whoever leads and still holds it goes on
            if partition.replicas and partition.replicas[0] in self._replicas[partition.name]:
                self._lead(partition.name, partition.replicas[0])
        for name in sorted(self._width, key=lambda name: (-self._width[name], name)):
            if name not in self._leader:
                self._lead(name, min(self._replicas[name], key=self._fullness))

    def _lead(self, name: str, node: str) -> None:
        self._leader[name] = node
        self._load[node] += self._width[name]

    def _fullness(self, node: str) -> tuple[float, str]:
        return self._load[node] / self._fair[node], node

    def balance(self) -> None:
        """Hand leadership along the shortest chain from a node that leads too much to one that leads
        too little, as long as that helps."""
        for _ in range(_STEPS_MAX):
            chain = self._best_chain()
            if chain is None:
                return
            for name, target in chain:
                self._load[self._leader[name]] -= self._width[name]
                self._lead(name, target)

    def _best_chain(self) -> list[tuple[str, str]] | None:
        for start in sorted(self._fair, key=self._fullness, reverse=True):
            if self._load[start] <= self._fair[start] * (1 + TOLERANCE):
                return None
            chain = self._chain_from(start)
            if chain is not None:
                return chain
        return None

    def _chain_from(self, start: str) -> list[tuple[str, str]] | None:
        """Breadth first over "leads a partition that the other holds"."""
        reached: dict[str, list[tuple[str, str]]] = {start: []}
        queue = [start]
        for node in queue:
            for name in self._led[node]:
                for target in self._replicas[name]:
                    if target in reached:
                        continue
                    chain = [*reached[node], (name, target)]
                    if self._helps(start, target, chain):
                        return chain
                    reached[target] = chain
                    queue.append(target)
        return None

    @property
    def _led(self) -> dict[str, list[str]]:
        led: dict[str, list[str]] = {node: [] for node in self._fair}
        for name in sorted(self._leader):
            led[self._leader[name]].append(name)
        return led

    def _helps(self, start: str, end: str, chain: list[tuple[str, str]]) -> bool:
        """Whether the fuller of the two ends is emptier afterwards, and no node between suffers."""
        before = self._load[start] / self._fair[start]
        after = dict(self._load)
        for name, target in chain:
            after[self._leader[name]] -= self._width[name]
            after[target] += self._width[name]
        touched = {start, *(target for _, target in chain)}
        worst = max(after[node] / self._fair[node] for node in touched)
        return end != start and worst < before - _EPSILON

    def ordered(self, partition: Partition) -> tuple[str, ...]:
        """A partition's replicas, the preferred leader first, then as they were."""
        holders = self._replicas[partition.name]
        leader = self._leader[partition.name]
        return (leader, *(node for node in holders if node != leader))
