/* The turn of the loop: waiting for descriptors, and waking who is registered for them. */
#include "lane.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define EVENTS_MAX 1024 /* taken in one turn; the kernel keeps the others and goes round */

/* A stream's short way: (function, service, counts), to be called with the stream before them. True if it
 * looked after what arrived. */
static int
take_way(PyObject *stream)
{
    PyObject *way = NULL;
    if (is_a(stream, CLIENT))
        way = slot_of(stream, CLIENT, CLIENT_WAY);
    else if (is_a(stream, FRAMES))
        way = slot_of(stream, FRAMES, FRAMES_WAY);
    if (way == NULL || !PyTuple_CheckExact(way) || PyTuple_GET_SIZE(way) != 3)
        return 0;
    PyObject *const args[] = {stream, PyTuple_GET_ITEM(way, 1), PyTuple_GET_ITEM(way, 2)};
    PyObject *result = PyObject_Vectorcall(PyTuple_GET_ITEM(way, 0), args, 3, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : result == Py_True;
}

static int
call(PyObject *handler, const char *method)
{
    return called(PyObject_CallMethod(handler, method, NULL));
}

static int
wake(PyObject *handlers, PyObject *descriptor, PyObject *handler, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        int looked_after = take_way(handler);
        if (looked_after < 0 || (looked_after == 0 && call(handler, "readable") < 0))
            return -1;
    }
    if (events & EPOLLOUT) {
        int is_there = PyDict_Contains(handlers, descriptor);
        if (is_there < 0 || (is_there > 0 && call(handler, "writable") < 0))
            return -1;
    }
    return 0;
}

static int
note_time(PyObject *loop)
{
    return set_number(loop, LOOP, LOOP_NOW_MS, steady_ms());
}

/* turn(loop, timeout_ms): one wait, and everybody woken whom it concerns; how many descriptors were ready. */
PyObject *
lane_turn(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {LOOP};
    struct epoll_event events[EVENTS_MAX];
    if (count != 2 || !all_bound(needed, 1) || !is_a(args[0], LOOP))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "turn(loop, timeout_ms)");
    PyObject *loop = args[0], *handlers = slot_of(loop, LOOP, LOOP_HANDLERS);
    int epoll = (int)number_at(loop, LOOP, LOOP_EPOLL_DESCRIPTOR);
    int wakeup = (int)number_at(loop, LOOP, LOOP_WAKEUP);
    long timeout_ms = PyLong_AsLong(args[1]);
    if (timeout_ms == -1 && PyErr_Occurred())
        return NULL;
    int ready;
    Py_BEGIN_ALLOW_THREADS
    ready = epoll_wait(epoll, events, EVENTS_MAX, (int)timeout_ms);
    Py_END_ALLOW_THREADS
    if (ready < 0 && errno != EINTR)
        return PyErr_SetFromErrno(PyExc_OSError);
    if (PyErr_CheckSignals() < 0 || note_time(loop) < 0)
        return NULL;
    for (int at = 0; at < ready; at++) {
        int descriptor = events[at].data.fd;
        PyObject *key = PyLong_FromLong(descriptor);
        PyObject *handler = key == NULL ? NULL : PyDict_GetItemWithError(handlers, key);
        int result = PyErr_Occurred() ? -1 : 0;
        if (handler != NULL) {
            Py_INCREF(handler);
            result = wake(handlers, key, handler, events[at].events);
            Py_DECREF(handler);
        }
        else if (result == 0 && descriptor == wakeup) {
            eventfd_t calls;
            eventfd_read(wakeup, &calls);
        }
        Py_XDECREF(key);
        if (result < 0)
            return NULL;
    }
    return PyLong_FromLong(ready < 0 ? 0 : ready);
}
