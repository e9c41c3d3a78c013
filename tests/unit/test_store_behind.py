"""A store that was restored is told from a watch that is a moment late."""

from __future__ import annotations

from fortdb.limits import STORE_BEHIND_MS_MAX
from fortdb.node.control import StoreBehind


def test_a_watch_that_is_late_alarms_nobody() -> None:
    behind = StoreBehind()
    for start_ms in range(0, 10 * STORE_BEHIND_MS_MAX, STORE_BEHIND_MS_MAX):
        assert not behind.lasts_too_long("p-000", True, start_ms)
        assert not behind.lasts_too_long("p-000", True, start_ms + STORE_BEHIND_MS_MAX - 1)
        assert not behind.lasts_too_long("p-000", False, start_ms + STORE_BEHIND_MS_MAX - 1)


def test_a_store_that_stays_behind_is_said_once() -> None:
    behind = StoreBehind()
    said = [behind.lasts_too_long("p-000", True, now_ms) for now_ms in range(0, 100_000, 100)]
    assert said.index(True) * 100 == STORE_BEHIND_MS_MAX
    assert said.count(True) == 1
