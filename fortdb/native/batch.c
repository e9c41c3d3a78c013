/* A batch's form in the journal: `RocksBatch.encode` of a batch that deletes no range. */
#include "lane.h"

#define PUT_DATA 0 /* kinds of change: storage/batch.py */
#define DELETE_DATA 1
#define PUT_STATE 8
#define DELETE_STATE 9

/* Where the next change goes in each column; without a buffer, only sizes are summed. */
typedef struct {
    char *kinds, *key_sizes, *value_sizes, *keys, *values;
    size_t count, key_bytes, value_bytes;
} Columns;

static int
add(Columns *columns, int kind, PyObject *key, PyObject *value) /* no value: None */
{
    if (!PyBytes_CheckExact(key) || (value != Py_None && !PyBytes_CheckExact(value))) {
        PyErr_SetString(PyExc_TypeError, "keys and values of a batch are bytes");
        return -1;
    }
    size_t key_size = (size_t)PyBytes_GET_SIZE(key), size = value == Py_None ? 0 : (size_t)PyBytes_GET_SIZE(value);
    if (columns->kinds != NULL) {
        uint32_t sizes[] = {(uint32_t)key_size, (uint32_t)size};
        columns->kinds[columns->count] = (char)kind;
        memcpy(columns->key_sizes + 4 * columns->count, &sizes[0], 4);
        memcpy(columns->value_sizes + 4 * columns->count, &sizes[1], 4);
        memcpy(columns->keys + columns->key_bytes, PyBytes_AS_STRING(key), key_size);
        if (size > 0)
            memcpy(columns->values + columns->value_bytes, PyBytes_AS_STRING(value), size);
    }
    columns->count++;
    columns->key_bytes += key_size;
    columns->value_bytes += size;
    return 0;
}

static int
add_pairs(Columns *columns, PyObject *pairs, int put, int delete)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(pairs, &at, &key, &value))
        if (add(columns, value == Py_None ? delete : put, key, value) < 0)
            return -1;
    return 0;
}

static int
add_all(Columns *columns, PyObject *batch)
{
    PyObject *operations = slot_of(batch, BATCH, BATCH_OPERATIONS);
    columns->count = columns->key_bytes = columns->value_bytes = 0;
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(operations); at++) {
        PyObject *operation = PyList_GET_ITEM(operations, at);
        int kind = (int)PyLong_AsLong(PyTuple_GET_ITEM(operation, 0));
        if (add(columns, kind, PyTuple_GET_ITEM(operation, 1), PyTuple_GET_ITEM(operation, 2)) < 0)
            return -1;
    }
    if (add_pairs(columns, slot_of(batch, BATCH, BATCH_STATES), PUT_STATE, DELETE_STATE) < 0)
        return -1;
    return add_pairs(columns, slot_of(batch, BATCH, BATCH_DATA), PUT_DATA, DELETE_DATA);
}

PyObject *
lane_encode_batch(PyObject *module, PyObject *batch)
{
    static const Class needed[] = {BATCH};
    Columns columns = {0};
    if (!all_bound(needed, 1))
        return NULL;
    if (!is_a(batch, BATCH))
        return PyErr_Format(PyExc_TypeError, "encode_batch takes a batch");
    if (add_all(&columns, batch) < 0)
        return NULL;
    size_t count = columns.count;
    PyObject *made =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(4 + 9 * count + columns.key_bytes + columns.value_bytes));
    if (made == NULL)
        return NULL;
    char *start = PyBytes_AS_STRING(made);
    put_number(start, count, 4);
    columns.kinds = start + 4;
    columns.key_sizes = columns.kinds + count;
    columns.value_sizes = columns.key_sizes + 4 * count;
    columns.keys = columns.value_sizes + 4 * count;
    columns.values = columns.keys + columns.key_bytes;
    if (add_all(&columns, batch) < 0)
        Py_CLEAR(made);
    return made;
}
