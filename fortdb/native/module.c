/* The module fortdb.native._native; see __init__.py beside it. */
#include "lane.h"

static PyMethodDef methods[] = {
    {"bind", lane_bind, METH_O, "bind(cls): find the slots of a class that C works on."},
    {"turns", (PyCFunction)(void (*)(void))lane_turns, METH_FASTCALL,
     "turns(loop, timeout_ms): wait for descriptors, and wake whom they concern, as long as ticks are plain."},
    {"hash_of", lane_hash_of, METH_O, "hash_of(key): the key's token as bytes."},
    {"hash_portably", lane_hash_portably, METH_O, "hash_portably(key): the same without the processor's extensions."},
    {"crc32", (PyCFunction)(void (*)(void))lane_crc32, METH_FASTCALL,
     "crc32(data, before=0): the checksum, as zlib's."},
    {"crc32_portably", (PyCFunction)(void (*)(void))lane_crc32_portably, METH_FASTCALL,
     "crc32_portably(data, before=0): the same without the processor's extensions."},
    {"flush", lane_flush, METH_O, "flush(outboxes): send what has collected in each; whether that is all."},
    {"tick", lane_tick, METH_O, "tick(service): a tick in which nothing is to be written; whether this was one."},
    {"send_entries", (PyCFunction)(void (*)(void))lane_send_entries, METH_FASTCALL,
     "send_entries(service, touched): seal what was proposed, and send it to the followers."},
    {"write_replicas", (PyCFunction)(void (*)(void))lane_write_replicas, METH_FASTCALL,
     "write_replicas(service, batch, touched): put what each wants written into the batch."},
    {"go_on", (PyCFunction)(void (*)(void))lane_go_on, METH_FASTCALL,
     "go_on(service, touched, written): it is on the disk; tell everybody who waits for that."},
    {"begin_sync", (PyCFunction)(void (*)(void))lane_begin_sync, METH_FASTCALL,
     "begin_sync(descriptor, start, size): have the disk begin to write a piece of a file."},
    {"encode_batch", lane_encode_batch, METH_O, "encode_batch(batch): its form in the journal."},
    {"sort_keys", lane_sort_keys, METH_O, "sort_keys(keys): sort a list of bytes."},
    {"give_answers", lane_give_answers, METH_O, "give_answers(service): give what acknowledgements allow by now."},
    {"receive", (PyCFunction)(void (*)(void))lane_receive, METH_FASTCALL,
     "receive(connection, service, counts): read from a client, and execute what is plain."},
    {"hear_requests", (PyCFunction)(void (*)(void))lane_hear_requests, METH_FASTCALL,
     "hear_requests(peer, service, counts): read from a router, and execute what is plain."},
    {"send_on", (PyCFunction)(void (*)(void))lane_send_on, METH_FASTCALL,
     "send_on(connection, router, counts): read from a client, and send on what is plain."},
    {"hear_follower", (PyCFunction)(void (*)(void))lane_hear_follower, METH_FASTCALL,
     "hear_follower(stream, service, nothing): read from a follower, and hear what it acknowledges."},
    {"hear_replies", (PyCFunction)(void (*)(void))lane_hear_replies, METH_FASTCALL,
     "hear_replies(stream, router, nothing): read from a node, and give clients their answers."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The short way, in C; see fortdb.native.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    const char *wanted = getenv("FORTDB_NATIVE");
    if (wanted != NULL && strcmp(wanted, "0") == 0)
        return PyErr_Format(PyExc_ImportError, "FORTDB_NATIVE=0: everything takes the long way");
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
#define ADD(bound) PyModule_AddIntConstant(module, #bound, bound)
    if (ADD(KEY_BYTES_MAX) < 0 || ADD(RECEIVE_BYTES) < 0 || ADD(OUTPUT_SOFT_BYTES) < 0
        || ADD(INPUT_SOFT_BYTES) < 0 || ADD(PENDING_COMMANDS_MAX) < 0 || ADD(ENTRY_BYTES_MAX) < 0
        || ADD(UNCOMMITTED_BYTES_MAX) < 0 || ADD(FRAME_BYTES_MAX) < 0 || ADD(PEER_OUTPUT_BYTES) < 0
        || ADD(CHANNEL_REQUESTS_MAX) < 0 || ADD(FLIGHT_BYTES_MAX) < 0 || ADD(LOG_SEGMENT_BYTES) < 0
        || ADD(IDLE_WAIT_MS) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
