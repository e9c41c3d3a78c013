"""etcd with a member fewer, without a leader, without a quorum, restored, and back."""

from __future__ import annotations

import random

from fortdb.errors import FortError
from fortdb.torture.faults.base import Cast, Fault, listed
from fortdb.torture.faults.world import World

_ALL = frozenset({"etcd"})


class EtcdKilled(Fault):
    """Members die and come back on their data: one, or so many that there is no quorum, or all."""

    name = "etcd-kill"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        count = chance.choices([1, 2, 3], [5, 3, 2])[0]
        self._members = sorted(chance.sample(range(len(cast.members)), count))
        self.targets = _ALL
        self.seconds = chance.uniform(0.5, 3 * cast.lease_s)

    def begin(self, world: World) -> None:
        for member in self._members:
            world.etcd.kill(member)

    def end(self, world: World) -> None:
        for member in self._members:
            world.etcd.start_member(member)

    def describe(self) -> str:
        return f"{listed(f'etcd-{member + 1}' for member in self._members)} killed"


class EtcdPaused(Fault):
    """Members stand still, connections open: one, two, all."""

    name = "etcd-pause"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        count = chance.choices([1, 2, 3], [4, 3, 3])[0]
        self._members = sorted(chance.sample(range(len(cast.members)), count))
        self.targets = _ALL
        self.seconds = chance.uniform(0.5, 3 * cast.lease_s)

    def begin(self, world: World) -> None:
        for member in self._members:
            world.etcd.pause(member)

    def end(self, world: World) -> None:
        for member in self._members:
            world.etcd.resume(member)

    def describe(self) -> str:
        return f"{listed(f'etcd-{member + 1}' for member in self._members)} paused"


class EtcdLeaderLost(Fault):
    """The member that leads etcd dies; the others have to elect."""

    name = "etcd-leader"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._member: int | None = None
        self.targets = _ALL
        self.seconds = chance.uniform(0.5, 2 * cast.lease_s)

    def begin(self, world: World) -> None:
        try:
            self._member = world.etcd.leader()
        except RuntimeError as error:  # in a network that loses packets, on a slow machine
            world.say(f"etcd has no leader to lose: {error}")
        else:
            world.etcd.kill(self._member)

    def end(self, world: World) -> None:
        if self._member is not None:
            world.etcd.start_member(self._member)

    def describe(self) -> str:
        return "the leader of etcd killed"


class EtcdRestored(Fault):
    """All members end, the data of all but one is lost, and etcd is restored from that one.

    It begins in a ring that is whole, alone: a network that loses packets as well tells nothing of FortDB.
    """

    name = "etcd-restore"
    destroys = True
    begins_s = 8.0

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self.targets = _ALL

    def begin(self, world: World) -> None:
        world.etcd.restore_from_one()

    def end(self, world: World) -> None:
        pass

    def describe(self) -> str:
        return "etcd restored from one member"


class LeaseRevoked(Fault):
    """etcd takes the lease of a node that lives, as it may (rule 11)."""

    name = "revoke"

    def __init__(self, chance: random.Random, cast: Cast) -> None:
        self._name = chance.choice(list(cast.nodes))

    def begin(self, world: World) -> None:
        try:
            revoked = world.etcd.revoke_lease_of(f"/fortdb/{world.ring.shape.cluster}/nodes/{self._name}")
        except (OSError, FortError) as error:
            world.say(f"etcd does not revoke: {error}")
        else:
            if not revoked:
                world.say(f"{self._name} has no lease")

    def end(self, world: World) -> None:
        pass

    def describe(self) -> str:
        return f"lease of {self._name} revoked"
