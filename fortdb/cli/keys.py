"""`fortdb put|get|delete|ping`: one key, one answer, for scripts and quick looks."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import click

from fortdb.cli.failures import Failed
from fortdb.cli.settings import MOMENT, Settings, json_option, pass_settings, receipt_option
from fortdb.model import Ack, RecordId


@click.command()
@click.argument("key")
@click.argument("value")
@click.option("--expire-ms", type=click.IntRange(1), help="Let the key end after so many milliseconds.")
@click.option("--if-absent", is_flag=True, help="Only if there is no such key.")
@click.option("--if-present", is_flag=True, help="Only if there is such a key.")
@click.option(
    "--ack",
    type=click.Choice([ack.value for ack in Ack]),
    help="When a write counts as done: on every in-sync replica's disk (sync), or on the leader's "
    "alone (async, which a failover may lose). Default: as the keyspace says.",
)
@receipt_option
@json_option
@pass_settings
def put(
    settings: Settings,
    key: str,
    value: str,
    expire_ms: int | None,
    if_absent: bool,
    if_present: bool,
    ack: str | None,
    receipt: Path | None,
) -> None:
    """Store VALUE under KEY; a VALUE of - is read from standard input."""
    if if_absent and if_present:
        raise click.UsageError("--if-absent and --if-present exclude each other; give one")
    content = sys.stdin.buffer.read() if value == "-" else os.fsencode(value)
    if receipt is not None:
        if if_present or ack is not None:
            raise click.UsageError("--receipt goes with neither --if-present nor --ack")
        _put_with_receipt(settings, key, content, expire_ms, if_absent, receipt)
        return
    with settings.client() as client:
        done = client.put(
            os.fsencode(key),
            content,
            expire_ms=expire_ms,
            only_if_absent=if_absent,
            only_if_present=if_present,
            ack=None if ack is None else Ack(ack),
        )
    if not done:
        there = "there is a" if if_absent else "there is no"
        raise Failed(f"{there} key {key!r}; nothing was stored")
    settings.write({"stored": True}, "OK")


def _put_with_receipt(
    settings: Settings, key: str, content: bytes, expire_ms: int | None, if_absent: bool, path: Path
) -> None:
    with settings.client() as client:
        receipt = client.put_with_receipt(
            os.fsencode(key), content, expire_ms=expire_ms, only_if_absent=if_absent
        )
    if receipt is None:
        raise Failed(f"there is a key {key!r}; nothing was stored")
    path.write_text(receipt.to_json() + "\n")
    settings.write(
        {"stored": True, "receipt": str(path)}, f"on disk in {', '.join(receipt.replicas)}; receipt in {path}"
    )


@click.command()
@click.argument("key")
@click.option("--stale", is_flag=True, help="Let a follower answer, perhaps from the past.")
@click.option(
    "--at", "moment", type=MOMENT, help="What it was then: the id of a version, or Unix milliseconds."
)
@json_option
@pass_settings
def get(settings: Settings, key: str, stale: bool, moment: RecordId | int | None) -> None:
    """Write the value under KEY, or its newest record, to standard output, byte for byte."""
    with settings.client() as client:
        value = client.get(os.fsencode(key), stale=stale, at=moment)
    if value is None:
        raise Failed(f"there is no key {key!r}" if moment is None else f"{key!r} held nothing then")
    if settings.as_json:
        settings.write({"key": key, **json_value(value)}, "")
        return
    sys.stdout.buffer.write(value + b"\n" if sys.stdout.isatty() else value)
    sys.stdout.buffer.flush()


@click.command()
@click.argument("keys", nargs=-1, required=True)
@json_option
@pass_settings
def delete(settings: Settings, keys: tuple[str, ...]) -> None:
    """Remove keys and write how many of them there were."""
    with settings.client() as client:
        deleted = client.delete(*map(os.fsencode, keys))
    settings.write({"deleted": deleted}, str(deleted))


@click.command()
@json_option
@pass_settings
def ping(settings: Settings) -> None:
    """Ask the router for a sign of life."""
    with settings.client() as client:
        client.ping()  # connects; the second one measures the round trip alone
        latency_ms = client.ping() * 1000
    address = str(settings.address)
    settings.write(
        {"address": address, "latency_ms": round(latency_ms, 3)},
        f"PONG from {address} in {latency_ms:.2f} ms",
    )


def json_value(value: bytes) -> dict[str, str]:
    """JSON has no bytes: text where the value is text, base64 under another name where not."""
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode()}
