/* What all short ways do with a stream: read from it, keep what is unfinished, collect what is to be sent. */
#include "lane.h"
#include <errno.h>
#include <sys/socket.h>

/* What TLS has decrypted. Whatever is wrong, it says once more to the long way, which asks it again. */
static ssize_t
receive_secured(PyObject *stream, uint8_t *to)
{
    PyObject *data =
        PyObject_CallMethod(slot_of(stream, STREAM, STREAM_SOCKET), "recv", "i", (int)RECEIVE_BYTES);
    if (data == NULL) {
        int is_empty = PyErr_ExceptionMatches(PyExc_BlockingIOError);
        if (!PyErr_ExceptionMatches(PyExc_OSError))
            return -2;
        PyErr_Clear();
        return is_empty ? 0 : -1;
    }
    ssize_t size = PyBytes_Check(data) && PyBytes_GET_SIZE(data) <= RECEIVE_BYTES ? PyBytes_GET_SIZE(data) : 0;
    if (size > 0)
        memcpy(to, PyBytes_AS_STRING(data), (size_t)size);
    Py_DECREF(data);
    return size > 0 ? size : -1;
}

static ssize_t
receive_plain(PyObject *stream, uint8_t *to)
{
    int descriptor = (int)number_at(stream, STREAM, STREAM_DESCRIPTOR);
    ssize_t received = recv(descriptor, to, RECEIVE_BYTES, MSG_DONTWAIT);
    if (received <= 0)
        return received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : -1;
    return received;
}

ssize_t
receive_behind(PyObject *stream, Class cls, int tail_field, uint8_t **buffer)
{
    static __thread uint8_t *own_buffer; /* one for all: it is empty again when a turn is over */
    if (own_buffer == NULL && (own_buffer = PyMem_RawMalloc(RECEIVE_BYTES + TAIL_BYTES_MAX)) == NULL) {
        *buffer = NULL;
        PyErr_NoMemory();
        return -1;
    }
    *buffer = own_buffer;
    PyObject *tail = slot_of(stream, cls, tail_field);
    size_t kept = (size_t)PyBytes_GET_SIZE(tail);
    ssize_t received = is_true_at(stream, STREAM, STREAM_IS_SECURED) ? receive_secured(stream, own_buffer + kept)
                                                                     : receive_plain(stream, own_buffer + kept);
    if (received == -2)
        *buffer = NULL; /* a defect, raised as it is */
    if (received <= 0)
        return received;
    if (kept > 0) {
        memcpy(own_buffer, PyBytes_AS_STRING(tail), kept);
        PyObject *empty = PyBytes_FromStringAndSize("", 0);
        if (empty == NULL) {
            *buffer = NULL;
            return -1;
        }
        set_slot(stream, cls, tail_field, empty);
    }
    return received + (ssize_t)kept;
}

/* As `Stream.readable` notes it: what arrived, arrived before this moment (rule 14). */
int
begin_turn(PyObject *stream, Class cls, int tail, int is_special, PyObject *loop, Arrival *arrival)
{
    arrival->result = Py_False;
    if (is_true_at(stream, STREAM, STREAM_IS_PAUSED) || is_true_at(stream, cls, is_special))
        return 0;
    arrival->kept = PyBytes_GET_SIZE(slot_of(stream, cls, tail));
    ssize_t size = receive_behind(stream, cls, tail, &arrival->at);
    if (arrival->at == NULL || (size > 0 && set_number(loop, LOOP, LOOP_NOW_MS, steady_ms()) < 0))
        arrival->result = NULL;
    else if (size >= 0)
        arrival->result = Py_True;
    if (size <= 0 || arrival->result == NULL)
        return 0;
    arrival->end = arrival->at + size;
    return 1;
}

int
keep_tail(PyObject *stream, Class cls, int tail_field, const uint8_t *at, const uint8_t *end)
{
    PyObject *tail = PyBytes_FromStringAndSize((const char *)at, end - at);
    if (tail == NULL)
        return -1;
    set_slot(stream, cls, tail_field, tail);
    return 0;
}

int
hand_on(PyObject *stream, const uint8_t *at, const uint8_t *end)
{
    static PyObject *name_take;
    if (name_take == NULL && (name_take = PyUnicode_InternFromString("take")) == NULL)
        return -1;
    PyObject *rest = PyBytes_FromStringAndSize((const char *)at, end - at);
    if (rest == NULL)
        return -1;
    PyObject *done = PyObject_CallMethodOneArg(stream, name_take, rest);
    Py_DECREF(rest);
    return called(done);
}

int
add_counts(PyObject *totals, const long counts[2])
{
    for (int at = 0; at < 2; at++) {
        if (counts[at] == 0)
            continue;
        long long total = PyLong_AsLongLong(PyList_GET_ITEM(totals, at)) + counts[at];
        PyObject *number = PyLong_FromLongLong(total);
        if (number == NULL || PyList_SetItem(totals, at, number) < 0)
            return -1;
    }
    return 0;
}

char *
output_room(Output *output, size_t size)
{
    if (output->room - output->size < size) {
        size_t room = 2 * output->room + size + 4096;
        char *larger = PyMem_Realloc(output->data, room);
        if (larger == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        output->data = larger;
        output->room = room;
    }
    return output->data + output->size;
}

int
output_write(Output *output, PyObject *stream)
{
    if (output->size == 0)
        return 0;
    PyObject *data = PyBytes_FromStringAndSize(output->data, (Py_ssize_t)output->size);
    output->size = 0;
    int result = data == NULL ? -1 : stream_write(stream, data);
    Py_XDECREF(data);
    return result;
}

void
output_free(Output *output)
{
    PyMem_Free(output->data);
    *output = (Output){NULL, 0, 0};
}
