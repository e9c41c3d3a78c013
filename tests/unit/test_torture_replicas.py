"""What replicas that were stopped one after another may differ in, and what they may not."""

from __future__ import annotations

import pytest

from fortdb.model import RecordId
from fortdb.storage.keys import data_key, due_key, hold_key, is_due_key, record_key
from fortdb.torture.replicas import differences

AT = data_key(7, b"a key")
RECORD = RecordId(1_795_719_518_709, 27)
DUE = due_key(AT, RECORD)
OTHERS = [AT, record_key(AT, RECORD), hold_key(AT, RECORD, b"legal"), hold_key(AT, RECORD, b"\0" * 17)]
HOLDERS = [(0, frozenset({"a", "b"}))]


def test_when_to_look_at_a_held_record_again_is_not_compared() -> None:
    assert differences({"a": {DUE: b"soon"}, "b": {DUE: b"later"}}, HOLDERS) == []


def test_that_it_is_to_be_looked_at_is() -> None:
    (found,) = differences({"a": {DUE: b"soon"}, "b": {}}, HOLDERS)
    assert "b nothing" in found


@pytest.mark.parametrize("key", OTHERS)
def test_all_else_is_compared(key: bytes) -> None:
    assert is_due_key(DUE) and not is_due_key(key)
    assert differences({"a": {key: b"one"}, "b": {key: b"one"}}, HOLDERS) == []
    (found,) = differences({"a": {key: b"one"}, "b": {key: b"two"}}, HOLDERS)
    assert "a b'one', b b'two'" in found
