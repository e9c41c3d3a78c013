/* Plain reads and writes of a replica that this node leads, whoever asks.
 *
 * What `Requests.submit` and the handlers of node/execute.py do, for when nothing stands against it:
 * the partition is led here, its leases hold, nobody is held before, no effect on the key waits for a commit
 * (GET), enough replicas are in sync and nothing refuses writes (SET), and a value does not expire. */
#include "lane.h"

#define DATA_PREFIX_BYTES 9 /* 0x01 | token, storage/keys.py */

static PyObject *name_get, *name_table, *name_frozen, *name_recent, *ok_reply;

static int
names(void)
{
    if (ok_reply != NULL)
        return 0;
    name_get = PyUnicode_InternFromString("get");
    name_table = PyUnicode_InternFromString("table");
    name_frozen = PyUnicode_InternFromString("frozen");
    name_recent = PyUnicode_InternFromString("recent");
    ok_reply = PyErr_Occurred() ? NULL : PyBytes_FromString("+OK\r\n");
    return ok_reply == NULL ? -1 : 0;
}

PyObject *
plain_reply(void)
{
    return names() < 0 ? NULL : ok_reply;
}

/* --- from a key to the replica that leads it ------------------------------------------------------ */

PyObject *
partition_at(PyObject *tokens, const uint8_t token[TOKEN_BYTES])
{
    PyObject *boundaries = slot_of(tokens, TOKENS, TOKENS_BOUNDARIES), *ids = slot_of(tokens, TOKENS, TOKENS_IDS);
    const char *first = PyBytes_AS_STRING(boundaries);
    Py_ssize_t low = 0, count = PyBytes_GET_SIZE(boundaries) / TOKEN_BYTES, high = count;
    while (low < high) { /* bisect_right */
        Py_ssize_t middle = (low + high) / 2;
        if (memcmp(token, first + middle * TOKEN_BYTES, TOKEN_BYTES) < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return PyTuple_GET_ITEM(ids, low == 0 ? count - 1 : low - 1);
}

PyObject *
hosted_at(PyObject *service, PyObject *id)
{
    PyObject *hosted = PyDict_GetItemWithError(slot_of(service, SERVICE, SERVICE_HOSTED), id);
    return is_a(hosted, HOSTED) ? hosted : NULL;
}

PyObject *
hosted_of_number(PyObject *service, uint64_t partition)
{
    PyObject *id = PyLong_FromUnsignedLongLong(partition);
    PyObject *hosted = id == NULL ? NULL : hosted_at(service, id);
    Py_XDECREF(id);
    return hosted;
}

/* The leader's side (borrowed) if requests may be executed now and in order, else NULL. */
PyObject *
ready_leader(PyObject *hosted, int64_t now_ms)
{
    PyObject *leader = slot_of(slot_of(hosted, HOSTED, HOSTED_REPLICA), REPLICA, REPLICA_LEADING);
    if (!is_a(leader, LEADER) || number_at(hosted, HOSTED, HOSTED_PLAIN_UNTIL_MS) <= now_ms)
        return NULL;
    return PyObject_Size(slot_of(hosted, HOSTED, HOSTED_HELD)) == 0 ? leader : NULL;
}

PyObject *
data_key(const uint8_t token[TOKEN_BYTES], const Slice *key)
{
    PyObject *made = PyBytes_FromStringAndSize(NULL, DATA_PREFIX_BYTES + (Py_ssize_t)key->size);
    if (made != NULL) {
        char *to = PyBytes_AS_STRING(made);
        to[0] = 1;
        memcpy(to + 1, token, TOKEN_BYTES);
        memcpy(to + DATA_PREFIX_BYTES, key->at, key->size);
    }
    return made;
}

/* --- reading ----------------------------------------------------------------------------------------- */

/* What the engine holds under a data key: a new reference, None if nothing, NULL on an exception. */
static PyObject *
stored_at(PyObject *engine, PyObject *key)
{
    PyObject *const places[] = {name_table, name_frozen};
    for (int at = 0; at < 2; at++) {
        PyObject *table = PyObject_GetAttr(engine, places[at]);
        if (table == NULL)
            return NULL;
        PyObject *known = PyDict_CheckExact(table) ? PyDict_GetItemWithError(table, key) : NULL;
        Py_XINCREF(known);
        Py_DECREF(table);
        if (known != NULL || PyErr_Occurred())
            return known;
    }
    PyObject *recent = PyObject_GetAttr(engine, name_recent), *known = NULL;
    if (recent == NULL)
        return NULL;
    if (is_a(recent, RECENT))
        known = PyDict_GetItemWithError(slot_of(recent, RECENT, RECENT_YOUNG), key);
    Py_XINCREF(known);
    Py_DECREF(recent);
    if (known != NULL || PyErr_Occurred())
        return known;
    return PyObject_CallMethodOneArg(engine, name_get, key);
}

/* What an effect that is not in the data yet leaves under its key, if it is committed; else NULL. */
static PyObject *
committed_value(PyObject *leader, PyObject *known)
{
    int64_t commit = number_at(slot_of(leader, LEADER, LEADER_LOG), LOG, LOG_COMMIT);
    PyObject *operation = PyTuple_GET_ITEM(known, 0);
    if (PyLong_AsLongLong(PyTuple_GET_ITEM(known, 1)) > commit)
        return NULL;
    int is_put = PyLong_AsLong(PyTuple_GET_ITEM(operation, 0)) == PUT;
    return Py_NewRef(is_put ? PyTuple_GET_ITEM(operation, 2) : Py_None);
}

/* The reply to a GET that found this; declined if it is not a value that never expires. */
static Outcome
reply_with(Output *replies, PyObject *stored)
{
    if (stored == Py_None) {
        char *to = output_room(replies, 5);
        if (to == NULL)
            return FAILED;
        memcpy(to, "$-1\r\n", 5);
        replies->size += 5;
        return DONE;
    }
    if (!PyBytes_CheckExact(stored) || PyBytes_GET_SIZE(stored) < 1 || PyBytes_AS_STRING(stored)[0] != 0)
        return DECLINED;
    size_t size = (size_t)PyBytes_GET_SIZE(stored) - 1;
    char *to = output_room(replies, BULK_HEAD_BYTES_MAX + size + 2);
    if (to == NULL)
        return FAILED;
    size_t head = put_bulk_head(to, size);
    memcpy(to + head, PyBytes_AS_STRING(stored) + 1, size);
    memcpy(to + head + size, "\r\n", 2);
    replies->size += head + size + 2;
    return DONE;
}

/* `Requests.read_plain`: the reply is added to `replies`. */
Outcome
read_plain(PyObject *service, PyObject *leader, PyObject *at, Output *replies)
{
    if (names() < 0)
        return FAILED;
    PyObject *stored = NULL, *known = PyDict_GetItemWithError(slot_of(leader, LEADER, LEADER_OVERLAY), at);
    if (known != NULL)
        stored = committed_value(leader, known);
    else if (!PyErr_Occurred())
        stored = stored_at(slot_of(service, SERVICE, SERVICE_ENGINE), at);
    if (stored == NULL) {
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception))
            return FAILED;
        PyErr_Clear(); /* if the engine failed, the long way meets that again and words it */
        return DECLINED;
    }
    Outcome outcome = reply_with(replies, stored);
    Py_DECREF(stored);
    return outcome;
}

/* --- writing ------------------------------------------------------------------------------------------ */

/* `encode_operation` of a PUT of a value that does not expire, and of the request that asks for it, if it has
 * an id. */
typedef struct {
    Slice key, stored, reply;
    const Identity *identity;
    uint64_t session;
} Put;

static size_t
encoded_size(const Put *put)
{
    return OPERATION_HEAD_BYTES + (put->identity == NULL ? 0 : IDENTITY_BYTES) + put->key.size + put->stored.size
           + put->reply.size;
}

static char *
put_slice(char *to, const Slice *slice)
{
    memcpy(to, slice->at, slice->size);
    return to + slice->size;
}

static void
encode(const Put *put, char *to)
{
    to[0] = PUT;
    to[1] = put->identity != NULL;
    put_number(to + 2, put->key.size, 2);
    put_number(to + 4, put->stored.size, 4);
    put_number(to + 8, 0, 8);
    to += OPERATION_HEAD_BYTES;
    if (put->identity != NULL) {
        put_number(to, put->session, 8);
        put_number(to + 8, put->identity->sequence, 8);
        put_number(to + 16, put->identity->watermark, 8);
        put_number(to + 24, put->reply.size, 4);
        to += IDENTITY_BYTES;
    }
    put_slice(put_slice(put_slice(to, &put->key), &put->stored), &put->reply);
}

static Slice
slice_of(PyObject *bytes)
{
    return (Slice){(const uint8_t *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes)};
}

/* 0, or -1 with an exception. */
static int
describe(Put *put, PyObject *key, PyObject *stored, const Identity *identity)
{
    *put = (Put){.key = slice_of(key), .stored = slice_of(stored), .identity = identity};
    if (identity == NULL)
        return 0;
    put->reply = slice_of(ok_reply);
    put->session = PyLong_AsUnsignedLongLong(identity->session);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *
put_operation(PyObject *key, PyObject *stored)
{
    PyObject *const items[] = {PyLong_FromLong(PUT), Py_NewRef(key), Py_NewRef(stored), PyLong_FromLong(0)};
    return tuple_of(bound[OPERATION].type, 4, items);
}

/* `Leader.propose` of one PUT, but for what is remembered of requests with an id. */
static int
propose(PyObject *leader, PyObject *key, PyObject *stored, PyObject *offset, const Put *put)
{
    PyObject *operation = put_operation(key, stored);
    if (operation == NULL)
        return -1;
    PyObject *const items[] = {Py_NewRef(operation), Py_NewRef(offset)};
    PyObject *newest = tuple_of(&PyTuple_Type, 2, items);
    int result = newest == NULL ? -1 : PyDict_SetItem(slot_of(leader, LEADER, LEADER_OVERLAY), key, newest);
    Py_XDECREF(newest);
    if (result == 0)
        result = PyList_Append(slot_of(leader, LEADER, LEADER_OPERATIONS), operation);
    Py_DECREF(operation);
    char *to = result < 0 ? NULL : bytearray_room(slot_of(leader, LEADER, LEADER_PROPOSAL), encoded_size(put));
    if (to == NULL)
        return -1;
    encode(put, to);
    return 0;
}

static int
takes_writes(PyObject *service, PyObject *leader)
{
    return is_true_at(leader, LEADER, LEADER_HAS_ENOUGH)
           && number_at(leader, LEADER, LEADER_UNCOMMITTED_BYTES) <= UNCOMMITTED_BYTES_MAX
           && slot_of(service, SERVICE, SERVICE_REFUSAL) == Py_None;
}

/* Whether the key of a data key belongs to a keyspace that asks for anything special; -1 and an exception. */
static int
has_policy(PyObject *service, PyObject *at)
{
    PyObject *policies = slot_of(service, SERVICE, SERVICE_POLICIES);
    if (PyDict_GET_SIZE(policies) == 0)
        return 0;
    const char *key = PyBytes_AS_STRING(at) + DATA_PREFIX_BYTES;
    const char *slash = memchr(key, '/', (size_t)(PyBytes_GET_SIZE(at) - DATA_PREFIX_BYTES));
    if (slash == NULL)
        return 0;
    PyObject *name = PyBytes_FromStringAndSize(key, slash - key);
    int found = name == NULL ? -1 : PyDict_Contains(policies, name);
    Py_XDECREF(name);
    return found;
}

/* Adds a SET to the entry being built; `offset`, a new reference, is where that entry will stand. */
Outcome
propose_plain(PyObject *service, PyObject *leader, PyObject *at, const Slice *value, const Identity *identity,
              PyObject **offset)
{
    if (names() < 0)
        return FAILED;
    if (!takes_writes(service, leader))
        return DECLINED;
    int is_special = has_policy(service, at);
    if (is_special != 0)
        return is_special < 0 ? FAILED : DECLINED;
    if (value->size > ENTRY_BYTES_MAX)
        return DECLINED;
    PyObject *stored = PyBytes_FromStringAndSize(NULL, 1 + (Py_ssize_t)value->size);
    if (stored == NULL)
        return FAILED;
    PyBytes_AS_STRING(stored)[0] = 0; /* PLAIN, storage/values.py */
    memcpy(PyBytes_AS_STRING(stored) + 1, value->at, value->size);
    Put put;
    Outcome outcome = describe(&put, at, stored, identity) < 0 ? FAILED : DONE;
    size_t before = (size_t)PyByteArray_GET_SIZE(slot_of(leader, LEADER, LEADER_PROPOSAL));
    if (outcome == DONE && before + encoded_size(&put) > ENTRY_BYTES_MAX)
        outcome = DECLINED;
    *offset = Py_NewRef(slot_of(leader, LEADER, LEADER_NEXT_OFFSET));
    if (outcome == DONE && propose(leader, at, stored, *offset, &put) < 0)
        outcome = FAILED;
    Py_DECREF(stored);
    if (outcome != DONE)
        Py_CLEAR(*offset);
    return outcome;
}

/* `Leader.wait`, and what the node notes beside it. */
int
await_commit(PyObject *service, PyObject *hosted, PyObject *leader, PyObject *offset, PyObject *slot)
{
    PyObject *const items[] = {Py_NewRef(offset), Py_NewRef(slot), Py_NewRef(ok_reply)};
    PyObject *waiter = tuple_of(&PyTuple_Type, 3, items);
    if (waiter == NULL)
        return -1;
    int result = queue_add(slot_of(leader, LEADER, LEADER_WAITING), waiter);
    Py_DECREF(waiter);
    if (result < 0)
        return -1;
    if (PyList_GET_SIZE(slot_of(leader, LEADER, LEADER_OPERATIONS)) > 1)
        return 0; /* the first of the entry has seen to it */
    PyObject *const moment[] = {PyFloat_FromDouble(steady_s()), Py_NewRef(offset)};
    PyObject *proposed = tuple_of(bound[PROPOSED].type, 2, moment);
    result = proposed == NULL ? -1 : queue_add(slot_of(hosted, HOSTED, HOSTED_PROPOSED), proposed);
    Py_XDECREF(proposed);
    if (result < 0)
        return -1;
    return PyDict_SetItem(slot_of(service, SERVICE, SERVICE_TOUCHED), hosted, Py_None);
}
