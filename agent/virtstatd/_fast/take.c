/*
 * A plan for records of one kind: compares names, types and fixed values, and takes the numbers.
 *
 * What `catalog.decode` does with a dictionary. Whatever deviates is left to it.
 */

#include "records.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_BYTES = 3 };  /* before each name: its type, the letter of its check, its length */

enum { ONE = -1 };  /* as in `catalog.recipe`: no value of the record, but the constant 1 */

typedef enum { PLAIN, FIRST_BIN, BIN, BIN_COUNT } Bin;

typedef struct {
    int place;
    Bin bin;
    unsigned long long factor;  /* 0: none */
} Pick;

typedef struct {
    Py_ssize_t count;
    Pick *picks;
} Part;

typedef struct {
    PyObject_HEAD
    PyObject *layout;
    const char **heads;  /* where each name is in them; only while the plan is made */
    int count;
    Py_ssize_t fixed_count, part_count;
    int *fixed;  /* the places of values that are part of the shape */
    Part *parts;
} Take;

static int is_name(const Parameter *parameter, const char *name, size_t length)
{
    return memcmp(parameter->field, name, length) == 0 && parameter->field[length] == '\0';
}

/* Whether a value can be used as it is, by the letter that `catalog.decode` checks it by. */
static int is_sound(const Parameter *parameter, char code)
{
    switch (parameter->type) {
    case TYPE_INT:
        return code != 'Q' || parameter->value.i >= 0;
    case TYPE_UINT:
        return code == '?' || (int)parameter->value.ui >= 0;
    case TYPE_LLONG:
        return code != 'Q' || parameter->value.l >= 0;
    case TYPE_ULLONG:
        return code != 'q' || (long long)parameter->value.ul >= 0;
    case TYPE_DOUBLE:
        return code != 'd' || isfinite(parameter->value.d);
    default:
        return 1;
    }
}

static int fits(const Take *self, const Record *record)
{
    if (record->count != self->count)
        return 0;
    const char *head = PyBytes_AsString(self->layout);
    for (int at = 0; at < self->count; at++) {
        const Parameter *parameter = &record->parameters[at];
        size_t length = (unsigned char)head[2];
        if (parameter->type != head[0] || !is_name(parameter, head + HEAD_BYTES, length)
            || !is_sound(parameter, head[1]))
            return 0;
        head += HEAD_BYTES + length;
    }
    return 1;
}

/* Return a whole number as the binding has it; of a number beyond 63 bits the difference to 2^64. */
static long long whole(const Parameter *parameter)
{
    switch (parameter->type) {
    case TYPE_INT:
        return parameter->value.i;
    case TYPE_UINT:
        return (int)parameter->value.ui;
    case TYPE_BOOLEAN:
        return parameter->value.b != 0;
    default:
        return parameter->value.l;
    }
}

/* Whether a value is the expected one; -1 with an exception set if that is of another type. */
static int is_same(const Parameter *parameter, PyObject *expected)
{
    if (parameter->type == TYPE_STRING) {
        const char *text = PyUnicode_AsUTF8AndSize(expected, NULL);
        if (text == NULL)
            return -1;
        return parameter->value.s != NULL && strcmp(parameter->value.s, text) == 0;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(expected, &overflow);
    if (number == -1 && PyErr_Occurred())
        return -1;
    return !overflow && number == whole(parameter)
           && (parameter->type != TYPE_ULLONG || number >= 0);
}

/* Whether the values that are part of the shape are the expected ones; -1 as above. */
static int same_fixed(const Take *self, const Record *record, PyObject *expected)
{
    int same = 1;
    for (Py_ssize_t at = 0; same == 1 && at < self->fixed_count; at++)
        same = is_same(&record->parameters[self->fixed[at]], PyTuple_GetItem(expected, at));
    return same;
}

/* Return a number; NULL without an exception where it has more than 64 bits. */
static PyObject *number_of(const Parameter *parameter, unsigned long long factor)
{
    if (parameter->type == TYPE_DOUBLE)
        return PyFloat_FromDouble(parameter->value.d * (factor ? (double)factor : 1.0));
    long long number = whole(parameter);
    if (parameter->type == TYPE_ULLONG || number >= 0) {
        unsigned long long size = (unsigned long long)number;
        if (factor && __builtin_mul_overflow(size, factor, &size))
            return NULL;
        return PyLong_FromUnsignedLongLong(size);
    }
    if (factor && __builtin_mul_overflow(number, factor, &number))
        return NULL;
    return PyLong_FromLongLong(number);
}

/* Add a bin to the sum of those before it, and return the sum; NULL as above. */
static PyObject *bucket_of(const Parameter *parameter, const Pick *pick, unsigned long long *sum)
{
    unsigned long long size = (unsigned long long)whole(parameter);
    if (pick->factor && __builtin_mul_overflow(size, pick->factor, &size))
        return NULL;
    if (pick->bin == FIRST_BIN)
        *sum = 0;
    if (__builtin_add_overflow(*sum, size, sum))
        return NULL;
    return PyLong_FromUnsignedLongLong(*sum);
}

static PyObject *take_part(const Part *part, const Record *record)
{
    PyObject *numbers = PyTuple_New(part->count);
    unsigned long long sum = 0;
    for (Py_ssize_t at = 0; numbers != NULL && at < part->count; at++) {
        const Pick *pick = &part->picks[at];
        PyObject *value;
        if (pick->place == ONE)
            value = PyLong_FromLong(1);
        else if (pick->bin == PLAIN)
            value = number_of(&record->parameters[pick->place], pick->factor);
        else if (pick->bin == BIN_COUNT)
            value = PyLong_FromUnsignedLongLong(sum);
        else
            value = bucket_of(&record->parameters[pick->place], pick, &sum);
        if (value == NULL || PyTuple_SetItem(numbers, at, value) < 0)
            Py_CLEAR(numbers);
    }
    return numbers;
}

static PyObject *take_take(PyObject *object, PyObject *arguments)
{
    const Take *self = (Take *)object;
    PyObject *records;
    Py_ssize_t at;
    PyObject *module = PyType_GetModule(Py_TYPE(object));
    PyObject *type = module == NULL ? NULL : PyObject_GetAttrString(module, "Records");
    if (type == NULL)
        return NULL;
    PyObject *expected;
    int parsed = PyArg_ParseTuple(arguments, "O!nO!:take", type, &records, &at, &PyTuple_Type,
                                  &expected);
    Py_DECREF(type);
    const Record *record = parsed ? record_at(records, at) : NULL;
    if (record == NULL)
        return NULL;
    if (PyTuple_Size(expected) != self->fixed_count) {
        PyErr_SetString(PyExc_ValueError, "not as many values as the plan has fixed ones");
        return NULL;
    }
    int same = fits(self, record) ? same_fixed(self, record, expected) : 0;
    if (same < 0)
        return NULL;
    if (!same)
        Py_RETURN_NONE;
    PyObject *parts = PyTuple_New(self->part_count);
    for (Py_ssize_t each = 0; parts != NULL && each < self->part_count; each++) {
        PyObject *numbers = take_part(&self->parts[each], record);
        if (numbers == NULL || PyTuple_SetItem(parts, each, numbers) < 0)
            Py_CLEAR(parts);
    }
    if (parts == NULL && !PyErr_Occurred())
        Py_RETURN_NONE;
    return parts;
}

static int refuse(const char *reason)
{
    PyErr_SetString(PyExc_ValueError, reason);
    return 0;
}

/* Count the names, and look whether each has a type and a letter that go together. */
static int take_layout(Take *self)
{
    const char *head = PyBytes_AsString(self->layout);
    const char *end = head + PyBytes_Size(self->layout);
    self->heads = calloc((size_t)PyBytes_Size(self->layout) / HEAD_BYTES + 1, sizeof *self->heads);
    if (self->heads == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    while (head < end) {
        if (end - head < HEAD_BYTES || end - head - HEAD_BYTES < (unsigned char)head[2])
            return refuse("a cut name");
        if ((unsigned char)head[2] >= FIELD_BYTES)
            return refuse("a name that no field has room for");
        int type = head[0], whole_number = type >= TYPE_INT && type <= TYPE_ULLONG;
        int right = head[1] == 'd' ? type == TYPE_DOUBLE
                    : head[1] == '?' ? whole_number || type == TYPE_BOOLEAN || type == TYPE_STRING
                    : head[1] == 'Q' || head[1] == 'q' ? whole_number || type == TYPE_BOOLEAN : 0;
        if (!right)
            return refuse("a type without such a check");
        if (self->count == 0x7fffffff)
            return refuse("too many names");
        self->heads[self->count++] = head;
        head += HEAD_BYTES + (unsigned char)head[2];
    }
    return 1;
}

static int take_fixed(Take *self, PyObject *places)
{
    Py_ssize_t count = PyTuple_Size(places);
    self->fixed = calloc((size_t)count + 1, sizeof *self->fixed);
    if (self->fixed == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    for (; self->fixed_count < count; self->fixed_count++) {
        long place = PyLong_AsLong(PyTuple_GetItem(places, self->fixed_count));
        if (place == -1 && PyErr_Occurred())
            return 0;
        if (place < 0 || place >= self->count)
            return refuse("no such place");
        self->fixed[self->fixed_count] = (int)place;
    }
    return 1;
}

static int take_pick(const Take *self, Pick *pick, PyObject *row)
{
    int bin;
    if (!PyTuple_Check(row))
        return refuse("a pick is a tuple");
    if (!PyArg_ParseTuple(row, "iiK", &pick->place, &bin, &pick->factor))
        return 0;
    if (pick->place < ONE || pick->place >= self->count || bin < PLAIN || bin > BIN_COUNT)
        return refuse("no such place or bin");
    pick->bin = (Bin)bin;
    if (pick->place == ONE)
        return pick->bin == PLAIN || refuse("a bin without a place");
    const char *head = self->heads[pick->place];
    if (head[0] == TYPE_STRING || (head[0] == TYPE_BOOLEAN && pick->factor == 0))
        return refuse("no number");
    if (pick->bin != PLAIN && (head[1] != 'Q' || head[0] == TYPE_BOOLEAN))
        return refuse("no bin");
    return 1;
}

static int take_parts(Take *self, PyObject *parts)
{
    Py_ssize_t count = PyTuple_Size(parts);
    self->parts = calloc((size_t)count + 1, sizeof *self->parts);
    if (self->parts == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    for (; self->part_count < count; self->part_count++) {
        Part *part = &self->parts[self->part_count];
        PyObject *picks = PyTuple_GetItem(parts, self->part_count);
        if (!PyTuple_Check(picks))
            return refuse("a part is a tuple");
        Py_ssize_t size = PyTuple_Size(picks);
        part->picks = calloc((size_t)size + 1, sizeof *part->picks);
        if (part->picks == NULL) {
            PyErr_NoMemory();
            return 0;
        }
        for (; part->count < size; part->count++)
            if (!take_pick(self, &part->picks[part->count], PyTuple_GetItem(picks, part->count)))
                return 0;
    }
    return 1;
}

static void forget_heads(Take *self)
{
    free(self->heads);
    self->heads = NULL;
}

static PyObject *take_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    PyObject *layout, *fixed, *parts;
    if (named != NULL && PyDict_Size(named) > 0) {
        PyErr_SetString(PyExc_TypeError, "Take() takes no named arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "O!O!O!:Take", &PyBytes_Type, &layout, &PyTuple_Type, &fixed,
                          &PyTuple_Type, &parts))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *object = allocate(type, 0);
    if (object == NULL)
        return NULL;
    Take *self = (Take *)object;
    self->layout = Py_NewRef(layout);
    if (!take_layout(self) || !take_fixed(self, fixed) || !take_parts(self, parts))
        Py_CLEAR(object);
    else
        forget_heads(self);
    return object;
}

static void take_dealloc(PyObject *object)
{
    Take *self = (Take *)object;
    PyTypeObject *type = Py_TYPE(object);
    /* what a failed one has begun lies behind what it has counted */
    for (Py_ssize_t at = 0; self->parts != NULL && at <= self->part_count; at++)
        free(self->parts[at].picks);
    free(self->fixed);
    free(self->parts);
    forget_heads(self);
    Py_XDECREF(self->layout);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"take", take_take, METH_VARARGS, "Take a record's numbers; None where it deviates."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot type_slots[] = {
    {Py_tp_doc, (void *)"A plan for records of one kind; see `plain.Take`."},
    {Py_tp_new, (void *)take_new},
    {Py_tp_dealloc, (void *)take_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec take_spec = {
    .name = "virtstatd._fast.native.Take",
    .basicsize = sizeof(Take),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = type_slots,
};
