"""Which exit code and which sentence an error makes."""

from __future__ import annotations

import pytest

from fortdb import errors
from fortdb.cli.failures import exit_code_of, sentence_of
from fortdb.client import ConnectionFailed


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (errors.BadRequest, 1),
        (errors.ConfigError, 2),
        (errors.LayoutError, 1),
        (errors.StoreConflict, 1),
        (errors.NotLeader, 3),
        (errors.NotEnoughReplicas, 3),
        (errors.Unavailable, 3),
        (errors.Busy, 3),
        (errors.StorageFailed, 3),
        (ConnectionFailed, 3),
        (errors.OutcomeUnknown, 4),
        (errors.StoreUnavailable, 4),
    ],
)
def test_exit_codes(kind: type[errors.FortError], exit_code: int) -> None:
    assert exit_code_of(kind("x")) == exit_code


def test_a_sentence_says_what_to_do_once() -> None:
    assert sentence_of(errors.OutcomeUnknown("no answer")).startswith("no answer; it may or may not")
    assert sentence_of(errors.OutcomeUnknown("no answer; look")) == "no answer; look"
    assert sentence_of(errors.BadRequest("a\r\n b")) == "a b"
    assert sentence_of(errors.BadRequest("")) == "BadRequest"
    assert "--ca FILE" in sentence_of(errors.BadRequest("this port speaks TLS only"))
    assert "user check" in sentence_of(errors.PermissionDenied("No permissions to access a key"))
