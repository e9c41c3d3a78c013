/* The short way of a router: plain requests of clients to the leaders, and replies of these to the clients.
 *
 * As `RouterService.execute` and `Channel.send`, for when the leader can be reached and its channel has room,
 * and as `Channel.answered`, for replies that can only mean one thing. Moments are noted once for all that came
 * with one read. */
#include "lane.h"

typedef struct {
    Turn turn;
    PyObject *deadline, *began; /* of what comes with this read; NULL until something does */
} Sending;

/* --- requests ------------------------------------------------------------------------------------------ */

/* The channel (borrowed) to the partition of a key. */
static PyObject *
channel_for(PyObject *router, const Slice *key, uint64_t *partition)
{
    PyObject *tokens = slot_of(router, ROUTER, ROUTER_TOKENS);
    if (!is_a(tokens, TOKENS))
        return NULL;
    uint8_t token[TOKEN_BYTES];
    token_bytes(key->at, key->size, token);
    PyObject *id = partition_at(tokens, token);
    *partition = PyLong_AsUnsignedLongLong(id);
    PyObject *channel = PyDict_GetItemWithError(slot_of(router, ROUTER, ROUTER_CHANNELS), id);
    return is_a(channel, CHANNEL) ? channel : NULL;
}

/* The connection (borrowed) to the leader, if it can be reached and the channel has room. */
static PyObject *
stream_of(PyObject *channel)
{
    PyObject *link = slot_of(channel, CHANNEL, CHANNEL_WIRE);
    if (!is_a(link, LINK) || !is_true_at(link, LINK, LINK_IS_UP)
        || PyDict_Size(slot_of(channel, CHANNEL, CHANNEL_UNANSWERED)) >= CHANNEL_REQUESTS_MAX)
        return NULL;
    PyObject *stream = slot_of(link, LINK, LINK_STREAM);
    return is_a(stream, FRAMES) ? stream : NULL;
}

static int
note_moments(Sending *sending)
{
    if (sending->began != NULL)
        return 0;
    int64_t within_ms = number_at(sending->turn.service, ROUTER, ROUTER_DEADLINE_MS);
    sending->deadline = PyLong_FromLongLong(sending->turn.now_ms + within_ms);
    if (sending->deadline == NULL)
        return -1;
    sending->began = PyFloat_FromDouble(steady_s());
    return sending->began == NULL ? -1 : 0;
}

/* An `Unanswered` that was sent once; a new reference. */
static PyObject *
new_unanswered(Sending *sending, const Plain *plain, PyObject *slot)
{
    PyTypeObject *type = bound[UNANSWERED].type;
    PyObject *command = PyBytes_FromStringAndSize((const char *)plain->whole.at, (Py_ssize_t)plain->whole.size);
    PyObject *request = command == NULL ? NULL : type->tp_alloc(type, 0);
    if (request == NULL) {
        Py_XDECREF(command);
        return NULL;
    }
    set_slot(request, UNANSWERED, UNANSWERED_COMMAND, command);
    set_slot(request, UNANSWERED, UNANSWERED_SLOT, Py_NewRef(slot));
    set_flag(request, UNANSWERED, UNANSWERED_IS_WRITE, plain->kind == PLAIN_SET);
    set_slot(request, UNANSWERED, UNANSWERED_DEADLINE_MS, Py_NewRef(sending->deadline));
    set_slot(request, UNANSWERED, UNANSWERED_BEGAN_S, Py_NewRef(sending->began));
    if (set_number(request, UNANSWERED, UNANSWERED_SENT_COUNT, 1) < 0)
        Py_CLEAR(request);
    return request;
}

/* `Channel.watermark`: the oldest request without an answer. -1 with an exception. */
static int64_t
watermark_of(PyObject *channel)
{
    PyObject *unanswered = slot_of(channel, CHANNEL, CHANNEL_UNANSWERED);
    int64_t first = number_at(channel, CHANNEL, CHANNEL_OLDEST), oldest = first;
    int64_t next = number_at(channel, CHANNEL, CHANNEL_NEXT);
    int found = 0;
    for (; oldest < next; oldest++) {
        PyObject *sequence = PyLong_FromLongLong(oldest);
        found = sequence == NULL ? -1 : PyDict_Contains(unanswered, sequence);
        Py_XDECREF(sequence);
        if (found != 0)
            break;
    }
    if (found < 0 || (oldest != first && set_number(channel, CHANNEL, CHANNEL_OLDEST, oldest) < 0))
        return -1;
    return oldest;
}

static PyObject *
request_frame(uint64_t partition, PyObject *channel, int64_t sequence, int64_t watermark, const Slice *command)
{
    size_t head = FRAME_HEAD_BYTES + REQUEST_HEAD_BYTES;
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(head + command->size));
    if (made == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(made);
    put_number(to, REQUEST_HEAD_BYTES + command->size, 4);
    to[4] = TYPE_REQUEST;
    put_number(to + 5, partition, 2);
    put_number(to + 7, (uint64_t)number_at(channel, CHANNEL, CHANNEL_EPOCH), 8);
    put_number(to + 15, (uint64_t)sequence, 8);
    put_number(to + 23, (uint64_t)watermark, 8);
    memcpy(to + head, command->at, command->size);
    return made;
}

/* `Channel.send`: the request is kept under the next number and sent. */
static int
send_request(Sending *sending, const Plain *plain, PyObject *channel, uint64_t partition, PyObject *stream)
{
    PyObject *slot = new_slot(sending->turn.connection);
    PyObject *request = slot == NULL ? NULL : new_unanswered(sending, plain, slot);
    Py_XDECREF(slot);
    if (request == NULL)
        return -1;
    sending->turn.pending++;
    int64_t sequence = number_at(channel, CHANNEL, CHANNEL_NEXT);
    int result = PyDict_SetItem(slot_of(channel, CHANNEL, CHANNEL_UNANSWERED),
                                slot_of(channel, CHANNEL, CHANNEL_NEXT), request);
    Py_DECREF(request);
    if (result < 0 || set_number(channel, CHANNEL, CHANNEL_NEXT, sequence + 1) < 0)
        return -1;
    int64_t watermark = watermark_of(channel);
    PyObject *frame =
        watermark < 0 ? NULL : request_frame(partition, channel, sequence, watermark, &plain->whole);
    result = frame == NULL ? -1 : stream_write(stream, frame);
    Py_XDECREF(frame);
    return result;
}

static Outcome
send_on(Turn *turn, const Plain *plain)
{
    Sending *sending = (Sending *)turn; /* of which it is the first part */
    uint64_t partition;
    PyObject *channel = channel_for(turn->service, &plain->key, &partition);
    PyObject *stream = channel == NULL ? NULL : stream_of(channel);
    if (stream == NULL)
        return PyErr_Occurred() ? FAILED : DECLINED;
    if (note_moments(sending) < 0)
        return FAILED;
    return send_request(sending, plain, channel, partition, stream) < 0 ? FAILED : DONE;
}

/* send_on(connection, router, counts) -> whether the connection was looked after. `counts` is a list of two
 * numbers: the GETs and the SETs that went the short way. */
PyObject *
lane_send_on(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {LOOP,   OUTBOX, STREAM, CLIENT, SLOT,      TOKENS,
                                   FRAMES, LINK,   ROUTER, CHANNEL, UNANSWERED};
    if (!all_bound(needed, 11))
        return NULL;
    if (count != 3 || !is_a(args[0], CLIENT) || !is_a(args[1], ROUTER) || !PyList_CheckExact(args[2]))
        return PyErr_Format(PyExc_TypeError, "send_on(connection, router, counts)");
    Sending sending = {.turn = {.connection = args[0], .service = args[1]}};
    PyObject *result =
        client_turn(&sending.turn, slot_of(args[1], ROUTER, ROUTER_LOOP), args[2], send_on);
    Py_XDECREF(sending.deadline);
    Py_XDECREF(sending.began);
    return result;
}

/* --- replies ------------------------------------------------------------------------------------------- */

/* The channel (borrowed) of a partition, if the reply comes from the leader that it sends to, of the epoch in
 * which it sends. */
static PyObject *
channel_from(FrameTurn *turn, uint64_t partition, uint64_t epoch)
{
    PyObject *id = PyLong_FromUnsignedLongLong(partition);
    if (id == NULL)
        return NULL;
    PyObject *channel = PyDict_GetItemWithError(slot_of(turn->service, ROUTER, ROUTER_CHANNELS), id);
    Py_DECREF(id);
    if (!is_a(channel, CHANNEL) || (uint64_t)number_at(channel, CHANNEL, CHANNEL_EPOCH) != epoch)
        return NULL;
    PyObject *link = slot_of(channel, CHANNEL, CHANNEL_WIRE);
    return is_a(link, LINK) && slot_of(link, LINK, LINK_STREAM) == turn->stream ? channel : NULL;
}

/* The request that is answered (a new reference), taken out of its channel. NULL: there is none, or its reply
 * may mean something else, or an exception. */
static PyObject *
take_unanswered(PyObject *channel, uint64_t number)
{
    PyObject *unanswered = slot_of(channel, CHANNEL, CHANNEL_UNANSWERED);
    PyObject *sequence = PyLong_FromUnsignedLongLong(number);
    if (sequence == NULL)
        return NULL;
    PyObject *request = PyDict_GetItemWithError(unanswered, sequence);
    if (!is_a(request, UNANSWERED)
        || (is_true_at(request, UNANSWERED, UNANSWERED_IS_WRITE)
            && number_at(request, UNANSWERED, UNANSWERED_SENT_COUNT) > 1))
        request = NULL;
    Py_XINCREF(request);
    if (request != NULL && PyDict_DelItem(unanswered, sequence) < 0)
        Py_CLEAR(request);
    Py_DECREF(sequence);
    return request;
}

static Outcome
heard(FrameTurn *turn, const Frame *frame)
{
    const uint8_t *body = frame->body, *reply_at = body + REPLY_HEAD_BYTES;
    if (frame->end < reply_at || body[18] != 0) /* another status than DONE */
        return DECLINED;
    PyObject *channel = channel_from(turn, number_from(body, 2), number_from(body + 2, 8));
    PyObject *request = channel == NULL ? NULL : take_unanswered(channel, number_from(body + 10, 8));
    if (request == NULL)
        return PyErr_Occurred() ? FAILED : DECLINED;
    PyObject *reply = PyBytes_FromStringAndSize((const char *)reply_at, frame->end - reply_at);
    int result = reply == NULL ? -1 : complete(slot_of(request, UNANSWERED, UNANSWERED_SLOT), reply);
    Py_XDECREF(reply);
    PyObject *began = slot_of(request, UNANSWERED, UNANSWERED_BEGAN_S);
    if (result == 0 && began != NULL && PyFloat_Check(began))
        result = observe(slot_of(turn->service, ROUTER, ROUTER_LATENCY), turn->now_s - PyFloat_AS_DOUBLE(began));
    Py_DECREF(request);
    return result < 0 ? FAILED : DONE;
}

/* hear_replies(stream, router, nothing) -> whether the stream was looked after. */
PyObject *
lane_hear_replies(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {LOOP, OUTBOX, STREAM, CLIENT, SLOT, FRAMES, LINK, ROUTER, CHANNEL, UNANSWERED};
    if (!all_bound(needed, 10))
        return NULL;
    if (count != 3 || !is_a(args[0], FRAMES) || !is_a(args[1], ROUTER))
        return PyErr_Format(PyExc_TypeError, "hear_replies(stream, router, nothing)");
    FrameTurn turn = {.stream = args[0], .service = args[1], .types = 1u << TYPE_REPLY};
    return frame_turn(&turn, slot_of(args[1], ROUTER, ROUTER_LOOP), heard);
}
