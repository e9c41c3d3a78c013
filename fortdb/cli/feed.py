"""`fortdb feed`: changes as they are committed, a line each, until ctrl-C."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from fortdb.cli.keys import json_value
from fortdb.cli.replies import quoted
from fortdb.cli.settings import Settings, json_option, pass_settings
from fortdb.client import Change


@click.command()
@click.option("--key", help="Of this key.")
@click.option("--prefix", help="Of keys that begin so.")
@click.option("--keyspace", help="Of keys of this keyspace.")
@click.option("--partition", help="Of keys in this partition.")
@click.option(
    "--from", "since", metavar="POSITION", help="From behind this position on. [default: from now on]"
)
@click.option("--count", type=click.IntRange(1), help="End after so many changes.")
@click.option("--no-values", is_flag=True, help="Leave the values out.")
@click.option("--position", "only_position", is_flag=True, help="Write the present position, and end.")
@json_option
@pass_settings
def feed(
    settings: Settings,
    key: str | None,
    prefix: str | None,
    keyspace: str | None,
    partition: str | None,
    since: str | None,
    count: int | None,
    no_values: bool,
    only_position: bool,
) -> None:
    """Write changes of keys as they are committed, each with the position behind it, until ctrl-C.

    Without --key, --prefix, --keyspace or --partition: of all keys.
    """
    chosen: dict[str, Any] = {
        "key": None if key is None else os.fsencode(key),
        "prefix": None if prefix is None else os.fsencode(prefix),
        "keyspace": keyspace,
        "partition": partition,
    }
    if sum(value is not None for value in chosen.values()) > 1:
        raise click.UsageError("--key, --prefix, --keyspace and --partition exclude each other; give one")
    with settings.client() as client:
        if only_position:
            position = client.feed_position(**chosen)
            settings.write({"position": position}, position)
            return
        with client.feed(**chosen, since=since, values=not no_values) as changes:
            for number, change in enumerate(changes, 1):
                click.echo(_as_json(change) if settings.as_json else _as_line(change))
                sys.stdout.flush()
                if number == count:
                    return


def _as_line(change: Change) -> str:
    words = [change.position, change.kind.value, quoted(change.key)]
    words += [] if change.record is None else [str(change.record)]
    words += [] if change.value is None else [quoted(change.value)]
    return "  ".join(words)


def _as_json(change: Change) -> str:
    row: dict[str, Any] = {"position": change.position, "kind": change.kind.value}
    row |= {name.replace("value", "key"): text for name, text in json_value(change.key).items()}
    row |= {} if change.record is None else {"record": str(change.record)}
    row |= {} if change.value is None else json_value(change.value)
    row |= {"ends_ms": change.ends_ms} if change.ends_ms else {}
    return json.dumps(row)
