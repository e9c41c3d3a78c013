"""Commands as a person types them: words on a line, quotes around what has spaces in it.

The rules are those of Redis' inline commands: inside double quotes `\\n \\r \\t \\b \\a \\\\ \\" \\xHH` are
escapes, inside single quotes only `\\'` is; a closing quote must be followed by a space or the end.
"""

from __future__ import annotations

from fortdb.errors import BadRequest

_ESCAPES = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}
_UNESCAPES = {
    10: b"\\n",
    13: b"\\r",
    9: b"\\t",
    8: b"\\b",
    7: b"\\a",
    92: b"\\\\",
    34: b'\\"',
}
_SPACE = b" \t\r\n\x00\v\f"
_HEX = b"0123456789abcdefABCDEF"


def split_line(line: bytes) -> list[bytes]:
    """The words of a line. Raises `BadRequest` when a quote is not closed properly."""
    if b'"' not in line and b"'" not in line:
        return line.split()
    words: list[bytes] = []
    at, end = 0, len(line)
    while True:
        while at < end and line[at] in _SPACE:
            at += 1
        if at == end:
            return words
        word, at = _word(line, at)
        words.append(word)


def quote(value: bytes) -> bytes:
    """The value as one word in double quotes, printable, such that `split_line` gives it back."""
    parts = [
        _UNESCAPES.get(byte) or (bytes((byte,)) if 32 <= byte < 127 else b"\\x%02x" % byte) for byte in value
    ]
    return b'"' + b"".join(parts) + b'"'


def _word(line: bytes, at: int) -> tuple[bytes, int]:
    word = bytearray()
    end = len(line)
    while at < end and line[at] not in _SPACE:
        if line[at] in b"\"'":
            at = _quoted(line, at, word)
            if at < end and line[at] not in _SPACE:
                raise BadRequest("unbalanced quotes in request")
            break
        word.append(line[at])
        at += 1
    return bytes(word), at


def _quoted(line: bytes, at: int, word: bytearray) -> int:
    """Append what the quotes that open at `at` hold; returns the place after the closing one."""
    mark = line[at]
    is_double = mark == ord('"')
    at += 1
    while at < len(line):
        byte = line[at]
        if byte == mark:
            return at + 1
        if byte == ord("\\") and at + 1 < len(line):
            following = line[at + 1]
            if not is_double:
                if following == mark:
                    byte, at = following, at + 1
            elif (
                following == ord("x") and at + 3 < len(line) and line[at + 2] in _HEX and line[at + 3] in _HEX
            ):
                byte, at = int(line[at + 2 : at + 4], 16), at + 3
            else:
                byte, at = _ESCAPES.get(following, following), at + 1
        word.append(byte)
        at += 1
    raise BadRequest("unbalanced quotes in request")
