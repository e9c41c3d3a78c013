"""Changes that are made together: how they are gathered, and their form in the journal. No checks.

A batch keeps data in a dictionary, in which a later change of a key takes the place of an earlier one,
states in another, and what happens to logs and expiry notes as a list, in order: these three do not
meet, so their order among each other does not matter. A range of data that is deleted takes away what
the batch itself has put there, and is then carried out before the rest.

In the journal a batch is a table by columns, so that making it costs a few calls for the whole batch
and nothing in Python for each change:

    number of changes (4) | kinds (1 each) | lengths of keys (4 each) | of values (4 each) | keys | values

with lengths in the machine's order of bytes: a directory stays on the kind of machine that wrote it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from fortdb.native import bind, lane
from fortdb.storage.engine import ReplicaState
from fortdb.storage.keys import expiry_prefix, log_key, partition_end, partition_key
from fortdb.storage.states import encode_state

PUT_DATA, DELETE_DATA, DELETE_DATA_RANGE = 0, 1, 2
PUT_LOG, DELETE_LOG = 3, 4
PUT_EXPIRY, DELETE_EXPIRY, DELETE_EXPIRIES = 5, 6, 7
PUT_STATE, DELETE_STATE = 8, 9
"""Kinds of change. Of a range, the value is the end of the keys."""

NEVER_MS = 1 << 64

Operation = tuple[int, bytes, bytes]
"""A kind of change, its key and its value."""


class RocksBatch:
    """Changes that become durable and visible together."""

    __slots__ = ("_deletes", "data", "earliest_note_ms", "operations", "ranges", "states")

    def __init__(self) -> None:
        self.data: dict[bytes, bytes | None] = {}
        self.states: dict[bytes, bytes | None] = {}
        self.operations: list[Operation] = []
        """On logs and expiry notes, in order."""
        self.ranges: list[tuple[bytes, bytes]] = []
        self.earliest_note_ms = NEVER_MS
        """No expiry note before this is touched."""
        self._deletes = False

    def put_data(self, key: bytes, value: bytes) -> None:
        """Set a data key."""
        self.data[key] = value

    def delete_data(self, key: bytes) -> None:
        """Delete a data key."""
        self.data[key] = None
        self._deletes = True

    def delete_data_range(self, start: bytes, end: bytes) -> None:
        """Delete data keys with `start <= key < end`."""
        if start < end:
            self.ranges.append((start, end))
            for key in [key for key in self.data if start <= key < end]:
                del self.data[key]

    def put_log(self, partition: int, offset: int, entry: bytes) -> None:
        """Set the log entry at an offset."""
        self.operations.append((PUT_LOG, log_key(partition, offset), entry))

    def delete_log(self, partition: int, start: int, end: int) -> None:
        """Delete entries with `start <= offset < end`."""
        if start < end:
            self.operations.append((DELETE_LOG, log_key(partition, start), log_key(partition, end)))

    def put_expiry(self, partition: int, expiry_ms: int, key: bytes) -> None:
        """Note that data key `key` ends at `expiry_ms`."""
        self.operations.append((PUT_EXPIRY, expiry_prefix(partition, expiry_ms) + key, b""))
        self.earliest_note_ms = min(self.earliest_note_ms, expiry_ms)

    def delete_expiry(self, partition: int, expiry_ms: int, key: bytes) -> None:
        """Delete one expiry note."""
        self.operations.append((DELETE_EXPIRY, expiry_prefix(partition, expiry_ms) + key, b""))
        self.earliest_note_ms = min(self.earliest_note_ms, expiry_ms)

    def delete_expiries(self, partition: int) -> None:
        """Delete every expiry note of the partition."""
        self.operations.append((DELETE_EXPIRIES, partition_key(partition), partition_end(partition)))
        self.earliest_note_ms = 0

    def put_state(self, partition: int, state: ReplicaState) -> None:
        """Set a replica's state."""
        self.states[partition_key(partition)] = encode_state(state)

    def delete_state(self, partition: int) -> None:
        """Delete a replica's state."""
        self.states[partition_key(partition)] = None

    def is_empty(self) -> bool:
        """Whether nothing was put or deleted yet."""
        return not (self.data or self.operations or self.states or self.ranges)

    def encode(self) -> bytes:
        """The batch's form in the journal."""
        if lane is not None and not self.ranges:
            return lane.encode_batch(self)  # type: ignore[no-any-return]
        kinds = bytearray()
        keys: list[bytes] = []
        values: list[bytes] = []
        for kind, key, value in self.operations:
            kinds.append(kind)
            keys.append(key)
            values.append(value)
        for start, end in self.ranges:
            kinds.append(DELETE_DATA_RANGE)
            keys.append(start)
            values.append(end)
        for key, state in self.states.items():
            kinds.append(DELETE_STATE if state is None else PUT_STATE)
            keys.append(key)
            values.append(state or b"")
        data = self.data
        keys += data
        if self._deletes:
            kinds += bytes([DELETE_DATA if value is None else PUT_DATA for value in data.values()])
            values += [b"" if value is None else value for value in data.values()]
        else:
            kinds += bytes(len(data))  # PUT_DATA each
            values += data.values()  # type: ignore[arg-type]  # none was deleted
        return b"".join(
            (
                len(kinds).to_bytes(4, "little"),
                kinds,
                array("I", map(len, keys)).tobytes(),
                array("I", map(len, values)).tobytes(),
                *keys,
                *values,
            )
        )


bind(RocksBatch)


def decode_batch(stored: bytes) -> Iterator[Operation]:
    """The changes of a batch, in an order that makes it right. What comes here had the right checksum."""
    count = int.from_bytes(stored[:4], "little")
    sizes_start = 4 + count
    key_start = sizes_start + 8 * count
    sizes = array("I", stored[sizes_start:key_start])
    value_start = key_start + sum(sizes[:count])
    for kind, key_size, value_size in zip(stored[4:sizes_start], sizes[:count], sizes[count:], strict=True):
        yield (
            kind,
            stored[key_start : key_start + key_size],
            stored[value_start : value_start + value_size],
        )
        key_start += key_size
        value_start += value_size
