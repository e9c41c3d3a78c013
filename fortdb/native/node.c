/* The short way of a node for its clients: `GET key` and `SET key value`, from the socket to the answer. */
#include "lane.h"

/* The hosted replica (borrowed) of the partition that serves a token, NULL if there is none here. */
static PyObject *
hosted_for(PyObject *service, const uint8_t token[TOKEN_BYTES])
{
    PyObject *tokens = slot_of(service, SERVICE, SERVICE_TOKENS);
    if (!is_a(tokens, TOKENS))
        return NULL;
    return hosted_at(service, partition_at(tokens, token));
}

/* The answer made last has to wait for those before it: give it a slot. */
static Outcome
hold_reply(Turn *turn, size_t before)
{
    PyObject *connection = turn->connection;
    Py_ssize_t size = (Py_ssize_t)(turn->replies.size - before);
    PyObject *reply = PyBytes_FromStringAndSize(turn->replies.data + before, size);
    PyObject *slot = reply == NULL ? NULL : new_slot(connection);
    turn->replies.size = before;
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
get(Turn *turn, PyObject *leader, PyObject *at)
{
    size_t before = turn->replies.size;
    Outcome outcome = read_plain(turn->service, leader, at, &turn->replies);
    return outcome == DONE && turn->pending > 0 ? hold_reply(turn, before) : outcome;
}

static Outcome
set(Turn *turn, PyObject *hosted, PyObject *leader, PyObject *at, const Slice *value)
{
    PyObject *offset;
    Outcome outcome = propose_plain(turn->service, leader, at, value, NULL, &offset);
    if (outcome != DONE)
        return outcome;
    PyObject *slot = new_slot(turn->connection);
    if (slot == NULL || await_commit(turn->service, hosted, leader, offset, slot) < 0)
        outcome = FAILED;
    turn->pending++;
    Py_XDECREF(slot);
    Py_DECREF(offset);
    return outcome;
}

static Outcome
execute(Turn *turn, const Plain *plain)
{
    uint8_t token[TOKEN_BYTES];
    token_bytes(plain->key.at, plain->key.size, token);
    PyObject *hosted = hosted_for(turn->service, token);
    PyObject *leader = hosted == NULL ? NULL : ready_leader(hosted, turn->now_ms);
    if (leader == NULL)
        return PyErr_Occurred() ? FAILED : DECLINED;
    PyObject *at = data_key(token, &plain->key);
    if (at == NULL)
        return FAILED;
    Outcome outcome =
        plain->kind == PLAIN_GET ? get(turn, leader, at) : set(turn, hosted, leader, at, &plain->value);
    Py_DECREF(at);
    return outcome;
}

/* receive(connection, service, counts) -> whether the connection was looked after. `counts` is a list of two
 * numbers: the GETs and the SETs that went the short way. */
PyObject *
lane_receive(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {LOOP,   OUTBOX, STREAM,  CLIENT, SLOT,      TOKENS,
                                   SERVICE, HOSTED, REPLICA, LEADER, OPERATION};
    if (!all_bound(needed, 11))
        return NULL;
    if (count != 3 || !is_a(args[0], CLIENT) || !is_a(args[1], SERVICE) || !PyList_CheckExact(args[2]))
        return PyErr_Format(PyExc_TypeError, "receive(connection, service, counts)");
    Turn turn = {.connection = args[0], .service = args[1]};
    return client_turn(&turn, slot_of(args[1], SERVICE, SERVICE_LOOP), args[2], execute);
}
