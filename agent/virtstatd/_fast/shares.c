/* What `collect.kernel.storms.Shares` does: a histogram of shares, and the highest of a while. */

#include "native.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    double at, highest;
} Peak;

typedef struct {
    PyObject_HEAD
    Py_ssize_t bound_count;
    double *bounds;
    unsigned long long *counts;  /* one more than bounds */
    double sum, kept;
    Peak *peaks;  /* falling, those from `first` on */
    size_t first, end, room;
} Shares;

/* Return by how much a number grew, the most that 64 bits hold if it is more. */
static long long growth(PyObject *spans, PyObject *before, Py_ssize_t at)
{
    PyObject *grown = PyNumber_Subtract(PyTuple_GetItem(spans, at), PyTuple_GetItem(before, at));
    if (grown == NULL)
        return -1;
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(grown, &overflow);
    Py_DECREF(grown);
    if (overflow)
        return overflow > 0 ? LLONG_MAX : LLONG_MIN;
    return number;
}

static double clamped(long long grown, long long elapsed)
{
    if (grown >= elapsed)
        return 1.0;
    return grown > 0 ? (double)grown / (double)elapsed : 0.0;
}

/* Put the numbers' growth into an array that the caller frees; NULL with an exception set. */
static long long *growths(PyObject *spans, PyObject *before, Py_ssize_t count)
{
    long long *grown = count < 0 ? NULL : calloc((size_t)count + 1, sizeof *grown);
    if (grown == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t at = 0; at < count; at++) {
        grown[at] = growth(spans, before, at);
        if (grown[at] == -1 && PyErr_Occurred()) {
            free(grown);
            return NULL;
        }
    }
    return grown;
}

static void count_share(Shares *self, double share)
{
    Py_ssize_t bucket = 0;
    while (bucket < self->bound_count && self->bounds[bucket] < share)
        bucket++;
    self->counts[bucket]++;
    self->sum += share;
}

/* Count each share, and return the highest. */
static double count_shares(Shares *self, const long long *grown, Py_ssize_t count,
                           long long elapsed)
{
    long long most = 0, least = 0, sum = 0;
    for (Py_ssize_t at = 0; at < count; at++) {
        most = grown[at] > most ? grown[at] : most;
        least = grown[at] < least ? grown[at] : least;
    }
    double highest = clamped(most, elapsed);
    if (highest > self->bounds[0] || least < 0) {
        for (Py_ssize_t at = 0; at < count; at++)
            count_share(self, clamped(grown[at], elapsed));
        return highest;
    }
    for (Py_ssize_t at = 0; at < count; at++)
        if (__builtin_add_overflow(sum, grown[at], &sum))
            sum = LLONG_MAX;
    self->counts[0] += (unsigned long long)count;
    self->sum += (double)sum / (double)elapsed;
    return highest;
}

static int keep_peak(Shares *self, double at, double highest)
{
    while (self->end > self->first && self->peaks[self->end - 1].highest <= highest)
        self->end--;
    if (self->end == self->room && self->first > 0) {
        self->end -= self->first;
        memmove(self->peaks, self->peaks + self->first, self->end * sizeof *self->peaks);
        self->first = 0;
    } else if (self->end == self->room) {
        size_t room = self->room * 2 + 4;
        Peak *peaks = realloc(self->peaks, room * sizeof *peaks);
        if (peaks == NULL) {
            PyErr_NoMemory();
            return 0;
        }
        self->peaks = peaks;
        self->room = room;
    }
    self->peaks[self->end++] = (Peak){at, highest};
    while (self->first < self->end && self->peaks[self->first].at <= at - self->kept)
        self->first++;
    return 1;
}

static PyObject *shares_observe(PyObject *object, PyObject *arguments)
{
    Shares *self = (Shares *)object;
    PyObject *spans, *before;
    long long elapsed;
    double now, highest = 0.0;
    if (!PyArg_ParseTuple(arguments, "O!O!Ld:observe", &PyTuple_Type, &spans, &PyTuple_Type,
                          &before, &elapsed, &now))
        return NULL;
    Py_ssize_t count = PyTuple_Size(spans);
    if (elapsed <= 0 || PyTuple_Size(before) != count) {
        PyErr_SetString(PyExc_ValueError, "no time, or other spans than before");
        return NULL;
    }
    if (spans == before) {
        self->counts[0] += (unsigned long long)count;
    } else {
        long long *grown = growths(spans, before, count);
        if (grown == NULL)
            return NULL;
        highest = count_shares(self, grown, count, elapsed);
        free(grown);
    }
    if (!keep_peak(self, now, highest))
        return NULL;
    Py_RETURN_NONE;
}

static int append_new(PyObject *list, PyObject *item)
{
    int done = item != NULL && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
    return done;
}

static PyObject *shares_histogram(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const Shares *self = (Shares *)object;
    PyObject *numbers = PyList_New(0);
    unsigned long long total = 0;
    int done = numbers != NULL;
    for (Py_ssize_t at = 0; done && at <= self->bound_count; at++) {
        total += self->counts[at];
        done = append_new(numbers, PyLong_FromUnsignedLongLong(total));
    }
    if (!done || !append_new(numbers, PyFloat_FromDouble(self->sum))
        || !append_new(numbers, PyLong_FromUnsignedLongLong(total)))
        Py_CLEAR(numbers);
    return numbers;
}

static PyObject *shares_peak(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const Shares *self = (Shares *)object;
    return PyFloat_FromDouble(self->first < self->end ? self->peaks[self->first].highest : 0.0);
}

static PyObject *shares_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    PyObject *bounds;
    double kept;
    if (named != NULL && PyDict_Size(named) > 0) {
        PyErr_SetString(PyExc_TypeError, "Shares() takes no named arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "O!d:Shares", &PyTuple_Type, &bounds, &kept))
        return NULL;
    Py_ssize_t count = PyTuple_Size(bounds);
    if (count < 1) {
        PyErr_SetString(PyExc_ValueError, "no bounds");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *object = allocate(type, 0);
    if (object == NULL)
        return NULL;
    Shares *self = (Shares *)object;
    self->kept = kept;
    self->bounds = calloc((size_t)count, sizeof *self->bounds);
    self->counts = calloc((size_t)count + 1, sizeof *self->counts);
    if (self->bounds == NULL || self->counts == NULL)
        PyErr_NoMemory();
    for (; !PyErr_Occurred() && self->bound_count < count; self->bound_count++)
        self->bounds[self->bound_count]
            = PyFloat_AsDouble(PyTuple_GetItem(bounds, self->bound_count));
    if (PyErr_Occurred())
        Py_CLEAR(object);
    return object;
}

static void shares_dealloc(PyObject *object)
{
    Shares *self = (Shares *)object;
    PyTypeObject *type = Py_TYPE(object);
    free(self->bounds);
    free(self->counts);
    free(self->peaks);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"observe", shares_observe, METH_VARARGS, "Take the shares by which spans grew."},
    {"histogram", shares_histogram, METH_NOARGS, "Return buckets, sum and count."},
    {"peak", shares_peak, METH_NOARGS, "Return the highest share of the time kept."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot type_slots[] = {
    {Py_tp_doc, (void *)"A histogram of shares; see `collect.kernel.storms`."},
    {Py_tp_new, (void *)shares_new},
    {Py_tp_dealloc, (void *)shares_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec shares_spec = {
    .name = "virtstatd._fast.native.Shares",
    .basicsize = sizeof(Shares),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = type_slots,
};
