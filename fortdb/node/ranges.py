"""`RANGE`: keys with one `{tag}` in their own order, and their values, read at one moment.

It is a read like `GET`: it sees every effect that was proposed before it (`Execution.walk` lays them over the
data) and is answered when that is committed, and it waits for transactions that hold a key of the range
(`locks.Prefix`). So one page is linearizable; a walk over several is a sequence of such reads.

An answer is where to go on, nil at the end, and a page of keys. A page ends after `COUNT` keys, after
`PAGE_BYTES_MAX` of what is answered, or after `SCAN_COUNT_MAX` keys or `WALK_BYTES_MAX` of what was looked at:
many keys that have ended, or large values that nobody asked for, end it early, and it may be empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fortdb.limits import PAGE_BYTES_MAX, SCAN_COUNT_MAX, WALK_BYTES_MAX
from fortdb.node import records
from fortdb.protocol.ranges import parse_range
from fortdb.protocol.resp import NIL, array, bulk
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import after_token, data_key_at, user_key
from fortdb.storage.values import is_records, payload_of

if TYPE_CHECKING:
    from fortdb.node.execute import Execution


def _range(execution: Execution, args: list[bytes]) -> bytes:
    options = parse_range(args)
    token = hash_of(args[1])
    start = data_key_at(token, options.start)
    end = after_token(token) if options.end is None else data_key_at(token, options.end)
    items: list[bytes] = []
    size = looked_bytes = 0
    last: bytes | None = None
    for looked, (at, stored) in enumerate(execution.walk(start, end, options.backward)):
        if len(items) == options.count or looked >= SCAN_COUNT_MAX or looked_bytes > WALK_BYTES_MAX:
            return _page(last, items)
        looked_bytes += len(stored)
        if not execution.has_ended(stored):
            item = bulk(user_key(at))
            if options.values:
                item = array([item, _value(execution, at, stored)])
            if items and size + len(item) > PAGE_BYTES_MAX:
                return _page(last, items)
            size += len(item)
            items.append(item)
        last = user_key(at)
    return _page(None, items)


def _page(last: bytes | None, items: list[bytes]) -> bytes:
    return array([NIL if last is None else bulk(b"(" + last), array(items)])


def _value(execution: Execution, at: bytes, stored: bytes) -> bytes:
    """What `GET` answers."""
    if not is_records(stored):
        return bulk(payload_of(stored))
    found = records.newest(execution, at, stored)
    return NIL if found is None else bulk(found.value)


HANDLERS = {"RANGE": _range}
"""By canonical command name."""
