/* What the journal (storage/segments.py) asks of the kernel and Python has no call for. */
#define _GNU_SOURCE
#include "lane.h"
#include <fcntl.h>

/* begin_sync(descriptor, start, size): have the disk begin to write these bytes of a file. Mostly that waits for
 * nothing, but sync_file_range(2) blocks while the disk's queue is full. It is a hint: nothing is durable before a
 * sync has returned, and what goes wrong is told by that. */
PyObject *
lane_begin_sync(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "begin_sync(descriptor, start, size)");
    int descriptor = (int)PyLong_AsLong(args[0]);
    long long start = PyLong_AsLongLong(args[1]), size = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred())
        return NULL;
#ifdef SYNC_FILE_RANGE_WRITE
    Py_BEGIN_ALLOW_THREADS
    (void)sync_file_range(descriptor, start, size, SYNC_FILE_RANGE_WRITE);
    Py_END_ALLOW_THREADS
#endif
    Py_RETURN_NONE;
}
