"""What is shown: a line a phase while it runs, and a table of them all at the end. Everything else is in logs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table


class Progress:
    """Phases as they go by. What a phase found out is told by `note`."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._rows: list[tuple[str, str, float, str]] = []
        self._note = ""

    def note(self, text: str) -> None:
        """What this phase showed; one short line."""
        self._note = text

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Time it and say how it ended."""
        self._note = ""
        start = time.monotonic()
        outcome = "[red]failed[/]"
        try:
            with self.console.status(f"{title} ..."):
                yield
            outcome = "[green]ok[/]"
        except KeyboardInterrupt:
            outcome = "[yellow]interrupted[/]"
            raise
        finally:
            took = time.monotonic() - start
            self._rows.append((title, outcome, took, self._note))
            self.console.print(
                f"{outcome} {title} ({took:.0f} s)" + (f": {self._note}" if self._note else "")
            )

    def table(self) -> None:
        """All phases and how long they took."""
        table = Table("phase", "", "seconds", title="The rehearsal")
        table.columns[2].justify = "right"
        for title, outcome, took, _ in self._rows:
            table.add_row(title, outcome, f"{took:.1f}")
        table.add_section()
        table.add_row("all", "", f"{sum(row[2] for row in self._rows):.1f}")
        self.console.print(table)
