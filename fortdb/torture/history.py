"""What clients of a tortured ring did and were told, and what was done to the ring meanwhile.

A history is a file of JSON lines, each handed to the kernel as it happens: a torture that is killed leaves
its evidence. A call's line has `kind` and `outcome`, a fault's has `fault`. Times are nanoseconds of one
monotonic clock.

Every key is one register, absent or text. `increment` works on integer text, absent is 0; `append` adds text
that ends in a comma and holds no other, so that a read shows the whole list. A key with records is no register:
`add` adds one, and a read shows them all as `id value` with commas between them, absent if there are none. So does
a read of a key with WORM records, which `keep` adds. A key with versions is a register; `versions` shows what it held,
as `id value`, where it was deleted as `id`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fortdb.errors import BadRequest

Value = str | int | bool | None


class Outcome(Enum):
    """What is known of a call's effect."""

    OK = "ok"
    FAILED = "failed"
    """It certainly had none, and never will."""
    UNKNOWN = "unknown"
    """It may have taken place at any time after it began, or never."""


class Kind(Enum):
    """What a call does: its arguments -> its result."""

    READ = "read"
    """() -> the value, None if absent"""
    WRITE = "write"
    """(value) -> anything"""
    DELETE = "delete"
    """() -> whether it was there"""
    CAS = "cas"
    """(expected, new) -> whether it was swapped"""
    INCREMENT = "increment"
    """(amount) -> the new count"""
    APPEND = "append"
    """(element and comma) -> the new length in bytes"""
    ADD = "add"
    """(value) -> the id of the record"""
    VERSIONS = "versions"
    """(how many are kept, 0: all) -> those that there are, None if there are none"""
    AT = "at"
    """(an id or a time in ms) -> the value then"""
    KEEP = "keep"
    """(value, retention in ms, mode) -> the id of a WORM record"""
    REMOVE = "remove"
    """(id, whether with `BYPASS`) -> whether it was there"""
    HOLD = "hold"
    """(id, name) -> whether it was there"""
    RELEASE = "release"
    """(id, name) -> whether there was such a hold"""
    RETAIN = "retain"
    """(id, how many ms longer than before) -> whether it was there"""


READS = frozenset({Kind.READ, Kind.VERSIONS, Kind.AT})
"""What changes nothing, whatever comes of it."""


_ARGUMENTS = {
    Kind.READ: 0,
    Kind.WRITE: 1,
    Kind.DELETE: 0,
    Kind.CAS: 2,
    Kind.INCREMENT: 1,
    Kind.APPEND: 1,
    Kind.ADD: 1,
    Kind.VERSIONS: 1,
    Kind.AT: 1,
    Kind.KEEP: 3,
    Kind.REMOVE: 2,
    Kind.HOLD: 2,
    Kind.RELEASE: 2,
    Kind.RETAIN: 2,
}
"""How many each takes."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client."""

    client: int
    kind: Kind
    key: str
    arguments: tuple[Value, ...]
    started_ns: int
    ended_ns: int
    outcome: Outcome
    result: Value
    via: str
    error: str | None = None

    def __str__(self) -> str:
        """As a person reads it: `write a=1`, `read a -> 1`, `delete a -> ?`."""
        arguments = ",".join(map(_shown, self.arguments))
        if self.kind is Kind.CAS:
            arguments = "→".join(map(_shown, self.arguments))
        call = f"{self.kind.value} {arguments}".strip()
        if self.outcome is Outcome.OK:
            return call if self.kind is Kind.WRITE else f"{call} = {_shown(self.result)}"
        return f"{call} {'?' if self.outcome is Outcome.UNKNOWN else '✗'}"


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """A fault's `phase`, "begin" or "end"."""

    name: str
    phase: str
    detail: str
    at_ns: int


class History:
    """Records into a file, from any thread."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)  # a line at a time
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def record(self, operation: Operation) -> None:
        """A call is over."""
        fields = asdict(operation)
        fields |= {"kind": operation.kind.value, "outcome": operation.outcome.value}
        self._write(fields)

    def record_fault(self, event: FaultEvent) -> None:
        """A fault begins or ends."""
        self._write({"fault": asdict(event)})

    def close(self) -> None:
        """Nothing more comes."""
        with self._lock:
            self._file.close()

    def _write(self, fields: dict[str, Any]) -> None:
        line = json.dumps(fields, separators=(",", ":")) + "\n"
        with self._lock:
            self._file.write(line)


def load(path: Path) -> tuple[list[Operation], list[FaultEvent]]:
    """What was recorded. The last line may have been cut off by a kill; it is left out.

    Raises `BadRequest` naming the line that makes no sense, or the file that cannot be read.
    """
    operations: list[Operation] = []
    faults: list[FaultEvent] = []
    for number, line in _lines(path):
        try:
            fields = json.loads(line)
            if "fault" in fields:
                faults.append(_fault(fields["fault"]))
            else:
                operations.append(_operation(fields))
        except (ValueError, TypeError, KeyError) as error:
            raise BadRequest(f"{path}, line {number}, is no call and no fault: {error}") from None
    return operations, faults


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is no history: {error}") from None
    whole = text[: text.rfind("\n") + 1]
    yield from enumerate(whole.split("\n")[:-1], start=1)


def _operation(fields: dict[str, Any]) -> Operation:
    fields["kind"], fields["outcome"] = Kind(fields["kind"]), Outcome(fields["outcome"])
    fields["arguments"] = tuple(fields["arguments"])
    operation = Operation(**fields)
    if len(operation.arguments) != _ARGUMENTS[operation.kind]:
        raise ValueError(f"{operation.kind.value} takes {_ARGUMENTS[operation.kind]} arguments")
    if not _is_moment(operation.started_ns) or not _is_moment(operation.ended_ns):
        raise ValueError("its moments are not nanoseconds")
    if operation.ended_ns < operation.started_ns:
        raise ValueError("it ended before it began")
    return operation


def _fault(fields: dict[str, Any]) -> FaultEvent:
    event = FaultEvent(**fields)
    if event.phase not in ("begin", "end") or not _is_moment(event.at_ns):
        raise ValueError("a fault begins or ends at a moment")
    return event


def _is_moment(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Value) -> str:
    """A value, or the end of one that is long."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 24 else f"…{text[-23:]}"
