"""A batch's form in the journal: made in C or in Python, it is the same, and it reads back as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fortdb.storage.batch as batch_module
from fortdb.native import lane
from fortdb.storage.batch import PUT_LOG, RocksBatch, decode_batch
from fortdb.storage.engine import ReplicaState
from fortdb.storage.keys import log_key

KEYS = st.binary(min_size=1, max_size=20)
VALUES = st.binary(max_size=300)


def _batch(data: dict[bytes, bytes | None], entries: list[bytes], states: list[int]) -> RocksBatch:
    batch = RocksBatch()
    for key, value in data.items():
        if value is None:
            batch.delete_data(key)
        else:
            batch.put_data(key, value)
    for offset, entry in enumerate(entries, 1):
        batch.put_log(3, offset, entry)
    for partition in states:
        batch.put_state(partition, ReplicaState(epoch=partition, epochs=((partition, 1),)))
        batch.delete_state(partition + 1)
    return batch


@pytest.mark.skipif(lane is None, reason="the functions in C were not built")
@given(
    st.dictionaries(KEYS, st.none() | VALUES, max_size=20),
    st.lists(VALUES, max_size=5),
    st.lists(st.integers(0, 1000), max_size=3),
)
def test_both_ways_write_the_same(
    data: dict[bytes, bytes | None], entries: list[bytes], states: list[int]
) -> None:
    batch = _batch(data, entries, states)
    short = batch.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_module, "lane", None)
        assert batch.encode() == short


@given(st.dictionaries(KEYS, VALUES, max_size=20), st.lists(VALUES, max_size=5))
def test_what_was_encoded_reads_back(data: dict[bytes, bytes], entries: list[bytes]) -> None:
    changes = list(decode_batch(_batch(dict(data), entries, []).encode()))
    assert [(key, value) for kind, key, value in changes if kind == PUT_LOG] == [
        (log_key(3, offset), entry) for offset, entry in enumerate(entries, 1)
    ]
    assert {key: value for kind, key, value in changes if kind != PUT_LOG} == data


@pytest.mark.skipif(lane is None, reason="the functions in C were not built")
def test_what_is_no_bytes_is_refused() -> None:
    assert lane is not None
    batch = RocksBatch()
    batch.data["key"] = b"value"  # type: ignore[index]
    with pytest.raises(TypeError, match="are bytes"):
        lane.encode_batch(batch)
    with pytest.raises(TypeError, match="takes a batch"):
        lane.encode_batch({})
