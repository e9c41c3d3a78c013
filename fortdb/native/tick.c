/* The tick of a node, for replicas to which nothing happens but reads, writes and their acknowledgements:
 * `NodeService._send_entries`, `_write_replica` and `_go_on` of each, in turn. A replica with anything else in hand
 * (a snapshot, a truncation, a change of role, a follower that lacks more than the newest entry, an expiry) is left
 * to the method of that name as it is. */
#include "lane.h"

#define STATE_HEAD_BYTES 34  /* version, flags, epoch, applied, base: storage/states.py */
#define STATE_VERSION 1
#define PUT_LOG 3            /* a kind of change: storage/batch.py */

static int
is_empty(PyObject *list)
{
    return PyList_GET_SIZE(list) == 0;
}

static PyObject *
leading(PyObject *replica)
{
    PyObject *leader = slot_of(replica, REPLICA, REPLICA_LEADING);
    return is_a(leader, LEADER) ? leader : NULL;
}

/* A step of one replica; `taken` is what `write_replica` returned of it, NULL before. */
typedef Outcome (*Step)(PyObject *service, PyObject *hosted, PyObject *taken, Bundle *bundle);

static int
take_step(PyObject *service, PyObject *hosted, PyObject *taken, Bundle *bundle, Step step, const char *method)
{
    Outcome outcome = is_a(hosted, HOSTED) ? step(service, hosted, taken, bundle) : DECLINED;
    if (outcome == DECLINED)
        return called(PyObject_CallMethod(service, method, taken == NULL ? "(O)" : "(OO)", hosted, taken));
    return outcome == DONE ? 0 : -1;
}

/* Takes a step of all replicas; what is declined is left to the method of the service. */
static PyObject *
take_steps(PyObject *service, PyObject *touched, PyObject *written, Step step, const char *method)
{
    Bundle bundle = {0};
    int result = 0;
    for (Py_ssize_t at = 0; result == 0 && at < PyList_GET_SIZE(touched); at++) {
        PyObject *taken = written == NULL ? NULL : PyTuple_GET_ITEM(PyList_GET_ITEM(written, at), 1);
        result = take_step(service, PyList_GET_ITEM(touched, at), taken, &bundle, step, method);
    }
    if (bundle_end(&bundle, result) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- 1. the entry of this tick, to the followers --------------------------------------------------------- */

/* Whether every follower that is fed from the log lacks nothing but what is sealed now, and none gets a snapshot;
 * -1 with an exception. */
static int
all_are_even(PyObject *leader, int64_t last)
{
    PyObject *name, *progress;
    Py_ssize_t at = 0;
    while (PyDict_Next(slot_of(leader, LEADER, LEADER_PROGRESS), &at, &name, &progress)) {
        int streams = is_in_phase(progress, STREAMING), snapshot = is_in_phase(progress, IN_SNAPSHOT);
        if (streams < 0 || snapshot != 0)
            return snapshot > 0 ? 0 : -1;
        if (streams
            && (number_at(progress, PROGRESS, PROGRESS_NEXT) != last + 1
                || number_at(progress, PROGRESS, PROGRESS_FLIGHT_BYTES) >= FLIGHT_BYTES_MAX))
            return 0;
    }
    return 1;
}

/* Whether the log's newest entry is of the leader's own epoch: that is what the next one is said to follow. */
static int
is_in_own_epoch(PyObject *leader, PyObject *shape)
{
    PyObject *epochs = PyTuple_GET_ITEM(shape, SHAPE_EPOCHS);
    Py_ssize_t count = PyTuple_GET_SIZE(epochs);
    if (count == 0)
        return 0;
    PyObject *newest = PyTuple_GET_ITEM(epochs, count - 1);
    return PyLong_AsLongLong(PyTuple_GET_ITEM(newest, 0)) == number_at(leader, LEADER, LEADER_EPOCH)
           && PyLong_AsLongLong(PyTuple_GET_ITEM(newest, 1))
                  <= PyLong_AsLongLong(PyTuple_GET_ITEM(shape, SHAPE_LAST_OFFSET));
}

/* `encode_entry` of the proposal */
static PyObject *
encoded_entry(PyObject *proposal, int64_t epoch, int64_t offset, int64_t time_ms)
{
    size_t body = (size_t)PyByteArray_GET_SIZE(proposal), size = ENTRY_HEAD_BYTES + body;
    PyObject *entry = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (entry == NULL)
        return NULL;
    char *start = PyBytes_AS_STRING(entry);
    put_number(start + 4, (uint64_t)epoch, 8);
    put_number(start + 12, (uint64_t)offset, 8);
    put_number(start + 20, (uint64_t)time_ms, 8);
    memcpy(start + ENTRY_HEAD_BYTES, PyByteArray_AS_STRING(proposal), body);
    put_number(start, crc32_of((const uint8_t *)start + 4, size - 4), 4);
    return entry;
}

/* `ReplicaLog.append` of an entry in the epoch of the one before it. */
static int
add_to_log(PyObject *log, PyObject *entry, PyObject *operations, int64_t offset)
{
    PyObject *shape = slot_of(log, LOG, LOG_SHAPE), *number = PyLong_FromLongLong(offset);
    if (number == NULL)
        return -1;
    PyObject *const outline[] = {Py_NewRef(PyTuple_GET_ITEM(shape, SHAPE_BASE_OFFSET)),
                                 Py_NewRef(PyTuple_GET_ITEM(shape, SHAPE_BASE_EPOCH)),
                                 Py_NewRef(PyTuple_GET_ITEM(shape, SHAPE_EPOCHS)), Py_NewRef(number)};
    PyObject *const write[] = {Py_NewRef(number), Py_NewRef(entry)};
    PyObject *const items[] = {number, Py_NewRef(entry), Py_NewRef(operations)};
    PyObject *longer = tuple_of(bound[LOG_SHAPE_TYPE].type, 4, outline);
    PyObject *pending = tuple_of(bound[PENDING].type, 3, items);
    int result = append_and_release(slot_of(log, LOG, LOG_WRITES), tuple_of(&PyTuple_Type, 2, write));
    if (result == 0 && longer != NULL && pending != NULL)
        result = queue_add(slot_of(log, LOG, LOG_PENDING), pending);
    Py_XDECREF(pending);
    if (longer == NULL || pending == NULL || result < 0) {
        Py_XDECREF(longer);
        return -1;
    }
    set_slot(log, LOG, LOG_SHAPE, longer);
    return 0;
}

/* `Leader.seal`: the entry that was built, in the log now; a new reference. */
static PyObject *
seal(PyObject *leader, int64_t wall_ms)
{
    PyObject *log = slot_of(leader, LEADER, LEADER_LOG), *operations = slot_of(leader, LEADER, LEADER_OPERATIONS);
    int64_t time_ms = number_at(log, LOG, LOG_TIMESTAMP_MS), offset = last_offset(log) + 1;
    time_ms = wall_ms > time_ms ? wall_ms : time_ms;
    PyObject *entry = encoded_entry(slot_of(leader, LEADER, LEADER_PROPOSAL),
                                    number_at(leader, LEADER, LEADER_EPOCH), offset, time_ms);
    if (entry == NULL)
        return NULL;
    int64_t uncommitted = number_at(leader, LEADER, LEADER_UNCOMMITTED_BYTES) + PyBytes_GET_SIZE(entry);
    PyObject *no_proposal = PyByteArray_FromStringAndSize(NULL, 0), *no_operations = PyList_New(0);
    if (no_proposal == NULL || no_operations == NULL || add_to_log(log, entry, operations, offset) < 0
        || set_number(log, LOG, LOG_TIMESTAMP_MS, time_ms) < 0
        || set_number(leader, LEADER, LEADER_UNCOMMITTED_BYTES, uncommitted) < 0
        || set_number(leader, LEADER, LEADER_NEXT_OFFSET, offset + 1) < 0) {
        Py_XDECREF(no_proposal);
        Py_XDECREF(no_operations);
        Py_DECREF(entry);
        return NULL;
    }
    set_slot(leader, LEADER, LEADER_PROPOSAL, no_proposal);
    set_slot(leader, LEADER, LEADER_OPERATIONS, no_operations);
    return entry;
}

/* The APPEND of one entry that follows one of the same epoch. */
static PyObject *
append_frame(PyObject *replica, PyObject *leader, PyObject *entry, int64_t offset)
{
    size_t size = (size_t)PyBytes_GET_SIZE(entry), body = APPEND_HEAD_BYTES + 4 + size;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(FRAME_HEAD_BYTES + body));
    if (frame == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(frame);
    uint64_t epoch = (uint64_t)number_at(leader, LEADER, LEADER_EPOCH);
    put_number(to, body, 4);
    to[4] = TYPE_APPEND;
    put_number(to + 5, (uint64_t)number_at(replica, REPLICA, REPLICA_PARTITION), 2);
    put_number(to + 7, epoch, 8);
    put_number(to + 15, (uint64_t)offset - 1, 8);
    put_number(to + 23, epoch, 8);
    put_number(to + 31, (uint64_t)number_at(slot_of(leader, LEADER, LEADER_LOG), LOG, LOG_COMMIT), 8);
    put_number(to + 39, 1, 4);
    put_number(to + 43, size, 4);
    memcpy(to + 47, PyBytes_AS_STRING(entry), size);
    return frame;
}

/* `Progress.sent` of one entry */
static int
note_sent(PyObject *progress, int64_t offset, int64_t size)
{
    PyObject *const items[] = {PyLong_FromLongLong(offset), PyLong_FromLongLong(size)};
    PyObject *sent = tuple_of(&PyTuple_Type, 2, items);
    int result = sent == NULL ? -1 : queue_add(slot_of(progress, PROGRESS, PROGRESS_FLIGHT), sent);
    Py_XDECREF(sent);
    size += number_at(progress, PROGRESS, PROGRESS_FLIGHT_BYTES);
    if (result < 0 || set_number(progress, PROGRESS, PROGRESS_FLIGHT_BYTES, size) < 0)
        return -1;
    return set_number(progress, PROGRESS, PROGRESS_NEXT, offset + 1);
}

/* `Leader.pump` and `Links.send_all`: followers get the same bytes; what is dropped where a link is down, its
 * follower is asked about when that is up again. */
static int
feed(PyObject *service, PyObject *leader, PyObject *frame, int64_t offset, int64_t size)
{
    PyObject *followers = slot_of(slot_of(service, SERVICE, SERVICE_LINKS), LINKS, LINKS_FOLLOWERS);
    PyObject *name, *progress;
    Py_ssize_t at = 0;
    while (PyDict_Next(slot_of(leader, LEADER, LEADER_PROGRESS), &at, &name, &progress)) {
        if (is_in_phase(progress, STREAMING) != 1)
            continue;
        PyObject *link = PyDict_GetItemWithError(followers, name);
        if (is_a(link, LINK) && is_true_at(link, LINK, LINK_IS_UP)
            && stream_write(slot_of(link, LINK, LINK_STREAM), frame) < 0)
            return -1;
        if (PyErr_Occurred() || note_sent(progress, offset, size) < 0)
            return -1;
    }
    return 0;
}

static int
seal_and_feed(PyObject *service, PyObject *replica, PyObject *leader)
{
    PyObject *entry = seal(leader, number_at(service, SERVICE, SERVICE_WALL_MS));
    if (entry == NULL)
        return -1;
    int64_t offset = last_offset(slot_of(leader, LEADER, LEADER_LOG));
    int result = 0;
    if (PyDict_GET_SIZE(slot_of(leader, LEADER, LEADER_PROGRESS)) > 0) {
        PyObject *frame = append_frame(replica, leader, entry, offset);
        result = frame == NULL ? -1 : feed(service, leader, frame, offset, PyBytes_GET_SIZE(entry));
        Py_XDECREF(frame);
    }
    Py_DECREF(entry);
    return result;
}

static Outcome
send_entries(PyObject *service, PyObject *hosted, PyObject *none, Bundle *bundle)
{
    PyObject *replica = slot_of(hosted, HOSTED, HOSTED_REPLICA), *leader = leading(replica);
    if (!is_empty(slot_of(replica, REPLICA, REPLICA_REPLIES))
        || !is_empty(slot_of(replica, REPLICA, REPLICA_ABANDONED)))
        return DECLINED;
    if (leader == NULL)
        return DONE;
    PyObject *log = slot_of(leader, LEADER, LEADER_LOG), *shape = slot_of(log, LOG, LOG_SHAPE);
    if (!is_empty(slot_of(leader, LEADER, LEADER_OUTBOX))
        || PyDict_GET_SIZE(slot_of(hosted, HOSTED, HOSTED_SENDERS)) > 0 || !is_in_own_epoch(leader, shape))
        return DECLINED;
    int even = all_are_even(leader, last_offset(log));
    if (even <= 0)
        return even < 0 ? FAILED : DECLINED;
    if (PyByteArray_GET_SIZE(slot_of(leader, LEADER, LEADER_PROPOSAL)) > 0 && seal_and_feed(service, replica, leader) < 0)
        return FAILED;
    return answer(service, hosted, leader, bundle) < 0 ? FAILED : DONE;
}

/* send_entries(service, touched) */
PyObject *
lane_send_entries(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {STREAM, OUTBOX, HOSTED,  REPLICA,  LEADER,  LOG,      LINKS,
                                   LINK,   PHASE,  IN_SYNC, PROGRESS, PENDING, PROPOSED, LOG_SHAPE_TYPE};
    if (!all_bound(needed, 14))
        return NULL;
    if (count != 2 || !is_a(args[0], SERVICE) || !PyList_CheckExact(args[1]))
        return PyErr_Format(PyExc_TypeError, "send_entries(service, touched)");
    return take_steps(args[0], args[1], NULL, send_entries, "_send_entries");
}

/* --- 2. the batch ------------------------------------------------------------------------------------------ */

static int
is_plain_effect(PyObject *operation)
{
    long kind = is_a(operation, OPERATION) ? PyLong_AsLong(PyTuple_GET_ITEM(operation, 0)) : 0;
    return (kind == PUT && PyLong_AsLongLong(PyTuple_GET_ITEM(operation, 3)) == 0) || kind == DELETE;
}

static int
are_plain_effects(PyObject *operations)
{
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(operations); at++)
        if (!is_plain_effect(PyList_GET_ITEM(operations, at)))
            return 0;
    return 1;
}

/* How many of the first entries that wait are committed, all of their effects plain; -1 if one has others. Walked
 * with an iterator: far from its ends a deque finds an index slowly. */
static Py_ssize_t
count_committed(PyObject *pending, int64_t commit)
{
    PyObject *walk = PyObject_GetIter(pending), *entry;
    Py_ssize_t count = 0;
    while (count >= 0 && walk != NULL && (entry = PyIter_Next(walk)) != NULL) {
        int is_committed = PyLong_AsLongLong(PyTuple_GET_ITEM(entry, 0)) <= commit;
        if (is_committed)
            count = are_plain_effects(PyTuple_GET_ITEM(entry, 2)) ? count + 1 : -1;
        Py_DECREF(entry);
        if (!is_committed)
            break;
    }
    Py_XDECREF(walk);
    return PyErr_Occurred() ? -1 : count;
}

/* `_apply` of node/disk.py, of plain effects */
static int
apply(PyObject *batch, PyObject *operations)
{
    PyObject *data = slot_of(batch, BATCH, BATCH_DATA);
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(operations); at++) {
        PyObject *operation = PyList_GET_ITEM(operations, at);
        int is_put = PyLong_AsLong(PyTuple_GET_ITEM(operation, 0)) == PUT;
        PyObject *value = is_put ? PyTuple_GET_ITEM(operation, 2) : Py_None;
        if (PyDict_SetItem(data, PyTuple_GET_ITEM(operation, 1), value) < 0)
            return -1;
        if (!is_put)
            set_flag(batch, BATCH, BATCH_DELETES, 1);
    }
    return 0;
}

/* The first `count` entries that wait, taken and applied. */
static PyObject *
take_committed(PyObject *batch, PyObject *log, Py_ssize_t count)
{
    PyObject *pending = slot_of(log, LOG, LOG_PENDING), *taken = PyList_New(count);
    for (Py_ssize_t at = 0; taken != NULL && at < count; at++) {
        PyObject *entry = Py_NewRef(queue_first(pending));
        PyList_SET_ITEM(taken, at, entry);
        if (queue_pop(pending) < 0 || apply(batch, PyTuple_GET_ITEM(entry, 2)) < 0)
            Py_CLEAR(taken);
    }
    if (taken != NULL && count > 0) {
        PyObject *newest = PyTuple_GET_ITEM(PyList_GET_ITEM(taken, count - 1), 0);
        set_slot(log, LOG, LOG_APPLIED, Py_NewRef(newest));
    }
    return taken;
}

/* A number as keys and states have it. */
static void
put_big(char *to, uint64_t number, int bytes)
{
    for (int at = bytes - 1; at >= 0; at--, number >>= 8)
        to[at] = (char)number;
}

/* `RocksBatch.put_log` of what the log has new; its size in `*bytes`. */
static int
put_entries(PyObject *batch, uint64_t partition, PyObject *writes, int64_t *bytes)
{
    *bytes = 0;
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(writes); at++) {
        PyObject *write = PyList_GET_ITEM(writes, at), *entry = PyTuple_GET_ITEM(write, 1);
        char key[10];
        put_big(key, partition, 2);
        put_big(key + 2, PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(write, 0)), 8);
        PyObject *const items[] = {PyLong_FromLong(PUT_LOG), PyBytes_FromStringAndSize(key, sizeof key),
                                   Py_NewRef(entry)};
        if (append_and_release(slot_of(batch, BATCH, BATCH_OPERATIONS), tuple_of(&PyTuple_Type, 3, items)) < 0)
            return -1;
        *bytes += PyBytes_GET_SIZE(entry);
    }
    return 0;
}

/* `RocksBatch.put_state` of a replica that no snapshot is being installed in. */
static int
put_state(PyObject *batch, uint64_t partition, PyObject *replica, PyObject *log)
{
    PyObject *shape = slot_of(log, LOG, LOG_SHAPE), *epochs = PyTuple_GET_ITEM(shape, SHAPE_EPOCHS);
    Py_ssize_t count = PyTuple_GET_SIZE(epochs);
    char id[2];
    put_big(id, partition, 2);
    PyObject *key = PyBytes_FromStringAndSize(id, sizeof id);
    PyObject *state = PyBytes_FromStringAndSize(NULL, STATE_HEAD_BYTES + 16 * count);
    if (key != NULL && state != NULL) {
        char *to = PyBytes_AS_STRING(state);
        to[0] = STATE_VERSION;
        to[1] = 0;
        put_big(to + 2, (uint64_t)number_at(replica, REPLICA, REPLICA_EPOCH), 8);
        put_big(to + 10, (uint64_t)number_at(log, LOG, LOG_APPLIED), 8);
        put_big(to + 18, PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(shape, SHAPE_BASE_OFFSET)), 8);
        put_big(to + 26, PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(shape, SHAPE_BASE_EPOCH)), 8);
        for (Py_ssize_t at = 0; at < count; at++) {
            PyObject *epoch = PyTuple_GET_ITEM(epochs, at);
            put_big(to + STATE_HEAD_BYTES + 16 * at, PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(epoch, 0)), 8);
            put_big(to + STATE_HEAD_BYTES + 16 * at + 8, PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(epoch, 1)), 8);
        }
    }
    int result = key == NULL || state == NULL || PyErr_Occurred()
                     ? -1
                     : PyDict_SetItem(slot_of(batch, BATCH, BATCH_STATES), key, state);
    Py_XDECREF(key);
    Py_XDECREF(state);
    return result;
}

/* `Segments.wrote` */
static int
note_written(PyObject *segments, int64_t offset, int64_t bytes)
{
    int64_t size = number_at(segments, SEGMENTS, SEGMENTS_BYTES) + bytes;
    if (size < LOG_SEGMENT_BYTES)
        return set_number(segments, SEGMENTS, SEGMENTS_BYTES, size);
    return called(PyObject_CallMethod(segments, "wrote", "LL", (long long)offset, (long long)bytes));
}

/* (whether that must be on the disk, the entries applied), NULL with an exception or when it is declined. */
static PyObject *
write_replica(PyObject *batch, PyObject *hosted)
{
    PyObject *replica = slot_of(hosted, HOSTED, HOSTED_REPLICA), *leader = leading(replica);
    PyObject *log = slot_of(replica, REPLICA, REPLICA_LOG), *writes = slot_of(log, LOG, LOG_WRITES);
    PyObject *segments = slot_of(hosted, HOSTED, HOSTED_SEGMENTS);
    if (slot_of(hosted, HOSTED, HOSTED_INSTALL) != Py_None || is_true_at(replica, REPLICA, REPLICA_INSTALLING)
        || is_true_at(log, LOG, LOG_WIPE) || slot_of(log, LOG, LOG_TRUNCATE) != Py_None
        || slot_of(log, LOG, LOG_TRIMMED) != Py_None || !is_a(segments, SEGMENTS))
        return NULL;
    int64_t commit = leader == NULL ? number_at(log, LOG, LOG_COMMIT) : commit_with(leader, last_offset(log));
    Py_ssize_t count = commit < 0 ? -1 : count_committed(slot_of(log, LOG, LOG_PENDING), commit);
    if (count < 0)
        return NULL;
    uint64_t partition = (uint64_t)number_at(replica, REPLICA, REPLICA_PARTITION);
    int has_entries = !is_empty(writes), changed = has_entries || is_true_at(log, LOG, LOG_STATE_CHANGED);
    int64_t bytes;
    PyObject *taken = take_committed(batch, log, count);
    if (taken == NULL || put_entries(batch, partition, writes, &bytes) < 0
        || (has_entries && note_written(segments, last_offset(log), bytes) < 0)
        || ((changed || count > 0) && put_state(batch, partition, replica, log) < 0)) {
        Py_XDECREF(taken);
        return NULL;
    }
    if (has_entries) {
        PyObject *none = PyList_New(0);
        if (none == NULL) {
            Py_DECREF(taken);
            return NULL;
        }
        set_slot(log, LOG, LOG_WRITES, none);
    }
    set_flag(log, LOG, LOG_STATE_CHANGED, 0);
    PyObject *const items[] = {PyBool_FromLong(changed), taken};
    return tuple_of(&PyTuple_Type, 2, items);
}

/* write_replicas(service, batch, touched) -> of each, whether it must be on the disk, and the entries applied. */
PyObject *
lane_write_replicas(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {HOSTED, REPLICA, LEADER, LOG, IN_SYNC, PROGRESS, OPERATION};
    if (!all_bound(needed, 7))
        return NULL;
    if (count != 3 || !is_a(args[0], SERVICE) || !PyList_CheckExact(args[2]))
        return PyErr_Format(PyExc_TypeError, "write_replicas(service, batch, touched)");
    int is_known = is_a(args[1], BATCH);
    PyObject *written = PyList_New(0);
    for (Py_ssize_t at = 0; written != NULL && at < PyList_GET_SIZE(args[2]); at++) {
        PyObject *hosted = PyList_GET_ITEM(args[2], at);
        PyObject *one = is_known && is_a(hosted, HOSTED) ? write_replica(args[1], hosted) : NULL;
        if (one == NULL && !PyErr_Occurred())
            one = PyObject_CallMethod(args[0], "_write_replica", "OO", args[1], hosted);
        if (append_and_release(written, one) < 0)
            Py_CLEAR(written);
    }
    return written;
}

/* --- 3. what was written is on the disk ------------------------------------------------------------------------ */

/* `NodeService._knows_until_when`, and nothing of what `_go_on` looks for besides. (What is committed is in the
 * batch, and the disk having it commits nothing that was not foreseen.) */
static int
goes_on_plainly(PyObject *hosted, PyObject *replica, PyObject *leader)
{
    int64_t serve_until_ms = number_at(hosted, HOSTED, HOSTED_SERVE_UNTIL_MS);
    if (slot_of(hosted, HOSTED, HOSTED_INSTALL) != Py_None || PyObject_Size(slot_of(hosted, HOSTED, HOSTED_HELD)) != 0
        || is_true_at(slot_of(replica, REPLICA, REPLICA_LOG), LOG, LOG_MEMORY_IS_STALE))
        return 0;
    if (leader == NULL)
        return serve_until_ms == 0;
    return serve_until_ms > 0 && slot_of(leader, LEADER, LEADER_TRANSFER_TO) == Py_None
           && slot_of(hosted, HOSTED, HOSTED_MEMBERS) == members_of(leader);
}

/* The effects of the entry at `offset` are in the data now. */
static int
forget(PyObject *overlay, PyObject *operations, int64_t offset)
{
    for (Py_ssize_t number = 0; number < PyList_GET_SIZE(operations); number++) {
        PyObject *key = PyTuple_GET_ITEM(PyList_GET_ITEM(operations, number), 1);
        PyObject *known = PyDict_GetItemWithError(overlay, key);
        if (known != NULL && PyLong_AsLongLong(PyTuple_GET_ITEM(known, 1)) == offset)
            PyDict_DelItem(overlay, key);
        if (PyErr_Occurred())
            return -1;
    }
    return 0;
}

/* `Leader.applied`. If nothing else is under way, no effect is left, and they go together. */
static int
forget_applied(PyObject *leader, PyObject *taken)
{
    PyObject *overlay = slot_of(leader, LEADER, LEADER_OVERLAY), *log = slot_of(leader, LEADER, LEADER_LOG);
    int64_t uncommitted = number_at(leader, LEADER, LEADER_UNCOMMITTED_BYTES);
    int all = is_empty(slot_of(leader, LEADER, LEADER_OPERATIONS))
              && queue_first(slot_of(log, LOG, LOG_PENDING)) == NULL;
    if (PyErr_Occurred())
        return -1;
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(taken); at++) {
        PyObject *entry = PyList_GET_ITEM(taken, at);
        int64_t offset = PyLong_AsLongLong(PyTuple_GET_ITEM(entry, 0));
        uncommitted -= PyBytes_GET_SIZE(PyTuple_GET_ITEM(entry, 1));
        if (!all && forget(overlay, PyTuple_GET_ITEM(entry, 2), offset) < 0)
            return -1;
    }
    if (all)
        PyDict_Clear(overlay);
    return set_number(leader, LEADER, LEADER_UNCOMMITTED_BYTES, uncommitted);
}

/* The ACK (`owed` is the leader's name and the message) to the leader, if it is connected. */
static int
send_ack(PyObject *service, PyObject *owed)
{
    PyObject *leaders = slot_of(slot_of(service, SERVICE, SERVICE_LINKS), LINKS, LINKS_LEADERS);
    PyObject *peer = PyDict_GetItemWithError(leaders, PyTuple_GET_ITEM(owed, 0)), *ack = PyTuple_GET_ITEM(owed, 1);
    if (!is_a(peer, STREAM) || !is_true_at(peer, STREAM, STREAM_IS_OPEN))
        return PyErr_Occurred() ? -1 : 0;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, FRAME_HEAD_BYTES + ACK_BYTES);
    if (frame == NULL)
        return -1;
    char *to = PyBytes_AS_STRING(frame);
    put_number(to, ACK_BYTES, 4);
    to[4] = TYPE_ACK;
    put_number(to + 5, PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(ack, 0)), 2);
    put_number(to + 7, PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(ack, 1)), 8);
    put_number(to + 15, PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(ack, 2)), 8);
    int result = stream_write(peer, frame);
    Py_DECREF(frame);
    return result;
}

/* `NodeService._acknowledge` where no snapshot is being installed. */
static int
acknowledge(PyObject *service, PyObject *replica)
{
    PyObject *owed = slot_of(replica, REPLICA, REPLICA_ACKNOWLEDGEMENTS);
    if (is_empty(owed))
        return 0;
    if (PyList_GET_SIZE(owed) > 1 || Py_TYPE(PyTuple_GET_ITEM(PyList_GET_ITEM(owed, 0), 1)) != bound[ACK].type) {
        return called(PyObject_CallMethod(slot_of(service, SERVICE, SERVICE_LINKS), "answer_all", "(O)", owed));
    }
    if (send_ack(service, PyList_GET_ITEM(owed, 0)) < 0)
        return -1;
    return PyList_SetSlice(owed, 0, 1, NULL);
}

static Outcome
go_on(PyObject *service, PyObject *hosted, PyObject *taken, Bundle *bundle)
{
    PyObject *replica = slot_of(hosted, HOSTED, HOSTED_REPLICA), *leader = leading(replica);
    PyObject *log = slot_of(replica, REPLICA, REPLICA_LOG);
    if (!goes_on_plainly(hosted, replica, leader))
        return PyErr_Occurred() ? FAILED : DECLINED;
    if (leader != NULL && !is_empty(taken) && forget_applied(leader, taken) < 0)
        return FAILED;
    PyObject *last = PyTuple_GET_ITEM(slot_of(log, LOG, LOG_SHAPE), SHAPE_LAST_OFFSET);
    set_slot(log, LOG, LOG_SYNCED_OFFSET, Py_NewRef(last));
    if ((leader != NULL && advance_commit(leader) < 0) || acknowledge(service, replica) < 0)
        return FAILED;
    return leader != NULL && answer(service, hosted, leader, bundle) < 0 ? FAILED : DONE;
}

/* go_on(service, touched, written), with what `write_replicas` returned */
PyObject *
lane_go_on(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {STREAM, OUTBOX, HOSTED, REPLICA, LEADER, LOG, IN_SYNC, LINKS, ACK};
    if (!all_bound(needed, 9))
        return NULL;
    if (count != 3 || !is_a(args[0], SERVICE) || !PyList_CheckExact(args[1]) || !PyList_CheckExact(args[2])
        || PyList_GET_SIZE(args[1]) != PyList_GET_SIZE(args[2]))
        return PyErr_Format(PyExc_TypeError, "go_on(service, touched, written)");
    return take_steps(args[0], args[1], args[2], go_on, "_go_on");
}

/* --- a tick in which nothing is written --------------------------------------------------------------------- */

/* tick(service) -> whether that was the tick: nothing is to be written, no feed waits for changes, and what was
 * sent brought up nothing new. */
PyObject *
lane_tick(PyObject *module, PyObject *service)
{
    static const Class needed[] = {OUTBOX, STREAM, SERVICE, CHANGES};
    if (!all_bound(needed, 4) || !is_a(service, SERVICE))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "tick(service)");
    if (PyDict_GET_SIZE(slot_of(service, SERVICE, SERVICE_TOUCHED)) > 0
        || PyDict_GET_SIZE(slot_of(slot_of(service, SERVICE, SERVICE_CHANGES), CHANGES, CHANGES_WAITING)) > 0)
        Py_RETURN_FALSE;
    PyObject *answers = slot_of(service, SERVICE, SERVICE_ANSWERS);
    PyObject *outbox = slot_of(service, SERVICE, SERVICE_OUTBOX);
    if (give_answers(service) < 0 || outbox_flush(answers) < 0 || outbox_flush(outbox) < 0
        || set_number(service, SERVICE, SERVICE_WALL_MS, wall_ms()) < 0)
        return NULL;
    return PyBool_FromLong(PyDict_GET_SIZE(slot_of(service, SERVICE, SERVICE_TOUCHED)) == 0 && !has_collected(answers)
                           && !has_collected(outbox));
}
