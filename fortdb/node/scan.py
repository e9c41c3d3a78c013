"""`SCAN`: a walk along the ring, a page at a time, without any state on the server.

Keys lie on disk in the order of their tokens, so a cursor is simply the token to go on from: it
survives a failover, a restart and a move of the partition, and every key that was there all along is
seen. A page ends between two tokens, so keys that share a `{tag}` come in one page, however many
they are. Cursor 0 is the beginning and the end.

A page is read as `RANGE` reads (`Execution.walk`), so it has all that was answered before. A transaction may be
committed and have keys here that nobody can see yet: a page waits for those that held locks when it came.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from fortdb.errors import BadRequest
from fortdb.limits import SCAN_COUNT_MAX
from fortdb.model import TOKEN_SPACE
from fortdb.protocol.arguments import parse_scan
from fortdb.protocol.glob import compile_glob
from fortdb.protocol.resp import array, bulk
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
    pairs = list(islice(execution.walk(data_bound(options.cursor), data_bound(end)), count + 1))
    cursor = end % TOKEN_SPACE
    if len(pairs) > count:
        cursor = data_token(pairs[-1][0])
        whole = [pair for pair in pairs if data_token(pair[0]) != cursor]
        if not whole:  # one token fills the page: take all of it
            whole = list(execution.walk(data_bound(cursor), data_bound(cursor + 1)))
            cursor = (cursor + 1) % TOKEN_SPACE if cursor + 1 < end else end % TOKEN_SPACE
        pairs = whole
    matches = compile_glob(options.match) if options.match is not None else None
    wanted = None if options.type is None else options.type.lower()
    keys = [
        bulk(key)
        for key, value in ((user_key(key), value) for key, value in pairs)
        if wanted in (None, type_name(value))
        and not 0 < expiry_of(value) <= execution.now_ms
        and (matches is None or matches(key))
    ]
    return array([bulk(b"%d" % cursor), array(keys)])
