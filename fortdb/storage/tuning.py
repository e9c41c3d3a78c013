"""How RocksDB is set up, each option with its reason.

It has four column families. Its own write-ahead log stays empty: ours (`journal.py`) is before it, and
nothing is ever written to RocksDB that is not on the disk there.

* `data` is read at random and overwritten: bloom filters, lz4, leveled compaction.
* `log` is written once, read rarely, and trimmed from its head by range deletes: no compression and
  universal compaction, which rewrites the living entries once per doubling instead of once per
  level. What was trimmed leaves the disk at the next full merge, which comes when the newer runs
  have grown as big as the oldest one: the family takes at most about twice its living size.
* `expiry` is a queue: notes come in at any place and leave in order of time. Tombstones at its
  head would be walked over by every look at what is due, so a file full of them is compacted soon.
* `state` is one small record a replica.

Start-up costs what the journal costs to replay, which `memtable_bytes` bounds, and nothing that grows
with the number of keys: files are opened when they are first read.
"""

from __future__ import annotations

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompactionStyle,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    UniversalCompactOptions,
)

DATA, LOG, EXPIRY, STATE = "data", "log", "expiry", "state"
FAMILIES = (DATA, LOG, EXPIRY, STATE)

_FILES_OPEN_MAX = 1024  # far under the usual limit of descriptors; 64 GiB of files are kept open
_BLOCK_BYTES = 8 * 1024  # a get reads one block; bigger ones compress better
_BLOOM_BITS_PER_KEY = 10  # 1% of the files that do not hold a key are read in vain
_SYNC_EVERY_BYTES = 1024 * 1024  # flushes and compactions trickle to disk, so no fsync waits behind them
_INFO_LOG_BYTES = 4 * 1024 * 1024
_INFO_LOGS_KEPT = 4
_ITSELF = 2  # the engine flushes when the journal is as big as the memtables may be; before RocksDB would
_MEMTABLES_MAX = 3  # one being filled while two are flushed, before a write has to wait
_TOMBSTONE_WINDOW = 1000  # so many expiry notes in a row ...
_TOMBSTONES_IN_WINDOW = 500  # ... of which so many are deleted make a file worth compacting
_LOG_WASTE_PERCENT = 100  # newer runs of the log family, relative to the oldest, before a full merge


def database_options(memtable_bytes: int, create: bool) -> Options:
    """What holds for all families together."""
    options = Options(raw_mode=True)
    # Families are only ever made with the database: were a damaged manifest to forget one, opening
    # would otherwise make it anew, empty.
    options.create_if_missing(create)
    options.create_missing_column_families(create)
    # Former versions wrote through RocksDB's own log. One that they left is replayed, strictly: a record
    # with a wrong checksum is damage, and only one that ends in the middle is a torn end.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_paranoid_checks(True)
    # When RocksDB flushes by itself, all families flush together: how far the journal is contained
    # (`database.py`) must never be on the disk without all that it speaks of.
    options.set_atomic_flush(True)
    options.set_allow_concurrent_memtable_write(False)  # one thread writes at a time: half the cost each
    options.set_db_write_buffer_size(_ITSELF * memtable_bytes)
    options.set_max_open_files(_FILES_OPEN_MAX)
    options.set_skip_stats_update_on_db_open(True)  # reads every file's properties
    options.set_avoid_unnecessary_blocking_io(True)  # dropping an iterator deletes no file on our thread
    options.set_bytes_per_sync(_SYNC_EVERY_BYTES)
    options.set_max_log_file_size(_INFO_LOG_BYTES)
    options.set_keep_log_file_num(_INFO_LOGS_KEPT)
    options.set_stats_dump_period_sec(0)  # wakes up for nobody
    options.set_stats_persist_period_sec(0)
    return options


def family_options(family: str, cache: Cache, memtable_bytes: int) -> Options:
    """What holds for one family."""
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_block_size(_BLOCK_BYTES)
    # Indexes and filters live in the cache too, so that its size bounds the memory of the reader.
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    options.set_write_buffer_size(_ITSELF * memtable_bytes)  # the bound over all families comes first
    options.set_max_write_buffer_number(_MEMTABLES_MAX)
    options.set_level_compaction_dynamic_level_bytes(True)  # at most about a tenth of the space is waste
    options.set_compression_type(DBCompressionType.none())
    if family == DATA:
        table.set_bloom_filter(_BLOOM_BITS_PER_KEY, False)
        options.set_compression_type(DBCompressionType.lz4())
    elif family == LOG:
        merging = UniversalCompactOptions()
        merging.max_size_amplification_percent = _LOG_WASTE_PERCENT
        options.set_compaction_style(DBCompactionStyle.universal())
        options.set_universal_compaction_options(merging)
    elif family == EXPIRY:
        options.add_compact_on_deletion_collector_factory(_TOMBSTONE_WINDOW, _TOMBSTONES_IN_WINDOW, 0.0)
    options.set_block_based_table_factory(table)
    return options
