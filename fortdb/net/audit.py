"""The audit log: who came in, who was refused, who changed the ring, its users or its certificates.

Events are named `audit_...` and carry user, address, command class and keyspace where they have one;
never a value, a key or a password. They go to the log, or as JSON lines to a file of their own, which is
opened again at SIGHUP, so that it can be moved away. Refusals are bounded: who sends nothing but what is
refused fills no disk, and how many were left out is told with the next one.
"""

from __future__ import annotations

import os
from typing import TextIO

import structlog

from fortdb.clock import steady_ms
from fortdb.errors import ConfigError
from fortdb.limits import AUDIT_REFUSALS_MAX

_SECOND_MS = 1_000


class Audit:
    """Writes events. For one thread."""

    def __init__(self, process: str, path: str = "") -> None:
        """Raises `ConfigError` if the file cannot be written to."""
        self._process = process
        self._path = path
        self._file: TextIO | None = None
        self._second = 0
        self._refusals = 0
        self._left_out = 0
        self._log = structlog.get_logger("fortdb.audit")
        self.reopen()

    def reopen(self) -> None:
        """Write to the file that has the path now. Raises `ConfigError`, and keeps the former file."""
        if not self._path:
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise ConfigError(
                f"security.audit_file: {self._path} cannot be written to: {error.strerror}"
            ) from None
        former, self._file = self._file, os.fdopen(descriptor, "a", buffering=1)
        if former is not None:
            former.close()
        self._log = structlog.wrap_logger(
            structlog.WriteLogger(self._file),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                structlog.processors.JSONRenderer(),
            ],
            process=self._process,
        )

    def event(self, name: str, **fields: object) -> None:
        """Something happened. A full disk costs the event, not the service."""
        try:
            self._log.info(name, **fields)
        except OSError as error:
            structlog.get_logger(__name__).error("audit_not_written", lost=name, reason=str(error))

    def refusal(self, name: str, **fields: object) -> None:
        """The same for what anybody can cause at will."""
        second = steady_ms() // _SECOND_MS
        if second != self._second:
            self._second, self._refusals = second, 0
        self._refusals += 1
        if self._refusals > AUDIT_REFUSALS_MAX:
            self._left_out += 1
            return
        if self._left_out:
            fields["left_out"], self._left_out = self._left_out, 0
        self.event(name, **fields)

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()
