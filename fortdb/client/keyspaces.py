"""What a keyspace is made of, in the words of the command `KEYSPACE`."""

from __future__ import annotations

from typing import TypedDict

from fortdb.client.requests import Argument
from fortdb.model import Ack, Mode, Policy


class KeyspaceOptions(TypedDict, total=False):
    """Options of `Client.create_keyspace` and `Client.alter_keyspace`; what is not given, or None, is left alone."""

    policy: Policy | None
    retention_ms: int | None
    """How long records live, or versions after they were replaced; 0 for ever."""
    keep: int | None
    """How many versions, the present one among them; 0 for all."""
    mode: Mode | None
    """Who may remove WORM records early."""


def option_words(ack: Ack | None, options: KeyspaceOptions) -> list[Argument]:
    """Raises `TypeError` for an option that there is not."""
    if unknown := options.keys() - KeyspaceOptions.__annotations__.keys():
        raise TypeError(f"a keyspace has no option {min(unknown)!r}")
    words: list[Argument] = []
    if (policy := options.get("policy")) is not None:
        words += [b"POLICY", policy.value.upper()]
    if ack is not None:
        words += [b"ACK", ack.value.upper()]
    if (retention_ms := options.get("retention_ms")) is not None:
        words += [b"RETENTION", f"{retention_ms}ms" if retention_ms else b"NONE"]
    if (keep := options.get("keep")) is not None:
        words += [b"KEEP", keep or b"NONE"]
    if (mode := options.get("mode")) is not None:
        words += [b"MODE", mode.value.upper()]
    return words
