/* What a leader knows of its followers, and the answers that wait for them: replication/leader.py, isr.py and
 * progress.py, for when all that happens is that entries travel and are acknowledged. */
#include "lane.h"

/* Whether a follower is fed in this way; -1 with an exception. */
int
is_in_phase(PyObject *progress, FollowerPhase phase)
{
    static const char *const names[] = {[STREAMING] = "STREAM", [IN_SNAPSHOT] = "SNAPSHOT"};
    static PyObject *known[2];
    if (known[phase] == NULL)
        known[phase] = PyObject_GetAttrString((PyObject *)bound[PHASE].type, names[phase]);
    return known[phase] == NULL ? -1 : slot_of(progress, PROGRESS, PROGRESS_PHASE) == known[phase];
}

int64_t
last_offset(PyObject *log)
{
    return PyLong_AsLongLong(PyTuple_GET_ITEM(slot_of(log, LOG, LOG_SHAPE), SHAPE_LAST_OFFSET));
}

/* --- the commit offset -------------------------------------------------------------------------------- */

PyObject *
members_of(PyObject *leader)
{
    PyObject *in_sync = slot_of(leader, LEADER, LEADER_IN_SYNC);
    PyObject *members = slot_of(in_sync, IN_SYNC, IN_SYNC_MEMBERS);
    if (members != Py_None)
        return members;
    members = PyObject_CallMethod(in_sync, "members", NULL);
    Py_XDECREF(members); /* it is kept there */
    return members;
}

/* `Leader.commit_with`: how far is committed if this node's disk is at `own`; -1 with an exception. */
int64_t
commit_with(PyObject *leader, int64_t own)
{
    PyObject *node = slot_of(leader, LEADER, LEADER_NODE), *members = members_of(leader);
    int64_t commit = number_at(slot_of(leader, LEADER, LEADER_LOG), LOG, LOG_COMMIT), lowest = own;
    if (members == NULL)
        return -1;
    for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(members); at++) {
        PyObject *member = PyTuple_GET_ITEM(members, at), *name = PyTuple_GET_ITEM(member, 0);
        if (PyObject_RichCompareBool(name, node, Py_EQ) == 1)
            continue;
        PyObject *progress = PyDict_GetItemWithError(slot_of(leader, LEADER, LEADER_PROGRESS), name);
        if (!is_a(progress, PROGRESS)
            || PyObject_RichCompareBool(slot_of(progress, PROGRESS, PROGRESS_INCARNATION),
                                        PyTuple_GET_ITEM(member, 1), Py_EQ) != 1)
            return PyErr_Occurred() ? -1 : commit;
        int64_t match = number_at(progress, PROGRESS, PROGRESS_MATCH);
        lowest = match < lowest ? match : lowest;
    }
    return lowest > commit ? lowest : commit;
}

/* `Leader.advance_commit` */
int
advance_commit(PyObject *leader)
{
    PyObject *log = slot_of(leader, LEADER, LEADER_LOG);
    int64_t commit = commit_with(leader, number_at(log, LOG, LOG_SYNCED_OFFSET));
    if (commit < 0)
        return -1;
    return commit == number_at(log, LOG, LOG_COMMIT) ? 0 : set_number(log, LOG, LOG_COMMIT, commit);
}

/* --- answers ---------------------------------------------------------------------------------------------- */

/* Gives the waiters up to `offset` their replies. */
static int
give(PyObject *waiting, int64_t offset, Bundle *bundle)
{
    PyObject *waiter;
    while ((waiter = queue_first(waiting)) != NULL && PyLong_AsLongLong(PyTuple_GET_ITEM(waiter, 0)) <= offset) {
        Py_INCREF(waiter);
        int result = queue_pop(waiting);
        if (result == 0)
            result = bundle_complete(bundle, PyTuple_GET_ITEM(waiter, 1), PyTuple_GET_ITEM(waiter, 2));
        Py_DECREF(waiter);
        if (result < 0)
            return -1;
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* How long the writes up to `commit` took. */
static int
note_latency(PyObject *latency, PyObject *proposed, int64_t commit)
{
    PyObject *first;
    double now_s = 0;
    while ((first = queue_first(proposed)) != NULL && PyLong_AsLongLong(PyTuple_GET_ITEM(first, 1)) <= commit) {
        now_s = now_s == 0 ? steady_s() : now_s;
        if (observe(latency, now_s - PyFloat_AsDouble(PyTuple_GET_ITEM(first, 0))) < 0 || queue_pop(proposed) < 0)
            return -1;
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* `NodeService._answer` */
int
answer(PyObject *service, PyObject *hosted, PyObject *leader, Bundle *bundle)
{
    PyObject *log = slot_of(leader, LEADER, LEADER_LOG);
    int64_t commit = number_at(log, LOG, LOG_COMMIT);
    if (give(slot_of(leader, LEADER, LEADER_WAITING_SYNCED), number_at(log, LOG, LOG_SYNCED_OFFSET), bundle) < 0)
        return -1;
    if (is_true_at(leader, LEADER, LEADER_HAS_ENOUGH)
        && give(slot_of(leader, LEADER, LEADER_WAITING), commit, bundle) < 0)
        return -1;
    return note_latency(slot_of(service, SERVICE, SERVICE_COMMIT_LATENCY), slot_of(hosted, HOSTED, HOSTED_PROPOSED),
                        commit);
}

/* The answers of replicas that need nothing but the acknowledgements that have come. */
static int
answer_all(PyObject *service, PyObject *waiting)
{
    Bundle bundle = {0};
    int result = 0;
    for (Py_ssize_t at = 0; result == 0 && at < PyList_GET_SIZE(waiting); at++) {
        PyObject *hosted = PyList_GET_ITEM(waiting, at);
        PyObject *leader = slot_of(slot_of(hosted, HOSTED, HOSTED_REPLICA), REPLICA, REPLICA_LEADING);
        if (leader != Py_None)
            result = answer(service, hosted, leader, &bundle);
    }
    return bundle_end(&bundle, result);
}

/* `NodeService._give_answers` */
int
give_answers(PyObject *service)
{
    static const Class needed[] = {STREAM, OUTBOX, HOSTED, REPLICA, LEADER, LOG, PROPOSED};
    PyObject *to_answer = slot_of(service, SERVICE, SERVICE_TO_ANSWER);
    if (PyDict_GET_SIZE(to_answer) == 0)
        return 0;
    PyObject *waiting = all_bound(needed, 7) ? PyDict_Keys(to_answer) : NULL;
    if (waiting == NULL)
        return -1;
    PyDict_Clear(to_answer);
    int result = answer_all(service, waiting);
    Py_DECREF(waiting);
    return result;
}

/* give_answers(service) */
PyObject *
lane_give_answers(PyObject *module, PyObject *service)
{
    if (!is_a(service, SERVICE))
        return PyErr_Format(PyExc_TypeError, "give_answers(service)");
    if (give_answers(service) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- acknowledgements ---------------------------------------------------------------------------------------- */

/* `Progress.acknowledged` of a follower that has caught up, of when the log ended where it is now. */
static int
note_caught_up(PyObject *progress, int64_t offset, int64_t last, int64_t now_ms)
{
    PyObject *mark = slot_of(progress, PROGRESS, PROGRESS_MARK);
    int64_t since_ms = -1;
    if (offset >= last)
        since_ms = now_ms;
    else if (mark != Py_None && offset >= PyLong_AsLongLong(PyTuple_GET_ITEM(mark, 0)))
        since_ms = PyLong_AsLongLong(PyTuple_GET_ITEM(mark, 1));
    if (since_ms >= 0 && mark != Py_None) {
        set_slot(progress, PROGRESS, PROGRESS_MARK, Py_NewRef(Py_None));
        mark = Py_None;
    }
    if (offset < last && mark == Py_None) {
        PyObject *const items[] = {PyLong_FromLongLong(last), PyLong_FromLongLong(now_ms)};
        PyObject *made = tuple_of(&PyTuple_Type, 2, items);
        if (made == NULL)
            return -1;
        set_slot(progress, PROGRESS, PROGRESS_MARK, made);
    }
    return since_ms > number_at(progress, PROGRESS, PROGRESS_CAUGHT_UP_MS)
               ? set_number(progress, PROGRESS, PROGRESS_CAUGHT_UP_MS, since_ms)
               : 0;
}

static int
acknowledged(PyObject *progress, int64_t offset, int64_t last, int64_t now_ms)
{
    PyObject *flight = slot_of(progress, PROGRESS, PROGRESS_FLIGHT), *sent;
    int64_t bytes = number_at(progress, PROGRESS, PROGRESS_FLIGHT_BYTES);
    while ((sent = queue_first(flight)) != NULL && PyLong_AsLongLong(PyTuple_GET_ITEM(sent, 0)) <= offset) {
        bytes -= PyLong_AsLongLong(PyTuple_GET_ITEM(sent, 1));
        if (queue_pop(flight) < 0)
            return -1;
    }
    if (PyErr_Occurred() || set_number(progress, PROGRESS, PROGRESS_FLIGHT_BYTES, bytes) < 0)
        return -1;
    if (offset > number_at(progress, PROGRESS, PROGRESS_MATCH)
        && set_number(progress, PROGRESS, PROGRESS_MATCH, offset) < 0)
        return -1;
    return note_caught_up(progress, offset, last, now_ms);
}

/* `Leader.has_sent_all`; -1 with an exception. */
static int
has_sent_all(PyObject *leader, int64_t last)
{
    PyObject *name, *progress;
    Py_ssize_t at = 0;
    while (PyDict_Next(slot_of(leader, LEADER, LEADER_PROGRESS), &at, &name, &progress)) {
        int streams = is_in_phase(progress, STREAMING);
        if (streams < 0 || (streams && number_at(progress, PROGRESS, PROGRESS_NEXT) <= last))
            return streams < 0 ? -1 : 0;
    }
    return 1;
}

/* `NodeService.acknowledged` */
static int
look_again(PyObject *service, PyObject *hosted, PyObject *leader, int64_t last)
{
    int only_answers = number_at(hosted, HOSTED, HOSTED_SERVE_UNTIL_MS) != 0
                       && PyObject_Size(slot_of(hosted, HOSTED, HOSTED_HELD)) == 0
                       && slot_of(leader, LEADER, LEADER_TRANSFER_TO) == Py_None;
    if (only_answers)
        only_answers = has_sent_all(leader, last);
    if (only_answers < 0)
        return -1;
    if (!only_answers)
        return PyDict_SetItem(slot_of(service, SERVICE, SERVICE_TOUCHED), hosted, Py_None);
    if (PyDict_SetItem(slot_of(service, SERVICE, SERVICE_TO_ANSWER), hosted, Py_None) < 0)
        return -1;
    return PyDict_SetItem(slot_of(service, SERVICE, SERVICE_TO_APPLY), hosted, Py_None);
}

/* `Links.heard_ack`, for a follower that is fed from the log. */
static Outcome
heard(FrameTurn *turn, const Frame *frame)
{
    const uint8_t *at = frame->body;
    PyObject *other = slot_of(turn->stream, FRAMES, FRAMES_OTHER);
    if (frame->type != TYPE_ACK || frame->end - at != ACK_BYTES || !is_a(other, GREETING))
        return DECLINED;
    uint64_t epoch = number_from(at + 2, 8), offset = number_from(at + 10, 8);
    PyObject *hosted = hosted_of_number(turn->service, number_from(at, 2));
    if (hosted == NULL || offset > INT64_MAX)
        return PyErr_Occurred() ? FAILED : DECLINED;
    PyObject *leader = slot_of(slot_of(hosted, HOSTED, HOSTED_REPLICA), REPLICA, REPLICA_LEADING);
    if (!is_a(leader, LEADER) || (uint64_t)number_at(leader, LEADER, LEADER_EPOCH) != epoch)
        return DECLINED;
    PyObject *progress = PyDict_GetItemWithError(slot_of(leader, LEADER, LEADER_PROGRESS),
                                                 slot_of(other, GREETING, GREETING_NAME));
    int streams = is_a(progress, PROGRESS) ? is_in_phase(progress, STREAMING) : 0;
    if (streams <= 0)
        return PyErr_Occurred() ? FAILED : DECLINED;
    int64_t last = last_offset(slot_of(leader, LEADER, LEADER_LOG));
    if (acknowledged(progress, (int64_t)offset, last, turn->now_ms) < 0 || advance_commit(leader) < 0
        || look_again(turn->service, hosted, leader, last) < 0)
        return FAILED;
    return DONE;
}

/* hear_follower(stream, service, nothing) -> whether the stream was looked after. */
PyObject *
lane_hear_follower(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {LOOP,    OUTBOX,  STREAM, FRAMES, GREETING, SERVICE,
                                   HOSTED,  REPLICA, LEADER, LOG,    IN_SYNC,  PHASE,   PROGRESS};
    if (!all_bound(needed, 13))
        return NULL;
    if (count != 3 || !is_a(args[0], FRAMES) || !is_a(args[1], SERVICE))
        return PyErr_Format(PyExc_TypeError, "hear_follower(stream, service, nothing)");
    FrameTurn turn = {.stream = args[0], .service = args[1], .types = 1u << TYPE_ACK};
    return frame_turn(&turn, slot_of(args[1], SERVICE, SERVICE_LOOP), heard);
}
