"""Which keys of a partition belong to a keyspace; a walk over all of its keys, for operators.

A key belongs to `orders` if it begins with `orders/`; keys lie in the order of their tokens, so only a walk
finds them. A key that was deleted still belongs as long as there is a history of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from fortdb.limits import WALK_BYTES_MAX
from fortdb.storage.engine import Cursor, Engine
from fortdb.storage.keys import VERSION_KIND, data_bound, owner_key, user_key, version_ordinal
from fortdb.storage.values import decode_history

_HEAD = 0


def keyspace_members(
    engine: Engine, token_ranges: tuple[tuple[int, int], ...], name: bytes
) -> Iterator[bytes]:
    """The data keys of a keyspace, as they are now; the walk itself may be done on another thread."""
    keys = [engine.cursor(data_bound(start), data_bound(end)) for start, end in token_ranges]
    histories = [
        engine.cursor(data_bound(start, VERSION_KIND), data_bound(end, VERSION_KIND))
        for start, end in token_ranges
    ]
    return _members(keys, histories, name + b"/")


def _members(keys: list[Cursor], histories: list[Cursor], prefix: bytes) -> Iterator[bytes]:
    for at, _ in _pairs(keys):
        if user_key(at).startswith(prefix):
            yield at
    for at, stored in _pairs(histories):
        if version_ordinal(at) == _HEAD and decode_history(stored).deleted:
            owner = owner_key(at)
            if user_key(owner).startswith(prefix):
                yield owner


def _pairs(cursors: list[Cursor]) -> Iterator[tuple[bytes, bytes]]:
    for cursor in cursors:
        while pairs := cursor.read(WALK_BYTES_MAX):
            yield from pairs
        cursor.close()
