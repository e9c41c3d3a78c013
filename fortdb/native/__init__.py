"""The short way: what nearly every request asks, in C.

Nearly all requests are `GET key` and `SET key value`, and nearly all of them meet nothing special. For
these, for moving their bytes, and for the ticks that replicate them, `fortdb.native._native` does in C
what the Python code beside it does: it works on the same objects and keeps no state of its own, and
whatever is out of the ordinary (another command, a held partition, a large or torn request, an error) it
leaves to the Python code, which decides everything and words every error. So no rule is written twice,
and a machine without a C compiler loses speed and nothing else.

How C finds its way: each class that it works on has `__slots__` and is `bind`-ed where it is defined;
from then on C reads and writes the slots at their offsets. Renaming a slot that C uses fails at import,
with its name.

`lane` is the module, or None when it was not built or `FORTDB_NATIVE=0` is set.
"""

from __future__ import annotations

from types import ModuleType

lane: ModuleType | None
try:
    from fortdb.native import _native as lane
except ImportError:
    lane = None


def bind(cls: type) -> None:
    """Let C work on instances of `cls`. Raises `AttributeError` naming a slot that C misses."""
    if lane is not None:
        lane.bind(cls)


__all__ = ["bind", "lane"]
