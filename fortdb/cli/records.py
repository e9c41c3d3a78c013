"""`fortdb add|records|remove|history|purge`: keys that hold records, and what keys have held."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click

from fortdb.cli.failures import Failed
from fortdb.cli.keys import json_value
from fortdb.cli.settings import MOMENT, Settings, json_option, pass_settings, receipt_option
from fortdb.client import Client, parse_record_id
from fortdb.model import RecordId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of what a key holds, or held, is asked for."""

    key: str
    first: RecordId | int | None
    count: int
    reverse: bool

    def read(self, settings: Settings, walk: Callable[..., Iterator[T]]) -> list[T]:
        """So much of a walk of the client, `Client.records` or `Client.history`."""
        with settings.client() as client:
            key, step = os.fsencode(self.key), min(self.count, 1000)
            steps = walk(client, key, first=self.first, reverse=self.reverse, page=step)
            return list(islice(steps, self.count))


def _paged(show: Callable[[Settings, Page], None]) -> click.Command:
    """The command that shows a page: `KEY`, `--from`, `--count` and `--reverse`."""

    @click.command()
    @click.argument("key")
    @click.option("--from", "first", type=MOMENT, help="Begin with this id, or at this time.")
    @click.option("--count", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
    @click.option("--reverse", is_flag=True, help="From the newest to the oldest.")
    @json_option
    @pass_settings
    @wraps(show)
    def command(settings: Settings, /, **options: Any) -> None:
        show(settings, Page(**options))

    return command


@click.command()
@click.argument("key")
@click.argument("value")
@click.option("--expire-ms", type=click.IntRange(1), help="Let the record end after so many milliseconds.")
@click.option(
    "--if-last", metavar="ID", help="Only if that is the newest record's id; 0-0: if there is none."
)
@receipt_option
@json_option
@pass_settings
def add(
    settings: Settings,
    key: str,
    value: str,
    expire_ms: int | None,
    if_last: str | None,
    receipt: Path | None,
) -> None:
    """Add VALUE to the records of KEY and write its id; a VALUE of - is read from standard input."""
    content = sys.stdin.buffer.read() if value == "-" else os.fsencode(value)
    expected = None if if_last is None else parse_record_id(if_last)
    with settings.client() as client:
        if receipt is None:
            added = client.add(os.fsencode(key), content, expire_ms=expire_ms, if_last=expected)
        else:
            got = client.add_with_receipt(os.fsencode(key), content, expire_ms=expire_ms, if_last=expected)
            added = None if got is None else got.id
    if added is None:
        raise Failed(f"the newest record of {key!r} has another id; nothing was added")
    if receipt is not None and got is not None:
        receipt.write_text(got.to_json() + "\n")
    settings.write({"id": str(added)}, str(added))


@_paged
def records(settings: Settings, page: Page) -> None:
    """Write the records of KEY as a table."""
    found = page.read(settings, Client.records)
    _write_table(
        settings,
        [{"id": str(one.id), "time": _time(one.id.ms), **json_value(one.value)} for one in found],
        ("id", "time", "value"),
        [(str(one.id), _time(one.id.ms), _shown(one.value)) for one in found],
        f"{page.key!r} has no such records",
    )


@click.command()
@click.argument("key")
@click.argument("record_id", metavar="ID")
@click.option("--if-last", metavar="ID", help="Only if that is the newest record's id.")
@click.option("--bypass", is_flag=True, help="Also before its retention has passed, in mode governance.")
@json_option
@pass_settings
def remove(settings: Settings, key: str, record_id: str, if_last: str | None, bypass: bool) -> None:
    """Remove one record of KEY."""
    expected = None if if_last is None else parse_record_id(if_last)
    with settings.client() as client:
        removed = client.remove(os.fsencode(key), parse_record_id(record_id), if_last=expected, bypass=bypass)
    if not removed:
        raise Failed(f"{key!r} has no record {record_id}" + (", or another newest one" if if_last else ""))
    settings.write({"removed": record_id}, f"removed {record_id}")


@_paged
def history(settings: Settings, page: Page) -> None:
    """Write what KEY has held as a table."""
    found = page.read(settings, Client.history)
    _write_table(
        settings,
        [
            {
                "id": str(one.id),
                "time": _time(one.time_ms),
                **({"deleted": True} if one.value is None else json_value(one.value)),
                **({} if one.ends_ms is None else {"ends": _time(one.ends_ms)}),
            }
            for one in found
        ],
        ("id", "since", "value", "ends"),
        [
            (
                str(one.id),
                _time(one.time_ms),
                "(deleted)" if one.value is None else _shown(one.value),
                "" if one.ends_ms is None else _time(one.ends_ms),
            )
            for one in found
        ],
        f"nothing is kept of what {page.key!r} held",
    )


@click.command()
@click.argument("keys", nargs=-1, required=True)
@json_option
@pass_settings
def purge(settings: Settings, keys: tuple[str, ...]) -> None:
    """Remove keys with their records and their history; write how many had anything."""
    with settings.client() as client:
        purged = client.purge(*map(os.fsencode, keys))
    settings.write({"purged": purged}, str(purged))


def _write_table(
    settings: Settings,
    document: Sequence[object],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    nothing: str,
) -> None:
    if settings.as_json or not rows:
        settings.write(document, nothing)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_width(columns, rows))
    console.print(table)


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Room for every cell: what goes into a file or a pipe is not folded."""
    return sum(max(map(len, cells)) + 2 for cells in zip(columns, *rows, strict=True))


def _time(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")[:-6]
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def _shown(value: bytes) -> str:
    """A value in one line; bytes that are no text are escaped."""
    text = value.decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
