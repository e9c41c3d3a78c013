"""The words of FortDB as immutable values: node, partition, layout, record, view.

Nothing here does anything; every room may import it. Two records describe a partition, and the
difference matters: the *layout* says who ought to hold it (changed by an operator's plan), the
*partition record* says who does, who leads and who is in sync (changed by compare-and-set, rule 1
of the replication essay). The controller walks the second towards the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

TOKEN_BITS = 64
"""A token is the first 64 bits of a SHA-1 digest, read as a big-endian unsigned number."""

TOKEN_SPACE = 1 << TOKEN_BITS


class Ack(Enum):
    """What an acknowledgement of a write means."""

    SYNC = "sync"  # every in-sync replica has it on disk
    ASYNC = "async"  # the leader's disk only


class NodeState(Enum):
    """What a node says of itself in its membership record."""

    SERVING = "serving"
    DRAINING = "draining"  # is handing its leadership over and will stop
    FAILED = "failed"  # storage failed; serves nothing, kept up so that an operator sees why


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node as the layout knows it. `weight` is its share of the load relative to the others."""

    zone: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Partition:
    """A range of the ring: from `token` (the lowest hash it serves) to the next one's token.

    `id` is small, stable and unique; it stands for the partition on the wire and on disk.
    `replicas` are the nodes that ought to hold it; the first is the preferred leader.
    """

    id: int
    name: str
    token: int
    replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Who ought to hold what. `version` grows by one with every applied plan.

    `partitions` are sorted by token. `min_in_sync` is the smallest in-sync set (leader included)
    with which writes are accepted.
    """

    version: int
    replication: int
    min_in_sync: int
    nodes: Mapping[str, NodeSpec]
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A live node's membership; it hangs on the node's lease and vanishes with it.

    `incarnation` is `<disk id>.<life>`: the disk id is drawn when a data directory is made, the
    life counts the starts of the process on it, so that an emptied disk and a restarted process
    are both told from the one that went before.
    """

    name: str
    zone: str
    client_address: str
    peer_address: str
    status_address: str
    incarnation: str
    state: NodeState
    version: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PartitionRecord:
    """Who leads and who is in sync; changed only by compare-and-set on `revision`.

    `isr` maps each in-sync node to the incarnation in which it was found in sync. `handover` says
    that no leader of an earlier epoch can serve any more: the one before had waited out all others, and
    gave the partition up itself or has ended, so that nobody needs to wait out a read lease. `preferred` is an operator's choice of leader, over the layout's.
    `revision` is the store's, 0 for a record not yet stored; it is not part of the stored value.
    """

    partition: str
    leader: str | None
    epoch: int
    isr: Mapping[str, str]
    replicas: tuple[str, ...]
    handover: bool = False
    preferred: str | None = None
    revision: int = 0


class Policy(Enum):
    """What the keys of a keyspace hold."""

    PLAIN = "plain"  # one value
    RECORDS = "records"  # any number of records, each with an id
    VERSIONS = "versions"  # one value, and its former values
    WORM = "worm"  # records that nobody changes or removes before their retention has passed

    @property
    def keeps_records(self) -> bool:
        """Whether a key holds records."""
        return self in (Policy.RECORDS, Policy.WORM)


class Mode(Enum):
    """Who may remove a WORM record before its retention has passed (the modes of S3 Object Lock)."""

    GOVERNANCE = "governance"  # who has a right of its own, and says so
    COMPLIANCE = "compliance"  # nobody


class RecordId(NamedTuple):
    """Names a record or a version: the leader's clock in milliseconds since the Unix epoch, and a number
    among those of that millisecond. Ids of a partition grow and are never used again (`Leader.new_id`)."""

    ms: int
    number: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """A named set of keys with a policy; key `orders/17` belongs to keyspace `orders` if it exists.

    `retention_ms`: how long a record lives, or a version after another has taken its place; 0 for ever.
    `keep`: how many versions a key keeps, the present one among them; 0 for all. `version` counts the
    changes of the policy. `closed`: nothing is written to its keys, because the policy is about to change.
    `mode` is for `Policy.WORM` alone.
    """

    name: str
    ack: Ack = Ack.SYNC
    policy: Policy = Policy.PLAIN
    retention_ms: int = 0
    keep: int = 0
    version: int = 1
    closed: bool = False
    mode: Mode = Mode.GOVERNANCE


def keyspace_name(key: bytes) -> bytes:
    """The name of the keyspace that a key belongs to if there is one of that name: what stands before the
    first `/`; empty for a key without one."""
    name, slash, _ = key.partition(b"/")
    return name if slash else b""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """An immutable picture of everything the coordination store holds, at one revision."""

    revision: int = 0
    layout: Layout | None = None
    layout_revision: int = 0
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)
    records: Mapping[str, PartitionRecord] = field(default_factory=dict)
    keyspaces: Mapping[str, Keyspace] = field(default_factory=dict)
    keyspaces_revision: int = 0
    controller: str | None = None
    controller_revision: int = 0


def same_disk(incarnation: str, other: str) -> bool:
    """Whether two incarnations are lives of one data directory."""
    return incarnation.rpartition(".")[0] == other.rpartition(".")[0]
