"""What a request sees of its own effects, and what is left when some are taken back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fortdb.replication.entries import DELETE, FORGET, PUT, Operation
from tests.support.partitions import OnePartition

KEYS = (b"\1a", b"\1b", b"\1c")
EFFECTS = st.lists(
    st.builds(
        Operation, st.sampled_from([PUT, PUT, DELETE, FORGET]), st.sampled_from(KEYS), st.binary(max_size=2)
    )
)


@pytest.fixture(scope="module")
def partition(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnePartition]:
    made = OnePartition(tmp_path_factory.mktemp("partition"))
    yield made
    made.close()


@given(EFFECTS, EFFECTS, EFFECTS)
def test_what_is_taken_back_was_never_there(
    partition: OnePartition, kept: list[Operation], taken_back: list[Operation], later: list[Operation]
) -> None:
    told = []
    for effects in (taken_back, []):
        execution = partition.execution()
        for operation in (*kept, *effects):
            execution.effect(operation)
        execution.roll_back(len(kept))
        seen = [execution.at(key) for key in KEYS]
        for operation in later:
            execution.effect(operation)
        told.append((seen, [execution.at(key) for key in KEYS], execution.operations))
    assert told[0] == told[1]
    assert told[0][2] == kept + later
