"""`fortdb keyspace create|alter|show|list|drop`: named sets of keys with a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from fortdb.cli.settings import Settings, json_option, pass_settings
from fortdb.model import Ack, Keyspace, Mode, Policy


@click.group()
def keyspace() -> None:
    """Policies for keys by name: key orders/17 belongs to keyspace orders."""


def _policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--policy`, `--ack`, `--retention`, `--keep` and `--mode`, in the words of the command KEYSPACE."""
    for option in (
        click.option(
            "--mode",
            type=click.Choice([mode.value for mode in Mode]),
            help="worm: who may remove records early; governance: the right govern, compliance: nobody.",
        ),
        click.option("--keep", help="versions: how many, the present one among them; none for all."),
        click.option(
            "--retention",
            help="How long a record lives, or a version after it was replaced: 30d, 12h, 90s; none for ever.",
        ),
        click.option(
            "--ack", type=click.Choice([ack.value for ack in Ack]), help="When its writes count as done."
        ),
        click.option(
            "--policy",
            type=click.Choice([policy.value for policy in Policy]),
            help="What its keys hold: one value (plain), records, one value and its former ones (versions), or "
            "records that stay for their retention (worm).",
        ),
    ):
        command = option(command)
    return command


@keyspace.command()
@click.argument("name")
@_policy_options
@json_option
@pass_settings
def create(settings: Settings, /, name: str, **options: str | None) -> None:
    """Make a keyspace."""
    _change(settings, "CREATE", name, options)
    settings.write({"created": name}, f"created keyspace {name}")


@keyspace.command()
@click.argument("name")
@_policy_options
@json_option
@pass_settings
def alter(settings: Settings, /, name: str, **options: str | None) -> None:
    """Change the policy of a keyspace."""
    if not any(options.values()):
        raise click.UsageError("say what to change: --policy, --ack, --retention, --keep or --mode")
    _change(settings, "ALTER", name, options)
    settings.write({"altered": name}, f"altered keyspace {name}")


@keyspace.command()
@click.argument("name")
@json_option
@pass_settings
def show(settings: Settings, name: str) -> None:
    """Write the policy of one keyspace."""
    with settings.client() as client:
        one = client.keyspace(name)
    settings.write(_document(one), _line(one))


@keyspace.command("list")
@json_option
@pass_settings
def list_keyspaces(settings: Settings) -> None:
    """Write every keyspace and its policy."""
    with settings.client() as client:
        keyspaces = client.keyspaces()
    settings.write(
        list(map(_document, keyspaces)), "\n".join(map(_line, keyspaces)) or "there are no keyspaces"
    )


@keyspace.command()
@click.argument("name")
@click.option("--keep-keys", is_flag=True, help="Also if it has keys, which stay; only with policy plain.")
@click.option("--delete-keys", is_flag=True, help="Also if it has keys, and delete them.")
@json_option
@pass_settings
def drop(settings: Settings, name: str, keep_keys: bool, delete_keys: bool) -> None:
    """Forget a keyspace that has no keys."""
    with settings.client() as client:
        client.drop_keyspace(name, keep_keys=keep_keys, delete_keys=delete_keys)
    settings.write({"dropped": name}, f"dropped keyspace {name}")


def _change(settings: Settings, word: str, name: str, options: dict[str, str | None]) -> None:
    words = [part for option, value in options.items() if value for part in (option.upper(), value.upper())]
    with settings.client() as client:
        client.command("KEYSPACE", word, name, *words)


def _document(one: Keyspace) -> dict[str, object]:
    return {
        "name": one.name,
        "policy": one.policy.value,
        "ack": one.ack.value,
        "retention_ms": one.retention_ms,
        "keep": one.keep,
        "version": one.version,
        "closed": one.closed,
        **({"mode": one.mode.value} if one.policy is Policy.WORM else {}),
    }


def _line(one: Keyspace) -> str:
    facts = [f"policy={one.policy.value}", f"ack={one.ack.value}"]
    if one.retention_ms:
        facts.append(f"retention={_duration(one.retention_ms)}")
    if one.policy is Policy.WORM:
        facts.append(f"mode={one.mode.value}")
    if one.keep:
        facts.append(f"keep={one.keep}")
    facts.append(f"version={one.version}")
    if one.closed:
        facts.append("closed: its policy is being changed; nothing is written")
    return "\t".join([one.name, *facts])


def _duration(ms: int) -> str:
    """The largest unit that it is a whole number of."""
    for unit_ms, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")):
        if ms % unit_ms == 0:
            return f"{ms // unit_ms}{unit}"
    return f"{ms}ms"
