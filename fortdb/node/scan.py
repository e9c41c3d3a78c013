"""`SCAN`: a walk along the ring, a page at a time, without any state on the server.

Keys lie on disk in the order of their tokens, so a cursor is simply the token to go on from: it
survives a failover, a restart and a move of the partition, and every key that was there all along is
seen. Cursor 0 is the beginning and the end. A page holds only the keys that are wanted, and no values.

A page is over at the first new token after `COUNT` keys, or a MiB of them and their values, were looked at. It ends
between two tokens, so keys that share a `{tag}` come in one page. Where these are more than a request may look at
(`READ_BYTES_MAX`) or a page may hold, the walk cannot go on: it ends with an error that says so. `RANGE` walks them.

A page is read as `RANGE` reads (`Execution.walk`), so it has all that was answered before. A transaction may be
committed and have keys here that nobody can see yet: a page waits for those that held locks when it came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fortdb.errors import BadRequest
from fortdb.limits import READ_BYTES_MAX, REPLY_BYTES_MAX, SCAN_COUNT_MAX, WALK_BYTES_MAX
from fortdb.model import TOKEN_SPACE
from fortdb.protocol.arguments import parse_scan
from fortdb.protocol.glob import compile_glob
from fortdb.protocol.resp import array, bulk
from fortdb.ring.tokens import hashed_part
from fortdb.storage.keys import data_bound, data_token, user_key
from fortdb.storage.values import expiry_of, type_name

if TYPE_CHECKING:
    from fortdb.node.execute import Execution


def scan_page(execution: Execution, token_ranges: tuple[tuple[int, int], ...], args: list[bytes]) -> bytes:
    """The page at the cursor in `args`, and the next cursor; `token_ranges` are the partition's."""
    options = parse_scan(args)
    for start, end in token_ranges:
        if start <= options.cursor < end:
            break
    else:
        raise BadRequest("invalid cursor")
    count = min(options.count, SCAN_COUNT_MAX)
    matches = compile_glob(options.match) if options.match is not None else None
    wanted = None if options.type is None else options.type.lower()
    keys: list[bytes] = []
    cursor, token = end % TOKEN_SPACE, -1
    looked_bytes = size = 0
    for looked, (at, stored) in enumerate(execution.walk(data_bound(options.cursor), data_bound(end))):
        if data_token(at) != token:
            token = data_token(at)
            if looked >= count or looked_bytes > WALK_BYTES_MAX:
                cursor = token
                break
        elif execution.left_bytes < 0:
            raise _too_many(f"look at values of more than {READ_BYTES_MAX} bytes", at)
        looked_bytes += len(at) + len(stored)
        if wanted not in (None, type_name(stored)) or 0 < expiry_of(stored) <= execution.now_ms:
            continue
        key = user_key(at)
        if matches is None or matches(key):
            keys.append(bulk(key))
            size += len(keys[-1])
            if size > REPLY_BYTES_MAX:
                raise _too_many(f"be larger than {REPLY_BYTES_MAX} bytes", at)
    return array([bulk(b"%d" % cursor), array(keys)])


def _too_many(what: str, at: bytes) -> BadRequest:
    """For a page that cannot end before the last of the keys with one tag."""
    tag = hashed_part(user_key(at)).decode("utf-8", "backslashreplace")
    return BadRequest(
        f"the page would {what}: too many keys have the tag {{{tag}}} for SCAN; RANGE walks these"
    )
