"""Whether files have been replaced or written to, told cheaply, by their metadata alone."""

from __future__ import annotations

import os
from collections.abc import Sequence

_Marks = list[tuple[int, int, int] | None]


class FileWatch:
    """Remembers what some files looked like. A file that is gone has changed."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._marks = self._look()

    def has_changed(self) -> bool:
        """Whether any of them changed since this was asked last, or since the beginning."""
        marks = self._look()
        changed, self._marks = marks != self._marks, marks
        return changed

    def _look(self) -> _Marks:
        return [_mark(path) for path in self._paths]


def _mark(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
