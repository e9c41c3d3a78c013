/* Giving answers: in the order of the requests, once what they wait for has come. */
#include "lane.h"

PyObject *
new_slot(PyObject *connection)
{
    PyObject *slot = bound[SLOT].type->tp_alloc(bound[SLOT].type, 0);
    if (slot == NULL)
        return NULL;
    set_slot(slot, SLOT, SLOT_CONNECTION, Py_NewRef(connection));
    set_slot(slot, SLOT, SLOT_REPLY, Py_NewRef(Py_None));
    if (queue_add(slot_of(connection, CLIENT, CLIENT_SLOTS), slot) < 0)
        Py_CLEAR(slot);
    return slot;
}

/* As `ClientConnection.completed` notes it: how large answers are, and how many may be under way. */
static int
note_size(PyObject *connection, int64_t size)
{
    int64_t known = number_at(connection, CLIENT, CLIENT_REPLY_BYTES);
    int64_t noted = size > known ? size : known - (known - size) / 8;
    if (noted == known)
        return 0;
    int64_t window = OUTPUT_SOFT_BYTES / (noted + 1) + 1;
    if (set_number(connection, CLIENT, CLIENT_REPLY_BYTES, noted) < 0)
        return -1;
    return set_number(connection, CLIENT, CLIENT_WINDOW,
                      window < PENDING_COMMANDS_MAX ? window : PENDING_COMMANDS_MAX);
}

/* The first slot of a connection if it is filled: taken out of the queue, a new reference. NULL if there is
 * none, or with an exception. */
static PyObject *
next_filled(PyObject *slots)
{
    PyObject *first = queue_first(slots);
    if (first == NULL || slot_of(first, SLOT, SLOT_REPLY) == Py_None)
        return NULL;
    Py_INCREF(first);
    if (queue_pop(slots) < 0)
        Py_CLEAR(first);
    return first;
}

/* What is ready is written, in the order of the requests, from `slot` on, which is the first. */
static int
write_ready(PyObject *connection, PyObject *slots, PyObject *slot)
{
    int64_t held = number_at(connection, CLIENT, CLIENT_HELD_BYTES), before = held;
    PyObject *next;
    int result = 0;
    while (result == 0 && (next = next_filled(slots)) != NULL) {
        PyObject *reply = slot_of(next, SLOT, SLOT_REPLY);
        if (next != slot)
            held -= PyBytes_GET_SIZE(reply);
        result = stream_write(connection, reply);
        Py_DECREF(next);
    }
    if (result < 0 || PyErr_Occurred())
        return -1;
    return held == before ? 0 : set_number(connection, CLIENT, CLIENT_HELD_BYTES, held);
}

/* `ClientConnection.completed` */
static int
completed(PyObject *connection, PyObject *slot, int64_t size)
{
    PyObject *slots = slot_of(connection, CLIENT, CLIENT_SLOTS), *first = NULL;
    if (note_size(connection, size) < 0)
        return -1;
    if (is_true_at(connection, STREAM, STREAM_IS_OPEN) && (first = queue_first(slots)) == NULL && PyErr_Occurred())
        return -1;
    if (first != slot)
        return set_number(connection, CLIENT, CLIENT_HELD_BYTES,
                          number_at(connection, CLIENT, CLIENT_HELD_BYTES) + size);
    if (write_ready(connection, slots, slot) < 0)
        return -1;
    int64_t unsent = number_at(connection, STREAM, STREAM_QUEUED_BYTES)
                     + number_at(connection, CLIENT, CLIENT_HELD_BYTES);
    if (unsent <= OUTPUT_SOFT_BYTES && !is_true_at(connection, STREAM, STREAM_IS_PAUSED)
        && !is_true_at(connection, STREAM, STREAM_IS_CLOSING))
        return 0;
    return called(PyObject_CallMethod(connection, "settle", "L", (long long)size));
}

int
complete(PyObject *slot, PyObject *reply)
{
    if (Py_TYPE(slot) != bound[SLOT].type || !PyBytes_CheckExact(reply)) {
        return called(PyObject_CallMethod(slot, "complete", "(O)", reply));
    }
    if (slot_of(slot, SLOT, SLOT_REPLY) != Py_None)
        return 0;
    set_slot(slot, SLOT, SLOT_REPLY, Py_NewRef(reply));
    PyObject *connection = Py_NewRef(slot_of(slot, SLOT, SLOT_CONNECTION));
    Py_INCREF(slot);
    int result = completed(connection, slot, PyBytes_GET_SIZE(reply));
    Py_DECREF(slot);
    Py_DECREF(connection);
    return result;
}

/* --- how long it took --------------------------------------------------------------------------------------- */

/* `LatencyHistogram.observe` */
int
observe(PyObject *latency, double seconds)
{
    if (!is_a(latency, LATENCY))
        return 0;
    PyObject *bounds = slot_of(latency, LATENCY, LATENCY_BOUNDS_S), *counts = slot_of(latency, LATENCY, LATENCY_COUNTS);
    Py_ssize_t at = 0, size = PyTuple_GET_SIZE(bounds);
    while (at < size && PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(bounds, at)) < seconds)
        at++;
    PyObject *count = PyLong_FromLongLong(PyLong_AsLongLong(PyList_GET_ITEM(counts, at)) + 1);
    PyObject *sum = PyFloat_FromDouble(PyFloat_AS_DOUBLE(slot_of(latency, LATENCY, LATENCY_SUM_S)) + seconds);
    if (count == NULL || sum == NULL) {
        Py_XDECREF(count);
        Py_XDECREF(sum);
        return -1;
    }
    set_slot(latency, LATENCY, LATENCY_SUM_S, sum);
    return PyList_SetItem(counts, at, count);
}
