/* What the files of this module share: the classes it works on, and the steps between them. */
#ifndef FORTDB_LANE_H
#define FORTDB_LANE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

/* --- bounds, as in limits.py (tests/unit/test_native.py compares them) ------------------------------ */

#define KEY_BYTES_MAX (16 * 1024)
#define RECEIVE_BYTES (256 * 1024)
#define OUTPUT_SOFT_BYTES (1024 * 1024)
#define INPUT_SOFT_BYTES (4 * 1024 * 1024)
#define PENDING_COMMANDS_MAX 4000
#define ENTRY_BYTES_MAX (1024 * 1024)
#define UNCOMMITTED_BYTES_MAX (64 * 1024 * 1024)

/* --- bound classes: a slot of an instance is found at an offset (bound.c) ---------------------- */

typedef enum {
    LOOP, OUTBOX, STREAM, CLIENT, SLOT, TOKENS, SERVICE, HOSTED, REPLICA, LEADER, LOG,
    OPERATION, WAITER,
    CLASSES
} Class;

enum { LOOP_NOW_MS, LOOP_HANDLERS, LOOP_EPOLL_DESCRIPTOR, LOOP_WAKEUP };
enum { OUTBOX_DIRTY };
enum {
    STREAM_LOOP, STREAM_OUTBOX, STREAM_DESCRIPTOR, STREAM_IS_OPEN, STREAM_UNSENT_BYTES, STREAM_QUEUED_BYTES,
    STREAM_OUTPUT, STREAM_IS_DIRTY, STREAM_EVENTS, STREAM_IS_PAUSED, STREAM_IS_CLOSING, STREAM_IS_LAST_OUTPUT
};
enum {
    CLIENT_SLOTS, CLIENT_REPLY_BYTES, CLIENT_WINDOW, CLIENT_HELD_BYTES, CLIENT_TAKEN_BYTES,
    CLIENT_LAST_ACTIVE_MS, CLIENT_TAIL, CLIENT_IS_SPECIAL, CLIENT_WAY
};
enum { SLOT_CONNECTION, SLOT_REPLY };
enum { TOKENS_BOUNDARIES, TOKENS_IDS };
enum {
    SERVICE_LOOP, SERVICE_TOKENS, SERVICE_HOSTED, SERVICE_ENGINE, SERVICE_REFUSAL, SERVICE_ASYNC_PREFIXES,
    SERVICE_TOUCHED
};
enum { HOSTED_REPLICA, HOSTED_HELD, HOSTED_SERVE_UNTIL_MS };
enum { REPLICA_LEADING };
enum {
    LEADER_OVERLAY, LEADER_WAITING, LEADER_PROPOSAL, LEADER_OPERATIONS, LEADER_PROPOSAL_BYTES,
    LEADER_UNCOMMITTED_BYTES, LEADER_NEXT_OFFSET, LEADER_HAS_ENOUGH, LEADER_LOG
};
enum { LOG_COMMIT };

#define FIELDS_MAX 16

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

#define PUT 1 /* the kind of an operation that puts, entries.py */

/* An instance of a named tuple; the items' references are taken over, also on failure. */
PyObject *tuple_of(PyTypeObject *type, Py_ssize_t count, PyObject *const *items);

/* --- the loop (loop.c) ------------------------------------------------------------------------- */

int64_t steady_ms(void); /* as clock.steady_ms */
PyObject *lane_turn(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* --- hashing (sha1.c) ----------------------------------------------------------------------- */

void token_bytes(const uint8_t *key, size_t size, uint8_t token[8]);
PyObject *lane_hash_of(PyObject *module, PyObject *key);

/* --- requests (resp.c) ----------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at;
    size_t size;
} Slice;

typedef enum { PLAIN_GET, PLAIN_SET, UNFINISHED, SPECIAL } Kind;

/* What stands at `at`: a GET or a SET of two or three bulk strings, of which `key` and `value` point
 * into the buffer and `used` is the length; the beginning of such a command; or anything else. */
Kind read_request(const uint8_t *at, const uint8_t *end, Slice *key, Slice *value, size_t *used);

/* --- streams (stream.c) ------------------------------------------------------------------------ */

int stream_write(PyObject *stream, PyObject *data); /* as Stream.write; `data` is bytes */
PyObject *lane_flush(PyObject *module, PyObject *streams);

/* --- answers (answers.c) ------------------------------------------------------------------------- */

PyObject *new_slot(PyObject *connection);     /* as ClientConnection.slot */
int complete(PyObject *slot, PyObject *reply); /* as `complete` of whatever slot it is */
PyObject *lane_complete(PyObject *module, PyObject *waiters);
PyObject *lane_take(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *lane_apply(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *lane_forget(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* --- syncing (syncer.c) ---------------------------------------------------------------------------- */

extern PyTypeObject SyncerType;

/* --- a node's requests (node.c) ------------------------------------------------------------------- */

PyObject *lane_receive(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
