"""Values that were read of late, in front of RocksDB: a lookup there costs ten times one in a dictionary.

Two generations: what is read is kept in the young one; when that is full it becomes the former one, and what
was the former one is forgotten. A value that is read while only the former generation has it is kept on. So
what is read again within a generation stays, at the cost of one dictionary and no list of uses (the idea of
2Q, Johnson and Shasha 1994, with the simplest of queues).

What is kept is what RocksDB has. Newer values are in the engine's tables, which are asked first, and are
forgotten here when they are moved (`forget`), before the tables let go of them. So only the thread that
writes may keep values.
"""

from __future__ import annotations

from collections.abc import Iterable

from fortdb.native import bind

_VALUE_BYTES_MAX = 8 * 1024  # a larger one costs more to copy than to look up
_KEY_OVERHEAD_BYTES = 150  # what a key costs in a dictionary besides its own bytes and those of its value


class Recent:
    """Keeps at most about `bytes_max`."""

    __slots__ = ("_former", "_generation_bytes", "_young_bytes", "young")

    def __init__(self, bytes_max: int) -> None:
        self._generation_bytes = bytes_max // 2
        self.young: dict[bytes, bytes] = {}
        self._former: dict[bytes, bytes] = {}
        self._young_bytes = 0

    def get(self, key: bytes) -> bytes | None:
        """The value, if it is kept."""
        value = self.young.get(key)
        if value is None:
            value = self._former.get(key)
            if value is not None:
                self.keep(key, value)
        return value

    def keep(self, key: bytes, value: bytes) -> None:
        """Keep what was read from RocksDB."""
        if len(value) > _VALUE_BYTES_MAX:
            return
        self.young[key] = value
        self._young_bytes += len(key) + len(value) + _KEY_OVERHEAD_BYTES
        if self._young_bytes > self._generation_bytes:
            self._former, self.young, self._young_bytes = self.young, {}, 0

    def forget(self, keys: Iterable[bytes]) -> None:
        """RocksDB has other values of these keys now. Any thread: as long as this is not done, the tables
        have the keys."""
        young, former = self.young, self._former
        if young or former:
            for key in keys:
                young.pop(key, None)
                former.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self.young, self._former, self._young_bytes = {}, {}, 0

    @property
    def size_bytes(self) -> int:
        """About what is kept."""
        return self._young_bytes + (self._generation_bytes if self._former else 0)


bind(Recent)
