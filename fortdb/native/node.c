/* The short way of a node: `GET key` and `SET key value` of its clients, from the socket to the answer.
 *
 * What `NodeService.submit` and the handlers of node/execute.py do, for when nothing stands against it:
 * the partition is led here, its leases hold, nobody is held before, no effect on the key is under way
 * (GET), enough replicas are in sync and nothing refuses writes (SET), and a value does not expire. */
#include "lane.h"
#include <errno.h>
#include <sys/socket.h>

#define TAIL_BYTES_MAX (64 * 1024) /* an unfinished request that is longer goes the long way */
#define TOKEN_BYTES 8
#define DATA_PREFIX_BYTES 9        /* 0x01 | token, storage/keys.py */
#define OPERATION_BYTES 16         /* kind, identified, key and value lengths, expiry: entries.py */

typedef struct {
    PyObject *connection, *service;
    int64_t now_ms;
    char *replies; /* of reads that wait for nothing, to be written as one piece */
    size_t replies_size, replies_room;
    Py_ssize_t pending; /* slots of the connection */
} Turn;

typedef enum { DONE, DECLINED, FAILED } Outcome;

static PyObject *name_append, *name_began, *name_take, *name_get, *name_table, *name_frozen, *ok_reply;

static int
names(void)
{
    if (ok_reply != NULL)
        return 0;
    name_append = PyUnicode_InternFromString("append");
    name_began = PyUnicode_InternFromString("began");
    name_take = PyUnicode_InternFromString("take");
    name_get = PyUnicode_InternFromString("get");
    name_table = PyUnicode_InternFromString("table");
    name_frozen = PyUnicode_InternFromString("frozen");
    ok_reply = PyBytes_FromString("+OK\r\n");
    return PyErr_Occurred() ? -1 : 0;
}

/* --- from a key to the replica that leads it ------------------------------------------------------ */

/* The hosted replica (borrowed) of the partition that serves a token, NULL if there is none here. */
static PyObject *
hosted_at(PyObject *service, const uint8_t token[TOKEN_BYTES])
{
    PyObject *tokens = slot_of(service, SERVICE, SERVICE_TOKENS);
    if (!is_a(tokens, TOKENS))
        return NULL;
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
    PyObject *id = PyTuple_GET_ITEM(ids, low == 0 ? count - 1 : low - 1);
    PyObject *hosted = PyDict_GetItemWithError(slot_of(service, SERVICE, SERVICE_HOSTED), id);
    return is_a(hosted, HOSTED) ? hosted : NULL;
}

/* The leader's side (borrowed) if requests may be executed now and in order, else NULL. */
static PyObject *
ready_leader(PyObject *hosted, int64_t now_ms)
{
    PyObject *leader = slot_of(slot_of(hosted, HOSTED, HOSTED_REPLICA), REPLICA, REPLICA_LEADING);
    if (!is_a(leader, LEADER) || number_at(hosted, HOSTED, HOSTED_SERVE_UNTIL_MS) <= now_ms)
        return NULL;
    return PyObject_Size(slot_of(hosted, HOSTED, HOSTED_HELD)) == 0 ? leader : NULL;
}

static PyObject *
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

static int
room_for(Turn *turn, size_t size)
{
    if (turn->replies_room - turn->replies_size >= size)
        return 0;
    size_t room = 2 * turn->replies_room + size + 4096;
    char *larger = PyMem_Realloc(turn->replies, room);
    if (larger == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    turn->replies = larger;
    turn->replies_room = room;
    return 0;
}

static Outcome
reply_with(Turn *turn, PyObject *stored)
{
    if (stored == Py_None) {
        if (room_for(turn, 5) < 0)
            return FAILED;
        memcpy(turn->replies + turn->replies_size, "$-1\r\n", 5);
        turn->replies_size += 5;
        return DONE;
    }
    if (!PyBytes_CheckExact(stored) || PyBytes_GET_SIZE(stored) < 1 || PyBytes_AS_STRING(stored)[0] != 0)
        return DECLINED;
    size_t size = (size_t)PyBytes_GET_SIZE(stored) - 1;
    if (room_for(turn, size + 32) < 0)
        return FAILED;
    char *to = turn->replies + turn->replies_size;
    int head = snprintf(to, 28, "$%zu\r\n", size);
    memcpy(to + head, PyBytes_AS_STRING(stored) + 1, size);
    memcpy(to + head + size, "\r\n", 2);
    turn->replies_size += (size_t)head + size + 2;
    return DONE;
}

/* The answer made last has to wait for those before it: give it a slot. */
static Outcome
hold_reply(Turn *turn, size_t before)
{
    PyObject *connection = turn->connection;
    Py_ssize_t size = (Py_ssize_t)(turn->replies_size - before);
    PyObject *reply = PyBytes_FromStringAndSize(turn->replies + before, size);
    PyObject *slot = reply == NULL ? NULL : new_slot(connection);
    turn->replies_size = before;
    if (slot == NULL) {
        Py_XDECREF(reply);
        return FAILED;
    }
    set_slot(slot, SLOT, SLOT_REPLY, reply);
    Py_DECREF(slot);
    turn->pending++;
    int64_t held = number_at(connection, CLIENT, CLIENT_HELD_BYTES) + size;
    return set_number(connection, CLIENT, CLIENT_HELD_BYTES, held) < 0 ? FAILED : DONE;
}

static Outcome
get(Turn *turn, const Slice *key)
{
    uint8_t token[TOKEN_BYTES];
    token_bytes(key->at, key->size, token);
    PyObject *hosted = hosted_at(turn->service, token);
    PyObject *leader = hosted == NULL ? NULL : ready_leader(hosted, turn->now_ms);
    if (leader == NULL)
        return PyErr_Occurred() ? FAILED : DECLINED;
    PyObject *at = data_key(token, key);
    if (at == NULL)
        return FAILED;
    Outcome outcome = DECLINED;
    PyObject *stored = NULL, *known = PyDict_GetItemWithError(slot_of(leader, LEADER, LEADER_OVERLAY), at);
    if (known != NULL)
        stored = committed_value(leader, known);
    else if (!PyErr_Occurred())
        stored = stored_at(slot_of(turn->service, SERVICE, SERVICE_ENGINE), at);
    if (stored != NULL) {
        size_t before = turn->replies_size;
        outcome = reply_with(turn, stored);
        if (outcome == DONE && turn->pending > 0)
            outcome = hold_reply(turn, before);
    }
    else if (PyErr_Occurred())
        PyErr_Clear(); /* the engine failed: the long way meets that again and words it */
    Py_XDECREF(stored);
    Py_DECREF(at);
    return outcome;
}

/* --- writing ------------------------------------------------------------------------------------------ */

static void
put_number(char *to, uint64_t number, int bytes)
{
    for (int at = 0; at < bytes; at++)
        to[at] = (char)(number >> 8 * at);
}

/* `encode_operation` of a PUT of a value that does not expire, caused by nobody with a request id. */
static PyObject *
encoded_put(PyObject *key, PyObject *stored)
{
    Py_ssize_t key_size = PyBytes_GET_SIZE(key), size = PyBytes_GET_SIZE(stored);
    PyObject *made = PyBytes_FromStringAndSize(NULL, OPERATION_BYTES + key_size + size);
    if (made != NULL) {
        char *to = PyBytes_AS_STRING(made);
        to[0] = PUT;
        to[1] = 0;
        put_number(to + 2, (uint64_t)key_size, 2);
        put_number(to + 4, (uint64_t)size, 4);
        put_number(to + 8, 0, 8);
        memcpy(to + OPERATION_BYTES, PyBytes_AS_STRING(key), (size_t)key_size);
        memcpy(to + OPERATION_BYTES + key_size, PyBytes_AS_STRING(stored), (size_t)size);
    }
    return made;
}

static PyObject *
put_operation(PyObject *key, PyObject *stored)
{
    PyObject *const items[] = {PyLong_FromLong(PUT), Py_NewRef(key), Py_NewRef(stored), PyLong_FromLong(0)};
    return tuple_of(bound[OPERATION].type, 4, items);
}

static int
append_and_release(PyObject *list, PyObject *item)
{
    int result = item == NULL ? -1 : PyList_Append(list, item);
    Py_XDECREF(item);
    return result;
}

/* `Leader.propose` of one PUT. */
static int
propose(PyObject *leader, PyObject *key, PyObject *stored, PyObject *offset, int64_t size)
{
    PyObject *operation = put_operation(key, stored);
    if (operation == NULL)
        return -1;
    PyObject *const items[] = {Py_NewRef(operation), Py_NewRef(offset)};
    PyObject *newest = tuple_of(&PyTuple_Type, 2, items);
    int result = newest == NULL ? -1 : PyDict_SetItem(slot_of(leader, LEADER, LEADER_OVERLAY), key, newest);
    Py_XDECREF(newest);
    if (result == 0)
        result = append_and_release(slot_of(leader, LEADER, LEADER_PROPOSAL), encoded_put(key, stored));
    if (result == 0)
        result = PyList_Append(slot_of(leader, LEADER, LEADER_OPERATIONS), operation);
    Py_DECREF(operation);
    if (result == 0)
        result = set_number(leader, LEADER, LEADER_PROPOSAL_BYTES, size);
    return result;
}

/* `Leader.wait`, and what the node notes beside it. */
static int
await(Turn *turn, PyObject *hosted, PyObject *leader, PyObject *offset)
{
    PyObject *slot = new_slot(turn->connection);
    if (slot == NULL)
        return -1;
    turn->pending++;
    PyObject *const items[] = {Py_NewRef(offset), slot, Py_NewRef(ok_reply)};
    PyObject *waiter = tuple_of(bound[WAITER].type, 3, items);
    if (waiter == NULL)
        return -1;
    PyObject *done = PyObject_CallMethodOneArg(slot_of(leader, LEADER, LEADER_WAITING), name_append, waiter);
    Py_DECREF(waiter);
    Py_XDECREF(done);
    if (done == NULL)
        return -1;
    if (PyList_GET_SIZE(slot_of(leader, LEADER, LEADER_PROPOSAL)) > 1)
        return 0; /* the first of the entry has seen to it */
    done = PyObject_CallMethodOneArg(hosted, name_began, offset);
    Py_XDECREF(done);
    if (done == NULL)
        return -1;
    return PyDict_SetItem(slot_of(turn->service, SERVICE, SERVICE_TOUCHED), hosted, Py_None);
}

static int
takes_writes(PyObject *service, PyObject *leader)
{
    return is_true_at(leader, LEADER, LEADER_HAS_ENOUGH)
           && number_at(leader, LEADER, LEADER_UNCOMMITTED_BYTES) <= UNCOMMITTED_BYTES_MAX
           && slot_of(service, SERVICE, SERVICE_REFUSAL) == Py_None
           && PySet_GET_SIZE(slot_of(service, SERVICE, SERVICE_ASYNC_PREFIXES)) == 0;
}

static Outcome
set(Turn *turn, const Slice *key, const Slice *value)
{
    uint8_t token[TOKEN_BYTES];
    token_bytes(key->at, key->size, token);
    PyObject *hosted = hosted_at(turn->service, token);
    PyObject *leader = hosted == NULL ? NULL : ready_leader(hosted, turn->now_ms);
    if (leader == NULL || !takes_writes(turn->service, leader))
        return PyErr_Occurred() ? FAILED : DECLINED;
    int64_t size = number_at(leader, LEADER, LEADER_PROPOSAL_BYTES);
    size += DATA_PREFIX_BYTES + (int64_t)key->size + 1 + (int64_t)value->size;
    if (size > ENTRY_BYTES_MAX)
        return DECLINED;
    PyObject *at = data_key(token, key);
    PyObject *stored = PyBytes_FromStringAndSize(NULL, 1 + (Py_ssize_t)value->size);
    PyObject *offset = Py_NewRef(slot_of(leader, LEADER, LEADER_NEXT_OFFSET));
    Outcome outcome = FAILED;
    if (at != NULL && stored != NULL) {
        PyBytes_AS_STRING(stored)[0] = 0; /* PLAIN, storage/values.py */
        memcpy(PyBytes_AS_STRING(stored) + 1, value->at, value->size);
        if (propose(leader, at, stored, offset, size) == 0 && await(turn, hosted, leader, offset) == 0)
            outcome = DONE;
    }
    Py_XDECREF(at);
    Py_XDECREF(stored);
    Py_DECREF(offset);
    return outcome;
}

/* --- a connection's turn -------------------------------------------------------------------------------- */

static int
is_full(Turn *turn)
{
    PyObject *connection = turn->connection;
    int64_t output = number_at(connection, STREAM, STREAM_QUEUED_BYTES)
                     + number_at(connection, CLIENT, CLIENT_HELD_BYTES) + (int64_t)turn->replies_size;
    if (output > OUTPUT_SOFT_BYTES)
        return 1;
    return turn->pending > 0
           && (turn->pending >= number_at(connection, CLIENT, CLIENT_WINDOW)
               || number_at(connection, CLIENT, CLIENT_TAKEN_BYTES) > INPUT_SOFT_BYTES);
}

static int
write_replies(Turn *turn)
{
    if (turn->replies_size == 0)
        return 0;
    PyObject *data = PyBytes_FromStringAndSize(turn->replies, (Py_ssize_t)turn->replies_size);
    turn->replies_size = 0;
    int result = data == NULL ? -1 : stream_write(turn->connection, data);
    Py_XDECREF(data);
    return result;
}

/* Executes requests from the buffer's beginning; what is left is handed on, or kept if it is unfinished. */
static int
work(Turn *turn, const uint8_t *at, const uint8_t *end, long counts[2])
{
    Slice key, value;
    size_t used;
    while (at < end) {
        if (is_full(turn))
            break;
        Kind kind = read_request(at, end, &key, &value, &used);
        if (kind == UNFINISHED && end - at <= TAIL_BYTES_MAX) {
            PyObject *tail = PyBytes_FromStringAndSize((const char *)at, end - at);
            if (tail == NULL)
                return -1;
            set_slot(turn->connection, CLIENT, CLIENT_TAIL, tail);
            return write_replies(turn);
        }
        if (kind == UNFINISHED || kind == SPECIAL || key.size > KEY_BYTES_MAX)
            break;
        Outcome outcome = kind == PLAIN_GET ? get(turn, &key) : set(turn, &key, &value);
        if (outcome == FAILED)
            return -1;
        if (outcome == DECLINED)
            break;
        counts[kind == PLAIN_SET]++;
        at += used;
    }
    if (write_replies(turn) < 0)
        return -1;
    if (at == end)
        return 0;
    PyObject *rest = PyBytes_FromStringAndSize((const char *)at, end - at);
    if (rest == NULL)
        return -1;
    PyObject *done = PyObject_CallMethodOneArg(turn->connection, name_take, rest);
    Py_DECREF(rest);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Reads behind what is left of the read before. The number of bytes in the buffer; 0: nothing came; -1: the
 * long way has to look. */
static ssize_t
receive(PyObject *connection, uint8_t *buffer)
{
    int descriptor = (int)number_at(connection, STREAM, STREAM_DESCRIPTOR);
    PyObject *tail = slot_of(connection, CLIENT, CLIENT_TAIL);
    size_t kept = (size_t)PyBytes_GET_SIZE(tail);
    ssize_t received = recv(descriptor, buffer + kept, RECEIVE_BYTES, MSG_DONTWAIT);
    if (received <= 0)
        return received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : -1;
    if (kept > 0) {
        memcpy(buffer, PyBytes_AS_STRING(tail), kept);
        set_slot(connection, CLIENT, CLIENT_TAIL, PyBytes_FromStringAndSize("", 0));
    }
    return received + (ssize_t)kept;
}

/* receive(connection, service, counts) -> whether the connection was looked after. `counts` is a list of two
 * numbers: the GETs and the SETs that went the short way. */
PyObject *
lane_receive(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {LOOP,   OUTBOX,  STREAM, CLIENT, SLOT,      TOKENS, SERVICE,
                                   HOSTED, REPLICA, LEADER, LOG,    OPERATION, WAITER};
    static __thread uint8_t *buffer;
    if (count != 3 || names() < 0 || !all_bound(needed, 13))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "receive(connection, service, counts)");
    PyObject *connection = args[0], *service = args[1];
    if (!is_a(connection, CLIENT) || !is_a(service, SERVICE) || !PyList_CheckExact(args[2]))
        return PyErr_Format(PyExc_TypeError, "receive(connection, service, counts)");
    if (buffer == NULL && (buffer = PyMem_RawMalloc(RECEIVE_BYTES + TAIL_BYTES_MAX)) == NULL)
        return PyErr_NoMemory();
    if (is_true_at(connection, STREAM, STREAM_IS_PAUSED) || is_true_at(connection, CLIENT, CLIENT_IS_SPECIAL))
        Py_RETURN_FALSE;
    ssize_t size = receive(connection, buffer);
    if (size < 0)
        Py_RETURN_FALSE;
    if (size == 0)
        Py_RETURN_TRUE;
    Turn turn = {.connection = connection, .service = service, .now_ms = steady_ms()};
    turn.pending = PyObject_Size(slot_of(connection, CLIENT, CLIENT_SLOTS));
    int64_t taken = turn.pending > 0 ? number_at(connection, CLIENT, CLIENT_TAKEN_BYTES) : 0;
    PyObject *now = PyLong_FromLongLong(turn.now_ms); /* what arrived, arrived before: rule 14 */
    if (now == NULL || set_number(connection, CLIENT, CLIENT_TAKEN_BYTES, taken + size) < 0) {
        Py_XDECREF(now);
        return NULL;
    }
    set_slot(slot_of(service, SERVICE, SERVICE_LOOP), LOOP, LOOP_NOW_MS, Py_NewRef(now));
    set_slot(connection, CLIENT, CLIENT_LAST_ACTIVE_MS, now);
    long counts[2] = {0, 0};
    int result = work(&turn, buffer, buffer + size, counts);
    PyMem_Free(turn.replies);
    for (int at = 0; result == 0 && at < 2; at++) {
        if (counts[at] > 0) {
            long long total = PyLong_AsLongLong(PyList_GET_ITEM(args[2], at)) + counts[at];
            PyObject *number = PyLong_FromLongLong(total);
            result = number == NULL ? -1 : PyList_SetItem(args[2], at, number);
        }
    }
    if (result < 0)
        return NULL;
    Py_RETURN_TRUE;
}
