"""Structured logs: one line an event, on standard error.

`logfmt` for eyes and grep, `json` for collectors. What libraries log through the standard library
comes out the same way. Some of what is logged comes from strangers, say the name at a login: in logfmt whatever
cannot be printed is written as an escape, so that it neither begins a line of its own nor tells a terminal anything.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")


def escape_controls(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Texts without anything that cannot be printed. `LogfmtRenderer` looks after line feeds and quotes, JSON after
    itself."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "".join(
                letter
                if letter.isprintable() or letter == "\n"
                else letter.encode("unicode_escape").decode("ascii")
                for letter in value
            )
    return event


def configure(level: str, format: Literal["logfmt", "json"], process: str) -> None:
    """Write events of at least `level`; every line carries the name of the process."""

    def name_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("process", process)
        return event

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        name_process,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    order = ["time", "level", "process", "event"]
    renderers: list[Processor] = (
        [structlog.processors.JSONRenderer()]
        if format == "json"
        else [escape_controls, structlog.processors.LogfmtRenderer(key_order=order, bool_as_flag=False)]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
