"""Walks over a column family, safe against three traps of the iterators below them (rocksdict 0.3.29).

* RocksDB's iterator reads its bounds from the memory of the options it was made with, and `rocksdict`
  does not keep them alive for it: a walk holds both.
* `set_iterate_lower_bound` sets the *upper* bound. A walk has no lower bound; who walks backward looks
  at the keys.
* An iterator simply ends at a damaged block. Only its status tells that from the end of the range, so
  every walk that ends asks for it; `rocksdict`'s own `items()` and `keys()` do not.
"""

from __future__ import annotations

from rocksdict import Rdict, ReadOptions


class Walk:
    """An iterator over the keys before `end`, not yet standing anywhere.

    Whoever uses `iterator` by itself keeps the walk as long. What RocksDB raises comes through as it is.
    """

    __slots__ = ("_options", "iterator")

    def __init__(self, family: Rdict, end: bytes) -> None:
        self._options = options = ReadOptions()
        options.set_iterate_upper_bound(end)
        self.iterator = family.iter(options)

    def read(self, count: int, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """Up to `count` pairs from where the walk stands, at least one if there is one, at most about
        `bytes_max`."""
        iterator = self.iterator
        valid, key_of, value_of, step = iterator.valid, iterator.key, iterator.value, iterator.next
        found: list[tuple[bytes, bytes]] = []
        append = found.append
        size = 0
        while len(found) < count and size < bytes_max and valid():
            key, value = key_of(), value_of()
            append((key, value))
            size += len(key) + len(value)
            step()
        if not valid():
            iterator.status()
        return found

    def read_backward(self, start: bytes, count: int, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """The same from the last key before the end down to `start`."""
        iterator = self.iterator
        iterator.seek_to_last()
        valid, key_of, value_of, step = iterator.valid, iterator.key, iterator.value, iterator.prev
        found: list[tuple[bytes, bytes]] = []
        size = 0
        while len(found) < count and size < bytes_max and valid() and (key := key_of()) >= start:
            value = value_of()
            found.append((key, value))
            size += len(key) + len(value)
            step()
        if not valid():
            iterator.status()
        return found

    def count(self) -> int:
        """How many keys lie between here and the end."""
        valid, step = self.iterator.valid, self.iterator.next
        number = 0
        while valid():
            number += 1
            step()
        self.iterator.status()
        return number
