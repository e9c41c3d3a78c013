"""A process to be killed: writes numbered batches and says each number once it is acknowledged.

`python -m tests.storage.writer DIRECTORY write MEMTABLE_BYTES [SMALL_BYTES]` writes until it is killed;
`hold` instead of `write` only opens the directory, says so and waits.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fortdb.storage.engine import ReplicaState
from fortdb.storage.keys import data_key
from tests.storage.engines import open_engine

KEYS_PER_BATCH = 7
PARTITION = 3


def key_of(number: int, index: int) -> bytes:
    """The data keys of a batch, far apart on the ring."""
    return data_key(
        (number * 0x9E3779B97F4A7C15 + index * 0x1234567812345678) % (1 << 64), b"%d/%d" % (number, index)
    )


def value_of(number: int) -> bytes:
    """The value of every key of a batch: from a few bytes to several blocks of the log file."""
    return b"%d." % number * (1 + number * 7919 % 4000)


def main(path: Path, mode: str, memtable_bytes: int, small_bytes: int | None = None) -> None:
    """Write, or hold."""
    engine = open_engine(path, memtable_bytes, small_bytes)
    if mode == "hold":
        print("holding", flush=True)
        sys.stdin.read()
        return
    number = (engine.last_offset(PARTITION) or 0) + 1
    while True:
        batch = engine.batch()
        for index in range(KEYS_PER_BATCH):
            batch.put_data(key_of(number, index), value_of(number))
        batch.put_log(PARTITION, number, value_of(number))
        batch.put_state(PARTITION, ReplicaState(epoch=1, applied=number))
        engine.write(batch, sync=True)
        print(number, flush=True)
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
