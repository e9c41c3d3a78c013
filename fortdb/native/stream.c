/* Sending what a tick has collected. Whatever is not plain goes through Stream.flush. */
#include "lane.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define JOINED_BYTES_MAX (256 * 1024) /* larger output is rare enough for Stream.flush */

int
stream_write(PyObject *stream, PyObject *data)
{
    int64_t queued = number_at(stream, STREAM, STREAM_QUEUED_BYTES) + PyBytes_GET_SIZE(data);
    if (PyList_Append(slot_of(stream, STREAM, STREAM_OUTPUT), data) < 0
        || set_number(stream, STREAM, STREAM_QUEUED_BYTES, queued) < 0)
        return -1;
    if (is_true_at(stream, STREAM, STREAM_IS_DIRTY))
        return 0;
    set_flag(stream, STREAM, STREAM_IS_DIRTY, 1);
    return PyList_Append(slot_of(slot_of(stream, STREAM, STREAM_OUTBOX), OUTBOX, OUTBOX_DIRTY), stream);
}

/* What is to be sent, as one piece; NULL without an exception when it has to go the long way. */
static const char *
joined(PyObject *output, char *buffer, size_t *size)
{
    Py_ssize_t count = PyList_GET_SIZE(output);
    *size = 0;
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *piece = PyList_GET_ITEM(output, at);
        if (!PyBytes_Check(piece))
            return NULL;
        size_t length = (size_t)PyBytes_GET_SIZE(piece);
        if (count == 1 && length <= JOINED_BYTES_MAX) {
            *size = length;
            return PyBytes_AS_STRING(piece);
        }
        if (*size + length > JOINED_BYTES_MAX)
            return NULL;
        memcpy(buffer + *size, PyBytes_AS_STRING(piece), length);
        *size += length;
    }
    return buffer;
}

static int
is_plain(PyObject *stream)
{
    PyObject *output = slot_of(stream, STREAM, STREAM_OUTPUT);
    return is_true_at(stream, STREAM, STREAM_IS_OPEN) && PyList_CheckExact(output) && PyList_GET_SIZE(output) > 0
           && !is_true_at(stream, STREAM, STREAM_IS_LAST_OUTPUT) && !is_true_at(stream, STREAM, STREAM_IS_SECURED)
           && number_at(stream, STREAM, STREAM_UNSENT_BYTES) == 0
           && (number_at(stream, STREAM, STREAM_EVENTS) & EPOLLOUT) == 0;
}

static int
flush_one(PyObject *stream, char *buffer)
{
    size_t size = 0;
    const char *data = NULL;
    if (is_plain(stream))
        data = joined(slot_of(stream, STREAM, STREAM_OUTPUT), buffer, &size);
    if (data == NULL)
        return called(PyObject_CallMethod(stream, "flush", NULL));
    int descriptor = (int)number_at(stream, STREAM, STREAM_DESCRIPTOR);
    set_flag(stream, STREAM, STREAM_IS_DIRTY, 0);
    PyObject *output = Py_NewRef(slot_of(stream, STREAM, STREAM_OUTPUT)); /* `data` may lie in it */
    ssize_t sent = send(descriptor, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    int result;
    if (sent == (ssize_t)size) {
        result = PyList_SetSlice(output, 0, PyList_GET_SIZE(output), NULL);
        if (result == 0)
            result = set_number(stream, STREAM, STREAM_QUEUED_BYTES, 0);
        if (result == 0 && is_true_at(stream, STREAM, STREAM_IS_PAUSED))
            result = called(PyObject_CallMethod(stream, "drained", NULL));
    }
    else if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        PyObject *reason = PyUnicode_FromFormat("cannot send: [Errno %d] %s", errno, strerror(errno));
        result = reason == NULL ? -1 : called(PyObject_CallMethod(stream, "close", "N", reason));
    }
    else {
        size_t done = sent > 0 ? (size_t)sent : 0;
        result = called(PyObject_CallMethod(stream, "keep", "y#n", data + done, (Py_ssize_t)(size - done),
                                            (Py_ssize_t)done));
    }
    Py_DECREF(output);
    return result;
}

int
has_collected(PyObject *outbox)
{
    return PyList_GET_SIZE(slot_of(outbox, OUTBOX, OUTBOX_DIRTY)) > 0;
}

int
outbox_flush(PyObject *outbox)
{
    static __thread char *buffer; /* one for all: it is empty again when a stream is flushed */
    if (!has_collected(outbox))
        return 0; /* a node has two, of which a turn mostly fills one */
    if (buffer == NULL && (buffer = PyMem_RawMalloc(JOINED_BYTES_MAX)) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *none = PyList_New(0), *streams = Py_NewRef(slot_of(outbox, OUTBOX, OUTBOX_DIRTY));
    int result = none == NULL ? -1 : 0;
    if (result == 0)
        set_slot(outbox, OUTBOX, OUTBOX_DIRTY, none);
    for (Py_ssize_t at = 0; result == 0 && at < PyList_GET_SIZE(streams); at++) {
        PyObject *stream = Py_NewRef(PyList_GET_ITEM(streams, at));
        result = is_a(stream, STREAM) ? flush_one(stream, buffer)
                                      : called(PyObject_CallMethod(stream, "flush", NULL));
        Py_DECREF(stream);
    }
    Py_DECREF(streams);
    return result;
}

/* flush(outboxes) -> whether all is sent: nothing has collected meanwhile. */
PyObject *
lane_flush(PyObject *module, PyObject *outboxes)
{
    static const Class needed[] = {STREAM, OUTBOX};
    Py_ssize_t count = PyTuple_CheckExact(outboxes) ? PyTuple_GET_SIZE(outboxes) : 0;
    int is_right = all_bound(needed, 2) && count > 0, all = 1;
    for (Py_ssize_t at = 0; at < count; at++)
        is_right = is_right && is_a(PyTuple_GET_ITEM(outboxes, at), OUTBOX);
    if (!is_right)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "flush(outboxes): a tuple of them");
    for (Py_ssize_t at = 0; at < count; at++) {
        if (outbox_flush(PyTuple_GET_ITEM(outboxes, at)) < 0)
            return NULL;
    }
    for (Py_ssize_t at = 0; at < count; at++)
        all = all && !has_collected(PyTuple_GET_ITEM(outboxes, at));
    return PyBool_FromLong(all);
}
