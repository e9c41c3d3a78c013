"""What is built besides Python: with FORTDB_COMPILE=1, the hot path as C (`FORTDB_COMPILE=1 pip install .`).

mypyc compiles the modules below as they are; without it the same files run as Python, so there is one
source and nothing to keep equal. It needs a C compiler, and a wheel made this way fits one version of
Python. Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os

from setuptools import Extension, setup

COMPILER = "mypy==2.4.1"

HOT_PATH = [
    "fortdb/clock.py",
    *(f"fortdb/net/{name}.py" for name in ("loop", "stream", "front", "peer", "gather")),
    *(
        f"fortdb/node/{name}.py"
        for name in ("service", "execute", "clients", "disk", "links", "snapshots", "scan")
    ),
    *(f"fortdb/protocol/{name}.py" for name in ("commands", "resp")),
    *(
        f"fortdb/replication/{name}.py"
        for name in (
            *("dedupe", "entries", "epochs", "isr", "leader"),
            *("log", "messages", "progress", "replica"),
        )
    ),
    "fortdb/ring/tokens.py",
    *(f"fortdb/router/{name}.py" for name in ("channels", "service")),
    *(f"fortdb/storage/{name}.py" for name in ("batch", "keys", "states", "values", "walk")),
]
"""Where a profile of a loaded node or router spends its time."""


def _extensions() -> list[Extension]:
    if os.environ.get("FORTDB_COMPILE") != "1":
        return []
    try:
        from mypyc.build import mypycify
    except ImportError:
        return []  # pip asks what is required before it has installed that
    # What is imported and not installed while building counts as Any; `make lint` has looked at all of it.
    flags = ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports"]
    return list(mypycify([*flags, *HOT_PATH], opt_level="3", group_name="fortdb"))


setup(
    ext_modules=_extensions(),
    setup_requires=[COMPILER] if os.environ.get("FORTDB_COMPILE") == "1" else [],
)
