"""How a replica's state is laid out on disk; pure functions.

`version (1) | flags (1) | epoch (8) | applied (8) | base offset (8) | base epoch (8)`, then
`epoch (8) | first offset (8)` for every epoch, all big-endian. Decoding is strict: a state that is
not exactly what `encode_state` writes is a damaged disk, and a guess here could elect a liar.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain, pairwise
from struct import Struct

from fortdb.errors import StorageFailed
from fortdb.storage.engine import ReplicaState

_VERSION = 1
_INSTALLING = 1
_HEAD = Struct(">BBQQQQ")
_PAIR = Struct(">QQ")


def encode_state(state: ReplicaState) -> bytes:
    """The stored form of a replica's state."""
    head = _HEAD.pack(
        _VERSION,
        _INSTALLING if state.installing else 0,
        state.epoch,
        state.applied,
        state.base_offset,
        state.base_epoch,
    )
    return head + _encode_epochs(state.epochs)


@lru_cache(4096)
def _encode_epochs(epochs: tuple[tuple[int, int], ...]) -> bytes:
    """Remembered, because a state is written with every batch and its epochs change with elections."""
    return Struct(f">{2 * len(epochs)}Q").pack(*chain.from_iterable(epochs))


def decode_state(stored: bytes) -> ReplicaState:
    """The state that `encode_state` was given. Raises `StorageFailed` for anything else."""
    if not stored or stored[0] != _VERSION:
        raise _nonsense(
            stored, "its version is not one that this release knows; was it written by a newer one?"
        )
    if len(stored) < _HEAD.size or (len(stored) - _HEAD.size) % _PAIR.size:
        raise _nonsense(stored, f"{len(stored)} bytes is no length a state can have")
    _, flags, epoch, applied, base_offset, base_epoch = _HEAD.unpack_from(stored)
    if flags > _INSTALLING:
        raise _nonsense(stored, f"its flags {flags:#04x} are unknown")
    epochs = tuple(_PAIR.iter_unpack(stored[_HEAD.size :]))
    for (before, start_before), (after, start_after) in pairwise(epochs):
        if before >= after or start_before >= start_after:
            raise _nonsense(stored, "its epochs do not ascend")
    return ReplicaState(epoch, applied, base_offset, base_epoch, epochs, bool(flags))


def _nonsense(stored: bytes, why: str) -> StorageFailed:
    return StorageFailed(f"a stored replica state makes no sense: {why} (it begins with {stored[:16].hex()})")
