/* A turn of a client, on a node or a router: what ClientConnection does, for plain requests. */
#include "lane.h"

static int
is_full(Turn *turn)
{
    PyObject *connection = turn->connection;
    int64_t output = number_at(connection, STREAM, STREAM_QUEUED_BYTES)
                     + number_at(connection, CLIENT, CLIENT_HELD_BYTES) + (int64_t)turn->replies.size;
    if (output > OUTPUT_SOFT_BYTES)
        return 1;
    return turn->pending > 0
           && (turn->pending >= number_at(connection, CLIENT, CLIENT_WINDOW)
               || number_at(connection, CLIENT, CLIENT_TAKEN_BYTES) > INPUT_SOFT_BYTES);
}

/* A request that was declined, behind the answers before it. */
static int
hand_on_one(Turn *turn, const Plain *plain)
{
    if (output_write(&turn->replies, turn->connection) < 0)
        return -1;
    return hand_on(turn->connection, plain->whole.at, plain->whole.at + plain->whole.size);
}

/* Whether what stands behind a request that went the long way may go the short one. */
static int
goes_on(Turn *turn)
{
    PyObject *connection = turn->connection;
    turn->pending = PyObject_Size(slot_of(connection, CLIENT, CLIENT_SLOTS));
    return is_true_at(connection, STREAM, STREAM_IS_OPEN) && !is_true_at(connection, STREAM, STREAM_IS_PAUSED)
           && !is_true_at(connection, CLIENT, CLIENT_IS_SPECIAL) && slot_of(connection, CLIENT, CLIENT_WAY) != Py_None;
}

/* Executes requests from the buffer's beginning; what is left is handed on, or kept if it is unfinished. */
static int
work(Turn *turn, const uint8_t *at, const uint8_t *end, long counts[2],
     Outcome (*execute)(Turn *, const Plain *))
{
    Plain plain;
    size_t used;
    while (at < end && !is_full(turn)) {
        plain.kind = read_request(at, end, &plain.key, &plain.value, &used);
        if (plain.kind == UNFINISHED && end - at <= TAIL_BYTES_MAX) {
            if (keep_tail(turn->connection, CLIENT, CLIENT_TAIL, at, end) < 0)
                return -1;
            return output_write(&turn->replies, turn->connection);
        }
        if (plain.kind == UNFINISHED || plain.kind == SPECIAL || plain.key.size > KEY_BYTES_MAX)
            break;
        plain.whole = (Slice){at, used};
        Outcome outcome = execute(turn, &plain);
        if (outcome == FAILED)
            return -1;
        counts[plain.kind == PLAIN_SET] += outcome == DONE;
        if (outcome == DECLINED && hand_on_one(turn, &plain) < 0)
            return -1;
        at += used;
        if (outcome == DECLINED && !goes_on(turn))
            break;
    }
    if (output_write(&turn->replies, turn->connection) < 0)
        return -1;
    return at == end || !is_true_at(turn->connection, STREAM, STREAM_IS_OPEN) ? 0 : hand_on(turn->connection, at, end);
}

/* What `ClientConnection.received` notes of so many bytes. */
static int
note_received(Turn *turn, PyObject *loop, ssize_t size)
{
    PyObject *connection = turn->connection;
    turn->now_ms = number_at(loop, LOOP, LOOP_NOW_MS);
    turn->pending = PyObject_Size(slot_of(connection, CLIENT, CLIENT_SLOTS));
    int64_t taken = turn->pending > 0 ? number_at(connection, CLIENT, CLIENT_TAKEN_BYTES) : 0;
    if (turn->pending < 0 || set_number(connection, CLIENT, CLIENT_TAKEN_BYTES, taken + size) < 0)
        return -1;
    set_slot(connection, CLIENT, CLIENT_LAST_ACTIVE_MS, Py_NewRef(slot_of(loop, LOOP, LOOP_NOW_MS)));
    return 0;
}

PyObject *
client_turn(Turn *turn, PyObject *loop, PyObject *counts, Outcome (*execute)(Turn *, const Plain *))
{
    Arrival arrival;
    if (!begin_turn(turn->connection, CLIENT, CLIENT_TAIL, CLIENT_IS_SPECIAL, loop, &arrival))
        return Py_XNewRef(arrival.result);
    long plain[2] = {0, 0};
    int result = note_received(turn, loop, arrival.end - arrival.at - arrival.kept); /* those are counted already */
    if (result == 0)
        result = work(turn, arrival.at, arrival.end, plain, execute);
    output_free(&turn->replies);
    if (result < 0 || add_counts(counts, plain) < 0)
        return NULL;
    Py_RETURN_TRUE;
}
