"""Redis' glob patterns on bytes: `*`, `?`, `[abc]`, `[^a-c]`, `\\x`.

A pattern is cut at its stars into pieces of fixed length; each piece is found as early as possible.
That is never slower than pattern times text, unlike backtracking on `*a*a*a*b`.
"""

from __future__ import annotations

from collections.abc import Callable

_ANY = frozenset(range(256))

Piece = tuple[frozenset[int], ...]
"""What each byte of a piece may be."""


def compile_glob(pattern: bytes) -> Callable[[bytes], bool]:
    """A function that tells whether a text matches the pattern as a whole."""
    pieces = _pieces(pattern)
    first, last = pieces[0], pieces[-1]

    def matches(text: bytes) -> bool:
        if len(pieces) == 1:
            return len(text) == len(first) and _fits(first, text, 0)
        end = len(text) - len(last)
        if end < len(first) or not _fits(first, text, 0) or not _fits(last, text, end):
            return False
        at = len(first)
        for piece in pieces[1:-1]:
            while at + len(piece) <= end and not _fits(piece, text, at):
                at += 1
            if at + len(piece) > end:
                return False
            at += len(piece)
        return True

    return matches


def _fits(piece: Piece, text: bytes, at: int) -> bool:
    return all(text[at + index] in allowed for index, allowed in enumerate(piece))


def _pieces(pattern: bytes) -> list[Piece]:
    """The runs of single-byte conditions between the stars; always at least one, perhaps empty."""
    pieces: list[list[frozenset[int]]] = [[]]
    at = 0
    while at < len(pattern):
        byte = pattern[at]
        at += 1
        if byte == ord("*"):
            pieces.append([])
        elif byte == ord("?"):
            pieces[-1].append(_ANY)
        elif byte == ord("["):
            allowed, at = _class(pattern, at)
            pieces[-1].append(allowed)
        else:
            if byte == ord("\\") and at < len(pattern):
                byte, at = pattern[at], at + 1
            pieces[-1].append(frozenset((byte,)))
    return [tuple(piece) for piece in pieces]


def _class(pattern: bytes, at: int) -> tuple[frozenset[int], int]:
    """The bytes that a `[...]` allows, and where it ends; an unclosed one ends with the pattern."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    allowed: set[int] = set()
    while at < len(pattern) and pattern[at] != ord("]"):
        if pattern[at] == ord("\\") and at + 1 < len(pattern):
            at += 1
            allowed.add(pattern[at])
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))
            allowed.update(range(low, high + 1))
            at += 2
        else:
            allowed.add(pattern[at])
        at += 1
    return (_ANY - allowed if negated else frozenset(allowed)), at + 1
