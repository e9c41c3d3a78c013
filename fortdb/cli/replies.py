"""Replies for a person's eyes, in redis-cli's style, and for a machine's, as JSON. Pure functions."""

from __future__ import annotations

import json

from fortdb.cli.failures import sentence_of
from fortdb.client import Reply
from fortdb.errors import FortError

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quoted(value: bytes) -> str:
    """A bulk string: UTF-8 as text, quotes and what cannot be seen escaped. Fits in one line."""
    characters = value.decode("utf-8", "surrogateescape")
    return f'"{"".join(map(_visible, characters))}"'


def rendered(reply: Reply, is_status: bool = False) -> str:
    """A reply over as many lines as it needs; `is_status` is for `+OK`, which has no quotes."""
    if isinstance(reply, list):
        if not reply:
            return "(empty array)"
        width = len(str(len(reply)))
        items = []
        for number, item in enumerate(reply, 1):
            head = f"{number:>{width}}) "
            items.append(head + rendered(item).replace("\n", "\n" + " " * len(head)))
        return "\n".join(items)
    return _scalar(reply, is_status)


def rendered_line(reply: Reply, is_status: bool = False) -> str:
    """A reply in one line: `1) "a" 2) (nil)` for an array, `[...]` around one inside another."""
    if isinstance(reply, list):
        items = (f"[{rendered_line(item)}]" if isinstance(item, list) else _scalar(item) for item in reply)
        return " ".join(f"{number}) {item}" for number, item in enumerate(items, 1)) or "(empty array)"
    return _scalar(reply, is_status)


def json_line(reply: Reply) -> str:
    """A reply as one line of JSON; an error is an object with `error` and `message`."""
    return json.dumps(_json_value(reply))


def _scalar(reply: Reply, is_status: bool = False) -> str:
    match reply:
        case None:
            return "(nil)"
        case int():
            return f"(integer) {reply}"
        case FortError():
            return f"(error) {reply.code} {sentence_of(reply)}"
        case bytes():
            return reply.decode("utf-8", "backslashreplace") if is_status else quoted(reply)
    raise TypeError(f"{type(reply).__name__} is no scalar reply")


def _json_value(reply: Reply) -> object:
    match reply:
        case bytes():
            return reply.decode("utf-8", "backslashreplace")
        case list():
            return [_json_value(item) for item in reply]
        case FortError():
            return {"error": reply.code, "message": sentence_of(reply)}
        case _:
            return reply


def _visible(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that was no UTF-8, as surrogateescape keeps it
        return f"\\x{number - 0xDC00:02x}"
    return "".join(f"\\x{byte:02x}" for byte in character.encode())
