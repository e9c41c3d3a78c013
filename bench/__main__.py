"""`python -m bench --short | --full`: FortDB beside Redis and etcd, as `make bench` runs it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from bench import machine, report
from bench.load import Generator
from bench.measure import Bench
from bench.plan import FULL, SHORT, Plan, chosen
from bench.processes import BenchError
from bench.targets import TITLES, Targets, missing


@click.command()
@click.option("--short/--full", "is_short", default=True, help="About three minutes, or more than an hour.")
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Cases (write-*, read-c50-p16-100B, *-beyond) or sections (cases, control, idle, starting).",
)
@click.option(
    "--target", "targets", multiple=True, type=click.Choice(list(TITLES)), help="These targets only."
)
@click.option("--rounds", type=click.IntRange(1, 100), help="How often each case is played.")
@click.option("--seconds", type=click.FloatRange(0.1, 600), help="How long each time.")
@click.option(
    "--keys-max",
    type=click.IntRange(1),
    default=1 << 30,
    help="Fill targets with no more keys than that [default: as planned]",
)
@click.option(
    "--generators",
    type=click.IntRange(1, 64),
    default=max(1, (os.cpu_count() or 1) // 2),
    show_default=True,
    help="Processes of the load generator.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
    default=Path(".bench"),
    show_default=True,
    help="On the disk to measure; all files of a run are in it and go with it.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the report goes [default: DIRECTORY/report]",
)
def main(
    is_short: bool,
    only: tuple[str, ...],
    targets: tuple[str, ...],
    rounds: int | None,
    seconds: float | None,
    keys_max: int,
    generators: int,
    directory: Path,
    out: Path | None,
) -> None:
    """Measure FortDB beside Redis and etcd. Fails on a wrong answer or an error, never because of a slow
    machine."""
    plan = chosen(SHORT if is_short else FULL, only, targets, rounds, seconds, keys_max)
    if not plan.sections:
        raise click.UsageError("--only names nothing that is in the plan")
    if lacking := missing(plan.targets):
        raise BenchError(
            "; ".join(f"{program} is not installed: {cure}" for program, cure in lacking.items())
        )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".gitignore").write_text("*\n")
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    results = report.Results(plan, machine.describe(directory), command)
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=directory) as files:
        run(results, Path(files), generators, console)
    out = out or directory / "report"
    report.write(results, out)
    console.print(f"the report is in {out}")


def run(results: report.Results, directory: Path, generators: int, console: Console) -> None:
    """Play the plan; whatever happens, no process is left."""
    plan: Plan = results.plan
    targets = Targets(directory)
    generator = Generator(generators)
    try:
        with console.status("starting") as status:
            bench = Bench(plan, targets, generator, status.update)
            if "starting" in plan.sections:
                results.starting = bench.starting()
            for number, case in enumerate(plan.cases if "cases" in plan.sections else ()):
                found = bench.case(case)
                if found:
                    results.cases.append((case, found))
                    console.print(
                        f"[{number + 1}/{len(plan.cases)}] {report.lines_of(case, found)}", markup=False
                    )
            if "control" in plan.sections:
                for connections, pipeline in plan.control:
                    results.control[f"write-c{connections}-p{pipeline}-100B"] = bench.control(
                        connections, pipeline
                    )
            if "idle" in plan.sections:
                results.idle = bench.idle()
    finally:
        targets.end()
        generator.close()


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    try:
        main(prog_name="python -m bench", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("bench: interrupted", err=True)
        sys.exit(130)
    except BenchError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(1)
