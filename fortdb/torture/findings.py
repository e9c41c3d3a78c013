"""What a torture saw besides the history; it lies beside it, in run.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fortdb.errors import ConfigError

HISTORY_FILE = "history.jsonl"
_FILE = "run.json"


@dataclass(slots=True)
class Findings:
    """`violations` and `unjudged` are sentences; `left_out`: faults and calls that could not be had here, and why;
    `clients_until_ns`: when they stopped, all but the last reads; `keys_compared`: that the replicas hold, byte for byte;
    `transactions`: that were judged together; `changes`: that the feed told, and how often it was lost and begun anew
    (`feed_losses`); `chains`: of WORM records that were followed on replicas, with so many `links`; `receipts`: that were
    verified; `keys_named`: how the names of the torture's keys and keyspaces begin, on a ring of somebody else's;
    `left_behind`: what of them is still there; `options`: what else was said on the command line to get this schedule."""

    violations: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seed: int = 0
    seconds: float = 0.0
    calls: dict[str, int] = field(default_factory=dict)
    faults: int = 0
    keys_compared: int = 0
    transactions: int = 0
    changes: int = 0
    feed_losses: int = 0
    chains: int = 0
    links: int = 0
    receipts: int = 0
    keys_named: str = ""
    left_behind: list[str] = field(default_factory=list)
    clients_until_ns: int = 0
    options: list[str] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        """Put it beside the history."""
        (directory / _FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> Findings:
        """What a torture left in a directory. Raises `ConfigError`."""
        try:
            return cls(**json.loads((directory / _FILE).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{directory} holds no torture that came to its end: {error}") from None
