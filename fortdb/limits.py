"""Every bound in FortDB, by name, in one place, each with its reason.

Sizes are in bytes, times in milliseconds. What an operator may want to change is a setting in
`config.py`; what is here is fixed because two processes must agree on
it or because no other value was found useful.
"""

from __future__ import annotations

# What a client may send.
KEY_BYTES_MAX = 16 * 1024  # a key is held in memory by many tables; long ones are a mistake
VALUE_BYTES_MAX = 8 * 1024 * 1024  # one value crosses the ring in one frame, on one thread
ARGUMENTS_MAX = 100_000  # of one command; MSET of more is a bulk load and belongs in several
COMMAND_BYTES_MAX = 32 * 1024 * 1024  # all arguments of one command together
LINE_BYTES_MAX = 64 * 1024  # a text command is typed by a person or a simple script
PATTERN_BYTES_MAX = (
    1024  # of all patterns of a command: their tables, and each byte that is matched, cost more then
)

TRANSACTION_COMMANDS_MAX = 10_000  # executed in one go, while nobody else is served
TRANSACTION_BYTES_MAX = (
    16 * 1024 * 1024
)  # of its commands; of the effects and answers of a part, in one entry
TRANSACTION_MS_MAX = 2 * 30_000  # from its beginning to its decision; twice as long as a router asks
TRACE_AGE_MS = 1_000  # of what a transaction left behind before somebody else finishes it
FINISH_AGE_MS = (
    3_000  # before a node does so itself: a router that lives knows which it leads itself, and comes first
)
TRACES_MAX = 1_000  # of a partition, met at once
FINISHING_MAX = 1_000  # by one process at once; what is more is met again in a moment
DECISIONS_MAX = 100_000  # remembered by a partition; each has an end, see `TRANSACTION_MS_MAX`
WATCHED_KEYS_MAX = 10_000  # of one connection
WATCHED_BYTES_MAX = 1024 * 1024  # of those keys
WATCH_LOG_BYTES_MAX = 4 * 1024 * 1024  # of the log that EXEC looks through for writes of what was watched

REPLY_BYTES_MAX = 32 * 1024 * 1024  # one reply of one partition crosses the ring in one frame
READ_BYTES_MAX = 256 * 1024 * 1024  # of values that one request looks at, while its node serves nobody else
READ_BYTES = (
    1024  # that each of them counts for besides: finding one takes as long as reading so much more of it
)
LOOK_BYTES = 32  # and each effect under way that a walk looks at, in its range or not

# What a connection may hold.
RECEIVE_BYTES = 256 * 1024  # read from one connection in one tick, so that none starves others
IDLE_WAIT_MS = 1_000  # a loop looks around at least that often
TURN_MS_MAX = 20  # for which one connection is worked for at a time, and one command more
OUTPUT_SOFT_BYTES = 1024 * 1024  # with more than this unsent, nothing more is read from a client
OUTPUT_HARD_BYTES = 64 * 1024 * 1024  # several answers that together are larger: it asks faster than it reads
INPUT_SOFT_BYTES = 4 * 1024 * 1024  # of requests without an answer before reading pauses
PEER_OUTPUT_BYTES = 16 * 1024 * 1024  # unsent to a peer before nothing more of it is taken
OUTPUT_STUCK_MS = 30_000  # output that has not moved for so long: the client is gone
PENDING_COMMANDS_MAX = 4_000  # unanswered commands of one connection before reading pauses
HANDSHAKE_MS_MAX = (
    5_000  # setting up TLS takes a few round trips; who is slower holds a descriptor for nothing
)
HANDSHAKES_MAX = 1_000  # at one time and port; what they hold is beside `connections_max`

# What the status port may hold, of whoever asks.
STATUS_REQUESTS_MAX = 64  # each has a thread
STATUS_MS_MAX = 5_000  # a scraper that takes longer is cut off

# What those may do who have not said who they are.
STRANGER_MS_MAX = 30_000  # a connection without a user for so long is closed
STRANGER_BYTES_MAX = 16 * 1024  # of one unfinished command; AUTH is far shorter
PASSWORD_BYTES_MAX = 1024  # longer ones are refused unread
LOGINS_MAX = 256  # different passwords that wait to be verified, at some 20 ms each
LOGINS_OF_ADDRESS_MAX = 4  # of these from one address, so that guesses do not keep others out
GUESSES_FREE = 5  # wrong passwords from an address before it has to wait
GUESSES_WAIT_MS_MAX = 30_000  # it doubles up to this
GUESSES_REMEMBERED_MS = 600_000  # since the last wrong one
GUESSES_ADDRESSES_MAX = 10_000  # addresses remembered; the oldest is forgotten first
AUDIT_REFUSALS_MAX = 100  # refusals written down in a second; more are counted

# What replication may hold.
FRAME_BYTES_MAX = 64 * 1024 * 1024  # between our own processes; above COMMAND_BYTES_MAX by design
ENTRY_BYTES_MAX = 1024 * 1024  # a tick's operations on one partition split into entries this big
FLIGHT_BYTES_MAX = 8 * 1024 * 1024  # sent to a follower and not yet on its disk, per partition
CATCH_UP_BYTES = 512 * 1024  # read from the log for one follower in one tick
SNAPSHOT_CHUNK_BYTES = 256 * 1024  # read from the data for one follower in one tick
SNAPSHOT_FLIGHT_BYTES = 4 * 1024 * 1024  # chunks sent and not yet acknowledged
SNAPSHOT_HISTORY_BYTES = 8 * 1024 * 1024  # of the log's tail that goes along, for request ids
HELD_REQUESTS_MAX = 20_000  # requests that wait in a node for a partition to become ready
UNCOMMITTED_BYTES_MAX = 64 * 1024 * 1024  # appended and not committed, per partition
SESSIONS_MAX = 512  # routers whose request ids a partition remembers
MEMORY_BYTES_MAX = 16 * 1024 * 1024  # of request ids beside a log or a snapshot; they cross in one frame
SWEEP_COUNT = 200  # expired keys deleted per partition and sweep
ROUTER_DEADLINE_MS_MAX = 30_000  # a router asks again for so long at most
DEDUPE_WINDOW_MS = 2 * ROUTER_DEADLINE_MS_MAX  # age of the log tail from which request ids are read at start
DEDUPE_ENTRIES_MAX = 20_000  # and its length
ASK_AGAIN_MS = 500  # a follower that does not answer where its log ends is asked again
WHY_MS_MAX = 2_000  # who does not answer an operator's question for so long is what the question was about
HANDOVER_MS_MAX = 3_000  # a planned switchover that takes longer is given up, nothing changed
STORE_BEHIND_MS_MAX = 15_000  # a view of the store may be late for so long; an older one was restored
DRAIN_MS_MAX = 10_000  # a stopping node hands over for so long at most
RETENTION_MS_MAX = 1_000 * 365 * 86_400_000  # its sum with the time of day is stored in 63 bits
SCAN_COUNT_MAX = 10_000  # keys in one page of a scan, records or versions in one answer
PAGE_BYTES_MAX = 1024 * 1024  # records or versions in one answer, if there are two; the next page goes on
PAGE_COUNT = 100  # of them, if the request does not say
WALK_KEYS_MIN, WALK_KEYS_MAX = 16, 1024  # asked of the engine at once; most walks want only a few
WALK_BYTES_MAX = 1024 * 1024  # and their bytes
CLEAN_COUNT = 1_000  # records of deleted keys cleaned away per partition and sweep
CLEAN_BYTES = 4 * 1024 * 1024  # and the bytes that are read for that
WALKS_MAX = 4  # over all keys of a partition, under way in a node for each that it holds
PURGE_COUNT = 2_000  # keys of a keyspace that is dropped, in one step of a partition
TRIM_COUNT = 8  # old versions trimmed with one write, so that a smaller KEEP takes hold by and by
HOLD_CHECK_MS = 3_600_000  # a WORM record that is held beyond its retention is looked at again so late
RETENTION_CLOCK_MS = (
    60_000  # a partition's retention clock is written so often; a failover loses no more of it
)
HOLDS_MAX = 64  # of different names on one record or key
HOLD_NAME_BYTES_MAX = 64
CHAIN_COUNT = 500  # links of a chain in one answer
CHAIN_BYTES = 4 * 1024 * 1024  # of records that are read and hashed for it
LOG_SEGMENT_BYTES = 4 * 1024 * 1024  # granularity at which a log's head is trimmed
LOG_SEGMENTS_MAX = 256  # kept while a live follower still catches up; then it needs a snapshot
LOG_SEGMENTS_KEPT = 8  # kept for followers that were away; older ones need a snapshot
FEED_WAIT_MS = 5_000  # a node is asked for changes for so long; then it says how far it has looked
FEED_READ_BYTES = 256 * 1024  # of the log, looked through for one asker in one tick
FEED_TICK_BYTES = 1024 * 1024  # and for all of them together; the rest waits for the next tick
FEED_ASKERS_MAX = 20_000  # that wait in a node for changes
FEED_WORDS_MAX = 4_096  # of a position, one for each partition

# What a layout may say.
WEIGHT_MIN, WEIGHT_MAX = 1e-6, 1e9  # of a node that holds anything: shares are worked out in floating point

# What a router may hold.
FEED_LATE_MS = 3_000  # a node that is so late with changes is not waited for
FEED_BEHIND_ASKED = 4  # partitions asked at a time for a reader that is catching up
CHANNEL_REQUESTS_MAX = 20_000  # unanswered requests to one partition before clients are paused
