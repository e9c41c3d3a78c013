/* fdatasync on a thread that knows nothing of Python: while the disk works, the loop goes on. */
#include "lane.h"
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct {
    PyObject_HEAD
    pthread_t thread;
    sem_t wanted;
    int descriptor; /* to sync; -1: end */
    int error;      /* of the sync that is done */
    int done;       /* an eventfd: readable once it is */
    int is_busy, is_open;
} Syncer;

static void *
run(void *argument)
{
    Syncer *self = argument;
    for (;;) {
        while (sem_wait(&self->wanted) < 0 && errno == EINTR)
            ;
        if (self->descriptor < 0)
            return NULL;
        self->error = fdatasync(self->descriptor) < 0 ? errno : 0;
        eventfd_write(self->done, 1);
    }
}

static int
start(Syncer *self)
{
    sigset_t all, former; /* signals are for the threads of Python */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &former);
    int error = pthread_create(&self->thread, NULL, run, self);
    pthread_sigmask(SIG_SETMASK, &former, NULL);
    return error;
}

static PyObject *
syncer_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    Syncer *self = (Syncer *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->done = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (self->done >= 0) {
        sem_init(&self->wanted, 0, 0);
        errno = start(self);
        if (errno == 0) {
            self->is_open = 1;
            return (PyObject *)self;
        }
        close(self->done);
    }
    PyErr_SetFromErrno(PyExc_OSError);
    Py_DECREF(self);
    return NULL;
}

static PyObject *
syncer_fileno(Syncer *self, PyObject *nothing)
{
    return PyLong_FromLong(self->done);
}

static PyObject *
syncer_begin(Syncer *self, PyObject *descriptor)
{
    int wanted = PyObject_AsFileDescriptor(descriptor);
    if (wanted < 0)
        return NULL;
    if (self->is_busy || !self->is_open)
        return PyErr_Format(PyExc_ValueError, self->is_busy ? "a sync is under way" : "closed");
    self->is_busy = 1;
    self->descriptor = wanted;
    sem_post(&self->wanted);
    Py_RETURN_NONE;
}

/* Waits until the sync that is under way is done; 0, or its errno. */
static PyObject *
syncer_end(Syncer *self, PyObject *nothing)
{
    eventfd_t count;
    if (!self->is_busy)
        return PyErr_Format(PyExc_ValueError, "no sync is under way");
    while (eventfd_read(self->done, &count) < 0) {
        Py_BEGIN_ALLOW_THREADS
        usleep(100); /* only at the end of a process: the loop calls when it is done */
        Py_END_ALLOW_THREADS
    }
    self->is_busy = 0;
    return PyLong_FromLong(self->error);
}

static PyObject *
syncer_close(Syncer *self, PyObject *nothing)
{
    if (self->is_open) {
        if (self->is_busy)
            Py_XDECREF(syncer_end(self, NULL));
        self->is_open = 0;
        self->descriptor = -1;
        sem_post(&self->wanted);
        pthread_join(self->thread, NULL);
        sem_destroy(&self->wanted);
        close(self->done);
    }
    Py_RETURN_NONE;
}

static void
syncer_dealloc(Syncer *self)
{
    Py_XDECREF(syncer_close(self, NULL));
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"fileno", (PyCFunction)syncer_fileno, METH_NOARGS, "Readable once a sync is done."},
    {"begin", (PyCFunction)syncer_begin, METH_O, "begin(descriptor): sync it. One at a time."},
    {"end", (PyCFunction)syncer_end, METH_NOARGS, "end() -> 0, or the errno of the sync."},
    {"close", (PyCFunction)syncer_close, METH_NOARGS, "End the thread, after what is under way. Idempotent."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject SyncerType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fortdb.native._native.Syncer",
    .tp_doc = "fdatasync on a thread of its own.",
    .tp_basicsize = sizeof(Syncer),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = syncer_new,
    .tp_dealloc = (destructor)syncer_dealloc,
    .tp_methods = methods,
};
