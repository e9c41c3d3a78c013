"""Waiting for a condition with a deadline, where a sleep would hide a race."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(what: str, is_so: Callable[[], object], within_s: float = 30.0) -> None:
    """Return as soon as `is_so()` is true; fail with `what` if it is not within `within_s`."""
    deadline = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come about in {within_s:g} s: {what}")
        time.sleep(0.01)
