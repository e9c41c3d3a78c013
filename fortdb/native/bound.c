/* How C finds the slots of Python's objects, and what it does with tuples, lists and queues. */
#include "lane.h"
#include <structmember.h>

Bound bound[CLASSES] = {
    [LOOP] = {"Loop",
              {"now_ms", "handlers", "epoll_descriptor", "wakeup", "_timers", "_calls", "_running", "_again", "_way"}},
    [OUTBOX] = {"Outbox", {"dirty"}},
    [STREAM] = {"Stream",
                {"outbox", "descriptor", "is_open", "unsent_bytes", "queued_bytes", "output", "is_dirty",
                 "events", "is_paused", "is_closing", "is_last_output", "is_secured", "socket"}},
    [CLIENT] = {"ClientConnection",
                {"slots", "reply_bytes", "window", "held_bytes", "taken_bytes", "last_active_ms", "tail",
                 "is_special", "way"}},
    [SLOT] = {"Slot", {"connection", "reply"}},
    [TOKENS] = {"TokenMap", {"boundaries", "ids"}},
    [SERVICE] = {"NodeService",
                 {"loop", "tokens", "hosted", "engine", "refusal", "policies", "touched", "links",
                  "commit_latency", "_to_answer", "_to_apply", "_wall_ms", "outbox", "answers", "changes"}},
    [HOSTED] = {"Hosted",
                {"replica", "held", "serve_until_ms", "members", "senders", "install", "proposed", "segments",
                 "plain_until_ms"}},
    [REPLICA] = {"Replica",
                 {"leading", "epoch", "leader_name", "aligned", "log", "acknowledgements", "partition", "replies",
                  "abandoned", "installing"}},
    [LEADER] = {"Leader",
                {"overlay", "waiting", "proposal", "operations", "uncommitted_bytes",
                 "next_offset", "has_enough", "log", "waiting_synced", "outbox", "progress", "node", "epoch",
                 "in_sync", "transfer_to"}},
    [LOG] = {"ReplicaLog",
             {"commit", "memory", "shape", "pending", "writes", "timestamp_ms", "applied", "synced_offset",
              "memory_is_stale", "state_changed", "_wipe", "_truncate", "_trimmed"}},
    [RECENT] = {"Recent", {"young"}},
    [CHANGES] = {"Changes", {"waiting"}},
    [LINKS] = {"Links", {"leaders", "_followers"}},
    [LOG_SHAPE_TYPE] = {"LogShape", {NULL}},
    [PENDING] = {"Pending", {NULL}},
    [ACK] = {"Ack", {NULL}},
    [REQUEST_ID] = {"RequestId", {NULL}},
    [IN_SYNC] = {"InSync", {"_members"}},
    [PHASE] = {"Phase", {NULL}},
    [PROGRESS] = {"Progress",
                  {"phase", "next", "match", "incarnation", "_flight", "flight_bytes", "caught_up_ms", "_mark"}},
    [SEGMENTS] = {"Segments", {"_bytes"}},
    [BATCH] = {"RocksBatch", {"data", "operations", "states", "_deletes"}},
    [PROPOSED] = {"Proposed", {NULL}},
    [OPERATION] = {"Operation", {NULL}},
    [FRAMES] = {"FrameStream", {"other", "tail", "is_special", "way"}},
    [GREETING] = {"Greeting", {"session", "name"}},
    [REQUEST_SLOT] = {"RequestSlot", {"peer", "partition", "epoch", "sequence"}},
    [MEMORY] = {"RequestMemory", {"sessions", "uses"}},
    [SESSION] = {"SessionMemory", {"known", "watermark", "used"}},
    [LINK] = {"Link", {"is_up", "stream"}},
    [ROUTER] = {"RouterService", {"loop", "tokens", "channels", "deadline_ms", "latency"}},
    [CHANNEL] = {"Channel", {"epoch", "wire", "unanswered", "next", "oldest"}},
    [UNANSWERED] = {"Unanswered", {"command", "slot", "is_write", "deadline_ms", "sent_count", "began_s"}},
    [LATENCY] = {"LatencyHistogram", {"bounds_s", "counts", "sum_s"}},
};

PyObject *
lane_bind(PyObject *module, PyObject *cls)
{
    if (!PyType_Check(cls))
        return PyErr_Format(PyExc_TypeError, "bind takes a class");
    PyTypeObject *type = (PyTypeObject *)cls;
    for (int number = 0; number < CLASSES; number++) {
        Bound *known = &bound[number];
        if (strcmp(known->name, type->tp_name) != 0)
            continue;
        for (int field = 0; field < FIELDS_MAX && known->fields[field] != NULL; field++) {
            PyObject *member = PyObject_GetAttrString(cls, known->fields[field]);
            if (member == NULL)
                return NULL;
            int fits = Py_TYPE(member) == &PyMemberDescr_Type
                       && ((PyMemberDescrObject *)member)->d_member->type == T_OBJECT_EX;
            if (fits)
                known->offsets[field] = ((PyMemberDescrObject *)member)->d_member->offset;
            Py_DECREF(member);
            if (!fits)
                return PyErr_Format(PyExc_AttributeError, "%s.%s is no slot", known->name, known->fields[field]);
        }
        Py_XSETREF(known->type, (PyTypeObject *)Py_NewRef(cls));
        Py_RETURN_NONE;
    }
    return PyErr_Format(PyExc_TypeError, "nothing in C works on %s", type->tp_name);
}

int
all_bound(const Class *classes, int count)
{
    for (int at = 0; at < count; at++) {
        if (bound[classes[at]].type == NULL) {
            PyErr_Format(PyExc_TypeError, "%s was never bound", bound[classes[at]].name);
            return 0;
        }
    }
    return 1;
}

PyObject *
tuple_of(PyTypeObject *type, Py_ssize_t count, PyObject *const *items)
{
    PyObject *made = NULL;
    int whole = 1;
    for (Py_ssize_t at = 0; at < count; at++)
        whole &= items[at] != NULL;
    if (whole) /* a tuple itself is rather taken from the free ones */
        made = type == &PyTuple_Type ? PyTuple_New(count) : type->tp_alloc(type, count);
    for (Py_ssize_t at = 0; at < count; at++) {
        if (made != NULL)
            PyTuple_SET_ITEM(made, at, items[at]);
        else
            Py_XDECREF(items[at]);
    }
    return made;
}

int
called(PyObject *result)
{
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

char *
bytearray_room(PyObject *array, size_t size)
{
    Py_ssize_t before = PyByteArray_GET_SIZE(array);
    if (PyByteArray_Resize(array, before + (Py_ssize_t)size) < 0)
        return NULL;
    return PyByteArray_AS_STRING(array) + before;
}

int
append_and_release(PyObject *list, PyObject *item)
{
    int result = item == NULL ? -1 : PyList_Append(list, item);
    Py_XDECREF(item);
    return result;
}

/* --- queues: collections.deque ------------------------------------------------------------------------------ */

/* The functions behind the names of its methods, looked up once and not for every item. */
static struct {
    PyTypeObject *type;
    PyCFunction append, popleft;
} known_queue;

static PyCFunction
method_of(PyTypeObject *type, const char *name)
{
    PyObject *method = PyObject_GetAttrString((PyObject *)type, name);
    if (method == NULL)
        return NULL;
    PyCFunction function = NULL;
    if (Py_IS_TYPE(method, &PyMethodDescr_Type))
        function = ((PyMethodDescrObject *)method)->d_method->ml_meth;
    else
        PyErr_Format(PyExc_TypeError, "%s.%s is not in C", type->tp_name, name);
    Py_DECREF(method);
    return function;
}

/* 0, or -1 with an exception if it is no deque. */
static int
check_queue(PyObject *queue)
{
    PyTypeObject *type = Py_TYPE(queue);
    if (type == known_queue.type)
        return 0;
    if (strcmp(type->tp_name, "collections.deque") != 0) {
        PyErr_Format(PyExc_TypeError, "%s is no deque", type->tp_name);
        return -1;
    }
    known_queue.append = method_of(type, "append");
    known_queue.popleft = known_queue.append == NULL ? NULL : method_of(type, "popleft");
    if (known_queue.popleft == NULL)
        return -1;
    known_queue.type = type;
    return 0;
}

int
queue_add(PyObject *queue, PyObject *item)
{
    return check_queue(queue) < 0 ? -1 : called(known_queue.append(queue, item));
}

PyObject *
queue_first(PyObject *queue)
{
    if (check_queue(queue) < 0 || Py_TYPE(queue)->tp_as_sequence->sq_length(queue) == 0)
        return NULL;
    PyObject *first = Py_TYPE(queue)->tp_as_sequence->sq_item(queue, 0);
    Py_XDECREF(first); /* the queue holds it */
    return first;
}

int
queue_pop(PyObject *queue)
{
    return check_queue(queue) < 0 ? -1 : called(known_queue.popleft(queue, NULL));
}
