"""A typed line split into words, with the quoting that redis-cli's users know.

Words are parted by blanks. Double quotes take escapes (`\\n \\r \\t \\" \\\\ \\xHH`), single quotes
take everything as it is but `\\'`. A closing quote must be followed by a blank or the end. Bytes
that are no ASCII pass through, so UTF-8 stays whole.
"""

from __future__ import annotations

import re

from fortdb.errors import BadRequest

_WORD = re.compile(
    rb"""\s* (?:
        " (?P<double> (?: [^"\\] | \\. )* ) " (?= \s | \Z )
      | ' (?P<single> (?: [^'\\] | \\. )* ) ' (?= \s | \Z )
      | (?P<plain> [^\s"'] \S* )
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def split_line(line: bytes) -> list[bytes]:
    """The words of a line; raises `BadRequest` when a quote is left open or closed in a word."""
    words: list[bytes] = []
    line = line.strip()
    position = 0
    while position < len(line):
        found = _WORD.match(line, position)
        if found is None:
            raise BadRequest("a quote is left open, or something follows it without a blank between")
        words.append(_word(found))
        position = found.end()
    return words


def _word(found: re.Match[bytes]) -> bytes:
    if found["double"] is not None:
        return _ESCAPE.sub(_unescaped, found["double"])
    if found["single"] is not None:
        return found["single"].replace(b"\\'", b"'")
    return found["plain"]


def _unescaped(found: re.Match[bytes]) -> bytes:
    escaped = found[1]
    if len(escaped) == 3:
        return bytes([int(escaped[1:], 16)])
    return _LETTERS.get(escaped, escaped)
