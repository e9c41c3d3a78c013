/* The short way of a node for routers: REQUEST frames that hold a plain GET or SET, and their replies. (A leader's
 * APPENDs come on connections of the same kind: followers.c.)
 *
 * As `Links._heard_request`, for requests in the epoch that the replica is in: what has another, or an id that
 * is known or stale, is declined. */
#include "lane.h"

typedef struct {
    uint64_t partition, epoch, sequence, watermark;
    Kind kind;
    Slice key, value;
} Request;

/* Whether the frame, a REQUEST, asks for something plain. */
static int
decode(const Frame *frame, Request *request)
{
    size_t used;
    const uint8_t *at = frame->body, *command = at + REQUEST_HEAD_BYTES;
    if (frame->end - at <= REQUEST_HEAD_BYTES)
        return 0;
    request->partition = number_from(at, 2);
    request->epoch = number_from(at + 2, 8);
    request->sequence = number_from(at + 10, 8);
    request->watermark = number_from(at + 18, 8);
    if (request->epoch > INT64_MAX || request->sequence > INT64_MAX || request->watermark > request->sequence)
        return 0;
    request->kind = read_request(command, frame->end, &request->key, &request->value, &used);
    return (request->kind == PLAIN_GET || request->kind == PLAIN_SET) && command + used == frame->end
           && request->key.size <= KEY_BYTES_MAX;
}

/* The replica that the request is for (borrowed), if it is here and in the request's epoch. */
static PyObject *
hosted_for(PyObject *service, const Request *request)
{
    PyObject *hosted = hosted_of_number(service, request->partition);
    if (hosted == NULL)
        return NULL;
    int64_t epoch = number_at(slot_of(hosted, HOSTED, HOSTED_REPLICA), REPLICA, REPLICA_EPOCH);
    return epoch == (int64_t)request->epoch ? hosted : NULL;
}

static Outcome
get(FrameTurn *turn, const Request *request, PyObject *leader, PyObject *at)
{
    size_t before = turn->output.size, head = FRAME_HEAD_BYTES + REPLY_HEAD_BYTES;
    if (output_room(&turn->output, head) == NULL)
        return FAILED;
    turn->output.size += head;
    Outcome outcome = read_plain(turn->service, leader, at, &turn->output);
    if (outcome == DONE)
        put_reply_head(turn->output.data + before, request->partition, request->epoch, request->sequence,
                       turn->output.size - before - head);
    else
        turn->output.size = before;
    return outcome;
}

/* --- request ids: RequestMemory (replication/dedupe.py) ----------------------------------------------- */

/* What is remembered of the router's requests (borrowed); NULL: nothing yet, or this one is known or stale. */
static PyObject *
session_for(PyObject *memory, const Identity *identity)
{
    if (!is_a(memory, MEMORY))
        return NULL;
    PyObject *session = PyDict_GetItemWithError(slot_of(memory, MEMORY, MEMORY_SESSIONS), identity->session);
    if (!is_a(session, SESSION) || (int64_t)identity->sequence < number_at(session, SESSION, SESSION_WATERMARK))
        return NULL;
    PyObject *sequence = PyLong_FromUnsignedLongLong(identity->sequence);
    if (sequence == NULL)
        return NULL;
    int known = PyDict_Contains(slot_of(session, SESSION, SESSION_KNOWN), sequence);
    Py_DECREF(sequence);
    return known == 0 ? session : NULL;
}

/* `SessionMemory.forget_below` */
static int
forget_below(PyObject *session, int64_t watermark)
{
    PyObject *known = slot_of(session, SESSION, SESSION_KNOWN);
    int64_t from = number_at(session, SESSION, SESSION_WATERMARK);
    if (watermark - from > PyDict_Size(known)) {
        return called(PyObject_CallMethod(session, "forget_below", "L", (long long)watermark));
    }
    for (; from < watermark; from++) {
        PyObject *sequence = PyLong_FromLongLong(from);
        if (sequence == NULL)
            return -1;
        int result = PyDict_Contains(known, sequence);
        if (result > 0)
            result = PyDict_DelItem(known, sequence);
        Py_DECREF(sequence);
        if (result < 0)
            return -1;
    }
    return set_number(session, SESSION, SESSION_WATERMARK, watermark);
}

/* `RequestMemory.remember` */
static int
remember(PyObject *memory, PyObject *session, const Identity *identity, PyObject *offset)
{
    int64_t uses = number_at(memory, MEMORY, MEMORY_USES) + 1;
    if (set_number(memory, MEMORY, MEMORY_USES, uses) < 0)
        return -1;
    set_slot(session, SESSION, SESSION_USED, Py_NewRef(slot_of(memory, MEMORY, MEMORY_USES)));
    if ((int64_t)identity->watermark > number_at(session, SESSION, SESSION_WATERMARK)
        && forget_below(session, (int64_t)identity->watermark) < 0)
        return -1;
    PyObject *sequence = PyLong_FromUnsignedLongLong(identity->sequence);
    PyObject *const items[] = {Py_NewRef(offset), Py_NewRef(plain_reply())};
    PyObject *what = tuple_of(&PyTuple_Type, 2, items);
    int result = sequence == NULL || what == NULL
                     ? -1
                     : PyDict_SetItem(slot_of(session, SESSION, SESSION_KNOWN), sequence, what);
    Py_XDECREF(sequence);
    Py_XDECREF(what);
    return result;
}

/* --- writes --------------------------------------------------------------------------------------------- */

static PyObject *
new_request_slot(PyObject *peer, const Request *request)
{
    PyTypeObject *type = bound[REQUEST_SLOT].type;
    PyObject *slot = type->tp_alloc(type, 0);
    if (slot == NULL)
        return NULL;
    set_slot(slot, REQUEST_SLOT, REQUEST_SLOT_PEER, Py_NewRef(peer));
    if (set_number(slot, REQUEST_SLOT, REQUEST_SLOT_PARTITION, (int64_t)request->partition) < 0
        || set_number(slot, REQUEST_SLOT, REQUEST_SLOT_EPOCH, (int64_t)request->epoch) < 0
        || set_number(slot, REQUEST_SLOT, REQUEST_SLOT_SEQUENCE, (int64_t)request->sequence) < 0) {
        Py_DECREF(slot);
        return NULL;
    }
    return slot;
}

static Outcome
set(FrameTurn *turn, const Request *request, PyObject *hosted, PyObject *leader, PyObject *at)
{
    PyObject *other = slot_of(turn->stream, FRAMES, FRAMES_OTHER);
    if (!is_a(other, GREETING))
        return DECLINED;
    Identity identity = {slot_of(other, GREETING, GREETING_SESSION), request->sequence, request->watermark};
    PyObject *log = slot_of(leader, LEADER, LEADER_LOG);
    PyObject *memory = slot_of(log, LOG, LOG_MEMORY);
    PyObject *session = session_for(memory, &identity), *offset = NULL, *slot = NULL;
    Outcome outcome = session == NULL ? DECLINED : DONE;
    if (outcome == DONE)
        outcome = propose_plain(turn->service, leader, at, &request->value, &identity, &offset);
    if (outcome == DONE) {
        slot = new_request_slot(turn->stream, request);
        if (slot == NULL || remember(memory, session, &identity, offset) < 0
            || await_commit(turn->service, hosted, leader, offset, slot) < 0)
            outcome = FAILED;
        Py_DECREF(offset);
    }
    Py_XDECREF(slot);
    return outcome == DECLINED && PyErr_Occurred() ? FAILED : outcome;
}

static Outcome
heard(FrameTurn *turn, const Frame *frame)
{
    Request request;
    if (frame->type == TYPE_APPEND)
        return hear_append(turn, frame);
    if (!decode(frame, &request))
        return DECLINED;
    PyObject *hosted = hosted_for(turn->service, &request);
    PyObject *leader = hosted == NULL ? NULL : ready_leader(hosted, turn->now_ms);
    if (leader == NULL)
        return PyErr_Occurred() ? FAILED : DECLINED;
    uint8_t token[TOKEN_BYTES];
    token_bytes(request.key.at, request.key.size, token);
    PyObject *at = data_key(token, &request.key);
    if (at == NULL)
        return FAILED;
    Outcome outcome = request.kind == PLAIN_GET ? get(turn, &request, leader, at)
                                                : set(turn, &request, hosted, leader, at);
    Py_DECREF(at);
    turn->counts[request.kind == PLAIN_SET] += outcome == DONE;
    return outcome;
}

/* hear_requests(peer, service, counts) -> whether the peer was looked after. `counts` is a list of two numbers:
 * the GETs and the SETs that went the short way. */
PyObject *
lane_hear_requests(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {LOOP,    OUTBOX,  STREAM,    FRAMES,       GREETING, SERVICE,    HOSTED,
                                   REPLICA, LEADER,  LOG,       LINKS,        MEMORY,   SESSION,    OPERATION,
                                   PENDING, ACK,     REQUEST_SLOT, REQUEST_ID, LOG_SHAPE_TYPE};
    if (!all_bound(needed, 19))
        return NULL;
    if (count != 3 || !is_a(args[0], FRAMES) || !is_a(args[1], SERVICE) || !PyList_CheckExact(args[2]))
        return PyErr_Format(PyExc_TypeError, "hear_requests(peer, service, counts)");
    FrameTurn turn = {.stream = args[0], .service = args[1], .types = 1u << TYPE_REQUEST | 1u << TYPE_APPEND};
    PyObject *result = frame_turn(&turn, slot_of(args[1], SERVICE, SERVICE_LOOP), heard);
    if (result != NULL && add_counts(args[2], turn.counts) < 0)
        Py_CLEAR(result);
    return result;
}

/* --- replies to writes ------------------------------------------------------------------------------------- */

int
bundle_end(Bundle *bundle, int result)
{
    if (result == 0 && bundle->peer != NULL)
        result = output_write(&bundle->output, bundle->peer);
    output_free(&bundle->output);
    Py_CLEAR(bundle->peer);
    return result;
}

/* As RequestSlot.complete */
static int
bundle_reply(Bundle *bundle, PyObject *slot, PyObject *reply)
{
    PyObject *peer = slot_of(slot, REQUEST_SLOT, REQUEST_SLOT_PEER);
    if (!is_true_at(peer, STREAM, STREAM_IS_OPEN))
        return 0;
    if (bundle->peer != peer) {
        if (bundle->peer != NULL && output_write(&bundle->output, bundle->peer) < 0)
            return -1;
        Py_XSETREF(bundle->peer, Py_NewRef(peer));
    }
    size_t size = (size_t)PyBytes_GET_SIZE(reply), head = FRAME_HEAD_BYTES + REPLY_HEAD_BYTES;
    char *to = output_room(&bundle->output, head + size);
    if (to == NULL)
        return -1;
    put_reply_head(to, (uint64_t)number_at(slot, REQUEST_SLOT, REQUEST_SLOT_PARTITION),
                   (uint64_t)number_at(slot, REQUEST_SLOT, REQUEST_SLOT_EPOCH),
                   (uint64_t)number_at(slot, REQUEST_SLOT, REQUEST_SLOT_SEQUENCE), size);
    memcpy(to + head, PyBytes_AS_STRING(reply), size);
    bundle->output.size += head + size;
    return 0;
}

int
bundle_complete(Bundle *bundle, PyObject *slot, PyObject *reply)
{
    int is_of_router = Py_TYPE(slot) == bound[REQUEST_SLOT].type && PyBytes_CheckExact(reply);
    return is_of_router ? bundle_reply(bundle, slot, reply) : complete(slot, reply);
}
