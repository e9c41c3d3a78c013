"""Networks that are cut, in both directions or one, that lose packets, that are slow."""

from __future__ import annotations

import random
from collections.abc import Iterable

from fortdb.torture.faults.base import Cast, Fault, Need, listed, some
from fortdb.torture.faults.network import Link, Links
from fortdb.torture.faults.world import World

_CUT = Link(up=False)


class _LinkFault(Fault):
    """A rule of the network, for a while."""

    needs = frozenset({Need.NETWORK})
    links: Links

    def begin(self, world: World) -> None:
        world.add_rule(self, self.links)

    def end(self, world: World) -> None:
        world.remove_rule(self)


def between(ones: Iterable[str], others: Iterable[str], link: Link, *, both_ways: bool = True) -> Links:
    """All links from `ones` to `others`, and back."""
    links: dict[tuple[str, str], Link] = {}
    for one in ones:
        for other in set(others) - {one}:
            links[one, other] = link
            if both_ways:
                links[other, one] = link
    return links


class Partition(_LinkFault):
    """Some nodes on one side, the other nodes on the other; etcd and routers on either or both sides."""

    name = "partition"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        side = some(chance, cast.nodes, (8, 2))
        others = set(cast.nodes) - set(side)
        self._what = "the other nodes"
        if chance.random() < 0.6:
            others |= set(cast.members)
            self._what += " and etcd"
        if chance.random() < 0.3:
            others |= set(cast.routers)
            self._what += " and the routers"
        self._side = side
        self.links = between(side, others, _CUT)
        self.seconds = chance.uniform(0.5, 3 * cast.lease_s)

    def describe(self) -> str:
        return f"{listed(self._side)} cut off from {self._what}"


class OneWay(_LinkFault):
    """Packets of a node no longer reach others, or those of others no longer reach it."""

    name = "one-way"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        name = chance.choice(list(cast.nodes))
        others = sorted({*cast.nodes, *(cast.members if chance.random() < 0.5 else ())} - {name})
        others = sorted(chance.sample(others, chance.randint(1, len(others))))
        if chance.random() < 0.5:
            self.links = between([name], others, _CUT, both_ways=False)
            self._text = f"nothing from {name} reaches {listed(others)}"
        else:
            self.links = between(others, [name], _CUT, both_ways=False)
            self._text = f"nothing reaches {name} from {listed(others)}"
        self.seconds = chance.uniform(0.5, 3 * cast.lease_s)

    def describe(self) -> str:
        return self._text


class Bridge(_LinkFault):
    """A and C reach B, but not each other."""

    name = "bridge"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        one, other = chance.sample(list(cast.nodes), 2)
        self._text = f"{one} and {other} do not reach each other, the rest reaches both"
        self.links = between([one], [other], _CUT)
        self.seconds = chance.uniform(0.5, 3 * cast.lease_s)

    def describe(self) -> str:
        return self._text


class EtcdUnreachable(_LinkFault):
    """Nodes that reach each other, and clients, but not etcd: all of it, or one member."""

    name = "no-etcd"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        side = some(chance, cast.nodes, (6, 1, 3))
        members = list(cast.members) if chance.random() < 0.7 else [chance.choice(list(cast.members))]
        self._text = f"{listed(side)} cut off from {'etcd' if len(members) > 1 else members[0]}"
        self.links = between(side, members, _CUT, both_ways=chance.random() < 0.7)
        self.seconds = chance.uniform(0.5, 3 * cast.lease_s)

    def describe(self) -> str:
        return self._text


class _Everywhere(_LinkFault):
    """Something that is wrong with all links of some processes."""

    def _draw(self, chance: random.Random, cast: Cast, link: Link) -> str:
        everybody = [*cast.nodes, *cast.routers, *cast.members]
        names = everybody if chance.random() < 0.4 else [chance.choice(everybody)]
        self.links = between(names, everybody, link)
        self.seconds = chance.uniform(1.0, 3 * cast.lease_s)
        return "all" if len(names) > 1 else names[0]


class Loss(_Everywhere):
    """Packets get lost."""

    name = "loss"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        loss = chance.uniform(0.02, 0.3)
        self._text = f"{loss:.0%} of the packets of {self._draw(chance, cast, Link(loss=loss))} lost"

    def describe(self) -> str:
        return self._text


class Delay(_Everywhere):
    """Packets take long."""

    name = "delay"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        delay_ms = 10 ** chance.uniform(0.5, 2.5)
        text = self._draw(chance, cast, Link(delay_ms=delay_ms))
        self._text = f"packets of {text} take {delay_ms:.0f} ms more"

    def describe(self) -> str:
        return self._text
