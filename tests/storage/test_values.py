"""Stored values and replica states: what goes in comes out, and nonsense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fortdb.errors import StorageFailed
from fortdb.storage.engine import ReplicaState
from fortdb.storage.states import decode_state, encode_state
from fortdb.storage.values import encode_value, expiry_of, payload_of

NUMBERS = st.integers(0, (1 << 64) - 1)
STATES = st.builds(
    ReplicaState,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.integers(0, 5).flatmap(
        lambda size: st.tuples(
            st.lists(NUMBERS, min_size=size, max_size=size, unique=True).map(sorted),
            st.lists(NUMBERS, min_size=size, max_size=size, unique=True).map(sorted),
        ).map(lambda lists: tuple(zip(*lists, strict=True)))
    ),
    st.booleans(),
)


@given(st.binary(), NUMBERS)
def test_a_value_comes_back(payload: bytes, expiry_ms: int) -> None:
    stored = encode_value(payload, expiry_ms)
    assert payload_of(stored) == payload
    assert expiry_of(stored) == expiry_ms
    assert len(stored) - len(payload) == (9 if expiry_ms else 1)


@pytest.mark.parametrize("stored", [b"", b"\x01", b"\x01" + bytes(7), b"\x02payload", b"\xff" * 20])
def test_an_unknown_kind_of_value_is_refused(stored: bytes) -> None:
    with pytest.raises(StorageFailed, match="no kind of record"):
        payload_of(stored)
    with pytest.raises(StorageFailed, match="no kind of record"):
        expiry_of(stored)


@given(STATES)
def test_a_state_comes_back(state: ReplicaState) -> None:
    assert decode_state(encode_state(state)) == state


@given(STATES, st.integers(0, 200))
def test_a_state_cut_short_is_refused_or_shorter_by_whole_epochs(state: ReplicaState, length: int) -> None:
    stored = encode_state(state)
    if length >= len(stored) or (length >= 34 and (length - 34) % 16 == 0):
        return
    with pytest.raises(StorageFailed, match="makes no sense"):
        decode_state(stored[:length])


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        (b"", "version"),
        (b"\x00" + bytes(33), "version"),
        (b"\x02" + bytes(33), "version"),
        (b"\x01" + bytes(34), "length"),
        (b"\x01\x02" + bytes(32), "flags"),
        (b"\x01\x00" + bytes(64), "ascend"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused(stored: bytes, why: str) -> None:
    with pytest.raises(StorageFailed, match=why):
        decode_state(stored)
