"""Reading JSON strictly: every refusal names the object and the field.

Fields that are not asked for are passed over, so that a newer FortDB may add one while the older
still runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from enum import Enum
from typing import Any, Self, TypeVar

from fortdb.errors import FortError
from fortdb.limits import WEIGHT_MAX, WEIGHT_MIN
from fortdb.model import TOKEN_SPACE

_TOKEN_DIGITS = 16

E = TypeVar("E", bound=Enum)


def dump_json(value: object) -> bytes:
    """Compact JSON with sorted keys, so that equal values are equal bytes."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


class Fields:
    """A JSON object whose fields are asked for by name and type; every refusal names both."""

    def __init__(self, what: str, fields: Any, where: str, error: type[FortError]) -> None:
        self._what = what
        self._where = where
        self._error = error
        if not isinstance(fields, dict):
            raise self.wrong("is not a JSON object")
        self._fields: dict[str, Any] = fields

    @classmethod
    def parse(cls, what: str, value: bytes | str, where: str, error: type[FortError]) -> Self:
        """`what` the value is and `where` it stands name it in errors of the given class."""
        try:
            fields = json.loads(value)
        except (ValueError, RecursionError) as problem:
            raise error(f"{what} {where} is not JSON ({problem})") from problem
        return cls(what, fields, where, error)

    def wrong(self, problem: str) -> FortError:
        """An error that names this object."""
        return self._error(f"{self._what} {self._where} {problem}")

    def text(self, field: str, empty: bool = False) -> str:
        return str(self._get(field, "text", lambda v: isinstance(v, str) and (empty or v != "")))

    def text_or_none(self, field: str) -> str | None:
        value = self._get(field, "text or null", lambda v: v is None or (isinstance(v, str) and v != ""))
        return None if value is None else str(value)

    def number(self, field: str, least: int) -> int:
        return int(
            self._get(field, f"a whole number from {least}", lambda v: type(v) is int and v >= least),
        )

    @property
    def names(self) -> Set[str]:
        """Of all fields."""
        return self._fields.keys()

    def has(self, field: str) -> bool:
        """Whether the field is there at all: an older FortDB may not have known it."""
        return field in self._fields

    def weight(self, field: str) -> float:
        """0, or a number within bounds: JSON has none, and Python's reader accepts even a NaN."""
        return float(
            self._get(
                field,
                f"0, or a number from {WEIGHT_MIN:f} to {WEIGHT_MAX:.0f}",
                lambda v: type(v) in (int, float) and (v == 0 or WEIGHT_MIN <= v <= WEIGHT_MAX),
            )
        )

    def truth(self, field: str) -> bool:
        return bool(self._get(field, "true or false", lambda v: isinstance(v, bool)))

    def token(self, field: str) -> int:
        digits = self._get(field, f"{_TOKEN_DIGITS} hex digits", _is_token)
        token = int(digits, 16)
        assert 0 <= token < TOKEN_SPACE
        return token

    def choice(self, field: str, choices: type[E]) -> E:
        allowed = [choice.value for choice in choices]
        return choices(self._get(field, f"one of {', '.join(allowed)}", lambda v: v in allowed))

    def texts(self, field: str) -> tuple[str, ...]:
        values = self._get(
            field,
            "a list of different names",
            lambda v: isinstance(v, list) and all(map(_is_name, v)) and len(set(v)) == len(v),
        )
        return tuple(values)

    def named_texts(self, field: str) -> dict[str, str]:
        return dict(
            self._get(
                field,
                "an object of texts",
                lambda v: isinstance(v, dict) and all(map(_is_name, (*v.keys(), *v.values()))),
            )
        )

    def objects(self, field: str) -> list[Fields]:
        items = self._get(field, "a list", lambda v: isinstance(v, list))
        return [self._inner(f"{field}[{index}]", item) for index, item in enumerate(items)]

    def named_objects(self, field: str) -> dict[str, Fields]:
        items = self._get(field, "an object", lambda v: isinstance(v, dict))
        return self._inner(field, items).all_objects()

    def all_objects(self) -> dict[str, Fields]:
        return {name: self._inner(name, item) for name, item in self._fields.items()}

    def must_be_named(self, field: str, name: str) -> None:
        if self.text(field) != name:
            raise self.wrong(f"calls itself {self.text(field)!r}")

    def object(self, field: str) -> Fields:
        return self._inner(field, self._get(field, "an object", lambda v: isinstance(v, dict)))

    def _inner(self, name: str, fields: Any) -> Fields:
        return Fields(f"{self._what}.{name}", fields, self._where, self._error)

    def _get(self, field: str, wanted: str, is_right: Callable[[Any], bool]) -> Any:
        if field not in self._fields:
            raise self.wrong(f"lacks the field {field!r}")
        value = self._fields[field]
        if not is_right(value):
            raise self.wrong(f"is wrong: {field!r} must be {wanted}, not {value!r:.80}")
        return value


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_token(value: object) -> bool:
    return isinstance(value, str) and len(value) == _TOKEN_DIGITS and set(value) <= set("0123456789abcdef")
