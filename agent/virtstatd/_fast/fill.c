/*
 * A text with holes for numbers, filled in one pass: what `formats.numbers.PlainTemplate` does.
 *
 * Only integers of 64 bits are written here. The text of any other number comes from a function in
 * Python, so that there is one truth about it.
 */

#include "native.h"

#include <stdlib.h>
#include <string.h>

enum {
    LABELS = '\0',  /* the marks in a text, as in `formats.prometheus_text` */
    END = '\1',
    POWERS = 19,
    LEAST_ROOM = 256,
    NUMBER_BYTES = 48,  /* more than a sign, 20 digits, a point and 18 digits */
};

typedef enum { LITERAL, FILL_LABELS, END_PART, NUMBER } StepKind;

typedef struct {
    StepKind kind;
    Py_ssize_t from, size;  /* of a literal: in the text */
    Py_ssize_t place;       /* of a number: among the values */
    long exponent;
} Step;

typedef struct {
    PyObject_HEAD
    char *text;
    Step *steps;
    Py_ssize_t count, values;
    Py_ssize_t parts;   /* one more than there are ends of parts */
    size_t size;        /* of the last text: so much room the next one gets at once */
    PyObject *written;  /* writes what is no integer of 64 bits */
} Fill;

typedef struct {
    char *bytes;
    size_t used, room;
    size_t *ends;  /* where each part ends */
    Py_ssize_t parts;
} Buffer;

static const unsigned long long powers[POWERS] = {
    1ULL, 10ULL, 100ULL, 1000ULL, 10000ULL, 100000ULL, 1000000ULL, 10000000ULL, 100000000ULL,
    1000000000ULL, 10000000000ULL, 100000000000ULL, 1000000000000ULL, 10000000000000ULL,
    100000000000000ULL, 1000000000000000ULL, 10000000000000000ULL, 100000000000000000ULL,
    1000000000000000000ULL,
};

/* Make room for so many bytes more; 0 without memory. */
static int reserve(Buffer *buffer, size_t more)
{
    if (more <= buffer->room - buffer->used)
        return 1;
    if (more > PY_SSIZE_T_MAX / 4 || buffer->room > PY_SSIZE_T_MAX / 4) {
        PyErr_NoMemory();
        return 0;
    }
    size_t room = (buffer->room + more) * 2;
    char *bytes = realloc(buffer->bytes, room);
    if (bytes == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    buffer->bytes = bytes;
    buffer->room = room;
    return 1;
}

static int put(Buffer *buffer, const char *bytes, size_t size)
{
    if (!reserve(buffer, size))
        return 0;
    if (size)
        memcpy(buffer->bytes + buffer->used, bytes, size);
    buffer->used += size;
    return 1;
}

/* Write digits, with zeros before them up to a width; there must be room. */
static void put_digits(Buffer *buffer, unsigned long long number, int width)
{
    char digits[NUMBER_BYTES];
    int at = NUMBER_BYTES;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number || NUMBER_BYTES - at < width);
    memcpy(buffer->bytes + buffer->used, digits + at, (size_t)(NUMBER_BYTES - at));
    buffer->used += (size_t)(NUMBER_BYTES - at);
}

static int put_integer(Buffer *buffer, unsigned long long size, int negative, long exponent)
{
    if (!reserve(buffer, NUMBER_BYTES))
        return 0;
    if (negative)
        buffer->bytes[buffer->used++] = '-';
    unsigned long long power = powers[-exponent];
    put_digits(buffer, size / power, 1);
    if (size % power) {
        buffer->bytes[buffer->used++] = '.';
        put_digits(buffer, size % power, (int)-exponent);
    }
    return 1;
}

static int put_written(Buffer *buffer, PyObject *written, PyObject *value, long exponent)
{
    PyObject *text = PyObject_CallFunction(written, "Ol", value, exponent);
    Py_ssize_t size;
    const char *bytes = text == NULL ? NULL : PyUnicode_AsUTF8AndSize(text, &size);
    int done = bytes != NULL && put(buffer, bytes, (size_t)size);
    Py_XDECREF(text);
    return done;
}

static int put_number(Buffer *buffer, PyObject *written, PyObject *value, long exponent)
{
    if (PyLong_Check(value) && exponent <= 0 && exponent > -POWERS) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (!overflow) {
            unsigned long long size = (unsigned long long)number;
            return put_integer(buffer, number < 0 ? 0 - size : size, number < 0, exponent);
        }
        if (overflow > 0) {
            unsigned long long size = PyLong_AsUnsignedLongLong(value);
            if (!PyErr_Occurred())
                return put_integer(buffer, size, 0, exponent);
            PyErr_Clear();
        }
    }
    return put_written(buffer, written, value, exponent);
}

static int take_step(const Fill *self, const Step *step, PyObject *values, Buffer *buffer,
                     const char *labels, Py_ssize_t labels_size)
{
    switch (step->kind) {
    case LITERAL:
        return put(buffer, self->text + step->from, (size_t)step->size);
    case FILL_LABELS:
        return put(buffer, labels, (size_t)labels_size);
    case END_PART:
        buffer->ends[buffer->parts++] = buffer->used;
        return 1;
    default:
        return put_number(buffer, self->written, PyTuple_GetItem(values, step->place),
                          step->exponent);
    }
}

/* Write everything into a new buffer, which the caller frees, also where this fails. */
static int fill_in(Fill *self, PyObject *values, const char *labels, Py_ssize_t labels_size,
                   Buffer *buffer)
{
    *buffer = (Buffer){NULL, 0, 0, NULL, 0};
    if (PyTuple_Size(values) < self->values) {
        PyErr_SetString(PyExc_IndexError, "too few values");
        return 0;
    }
    buffer->ends = calloc((size_t)self->parts, sizeof *buffer->ends);
    if (buffer->ends == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    if (!reserve(buffer, self->size + NUMBER_BYTES))
        return 0;
    for (Py_ssize_t at = 0; at < self->count; at++)
        if (!take_step(self, &self->steps[at], values, buffer, labels, labels_size))
            return 0;
    buffer->ends[buffer->parts++] = buffer->used;
    self->size = buffer->used;
    return 1;
}

static void free_buffer(Buffer *buffer)
{
    free(buffer->bytes);
    free(buffer->ends);
}

static PyObject *parts_of(const Buffer *buffer)
{
    PyObject *parts = PyList_New(buffer->parts);
    size_t from = 0;
    for (Py_ssize_t at = 0; parts != NULL && at < buffer->parts; at++) {
        size_t size = buffer->ends[at] - from;
        PyObject *part = PyBytes_FromStringAndSize(buffer->bytes + from, (Py_ssize_t)size);
        if (part == NULL || PyList_SetItem(parts, at, part) < 0)
            Py_CLEAR(parts);
        from += size;
    }
    return parts;
}

static PyObject *fill_render(PyObject *object, PyObject *arguments)
{
    PyObject *values, *parts = NULL;
    const char *labels;
    Py_ssize_t labels_size;
    if (!PyArg_ParseTuple(arguments, "O!y#:render", &PyTuple_Type, &values, &labels, &labels_size))
        return NULL;
    Buffer buffer;
    if (fill_in((Fill *)object, values, labels, labels_size, &buffer))
        parts = parts_of(&buffer);
    free_buffer(&buffer);
    return parts;
}

/* Return the room for so many bytes: a power of two. */
static size_t room_of(size_t size)
{
    size_t room = LEAST_ROOM;
    while (room < size && room <= PY_SSIZE_T_MAX / 4)
        room *= 2;
    return room;
}

static int append_to(PyObject *block, const char *bytes, size_t size)
{
    if (!PyByteArray_Check(block)) {
        PyErr_SetString(PyExc_TypeError, "a block is a bytearray");
        return 0;
    }
    Py_ssize_t former = PyByteArray_Size(block);
    size_t whole = (size_t)former + size, room = room_of(whole);
    if (whole > PY_SSIZE_T_MAX / 4) {
        PyErr_NoMemory();
        return 0;
    }
    /* it keeps the room of which it uses half; by itself it grows by an eighth, and moves each time */
    if (room > room_of((size_t)former) && PyByteArray_Resize(block, (Py_ssize_t)room) < 0)
        return 0;
    if (PyByteArray_Resize(block, (Py_ssize_t)whole) < 0)
        return 0;
    if (size)
        memcpy(PyByteArray_AsString(block) + former, bytes, size);
    return 1;
}

static PyObject *fill_append(PyObject *object, PyObject *arguments)
{
    Fill *self = (Fill *)object;
    PyObject *values, *blocks;
    const char *labels;
    Py_ssize_t labels_size;
    if (!PyArg_ParseTuple(arguments, "O!y#O!:append", &PyTuple_Type, &values, &labels, &labels_size,
                          &PyTuple_Type, &blocks))
        return NULL;
    if (PyTuple_Size(blocks) != self->parts) {
        PyErr_SetString(PyExc_ValueError, "each part needs a block");
        return NULL;
    }
    Buffer buffer;
    int done = fill_in(self, values, labels, labels_size, &buffer);
    size_t from = 0;
    for (Py_ssize_t at = 0; done && at < buffer.parts; at++) {
        size_t size = buffer.ends[at] - from;
        done = append_to(PyTuple_GetItem(blocks, at), buffer.bytes + from, size);
        from += size;
    }
    free_buffer(&buffer);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

/* Add the steps of a text up to its next hole. */
static void add_text(Fill *self, Py_ssize_t from, Py_ssize_t to)
{
    while (from < to) {
        Step *step = &self->steps[self->count++];
        char mark = self->text[from];
        step->from = from;
        if (mark == LABELS || mark == END) {
            step->kind = mark == LABELS ? FILL_LABELS : END_PART;
            self->parts += mark == END;
            from++;
            continue;
        }
        step->kind = LITERAL;
        while (from < to && self->text[from] != LABELS && self->text[from] != END)
            from++;
        step->size = from - step->from;
    }
}

static Py_ssize_t marks_in(const char *text, Py_ssize_t size)
{
    Py_ssize_t marks = 0;
    for (Py_ssize_t at = 0; at < size; at++)
        marks += text[at] == LABELS || text[at] == END;
    return marks;
}

/* Read one hole of three whole numbers: where it is in the text, its place, its exponent. */
static int add_hole(Fill *self, PyObject *hole, Py_ssize_t *from, Py_ssize_t size)
{
    Py_ssize_t at, place;
    long exponent;
    if (!PyTuple_Check(hole)) {
        PyErr_SetString(PyExc_TypeError, "a hole is a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(hole, "nnl", &at, &place, &exponent))
        return 0;
    if (at < *from || at > size || place < 0 || place == PY_SSIZE_T_MAX) {
        PyErr_SetString(PyExc_ValueError, "no such hole");
        return 0;
    }
    add_text(self, *from, at);
    *from = at;
    Step *step = &self->steps[self->count++];
    step->kind = NUMBER;
    step->place = place;
    step->exponent = exponent;
    if (place >= self->values)
        self->values = place + 1;
    return 1;
}

static int compile_text(Fill *self, const char *text, Py_ssize_t size, PyObject *holes)
{
    Py_ssize_t count = PyTuple_Size(holes), marks = marks_in(text, size), from = 0;
    /* a literal comes before each mark and each hole, and one after the last */
    size_t steps = 2 * ((size_t)marks + (size_t)count) + 1;
    self->text = malloc((size_t)size + 1);
    self->steps = calloc(steps, sizeof *self->steps);
    if (self->text == NULL || self->steps == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    memcpy(self->text, text, (size_t)size);
    for (Py_ssize_t at = 0; at < count; at++)
        if (!add_hole(self, PyTuple_GetItem(holes, at), &from, size))
            return 0;
    add_text(self, from, size);
    return 1;
}

static PyObject *fill_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    const char *text;
    Py_ssize_t size;
    PyObject *holes, *written;
    if (named != NULL && PyDict_Size(named) > 0) {
        PyErr_SetString(PyExc_TypeError, "Fill() takes no named arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "y#O!O:Fill", &text, &size, &PyTuple_Type, &holes, &written))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *object = allocate(type, 0);
    if (object == NULL)
        return NULL;
    ((Fill *)object)->written = Py_NewRef(written);
    ((Fill *)object)->parts = 1;
    if (!compile_text((Fill *)object, text, size, holes))
        Py_CLEAR(object);
    return object;
}

static void fill_dealloc(PyObject *object)
{
    Fill *self = (Fill *)object;
    PyTypeObject *type = Py_TYPE(object);
    free(self->text);
    free(self->steps);
    Py_XDECREF(self->written);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"append", fill_append, METH_VARARGS, "Fill in, and append each part to its block."},
    {"render", fill_render, METH_VARARGS, "Fill in values and labels; return the parts."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot type_slots[] = {
    {Py_tp_doc, (void *)"A text with holes for numbers; see `formats.numbers`."},
    {Py_tp_new, (void *)fill_new},
    {Py_tp_dealloc, (void *)fill_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec fill_spec = {
    .name = "virtstatd._fast.native.Fill",
    .basicsize = sizeof(Fill),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = type_slots,
};
