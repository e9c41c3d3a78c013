"""Where the records of a cluster lie in a coordination store; pure functions.

Everything is under `/fortdb/<cluster>/`, so that clusters may share one store:

    layout               who ought to hold what; written by an operator's plan
    keyspaces            every keyspace with its policy, in one record
    controller           the name of the node that walks records towards the layout; on its lease
    nodes/<name>         a live node; on its lease
    partitions/<name>    who leads and who is in sync; compare-and-set only (rule 1)
"""

from __future__ import annotations

from dataclasses import dataclass

from fortdb.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one cluster. Raises `ConfigError` for a name that cannot be part of a key."""

    cluster: str

    def __post_init__(self) -> None:
        _check("cluster", self.cluster)

    @property
    def prefix(self) -> str:
        """What every key of the cluster starts with, the slash included."""
        return f"/fortdb/{self.cluster}/"

    @property
    def layout(self) -> str:
        return f"{self.prefix}layout"

    @property
    def keyspaces(self) -> str:
        return f"{self.prefix}keyspaces"

    @property
    def controller(self) -> str:
        return f"{self.prefix}controller"

    @property
    def active_router(self) -> str:
        """Who keeps the Elastic IP."""
        return f"{self.prefix}active-router"

    def node(self, name: str) -> str:
        return f"{self.prefix}nodes/{_check('node', name)}"

    def partition(self, name: str) -> str:
        return f"{self.prefix}partitions/{_check('partition', name)}"

    def split(self, key: str) -> tuple[str, str]:
        """(kind, name) of a key: ("nodes", "n1"), ("layout", ""); ("", "") if it is not of this cluster."""
        if not key.startswith(self.prefix):
            return "", ""
        kind, _, name = key[len(self.prefix) :].partition("/")
        return kind, name


def _check(kind: str, name: str) -> str:
    if not name or "/" in name or not name.isprintable():
        raise ConfigError(f"{name!r} cannot name a {kind}: use letters, digits, '-', '_' and '.', and no '/'")
    return name
