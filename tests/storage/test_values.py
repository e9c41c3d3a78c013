"""Stored values and replica states: what goes in comes out, and nonsense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fortdb.errors import StorageFailed, WrongType
from fortdb.model import RecordId
from fortdb.storage.engine import ReplicaState
from fortdb.storage.keys import (
    ID_MAX,
    ID_MIN,
    RECORD_KIND,
    data_bound,
    data_key,
    owner_key,
    record_id,
    record_key,
    version_key,
    version_ordinal,
)
from fortdb.storage.states import decode_state, encode_state
from fortdb.storage.values import (
    HistoryHead,
    RecordsHead,
    Version,
    decode_history,
    decode_records,
    decode_version,
    encode_history,
    encode_records,
    encode_value,
    encode_version,
    expiry_of,
    is_records,
    payload_of,
    type_name,
)

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


IDS = st.builds(RecordId, NUMBERS, NUMBERS)


@given(st.builds(RecordsHead, NUMBERS, NUMBERS, IDS, IDS))
def test_the_head_of_records_comes_back(head: RecordsHead) -> None:
    stored = encode_records(head)
    assert decode_records(stored) == head
    assert expiry_of(stored) == head.ends_ms
    assert is_records(stored) and type_name(stored) == b"records"
    with pytest.raises(WrongType, match="it holds records"):
        payload_of(stored)
    with pytest.raises(StorageFailed, match="no kind of record"):
        decode_records(stored[:-1])


@given(st.builds(HistoryHead, NUMBERS, NUMBERS, NUMBERS, st.booleans()))
def test_the_head_of_a_history_comes_back(head: HistoryHead) -> None:
    assert decode_history(encode_history(head)) == head
    assert expiry_of(encode_history(head)) == head.trim_ms
    with pytest.raises(StorageFailed, match="no kind of record"):
        decode_history(encode_history(head) + b"x")


@given(st.builds(Version, IDS, st.none() | st.binary(), NUMBERS))
def test_a_version_comes_back(version: Version) -> None:
    assert decode_version(encode_version(version)) == version
    assert expiry_of(encode_version(version)) == 0
    with pytest.raises(StorageFailed, match="no kind of record"):
        decode_version(encode_version(version)[:10])


@given(NUMBERS, st.binary(max_size=40), IDS, IDS)
def test_records_lie_in_the_order_of_their_ids(
    token: int, key: bytes, one: RecordId, other: RecordId
) -> None:
    at = data_key(token, key)
    first, second = record_key(at, one), record_key(at, other)
    assert (first < second) == (one < other)
    assert (owner_key(first), record_id(first)) == (at, one)
    assert data_bound(token, RECORD_KIND) <= first < data_bound(token + 1, RECORD_KIND)


@given(NUMBERS, st.binary(max_size=20), st.binary(max_size=20), IDS, IDS)
def test_no_record_lies_among_those_of_another_key(
    token: int, key: bytes, other: bytes, one: RecordId, id_: RecordId
) -> None:
    if key != other:
        at, among = data_key(token, key), record_key(data_key(token, other), id_)
        assert not record_key(at, ID_MIN) <= among <= record_key(at, ID_MAX)
    assert version_ordinal(version_key(data_key(token, key), one.ms)) == one.ms


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
