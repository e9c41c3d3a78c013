"""What the prompt offers while somebody types: command names, and names out of the ring.

The names come from the ring itself, asked for on prompt_toolkit's completion thread and kept for a
moment; a ring that does not answer simply completes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from fortdb.client import OPEN, Access, Address, Client, PartitionStatus, RingStatus
from fortdb.errors import FortError
from fortdb.model import Ack, Policy
from fortdb.protocol.commands import ALIASES, TABLE, lookup
from fortdb.protocol.feeds import Scope

RING_FRESH_S = 10.0  # names change rarely; one question while a line is typed is enough
RING_TIMEOUT_S = 1.0  # a completion later than this is of no use

SUBCOMMANDS = {
    "LEADER": ("MOVE",),
    "LAYOUT": ("PLAN", "APPLY"),
    "FEED": ("SUBSCRIBE", "POSITION", "UNSUBSCRIBE"),
    "KEYSPACE": ("CREATE", "ALTER", "SHOW", "LIST", "DROP"),
}
OPTIONS = ("POLICY", "ACK", "RETENTION", "KEEP")

_POLICIES = tuple(policy.value.upper() for policy in Policy)
_ACKS = tuple(ack.value.upper() for ack in Ack)


def help_text() -> str:
    """The commands and their arguments, one a line."""
    width = max(len(command.usage) for command in TABLE.values())
    lines = [f"{command.usage:<{width}}  {command.summary}" for command in TABLE.values()]
    same = ", ".join(f"{alias} is {name}" for alias, name in ALIASES.items())
    return "\n".join([*lines, f"{same}. EXIT or ctrl-D leaves."])


class CommandCompleter(Completer):
    """Completes the word before the cursor, by where it stands in the line."""

    def __init__(self, address: Address, access: Access = OPEN) -> None:
        self._client = Client(
            address.host, address.port, access=access, connections_max=1, timeout_s=RING_TIMEOUT_S
        )
        self._ring: RingStatus | None = None
        self._asked_s = -RING_FRESH_S

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        words = document.text_before_cursor.split(" ")
        typed = words[-1]
        for candidate in self._candidates([word.upper() for word in words[:-1]]):
            if typed and candidate.upper().startswith(typed.upper()):
                yield Completion(candidate, start_position=-len(typed))

    def _candidates(self, before: Sequence[str]) -> Sequence[str]:
        match before:
            case []:
                return [*ALIASES, *TABLE, "HELP"]
            case ["DBSIZE"]:
                return self._keyspaces()
            case [command] if (known := lookup(command.encode())) is not None and known.first_key == 1:
                return [f"{name}/" for name in self._keyspaces()]
            case [command]:
                return SUBCOMMANDS.get(command, ())
            case ["FEED", "SUBSCRIBE" | "POSITION"]:
                return [scope.value for scope in Scope]
            case ["FEED", _, "KEYSPACE"]:
                return self._keyspaces()
            case ["FEED", _, "KEY" | "PREFIX"]:
                return [f"{name}/" for name in self._keyspaces()]
            case ["FEED", _, "PARTITION"]:
                return [partition.name for partition in self._partitions()]
            case ["KEYSPACE", "ALTER" | "SHOW" | "DROP"]:
                return self._keyspaces()
            case ["KEYSPACE", "CREATE" | "ALTER", _, *words]:
                return {"POLICY": _POLICIES, "ACK": _ACKS}.get(words[-1] if len(words) % 2 else "", OPTIONS)
            case ["KEYSPACE", "DROP", _]:
                return ("KEEP-KEYS", "DELETE-KEYS")
            case ["LEADER", "MOVE"]:
                return [partition.name for partition in self._partitions()]
            case ["LEADER", "MOVE", name]:
                holders = (one.isr for one in self._partitions() if one.name.upper() == name)
                return next(holders, ())
        return ()

    def _partitions(self) -> Sequence[PartitionStatus]:
        """The ring's partitions as they were at most a moment ago; empty when nobody answers."""
        ring = self._known_ring()
        return () if ring is None else ring.partitions

    def _keyspaces(self) -> Sequence[str]:
        ring = self._known_ring()
        return () if ring is None else [keyspace.name for keyspace in ring.keyspaces]

    def _known_ring(self) -> RingStatus | None:
        if monotonic() - self._asked_s > RING_FRESH_S:
            self._asked_s = monotonic()
            try:
                self._ring = self._client.ring()
            except FortError:
                self._ring = None
        return self._ring
