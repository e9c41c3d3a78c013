"""From a key to the partition that holds it: SHA-1 tokens on a ring.

A token is the first 64 bits of the SHA-1 digest of the key, or of its `{tag}` if it has one, so that
keys with the same tag lie together (Redis Cluster's rule for tags). A partition serves the hashes from
its token up to the next one's; the last one wraps around to the first. Source: consistent hashing,
Karger et al. 1997; partitions as in Dynamo, section 6.2, strategy 3.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

try:  # CPython's own costs half of OpenSSL's, which `hashlib` prefers, on something as short as a key
    from _sha1 import sha1  # type: ignore[import-not-found]
except ImportError:
    from hashlib import sha1

from fortdb.errors import CrossPartition, LayoutError
from fortdb.model import TOKEN_SPACE, Layout, Partition
from fortdb.native import bind, lane

HASH_BYTES = 8
"""A token's bytes, big-endian: their order is the order of the tokens."""


def _hash_of(key: bytes) -> bytes:
    """The key's token as bytes."""
    digest: bytes = sha1(hashed_part(key)).digest()  # nosec B324 # spreads keys, protects nothing
    return digest[:HASH_BYTES]


hash_of = _hash_of if lane is None else lane.hash_of


def token_of(key: bytes) -> int:
    """The key's token."""
    return int.from_bytes(hash_of(key))


def hashed_part(key: bytes) -> bytes:
    """What of a key decides where it lies: its tag, or all of it."""
    return _tag(key) if b"{" in key else key


def digest_of(key: bytes) -> str:
    """The whole digest of which the token is the beginning, in hex digits."""
    digest: str = sha1(hashed_part(key)).hexdigest()  # nosec B324 # spreads keys, protects nothing
    return digest


def _tag(key: bytes) -> bytes:
    """What stands between the first `{` and the next `}`, if that is something; else the key."""
    start = key.index(b"{") + 1
    end = key.find(b"}", start)
    return key[start:end] if end > start else key


def even_tokens(count: int) -> list[int]:
    """Tokens that cut the ring into `count` equal ranges, the first at 0."""
    return [TOKEN_SPACE * index // count for index in range(count)]


def partition_name(number: int) -> str:
    """How the partition with that id is called."""
    return f"p-{number:03d}"


class TokenMap:
    """A layout's partitions, by token and by name."""

    __slots__ = ("_names", "_partitions", "_tokens", "boundaries", "ids")

    def __init__(self, layout: Layout) -> None:
        self._partitions = sorted(layout.partitions, key=lambda partition: partition.token)
        self._tokens = [partition.token for partition in self._partitions]
        if not self._tokens or len(set(self._tokens)) < len(self._tokens):
            raise LayoutError("a layout needs partitions, each with a token of its own")
        self.boundaries = b"".join(token.to_bytes(HASH_BYTES) for token in self._tokens)
        self.ids = tuple(partition.id for partition in self._partitions)
        self._names = {partition.name: partition for partition in self._partitions}

    def partition_of(self, token: int) -> Partition:
        """The partition that serves a hash. (Index -1, below the lowest token, is the last one.)"""
        return self._partitions[bisect_right(self._tokens, token) - 1]

    def locate(self, key: bytes) -> tuple[int, Partition]:
        """A key's token and partition."""
        token = token_of(key)
        return token, self.partition_of(token)

    def partition_of_all(self, keys: Iterable[bytes]) -> Partition:
        """The partition that holds all of the keys, of which there is one at least. Raises `CrossPartition`."""
        held = {self.locate(key)[1]: key for key in keys}
        if len(held) > 1:
            (one, key), (other, far_key) = list(held.items())[:2]
            raise CrossPartition(
                f"{_shown(key)} lies in {one.name} and {_shown(far_key)} in {other.name}, and a node executes"
                " transactions of one partition; nothing was executed. Ask a router, or give the keys one {tag}"
            )
        return next(iter(held))

    def all_names(self) -> list[tuple[int, str]]:
        """Ids and names of the partitions, in the order of their tokens."""
        return [(partition.id, partition.name) for partition in self._partitions]

    def by_name(self, name: str) -> Partition | None:
        """The partition of that name."""
        return self._names.get(name)

    def ranges(self, partition: Partition) -> tuple[tuple[int, int], ...]:
        """Its token ranges, start included and end (up to TOKEN_SPACE) not: two where it wraps."""
        index = self._tokens.index(partition.token)
        if index + 1 < len(self._tokens):
            return ((partition.token, self._tokens[index + 1]),)
        first = self._tokens[0]
        return ((partition.token, TOKEN_SPACE), (0, first)) if first else ((partition.token, TOKEN_SPACE),)

    def share(self, partition: Partition) -> float:
        """Its share of the keyspace, 0 to 1."""
        return sum(end - start for start, end in self.ranges(partition)) / TOKEN_SPACE


def _shown(key: bytes) -> str:
    """A key in an error."""
    text = key[:64].decode("utf-8", "backslashreplace")
    return f"'{text}...'" if len(key) > 64 else f"'{text}'"


bind(TokenMap)
