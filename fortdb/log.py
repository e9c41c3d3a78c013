"""Structured logs: one line an event, on standard error.

`logfmt` for eyes and grep, `json` for collectors. What libraries log through the standard library
comes out the same way.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")


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
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.processors.LogfmtRenderer(key_order=order, bool_as_flag=False)
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
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
