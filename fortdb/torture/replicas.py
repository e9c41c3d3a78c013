"""The replicas of a ring that is down, compared byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fortdb.local.ring import LocalRing
from fortdb.model import TOKEN_SPACE
from fortdb.storage.identity import open_directory
from fortdb.storage.keys import DATA_PREFIX_BYTES, KINDS, data_bound, is_due_key
from fortdb.storage.rocks import RocksEngine

_ALL = 1 << 40
_SHOWN = 3

Contents = Mapping[bytes, bytes]


def contents_of(ring: LocalRing) -> dict[str, dict[bytes, bytes]]:
    """Node -> every key, record and version that it holds as stored. Raises `StorageFailed`."""
    contents = {}
    for process in ring.nodes.values():
        identity = open_directory(process.directory / "data", ring.shape.cluster, process.name)
        engine = RocksEngine(identity.engine_path, cache_bytes=16 << 20, memtable_bytes=4 << 20)
        contents[process.name] = {
            key: value
            for kind in KINDS
            for key, value in engine.scan(data_bound(0, kind), data_bound(TOKEN_SPACE, kind), _ALL)
        }
        engine.close()
        identity.release()
    return contents


def differences(contents: Mapping[str, Contents], holders: Sequence[tuple[int, frozenset[str]]]) -> list[str]:
    """What of the contents is not as it should be, in sentences. `holders`: where each partition begins
    on the ring of tokens, and the nodes that hold it; ascending."""
    starts = sorted(holders)
    found: list[str] = []
    for key in sorted(set().union(*contents.values())):
        token = int.from_bytes(key[1:DATA_PREFIX_BYTES], "big")
        held_by = next((nodes for start, nodes in reversed(starts) if start <= token), starts[-1][1])
        values = {name: held.get(key) for name, held in contents.items()}
        wrong = {name for name, value in values.items() if (value is not None) != (name in held_by)}
        if wrong or len({_compared(key, values[name]) for name in held_by}) > 1:
            found.append(f"{key[DATA_PREFIX_BYTES:].decode(errors='replace')}: {_shown(values)}")
    return found


def _compared(key: bytes, value: bytes | None) -> bytes | None:
    """A value, or that there is one: when to look again at a record that is held, whoever leads puts off, also while
    nodes are stopped one after another."""
    return b"" if value is not None and is_due_key(key) else value


def _shown(values: Mapping[str, bytes | None]) -> str:
    return ", ".join(
        f"{name} {'nothing' if value is None else repr(value[-40:])}" for name, value in values.items()
    )
