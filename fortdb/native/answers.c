/* Giving answers: in the order of the requests, once what they wait for has come. */
#include "lane.h"

static PyObject *name_append, *name_popleft, *name_complete;

static int
names(void)
{
    if (name_append != NULL)
        return 0;
    name_popleft = PyUnicode_InternFromString("popleft");
    name_complete = PyUnicode_InternFromString("complete");
    name_append = PyUnicode_InternFromString("append");
    return name_append != NULL && name_popleft != NULL && name_complete != NULL ? 0 : -1;
}

PyObject *
new_slot(PyObject *connection)
{
    if (names() < 0)
        return NULL;
    PyObject *slot = bound[SLOT].type->tp_alloc(bound[SLOT].type, 0);
    if (slot == NULL)
        return NULL;
    set_slot(slot, SLOT, SLOT_CONNECTION, Py_NewRef(connection));
    set_slot(slot, SLOT, SLOT_REPLY, Py_NewRef(Py_None));
    PyObject *done = PyObject_CallMethodOneArg(slot_of(connection, CLIENT, CLIENT_SLOTS), name_append, slot);
    if (done == NULL) {
        Py_DECREF(slot);
        return NULL;
    }
    Py_DECREF(done);
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
    if (PyObject_Size(slots) <= 0)
        return NULL;
    PyObject *first = PySequence_GetItem(slots, 0);
    if (first == NULL)
        return NULL;
    PyObject *reply = slot_of(first, SLOT, SLOT_REPLY);
    Py_DECREF(first); /* the queue holds it */
    if (reply == NULL || reply == Py_None)
        return NULL;
    return PyObject_CallMethodNoArgs(slots, name_popleft);
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
    if (is_true_at(connection, STREAM, STREAM_IS_OPEN)) {
        first = PySequence_GetItem(slots, 0);
        if (first == NULL)
            return -1;
        Py_DECREF(first); /* the queue holds it */
    }
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
    PyObject *done = PyObject_CallMethod(connection, "settle", "L", (long long)size);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int
complete(PyObject *slot, PyObject *reply)
{
    if (names() < 0)
        return -1;
    if (Py_TYPE(slot) != bound[SLOT].type || !PyBytes_CheckExact(reply)) {
        PyObject *done = PyObject_CallMethodOneArg(slot, name_complete, reply);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
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

static int
complete_each(PyObject *waiters, Bundle *bundle)
{
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(waiters); at++) {
        PyObject *waiter = PyList_GET_ITEM(waiters, at);
        if (!PyTuple_Check(waiter) || PyTuple_GET_SIZE(waiter) != 3) {
            PyErr_Format(PyExc_TypeError, "a waiter is (offset, slot, reply)");
            return -1;
        }
        Py_INCREF(waiter);
        PyObject *slot = PyTuple_GET_ITEM(waiter, 1), *reply = PyTuple_GET_ITEM(waiter, 2);
        int result = Py_TYPE(slot) == bound[REQUEST_SLOT].type && PyBytes_CheckExact(reply)
                         ? bundle_reply(bundle, slot, reply)
                         : complete(slot, reply);
        Py_DECREF(waiter);
        if (result < 0)
            return -1;
    }
    return 0;
}

/* complete(waiters): give each its reply. */
PyObject *
lane_complete(PyObject *module, PyObject *waiters)
{
    static const Class needed[] = {STREAM, OUTBOX, CLIENT, SLOT};
    if (names() < 0 || !all_bound(needed, 4))
        return NULL;
    if (!PyList_CheckExact(waiters))
        return PyErr_Format(PyExc_TypeError, "complete takes a list");
    Bundle bundle = {0};
    int result = complete_each(waiters, &bundle);
    if (result < 0)
        bundle_drop(&bundle);
    else
        result = bundle_end(&bundle);
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* take(waiting, offset, into): move the waiters up to `offset` from a deque to a list. */
PyObject *
lane_take(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (names() < 0)
        return NULL;
    if (count != 3 || !PyList_CheckExact(args[2]))
        return PyErr_Format(PyExc_TypeError, "take(waiting, offset, into)");
    long long offset = PyLong_AsLongLong(args[1]);
    Py_ssize_t left = PyObject_Size(args[0]);
    if (left < 0 || PyErr_Occurred())
        return NULL;
    for (; left > 0; left--) {
        PyObject *first = PySequence_GetItem(args[0], 0);
        if (first == NULL)
            return NULL;
        long long own = PyTuple_Check(first) && PyTuple_GET_SIZE(first) > 0
                            ? PyLong_AsLongLong(PyTuple_GET_ITEM(first, 0))
                            : -1;
        Py_DECREF(first);
        if (own == -1 && PyErr_Occurred())
            return NULL;
        if (own > offset)
            break;
        first = PyObject_CallMethodNoArgs(args[0], name_popleft);
        int result = first == NULL ? -1 : PyList_Append(args[2], first);
        Py_XDECREF(first);
        if (result < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* apply(data, operations) -> how many. Puts that do not expire, up to the first operation that is something
 * else, into a batch's data. */
PyObject *
lane_apply(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {OPERATION};
    if (!all_bound(needed, 1))
        return NULL;
    if (count != 2 || !PyDict_CheckExact(args[0]) || !PyList_CheckExact(args[1]))
        return PyErr_Format(PyExc_TypeError, "apply(data, operations)");
    Py_ssize_t at = 0;
    for (; at < PyList_GET_SIZE(args[1]); at++) {
        PyObject *operation = PyList_GET_ITEM(args[1], at);
        if (!is_a(operation, OPERATION) || PyLong_AsLong(PyTuple_GET_ITEM(operation, 0)) != PUT
            || PyLong_AsLongLong(PyTuple_GET_ITEM(operation, 3)) != 0)
            break;
        if (PyDict_SetItem(args[0], PyTuple_GET_ITEM(operation, 1), PyTuple_GET_ITEM(operation, 2)) < 0)
            return NULL;
    }
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(at);
}

/* forget(overlay, operations, offset): effects of that entry are in the data now. */
PyObject *
lane_forget(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyDict_CheckExact(args[0]) || !PyList_CheckExact(args[1]))
        return PyErr_Format(PyExc_TypeError, "forget(overlay, operations, offset)");
    long long offset = PyLong_AsLongLong(args[2]);
    if (offset == -1 && PyErr_Occurred())
        return NULL;
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(args[1]); at++) {
        PyObject *key = PyTuple_GET_ITEM(PyList_GET_ITEM(args[1], at), 1);
        PyObject *known = PyDict_GetItemWithError(args[0], key);
        if (known == NULL) {
            if (PyErr_Occurred())
                return NULL;
            continue;
        }
        if (PyLong_AsLongLong(PyTuple_GET_ITEM(known, 1)) == offset && PyDict_DelItem(args[0], key) < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}
