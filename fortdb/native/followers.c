/* The short way of replication, the follower's side: entries from a leader into the log.
 *
 * As `Links._heard_leader` with `Replica.heard_append`, for a follower that is aligned with this very leader in
 * this epoch, and entries that are whole and follow its log. An APPEND is looked at wholly before anything is
 * changed: whatever is not as it should be is declined, and Python finds it again and says what it is. */
#include "lane.h"

/* --- entries -------------------------------------------------------------------------------------- */

/* The operation at `*at`, and what it says of its request (NULL if nothing) as (RequestId, reply). */
static PyObject *
decode_operation(const uint8_t **at, const uint8_t *end, PyObject **identified)
{
    const uint8_t *head = *at, *identity = head + OPERATION_HEAD_BYTES;
    *identified = NULL;
    if (end - head < OPERATION_HEAD_BYTES)
        return NULL;
    size_t key_size = number_from(head + 2, 2), size = number_from(head + 4, 4), reply_size = 0;
    const uint8_t *key = identity;
    if (head[1] != 0) {
        if (end - identity < IDENTITY_BYTES)
            return NULL;
        reply_size = number_from(identity + 24, 4);
        key += IDENTITY_BYTES;
    }
    if ((size_t)(end - key) < key_size + size + reply_size)
        return NULL;
    const uint8_t *value = key + key_size, *reply = value + size;
    *at = reply + reply_size;
    if (head[1] != 0) {
        PyObject *const numbers[] = {PyLong_FromUnsignedLongLong(number_from(identity, 8)),
                                     PyLong_FromUnsignedLongLong(number_from(identity + 8, 8)),
                                     PyLong_FromUnsignedLongLong(number_from(identity + 16, 8))};
        PyObject *const pair[] = {tuple_of(bound[REQUEST_ID].type, 3, numbers),
                                  PyBytes_FromStringAndSize((const char *)reply, (Py_ssize_t)reply_size)};
        *identified = tuple_of(&PyTuple_Type, 2, pair);
        if (*identified == NULL)
            return NULL;
    }
    PyObject *const items[] = {PyLong_FromLong(head[0]),
                               PyBytes_FromStringAndSize((const char *)key, (Py_ssize_t)key_size),
                               PyBytes_FromStringAndSize((const char *)value, (Py_ssize_t)size),
                               PyLong_FromUnsignedLongLong(number_from(head + 8, 8))};
    PyObject *operation = tuple_of(bound[OPERATION].type, 4, items);
    if (operation == NULL)
        Py_CLEAR(*identified);
    return operation;
}

/* The operations of a whole entry as a list, its requests added to `requests` with `offset`; NULL if it is not
 * what its leader made, or with an exception. */
static PyObject *
decode_operations(const Slice *entry, PyObject *offset, PyObject *requests)
{
    const uint8_t *at = entry->at + ENTRY_HEAD_BYTES, *end = entry->at + entry->size;
    PyObject *operations = PyList_New(0);
    while (operations != NULL && at < end) {
        PyObject *identified, *operation = decode_operation(&at, end, &identified);
        int result = operation == NULL ? -1 : append_and_release(operations, operation);
        if (result == 0 && identified != NULL) {
            PyObject *const items[] = {Py_NewRef(PyTuple_GET_ITEM(identified, 0)), Py_NewRef(offset),
                                       Py_NewRef(PyTuple_GET_ITEM(identified, 1))};
            result = append_and_release(requests, tuple_of(&PyTuple_Type, 3, items));
        }
        Py_XDECREF(identified);
        if (result < 0)
            Py_CLEAR(operations);
    }
    return operations;
}

/* --- APPEND ------------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t partition, epoch, previous_offset, previous_epoch, commit, count;
    PyObject *hosted, *replica, *log, *sender; /* borrowed */
    int64_t offset, last_epoch, time_ms;       /* of the newest entry that was looked at */
    PyObject *epochs;                          /* of the log with these entries; ours */
    PyObject *entries;                         /* of Pending, to be added; ours */
    PyObject *requests;                        /* of (RequestId, offset, reply); ours */
} Append;

/* Whether the replica follows this very leader, and its log ends where the entries begin. */
static int
follows(FrameTurn *turn, Append *append)
{
    PyObject *hosted = hosted_of_number(turn->service, append->partition);
    PyObject *other = slot_of(turn->stream, FRAMES, FRAMES_OTHER);
    if (hosted == NULL || !is_a(other, GREETING))
        return 0;
    PyObject *replica = slot_of(hosted, HOSTED, HOSTED_REPLICA), *log = slot_of(replica, REPLICA, REPLICA_LOG);
    append->hosted = hosted, append->replica = replica, append->log = log;
    append->sender = slot_of(other, GREETING, GREETING_NAME);
    if ((uint64_t)number_at(replica, REPLICA, REPLICA_EPOCH) != append->epoch
        || slot_of(replica, REPLICA, REPLICA_LEADING) != Py_None || !is_true_at(replica, REPLICA, REPLICA_ALIGNED)
        || PyObject_RichCompareBool(slot_of(replica, REPLICA, REPLICA_LEADER_NAME), append->sender, Py_EQ) != 1)
        return 0;
    PyObject *shape = slot_of(log, LOG, LOG_SHAPE); /* base offset, base epoch, epochs, last offset */
    PyObject *epochs = PyTuple_GET_ITEM(shape, SHAPE_EPOCHS);
    Py_ssize_t count = PyTuple_GET_SIZE(epochs);
    PyObject *last = count > 0 ? PyTuple_GET_ITEM(PyTuple_GET_ITEM(epochs, count - 1), 0)
                               : PyTuple_GET_ITEM(shape, SHAPE_BASE_EPOCH);
    append->epochs = Py_NewRef(epochs);
    append->last_epoch = PyLong_AsLongLong(last);
    append->offset = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, SHAPE_LAST_OFFSET));
    return (uint64_t)append->offset == append->previous_offset
           && (uint64_t)append->last_epoch == append->previous_epoch;
}

/* An epoch that begins with the entry at `append->offset`. */
static int
begin_epoch(Append *append)
{
    PyObject *const pair[] = {PyLong_FromLongLong(append->last_epoch), PyLong_FromLongLong(append->offset)};
    PyObject *const items[] = {tuple_of(&PyTuple_Type, 2, pair)};
    PyObject *single = tuple_of(&PyTuple_Type, 1, items);
    PyObject *longer = single == NULL ? NULL : PySequence_Concat(append->epochs, single);
    Py_XDECREF(single);
    if (longer == NULL)
        return -1;
    Py_SETREF(append->epochs, longer);
    return 0;
}

/* Looks at one entry and makes what the log will hold of it. */
static Outcome
look_at(Append *append, const Slice *entry)
{
    if (entry->size < ENTRY_HEAD_BYTES || number_from(entry->at, 4) != crc32_of(entry->at + 4, entry->size - 4))
        return DECLINED;
    int64_t epoch = (int64_t)number_from(entry->at + 4, 8);
    append->time_ms = (int64_t)number_from(entry->at + 20, 8);
    append->offset++;
    if (number_from(entry->at + 12, 8) != (uint64_t)append->offset || epoch < append->last_epoch)
        return DECLINED;
    int is_new = epoch > append->last_epoch || PyTuple_GET_SIZE(append->epochs) == 0;
    append->last_epoch = epoch;
    if (is_new && begin_epoch(append) < 0)
        return FAILED;
    PyObject *offset = PyLong_FromLongLong(append->offset);
    PyObject *operations = offset == NULL ? NULL : decode_operations(entry, offset, append->requests);
    if (operations == NULL) {
        Py_XDECREF(offset);
        return PyErr_Occurred() ? FAILED : DECLINED;
    }
    PyObject *const items[] = {offset, PyBytes_FromStringAndSize((const char *)entry->at, (Py_ssize_t)entry->size),
                               operations};
    return append_and_release(append->entries, tuple_of(bound[PENDING].type, 3, items)) < 0 ? FAILED : DONE;
}

static Outcome
look_at_all(Append *append, const uint8_t *at, const uint8_t *end)
{
    append->entries = PyList_New(0);
    append->requests = PyList_New(0);
    if (append->entries == NULL || append->requests == NULL)
        return FAILED;
    Outcome outcome = DONE;
    while (outcome == DONE && at < end) {
        if (end - at < 4)
            return DECLINED;
        size_t size = number_from(at, 4);
        if (size > (size_t)(end - at - 4))
            return DECLINED;
        outcome = look_at(append, &(Slice){at + 4, size});
        at += 4 + size;
    }
    return outcome == DONE && (uint64_t)PyList_GET_SIZE(append->entries) != append->count ? DECLINED : outcome;
}

/* `ReplicaLog.append_received` of all entries. */
static int
add_entries(Append *append)
{
    PyObject *log = append->log, *shape = slot_of(log, LOG, LOG_SHAPE);
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(append->entries); at++) {
        PyObject *pending = PyList_GET_ITEM(append->entries, at);
        PyObject *write = PyTuple_GetSlice(pending, 0, 2);
        if (append_and_release(slot_of(log, LOG, LOG_WRITES), write) < 0
            || queue_add(slot_of(log, LOG, LOG_PENDING), pending) < 0)
            return -1;
    }
    PyObject *const items[] = {Py_NewRef(PyTuple_GET_ITEM(shape, SHAPE_BASE_OFFSET)),
                               Py_NewRef(PyTuple_GET_ITEM(shape, SHAPE_BASE_EPOCH)),
                               Py_NewRef(append->epochs), PyLong_FromLongLong(append->offset)};
    PyObject *longer = tuple_of(bound[LOG_SHAPE_TYPE].type, 4, items);
    if (longer == NULL)
        return -1;
    set_slot(log, LOG, LOG_SHAPE, longer);
    if (append->count > 0 && set_number(log, LOG, LOG_TIMESTAMP_MS, append->time_ms) < 0)
        return -1;
    PyObject *memory = slot_of(log, LOG, LOG_MEMORY);
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(append->requests); at++) {
        PyObject *done = PyObject_CallMethod(memory, "remember", "O", PyList_GET_ITEM(append->requests, at));
        Py_XDECREF(done);
        if (done == NULL)
            return -1;
    }
    int64_t commit = (int64_t)append->commit < append->offset ? (int64_t)append->commit : append->offset;
    return commit > number_at(log, LOG, LOG_COMMIT) ? set_number(log, LOG, LOG_COMMIT, commit) : 0;
}

/* One acknowledgement for all appends of a tick, after the sync. */
static int
owe_ack(Append *append)
{
    PyObject *list = slot_of(append->replica, REPLICA, REPLICA_ACKNOWLEDGEMENTS);
    PyObject *const fields[] = {PyLong_FromUnsignedLongLong(append->partition),
                                PyLong_FromUnsignedLongLong(append->epoch), PyLong_FromLongLong(append->offset)};
    PyObject *const items[] = {Py_NewRef(append->sender), tuple_of(bound[ACK].type, 3, fields)};
    PyObject *owed = tuple_of(&PyTuple_Type, 2, items);
    if (owed == NULL)
        return -1;
    Py_ssize_t count = PyList_GET_SIZE(list);
    PyObject *latest = count == 0 ? NULL : PyList_GET_ITEM(list, count - 1);
    if (latest != NULL && Py_TYPE(PyTuple_GET_ITEM(latest, 1)) == bound[ACK].type
        && PyObject_RichCompareBool(PyTuple_GET_ITEM(latest, 0), append->sender, Py_EQ) == 1)
        return PyList_SetItem(list, count - 1, owed);
    return append_and_release(list, owed);
}

Outcome
hear_append(FrameTurn *turn, const Frame *frame)
{
    const uint8_t *at = frame->body;
    if (frame->end - at < APPEND_HEAD_BYTES)
        return DECLINED;
    Append append = {.partition = number_from(at, 2),
                     .epoch = number_from(at + 2, 8),
                     .previous_offset = number_from(at + 10, 8),
                     .previous_epoch = number_from(at + 18, 8),
                     .commit = number_from(at + 26, 8),
                     .count = number_from(at + 34, 4)};
    if (append.epoch > INT64_MAX || append.previous_offset > INT64_MAX || append.commit > INT64_MAX)
        return DECLINED;
    Outcome outcome = follows(turn, &append) ? look_at_all(&append, at + APPEND_HEAD_BYTES, frame->end) : DECLINED;
    if (outcome == DONE) {
        PyObject *leaders = slot_of(slot_of(turn->service, SERVICE, SERVICE_LINKS), LINKS, LINKS_LEADERS);
        if (PyDict_SetItem(leaders, append.sender, turn->stream) < 0 || add_entries(&append) < 0
            || owe_ack(&append) < 0
            || PyDict_SetItem(slot_of(turn->service, SERVICE, SERVICE_TOUCHED), append.hosted, Py_None) < 0)
            outcome = FAILED;
    }
    Py_XDECREF(append.epochs);
    Py_XDECREF(append.entries);
    Py_XDECREF(append.requests);
    return outcome == DECLINED && PyErr_Occurred() ? FAILED : outcome;
}
