"""`fortdb hold|release|retain|verify`: records that nobody changes, and the proof that nobody did."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from fortdb.cli.failures import Failed
from fortdb.cli.settings import Settings, json_option, pass_settings
from fortdb.client import Receipt, Verified, parse_record_id
from fortdb.errors import FortError
from fortdb.model import RecordId


class Time(click.ParamType[datetime]):
    """A date, a time and how far it is from UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%S%z")
        except ValueError:
            self.fail(f"{value!r} is no time with its zone, such as 2030-12-31T00:00:00+0000", param, ctx)


def _record(text: str) -> RecordId | None:
    return None if text == "*" else parse_record_id(text)


def _of_a_hold(change: Callable[..., Any]) -> click.Command:
    """The command that makes a change of a hold: `KEY`, `ID|*` and `--name`."""
    for decorate in (
        pass_settings,
        json_option,
        click.option(
            "--name", default="legal", show_default=True, help="Of the hold; several do not know each other."
        ),
        click.argument("record_id", metavar="ID|*"),
        click.argument("key"),
    ):
        change = decorate(change)
    return click.command()(change)


@_of_a_hold
def hold(settings: Settings, key: str, record_id: str, name: str) -> None:
    """Keep a WORM record of KEY, or all (*), until it is released."""
    with settings.client() as client:
        if not client.hold(os.fsencode(key), _record(record_id), name):
            raise Failed(f"{key!r} has no WORM record {record_id}")
    settings.write({"held": record_id, "name": name}, f"held {record_id}")


@_of_a_hold
def release(settings: Settings, key: str, record_id: str, name: str) -> None:
    """End a hold; ID or * as it was given to hold."""
    with settings.client() as client:
        if not client.release(os.fsencode(key), _record(record_id), name):
            raise Failed(f"there is no hold {name!r} on {record_id} of {key!r}")
    settings.write({"released": record_id, "name": name}, f"released {record_id}")


@click.command()
@click.argument("key")
@click.argument("record_id", metavar="ID")
@click.argument("until", type=Time(), metavar="UNTIL")
@click.option("--bypass", is_flag=True, help="Also if that is earlier than it was, in mode governance.")
@json_option
@pass_settings
def retain(settings: Settings, key: str, record_id: str, until: datetime, bypass: bool) -> None:
    """Keep a WORM record of KEY until then: 2030-12-31T00:00:00+0000."""
    until_ms = int(until.timestamp() * 1000)
    with settings.client() as client:
        found = client.retain(os.fsencode(key), parse_record_id(record_id), until_ms, bypass=bypass)
    if not found:
        raise Failed(f"{key!r} has no WORM record {record_id}")
    settings.write({"until_ms": until_ms}, f"kept until {until.isoformat()}")


@click.command()
@click.option("--keyspace", help="Count the records of this one; a chain is followed as a whole.")
@click.option("--replicas", is_flag=True, help="Read what every replica has, not the leaders' alone.")
@click.option(
    "--receipt",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Verify only what this receipt of put or add is about.",
)
@json_option
@pass_settings
def verify(settings: Settings, keyspace: str | None, replicas: bool, receipt: Path | None) -> None:
    """Prove that no WORM record was altered, or name the first that was in each partition."""
    if receipt is not None:
        _verify_receipt(settings, receipt)
        return
    found: list[Verified] = []
    stopped: FortError | None = None
    with settings.client() as client:
        try:
            for one in client.verify(keyspace, replicas=replicas):
                found.append(one)
                if not settings.as_json:
                    click.echo(_line(one))
        except FortError as error:
            stopped = error
    if settings.as_json:
        settings.write(list(map(_document, found)), "")
    wrong = sum(one.altered is not None for one in found)
    if wrong:
        rest = "" if stopped is None else f"; the rest: {stopped}"
        raise Failed(f"{wrong} of {len(found)} chains are not what was written{rest}")
    if stopped is not None:
        raise stopped


def _verify_receipt(settings: Settings, path: Path) -> None:
    receipt = Receipt.from_json(path.read_text())
    with settings.client() as client:
        problem = client.verify_receipt(receipt)
    shown = receipt.key.decode("utf-8", "backslashreplace")
    if problem is not None:
        raise Failed(f"{shown}: {problem}")
    settings.write({"verified": True}, f"{shown} is what the receipt says")


def _line(one: Verified) -> str:
    where = one.partition if one.node is None else f"{one.partition} on {one.node}"
    if one.altered is not None:
        shown = one.altered.key.decode("utf-8", "backslashreplace") or "?"
        return (
            f"{where}\tALTERED at {one.altered.ordinal}: {shown} {one.altered.id or '?'}: {one.altered.what}"
        )
    removed = f", {one.removed} removed by governance" if one.removed else ""
    return f"{where}\tlinks {one.first} to {one.last}, {one.records} records: unaltered{removed}"


def _document(one: Verified) -> dict[str, object]:
    document = asdict(one)
    if one.altered is not None:
        document["altered"] = {
            "ordinal": one.altered.ordinal,
            "key": one.altered.key.decode("utf-8", "backslashreplace"),
            "id": None if one.altered.id is None else str(one.altered.id),
            "what": one.altered.what,
        }
    return document
