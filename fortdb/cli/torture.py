"""`fortdb torture`: break a ring of its own in every way, and judge what clients were told meanwhile."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from fortdb.cli.failures import Failed
from fortdb.cli.settings import Settings
from fortdb.errors import FortError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fortdb.torture.run import Glance, Show

EXIT_PASSED, EXIT_VIOLATION, EXIT_NOT_JUDGED = 0, 1, 2

_SEEDS = 1 << 31
_LINE_EVERY_S = 10.0  # where nobody watches a terminal

DIRECTORY = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".torture"),
    show_default=True,
    help="Where the ring, the history and the report are.",
)
REPORT = click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write the report. [default: the directory]",
)


@click.group(invoke_without_command=True)
@click.option("--seconds", type=click.FloatRange(1), default=60.0, show_default=True, help="How long.")
@click.option("--seed", type=click.IntRange(0), help="Play this schedule again. [default: a new one, shown]")
@click.option("--nodes", type=click.IntRange(3, 20), default=3, show_default=True, help="Data nodes.")
@click.option("--clients", type=click.IntRange(1, 200), default=12, show_default=True, help="Clients.")
@click.option("--faults", metavar="A,B,C", help="Only these. [default: all; --list names them]")
@click.option("--list", "list_faults", is_flag=True, help="Name the faults that there are, and end.")
@click.option(
    "--remote",
    is_flag=True,
    help="Only clients and judgement, on the ring of --host, --port or --url; their keys are removed.",
)
@DIRECTORY
@REPORT
@click.pass_context
def torture(
    context: click.Context,
    seconds: float,
    seed: int | None,
    nodes: int,
    clients: int,
    faults: str | None,
    list_faults: bool,
    remote: bool,
    directory: Path,
    report: Path | None,
) -> None:
    """Torture a ring of its own, then judge it.

    \b
    Exit codes:
      0  every answer and every replica is right
      1  something was promised and not kept
      2  it could not be judged
    """
    if context.invoked_subcommand is not None:
        return
    from fortdb.torture.remote import torture_remote
    from fortdb.torture.run import Options, Torture
    from fortdb.torture.schedule import CATALOGUE

    if list_faults:
        for name, (fault, _) in CATALOGUE.items():
            click.echo(f"{name:16} {(fault.__doc__ or '').splitlines()[0]}")
        return
    seed = secrets.randbelow(_SEEDS) if seed is None else seed
    options = Options(
        directory, seed, seconds, nodes, clients, tuple(filter(None, (faults or "").split(",")))
    )
    with _to_its_end(), _display() as show:
        if remote:
            settings = context.ensure_object(Settings)
            torture_remote(options, settings.address, settings.access, show)
        else:
            Torture(options, lambda line: click.echo(line, err=True), show).run()
    context.exit(_judge(directory, report))


@torture.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@REPORT
@click.pass_context
def check(context: click.Context, directory: Path, report: Path | None) -> None:
    """Judge again what a torture left in DIRECTORY."""
    context.exit(_judge(directory, report))


def _judge(directory: Path, to: Path | None) -> int:
    """Judge what a torture left, write the report, say the verdict; the exit code."""
    from rich.console import Console
    from rich.progress import Progress

    from fortdb.torture.findings import HISTORY_FILE, Findings
    from fortdb.torture.history import load
    from fortdb.torture.judge import judge
    from fortdb.torture.linear import Verdict
    from fortdb.torture.report import Report, html, text_lines

    findings = Findings.read(directory)
    operations, faults = load(directory / HISTORY_FILE)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("judging", total=None)
        judgement = judge(
            operations,
            lambda done, keys: progress.update(task, completed=done, total=keys),
            findings.clients_until_ns,
        )
    report = Report(findings, judgement, operations, faults)
    to = to or directory
    to.mkdir(parents=True, exist_ok=True)
    path = to / "report.html"
    path.write_text(html(report))
    text = "\n".join(text_lines(report))
    (to / "report.txt").write_text(f"{text}\n")
    click.echo(text)
    click.echo(f"report: {path}")
    codes = {
        Verdict.LINEARIZABLE: EXIT_PASSED,
        Verdict.VIOLATED: EXIT_VIOLATION,
        Verdict.UNDECIDED: EXIT_NOT_JUDGED,
    }
    return codes[report.verdict]


@contextmanager
def _to_its_end() -> Iterator[None]:
    """SIGTERM as Ctrl-C, so that processes and namespaces are not left behind; and whatever ends a torture
    early is no violation."""

    def end(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        raise Failed("ended before anything could be judged", EXIT_NOT_JUDGED) from None
    except (FortError, OSError, RuntimeError) as error:
        raise Failed(f"nothing could be judged: {error}", EXIT_NOT_JUDGED) from error
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def _display() -> Iterator[Show]:
    """A live picture on a terminal; elsewhere a line now and then."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    rate = Rate()
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield lambda glance: live.update(_picture(glance, rate.of(glance)))
        return
    spoken = Spoken()

    def show(glance: Glance) -> None:
        rate.of(glance)
        if spoken.is_due(glance):
            click.echo(_line(glance, rate.per_s), err=True)

    yield show


class Rate:
    """Answered calls a second, over the last seconds."""

    def __init__(self) -> None:
        self.per_s = 0.0
        self._since_s = time.monotonic()
        self._calls = 0

    def of(self, glance: Glance) -> float:
        """The rate as of now."""
        now_s, calls = time.monotonic(), glance.calls.get("ok", 0)
        if now_s - self._since_s >= 1.0:
            self.per_s = (calls - self._calls) / (now_s - self._since_s)
            self._since_s, self._calls = now_s, calls
        return self.per_s


class Spoken:
    """What was last said where there is no terminal."""

    def __init__(self) -> None:
        self._phase = ""
        self._at_s = 0.0

    def is_due(self, glance: Glance) -> bool:
        """Whether it is time for a line."""
        now_s = time.monotonic()
        if glance.phase == self._phase and now_s - self._at_s < _LINE_EVERY_S:
            return False
        self._phase, self._at_s = glance.phase, now_s
        return True


def _line(glance: Glance, per_s: float) -> str:
    calls = ", ".join(f"{count:,} {outcome}" for outcome, count in glance.calls.items())
    in_force = "; ".join(glance.in_force)
    parts = [f"{glance.elapsed_s:6.1f} s  {glance.phase}"]
    if calls:
        parts.append(f"{calls} ({per_s:,.0f} answered a second)")
    parts.append(f"{glance.faults_done} of {glance.faults_total} faults")
    if in_force:
        parts.append(f"now: {in_force}")
    return ", ".join(parts)


def _picture(glance: Glance, per_s: float) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_row(
        "[bold]phase[/]", f"{glance.phase} ({glance.elapsed_s:.0f} s, of {glance.seconds:g} s torture)"
    )
    table.add_row("[bold]faults[/]", f"{glance.faults_done} of {glance.faults_total}")
    table.add_row("[bold]in force[/]", "\n".join(f"[red]{one}[/]" for one in glance.in_force) or "none")
    table.add_row("[bold]answered[/]", f"{glance.calls.get('ok', 0):,} ({per_s:,.0f} a second)")
    table.add_row("[bold]unknown[/]", f"{glance.calls.get('unknown', 0):,}")
    table.add_row("[bold]refused[/]", f"{glance.calls.get('failed', 0):,}")
    return table
