/* The turns of the loop: waiting for descriptors, waking who is registered for them, and again, as long as the tick
 * is plain. */
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

/* One wait, and everybody woken whom it concerns; how many descriptors were ready, -1 with an exception. */
static int
turn(PyObject *loop, int timeout_ms)
{
    struct epoll_event events[EVENTS_MAX];
    PyObject *handlers = slot_of(loop, LOOP, LOOP_HANDLERS);
    int epoll = (int)number_at(loop, LOOP, LOOP_EPOLL_DESCRIPTOR);
    int wakeup = (int)number_at(loop, LOOP, LOOP_WAKEUP);
    int ready;
    Py_BEGIN_ALLOW_THREADS
    ready = epoll_wait(epoll, events, EVENTS_MAX, timeout_ms);
    Py_END_ALLOW_THREADS
    if (ready < 0 && errno != EINTR) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (PyErr_CheckSignals() < 0 || note_time(loop) < 0)
        return -1;
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
            return -1;
    }
    return ready < 0 ? 0 : ready;
}

/* When the first timer is due; never, if there is none. */
static int64_t
first_timer_ms(PyObject *loop)
{
    PyObject *timers = slot_of(loop, LOOP, LOOP_TIMERS);
    if (PyList_GET_SIZE(timers) == 0)
        return INT64_MAX;
    return PyLong_AsLongLong(PyTuple_GET_ITEM(PyList_GET_ITEM(timers, 0), 0));
}

/* Whether `Loop.run` would do nothing now but the tick; -1 with an exception. */
static int
is_only_tick(PyObject *loop)
{
    int is = is_true_at(loop, LOOP, LOOP_RUNNING) && !is_true_at(loop, LOOP, LOOP_AGAIN)
             && PyObject_Size(slot_of(loop, LOOP, LOOP_CALLS)) == 0
             && first_timer_ms(loop) > number_at(loop, LOOP, LOOP_NOW_MS);
    return PyErr_Occurred() ? -1 : is;
}

/* Whether the tick was plain and is done, and nothing else is to be done; -1 with an exception. */
static int
tick(PyObject *loop)
{
    PyObject *way = slot_of(loop, LOOP, LOOP_WAY);
    int is_plain = PyTuple_CheckExact(way) ? is_only_tick(loop) : 0;
    if (is_plain <= 0)
        return is_plain;
    PyObject *done = PyObject_CallOneArg(PyTuple_GET_ITEM(way, 0), PyTuple_GET_ITEM(way, 1));
    Py_XDECREF(done);
    if (done != Py_True)
        return done == NULL ? -1 : 0;
    return is_only_tick(loop);
}

/* turns(loop, timeout_ms) -> how many descriptors were ready. The timeout is for the first turn; others follow as long
 * as ticks are plain, and so not after one in which nothing was ready. A signal that comes while C is at work is seen
 * after the next wait, which timers keep short. */
PyObject *
lane_turns(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const Class needed[] = {LOOP};
    if (count != 2 || !all_bound(needed, 1) || !is_a(args[0], LOOP))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "turns(loop, timeout_ms)");
    PyObject *loop = args[0];
    int64_t timeout_ms = PyLong_AsLongLong(args[1]);
    if (timeout_ms == -1 && PyErr_Occurred())
        return NULL;
    long all = 0;
    for (;;) {
        int ready = turn(loop, (int)timeout_ms), ticked = ready > 0 ? tick(loop) : 0;
        if (ready < 0 || ticked < 0)
            return NULL;
        all += ready;
        if (!ticked)
            return PyLong_FromLong(all);
        timeout_ms = first_timer_ms(loop) - steady_ms();
        timeout_ms = timeout_ms < 0 ? 0 : timeout_ms > IDLE_WAIT_MS ? IDLE_WAIT_MS : timeout_ms;
    }
}
