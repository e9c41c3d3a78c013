"""A node that keeps little of its logs, so that what takes gigabytes otherwise happens within a minute.

A log's head is trimmed after some kilobytes, so a node that was away, or lost its disk, is given a snapshot,
in many small chunks, and what is remembered of requests goes along with it. All else is as in any node:

    python -m fortdb.torture.node node --config FILE
"""

from __future__ import annotations

import runpy

from fortdb import limits

KIBIBYTE = 1024


def keep_little() -> None:
    """Before anything else is imported that takes these by name."""
    limits.LOG_SEGMENT_BYTES = 8 * KIBIBYTE
    limits.LOG_SEGMENTS_MAX = 32
    limits.SNAPSHOT_CHUNK_BYTES = KIBIBYTE // 2
    limits.SNAPSHOT_FLIGHT_BYTES = 2 * KIBIBYTE
    limits.SNAPSHOT_HISTORY_BYTES = 16 * KIBIBYTE


if __name__ == "__main__":
    keep_little()
    runpy.run_module("fortdb", run_name="__main__", alter_sys=True)
