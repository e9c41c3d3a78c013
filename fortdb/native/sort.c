/* Sorting the keys of a table (storage/table.py), without the interpreter. */
#include "lane.h"

typedef struct {
    uint64_t beginning; /* of the key, as a number in the same order: nearly always that decides */
    PyObject *key;
} Place;

static uint64_t
beginning_of(const uint8_t *at, size_t size)
{
    uint64_t number = 0;
    for (size_t byte = 0; byte < 8; byte++)
        number = number << 8 | (byte < size ? at[byte] : 0);
    return number;
}

static int
compare(const void *one, const void *other)
{
    const Place *a = one, *b = other;
    if (a->beginning != b->beginning)
        return a->beginning < b->beginning ? -1 : 1;
    size_t size_a = (size_t)PyBytes_GET_SIZE(a->key), size_b = (size_t)PyBytes_GET_SIZE(b->key);
    int order = memcmp(PyBytes_AS_STRING(a->key), PyBytes_AS_STRING(b->key), size_a < size_b ? size_a : size_b);
    return order != 0 ? order : (size_a > size_b) - (size_a < size_b);
}

/* sort_keys(keys): a list of bytes, which nobody else has, is sorted where it is. */
PyObject *
lane_sort_keys(PyObject *module, PyObject *keys)
{
    if (!PyList_CheckExact(keys))
        return PyErr_Format(PyExc_TypeError, "sort_keys takes a list");
    size_t count = (size_t)PyList_GET_SIZE(keys);
    Place *places = PyMem_RawMalloc(count * sizeof(Place) + 1);
    if (places == NULL)
        return PyErr_NoMemory();
    for (size_t at = 0; at < count; at++) {
        PyObject *key = PyList_GET_ITEM(keys, (Py_ssize_t)at);
        if (!PyBytes_CheckExact(key)) {
            PyMem_RawFree(places);
            return PyErr_Format(PyExc_TypeError, "keys are bytes");
        }
        places[at] = (Place){beginning_of((const uint8_t *)PyBytes_AS_STRING(key), (size_t)PyBytes_GET_SIZE(key)), key};
    }
    Py_BEGIN_ALLOW_THREADS
    qsort(places, count, sizeof(Place), compare);
    Py_END_ALLOW_THREADS
    for (size_t at = 0; at < count; at++)
        PyList_SET_ITEM(keys, (Py_ssize_t)at, places[at].key); /* the list has a reference to each, as before */
    PyMem_RawFree(places);
    Py_RETURN_NONE;
}
