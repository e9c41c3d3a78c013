/* What the files of this module share: the classes it works on, and the steps between them. */
#ifndef FORTDB_LANE_H
#define FORTDB_LANE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <time.h>

/* --- bounds, as in limits.py (tests/unit/test_native_clients.py compares them) ------------------------------ */

#define KEY_BYTES_MAX (16 * 1024)
#define RECEIVE_BYTES (256 * 1024)
#define OUTPUT_SOFT_BYTES (1024 * 1024)
#define INPUT_SOFT_BYTES (4 * 1024 * 1024)
#define PENDING_COMMANDS_MAX 4000
#define ENTRY_BYTES_MAX (1024 * 1024)
#define UNCOMMITTED_BYTES_MAX (64 * 1024 * 1024)
#define FRAME_BYTES_MAX (64 * 1024 * 1024)
#define PEER_OUTPUT_BYTES (16 * 1024 * 1024)
#define CHANNEL_REQUESTS_MAX 20000
#define FLIGHT_BYTES_MAX (8 * 1024 * 1024)
#define LOG_SEGMENT_BYTES (4 * 1024 * 1024)
#define IDLE_WAIT_MS 1000

/* --- bound classes: a slot of an instance is found at an offset (bound.c) ---------------------- */

typedef enum {
    LOOP, OUTBOX, STREAM, CLIENT, SLOT, TOKENS, SERVICE, HOSTED, REPLICA, LEADER, LOG,
    OPERATION, FRAMES, GREETING, REQUEST_SLOT, MEMORY, SESSION, LINK, ROUTER, CHANNEL, UNANSWERED, LATENCY,
    RECENT, LINKS, LOG_SHAPE_TYPE, PENDING, ACK, REQUEST_ID, IN_SYNC, PHASE, PROGRESS, SEGMENTS, BATCH, PROPOSED,
    CHANGES, CLASSES
} Class;

enum {
    LOOP_NOW_MS, LOOP_HANDLERS, LOOP_EPOLL_DESCRIPTOR, LOOP_WAKEUP, LOOP_TIMERS, LOOP_CALLS, LOOP_RUNNING, LOOP_AGAIN,
    LOOP_WAY
};
enum { OUTBOX_DIRTY };
enum {
    STREAM_OUTBOX, STREAM_DESCRIPTOR, STREAM_IS_OPEN, STREAM_UNSENT_BYTES, STREAM_QUEUED_BYTES,
    STREAM_OUTPUT, STREAM_IS_DIRTY, STREAM_EVENTS, STREAM_IS_PAUSED, STREAM_IS_CLOSING, STREAM_IS_LAST_OUTPUT,
    STREAM_IS_SECURED, STREAM_SOCKET
};
enum {
    CLIENT_SLOTS, CLIENT_REPLY_BYTES, CLIENT_WINDOW, CLIENT_HELD_BYTES, CLIENT_TAKEN_BYTES,
    CLIENT_LAST_ACTIVE_MS, CLIENT_TAIL, CLIENT_IS_SPECIAL, CLIENT_WAY
};
enum { SLOT_CONNECTION, SLOT_REPLY };
enum { TOKENS_BOUNDARIES, TOKENS_IDS };
enum {
    SERVICE_LOOP, SERVICE_TOKENS, SERVICE_HOSTED, SERVICE_ENGINE, SERVICE_REFUSAL, SERVICE_POLICIES,
    SERVICE_TOUCHED, SERVICE_LINKS, SERVICE_COMMIT_LATENCY, SERVICE_TO_ANSWER, SERVICE_TO_APPLY, SERVICE_WALL_MS,
    SERVICE_OUTBOX, SERVICE_ANSWERS, SERVICE_CHANGES
};
enum {
    HOSTED_REPLICA, HOSTED_HELD, HOSTED_SERVE_UNTIL_MS, HOSTED_MEMBERS, HOSTED_SENDERS, HOSTED_INSTALL,
    HOSTED_PROPOSED, HOSTED_SEGMENTS, HOSTED_PLAIN_UNTIL_MS
};
enum {
    REPLICA_LEADING, REPLICA_EPOCH, REPLICA_LEADER_NAME, REPLICA_ALIGNED, REPLICA_LOG, REPLICA_ACKNOWLEDGEMENTS,
    REPLICA_PARTITION, REPLICA_REPLIES, REPLICA_ABANDONED, REPLICA_INSTALLING
};
enum {
    LEADER_OVERLAY, LEADER_WAITING, LEADER_PROPOSAL, LEADER_OPERATIONS,
    LEADER_UNCOMMITTED_BYTES, LEADER_NEXT_OFFSET, LEADER_HAS_ENOUGH, LEADER_LOG, LEADER_WAITING_SYNCED,
    LEADER_OUTBOX, LEADER_PROGRESS, LEADER_NODE, LEADER_EPOCH, LEADER_IN_SYNC, LEADER_TRANSFER_TO
};
enum {
    LOG_COMMIT, LOG_MEMORY, LOG_SHAPE, LOG_PENDING, LOG_WRITES, LOG_TIMESTAMP_MS, LOG_APPLIED, LOG_SYNCED_OFFSET,
    LOG_MEMORY_IS_STALE, LOG_STATE_CHANGED, LOG_WIPE, LOG_TRUNCATE, LOG_TRIMMED
};
enum { SHAPE_BASE_OFFSET, SHAPE_BASE_EPOCH, SHAPE_EPOCHS, SHAPE_LAST_OFFSET }; /* items of a tuple */
enum { IN_SYNC_MEMBERS };
enum {
    PROGRESS_PHASE, PROGRESS_NEXT, PROGRESS_MATCH, PROGRESS_INCARNATION, PROGRESS_FLIGHT, PROGRESS_FLIGHT_BYTES,
    PROGRESS_CAUGHT_UP_MS, PROGRESS_MARK
};
enum { SEGMENTS_BYTES };
enum { BATCH_DATA, BATCH_OPERATIONS, BATCH_STATES, BATCH_DELETES };
enum { LINKS_LEADERS, LINKS_FOLLOWERS };
enum { RECENT_YOUNG };
enum { CHANGES_WAITING };
enum { FRAMES_OTHER, FRAMES_TAIL, FRAMES_IS_SPECIAL, FRAMES_WAY };
enum { GREETING_SESSION, GREETING_NAME };
enum { REQUEST_SLOT_PEER, REQUEST_SLOT_PARTITION, REQUEST_SLOT_EPOCH, REQUEST_SLOT_SEQUENCE };
enum { MEMORY_SESSIONS, MEMORY_USES };
enum { SESSION_KNOWN, SESSION_WATERMARK, SESSION_USED };
enum { LINK_IS_UP, LINK_STREAM };
enum { ROUTER_LOOP, ROUTER_TOKENS, ROUTER_CHANNELS, ROUTER_DEADLINE_MS, ROUTER_LATENCY };
enum { CHANNEL_EPOCH, CHANNEL_WIRE, CHANNEL_UNANSWERED, CHANNEL_NEXT, CHANNEL_OLDEST };
enum {
    UNANSWERED_COMMAND, UNANSWERED_SLOT, UNANSWERED_IS_WRITE, UNANSWERED_DEADLINE_MS, UNANSWERED_SENT_COUNT,
    UNANSWERED_BEGAN_S
};
enum { LATENCY_BOUNDS_S, LATENCY_COUNTS, LATENCY_SUM_S };

#define FIELDS_MAX 18

typedef struct {
    const char *name;               /* of the Python class */
    const char *fields[FIELDS_MAX]; /* its slots, in the order of the enumeration above */
    PyTypeObject *type;             /* NULL until bound */
    Py_ssize_t offsets[FIELDS_MAX];
} Bound;

extern Bound bound[CLASSES];

PyObject *lane_bind(PyObject *module, PyObject *cls);
int all_bound(const Class *classes, int count); /* 0 and an exception if one is not */

/* A borrowed reference to what a slot holds, NULL if nothing was ever put there. */
static inline PyObject *
slot_of(PyObject *object, Class cls, int field)
{
    return *(PyObject **)((char *)object + bound[cls].offsets[field]);
}

static inline void
set_slot(PyObject *object, Class cls, int field, PyObject *value) /* takes the reference over */
{
    PyObject **place = (PyObject **)((char *)object + bound[cls].offsets[field]);
    PyObject *former = *place;
    *place = value;
    Py_XDECREF(former);
}

static inline int
is_a(PyObject *object, Class cls)
{
    return object != NULL && bound[cls].type != NULL && PyObject_TypeCheck(object, bound[cls].type);
}

static inline int64_t
number_at(PyObject *object, Class cls, int field)
{
    PyObject *value = slot_of(object, cls, field);
    return value != NULL && PyLong_Check(value) ? PyLong_AsLongLong(value) : 0;
}

static inline int
set_number(PyObject *object, Class cls, int field, int64_t number)
{
    PyObject *value = PyLong_FromLongLong(number);
    if (value == NULL)
        return -1;
    set_slot(object, cls, field, value);
    return 0;
}

static inline int
is_true_at(PyObject *object, Class cls, int field)
{
    return slot_of(object, cls, field) == Py_True;
}

static inline void
set_flag(PyObject *object, Class cls, int field, int flag)
{
    set_slot(object, cls, field, Py_NewRef(flag ? Py_True : Py_False));
}

/* Layouts, of replication/entries.py. */
#define ENTRY_HEAD_BYTES 28     /* checksum, epoch, offset, time */
#define OPERATION_HEAD_BYTES 16 /* kind, identified, lengths of key and value, expiry */
#define IDENTITY_BYTES 28       /* session, sequence, watermark, length of the reply */
#define PUT 1                   /* kinds of operations */
#define DELETE 2

/* An instance of a named tuple; the items' references are taken over, also on failure. */
PyObject *tuple_of(PyTypeObject *type, Py_ssize_t count, PyObject *const *items);

int called(PyObject *result); /* 0, or -1 if a call failed; the reference is taken over */
/* Room for so many more bytes at the end of a bytearray; NULL and an exception if there is none. */
char *bytearray_room(PyObject *array, size_t size);

int append_and_release(PyObject *list, PyObject *item); /* the reference is taken over, also on failure */

int queue_add(PyObject *queue, PyObject *item); /* at the end of a deque */
PyObject *queue_first(PyObject *queue);         /* borrowed; NULL if it is empty, or with an exception */
int queue_pop(PyObject *queue);                 /* drops the first */

/* --- the loop (loop.c) ------------------------------------------------------------------------- */

PyObject *lane_turns(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* As fortdb.clock: it goes on while the machine is suspended, as leases do (rule 11). */
static inline int64_t
steady_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline int64_t
wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* As perf_counter() */
static inline double
steady_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* What became of a request: done, left to the Python code untouched, or failed with an exception. */
typedef enum { DONE, DECLINED, FAILED } Outcome;

/* --- numbers on the wire and in the log: little-endian ----------------------------------- */

static inline void
put_number(char *to, uint64_t number, int bytes)
{
    for (int at = 0; at < bytes; at++)
        to[at] = (char)(number >> 8 * at);
}

static inline uint64_t
number_from(const uint8_t *at, int bytes)
{
    uint64_t number = 0;
    for (int byte = bytes - 1; byte >= 0; byte--)
        number = number << 8 | at[byte];
    return number;
}

/* Bytes that collect for one stream, to be written as one piece. All zero at first. */
typedef struct {
    char *data;
    size_t size, room;
} Output;

char *output_room(Output *output, size_t size);        /* where `size` bytes fit; NULL and an exception */
int output_write(Output *output, PyObject *stream);    /* hand over what has collected */
void output_free(Output *output);

/* --- hashing (sha1.c) ----------------------------------------------------------------------- */

void token_bytes(const uint8_t *key, size_t size, uint8_t token[8]);
PyObject *lane_hash_of(PyObject *module, PyObject *key);
PyObject *lane_hash_portably(PyObject *module, PyObject *key);

/* --- checksums (crc32.c) -------------------------------------------------------------------- */

uint32_t crc32_of(const uint8_t *at, size_t size); /* as zlib's */
PyObject *lane_crc32(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *lane_crc32_portably(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* --- requests (resp.c) ----------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at;
    size_t size;
} Slice;

typedef enum { PLAIN_GET, PLAIN_SET, UNFINISHED, SPECIAL } Kind;

/* What stands at `at`: a GET or a SET of two or three bulk strings, of which `key` and `value` point
 * into the buffer and `used` is the length; the beginning of such a command; or anything else. */
Kind read_request(const uint8_t *at, const uint8_t *end, Slice *key, Slice *value, size_t *used);
#define BULK_HEAD_BYTES_MAX 24
size_t put_bulk_head(char *to, size_t size); /* at most BULK_HEAD_BYTES_MAX; how many */

/* --- streams (stream.c, receive.c) --------------------------------------------------------------- */

#define TAIL_BYTES_MAX (64 * 1024) /* an unfinished request or frame that is longer goes the long way */

/* Reads behind the tail, what was left of the read before, which stands in a slot of the stream. The number of
 * bytes in the buffer; 0: nothing came; -1: the long way has to look. NULL in `buffer`: no memory. */
ssize_t receive_behind(PyObject *stream, Class cls, int tail, uint8_t **buffer);

typedef struct {
    uint8_t *at, *end;
    ssize_t kept;     /* of these bytes, so many were left of the turn before */
    PyObject *result; /* what the turn returns if nothing is to be done: NULL with an exception */
} Arrival;

/* How a turn of a client or a peer begins: reads, and notes the moment. Whether there is anything to be done. */
int begin_turn(PyObject *stream, Class cls, int tail, int is_special, PyObject *loop, Arrival *arrival);
int keep_tail(PyObject *stream, Class cls, int tail, const uint8_t *at, const uint8_t *end);
int hand_on(PyObject *stream, const uint8_t *at, const uint8_t *end); /* to its `take` */
int add_counts(PyObject *totals, const long counts[2]);               /* to a list of two numbers */

int stream_write(PyObject *stream, PyObject *data); /* as Stream.write; `data` is bytes */
int has_collected(PyObject *outbox);                /* whether there is anything to be sent */
int outbox_flush(PyObject *outbox);                 /* as Outbox.flush */
PyObject *lane_flush(PyObject *module, PyObject *outboxes);

/* --- answers (answers.c) ------------------------------------------------------------------------- */

PyObject *new_slot(PyObject *connection);     /* as ClientConnection.slot */
int complete(PyObject *slot, PyObject *reply); /* as `complete` of whatever slot it is */
int observe(PyObject *latency, double seconds); /* as LatencyHistogram.observe */

/* --- clients (front.c) ------------------------------------------------------------------------------ */

typedef struct {
    Kind kind; /* PLAIN_GET or PLAIN_SET, which alone has a value */
    Slice key, value, whole;
} Plain;

typedef struct {
    PyObject *connection, *service;
    int64_t now_ms;
    Output replies;     /* of requests that wait for nothing */
    Py_ssize_t pending; /* slots of the connection */
} Turn;

/* Reads from a client and gives `execute` what is plain, as long as the connection is not full and nothing
 * is declined; the rest is handed on. True or False as the function of the front, NULL on an exception. */
PyObject *client_turn(Turn *turn, PyObject *loop, PyObject *counts, Outcome (*execute)(Turn *, const Plain *));

/* --- replicas (replica.c) ------------------------------------------------------------------------------ */

#define TOKEN_BYTES 8

typedef struct {
    PyObject *session; /* the number that the router chose */
    uint64_t sequence, watermark;
} Identity;

PyObject *partition_at(PyObject *tokens, const uint8_t token[TOKEN_BYTES]); /* its id, borrowed */
PyObject *hosted_at(PyObject *service, PyObject *id);               /* borrowed; NULL if it is not here */
PyObject *hosted_of_number(PyObject *service, uint64_t partition); /* the same */
PyObject *ready_leader(PyObject *hosted, int64_t now_ms);
PyObject *data_key(const uint8_t token[TOKEN_BYTES], const Slice *key);
Outcome read_plain(PyObject *service, PyObject *leader, PyObject *at, Output *replies);
Outcome propose_plain(PyObject *service, PyObject *leader, PyObject *at, const Slice *value,
                      const Identity *identity, PyObject **offset);
int await_commit(PyObject *service, PyObject *hosted, PyObject *leader, PyObject *offset, PyObject *slot);
PyObject *plain_reply(void); /* to a SET, borrowed */

/* --- frames (frames.c) --------------------------------------------------------------------------------- */

/* Layouts, of replication/messages.py. */
#define FRAME_HEAD_BYTES 5    /* length, type */
#define REQUEST_HEAD_BYTES 26 /* partition, epoch, sequence, watermark */
#define REPLY_HEAD_BYTES 19   /* partition, epoch, sequence, status */
#define APPEND_HEAD_BYTES 38  /* partition, epoch, previous offset and epoch, commit, count */
#define ACK_BYTES 18          /* partition, epoch, offset */
#define TYPE_APPEND 5
#define TYPE_ACK 6
#define TYPE_REQUEST 20
#define TYPE_REPLY 21

typedef struct {
    unsigned type;
    const uint8_t *body, *end, *start; /* the frame itself begins at `start` */
} Frame;

typedef struct {
    PyObject *stream, *service;
    uint32_t types; /* of the frames that are heard here: a bit each */
    int64_t now_ms;
    Output output; /* frames for the same stream */
    long counts[2];
    double now_s;  /* as perf_counter() */
} FrameTurn;

/* Reads from a peer and gives `heard` each frame; what it declines is handed on, in its place. */
PyObject *frame_turn(FrameTurn *turn, PyObject *loop, Outcome (*heard)(FrameTurn *, const Frame *));
void put_reply_head(char *to, uint64_t partition, uint64_t epoch, uint64_t sequence, size_t reply_bytes);

/* --- followers (followers.c) --------------------------------------------------------------------------- */

Outcome hear_append(FrameTurn *turn, const Frame *frame); /* as a frame of a node's peer */

/* --- answers to routers (requests.c) --------------------------------------------------------------------- */

/* Replies for the same peer one after the other, to be written as one piece. All zero at first. */
typedef struct {
    PyObject *peer;
    Output output;
} Bundle;

int bundle_complete(Bundle *bundle, PyObject *slot, PyObject *reply); /* as `complete` of whatever slot it is */
int bundle_end(Bundle *bundle, int result); /* writes the last of it, if `result` is 0; returns the result */

/* --- leaders (leader.c) ------------------------------------------------------------------------------------ */

typedef enum { STREAMING, IN_SNAPSHOT } FollowerPhase;

int is_in_phase(PyObject *progress, FollowerPhase phase);
int64_t last_offset(PyObject *log);
PyObject *members_of(PyObject *leader); /* of the maximal ISR; borrowed */
int64_t commit_with(PyObject *leader, int64_t own);
int advance_commit(PyObject *leader);
int answer(PyObject *service, PyObject *hosted, PyObject *leader, Bundle *bundle);
int give_answers(PyObject *service);
PyObject *lane_give_answers(PyObject *module, PyObject *service);
PyObject *lane_hear_follower(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* --- the tick (tick.c) --------------------------------------------------------------------------------------- */

PyObject *lane_send_entries(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *lane_write_replicas(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *lane_go_on(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *lane_tick(PyObject *module, PyObject *service);

/* --- batches (batch.c) --------------------------------------------------------------------------------------- */

PyObject *lane_encode_batch(PyObject *module, PyObject *batch);

/* --- the journal (journal.c) ---------------------------------------------------------------------------------- */

PyObject *lane_begin_sync(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* --- tables (sort.c) ---------------------------------------------------------------------------------------- */

PyObject *lane_sort_keys(PyObject *module, PyObject *keys);

/* --- a node's requests (node.c) ------------------------------------------------------------------- */

PyObject *lane_receive(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *lane_hear_requests(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* --- a router's requests (router.c) ------------------------------------------------------------------------ */

PyObject *lane_send_on(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *lane_hear_replies(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
