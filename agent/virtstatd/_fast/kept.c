/*
 * Files that are kept open, read and compared in one call without the interpreter's lock.
 *
 * What a file held is kept, and parsed again only where its bytes differ.
 */

#include "layouts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 14 };

typedef struct {
    int descriptor;
    char layout;
    char changed;
    Text kept;  /* with one byte more, as the layouts need it */
    size_t room;
} KeptFile;

typedef struct {
    PyObject_HEAD
    Py_ssize_t count;
    KeptFile *files;
    Py_ssize_t value_count;
    PyObject *values;  /* a tuple, one for each file or its neighbours; NULL: nothing is known */
    int reading;
} Kept;

/* Keep the text where it differs from the former; return 0 or an error's number. */
static int keep(KeptFile *file, const char *text, size_t size)
{
    Text *kept = &file->kept;
    if (kept->text != NULL && (size_t)kept->size == size && memcmp(kept->text, text, size) == 0)
        return 0;
    if (size >= file->room) {
        char *text_room = realloc(kept->text, size + 1);
        if (text_room == NULL)
            return ENOMEM;
        kept->text = text_room;
        file->room = size + 1;
    }
    memcpy(kept->text, text, size);
    kept->text[size] = '\0';
    kept->size = (Py_ssize_t)size;
    file->changed = 1;
    return 0;
}

/* Read every file; return 0 or an error's number. Runs without the interpreter's lock. */
static int read_files(Kept *self)
{
    char text[READ_BYTES];
    for (Py_ssize_t at = 0; at < self->count; at++) {
        ssize_t size = pread(self->files[at].descriptor, text, sizeof text, 0);
        int failed = size < 0 ? errno : keep(&self->files[at], text, (size_t)size);
        if (failed)
            return failed;
    }
    return 0;
}

/* Return how many files from one on make one value together. */
static Py_ssize_t together(const Kept *self, Py_ssize_t from)
{
    Py_ssize_t to = from + 1;
    if (self->files[from].layout == SCHEDSTAT)
        while (to < self->count && self->files[to].layout == SCHEDSTAT)
            to++;
    return to - from;
}

static PyObject *spans_of(const KeptFile *files, Py_ssize_t count)
{
    Text *texts = count > 0 ? calloc((size_t)count, sizeof *texts) : NULL;
    if (texts == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t at = 0; at < count; at++)
        texts[at] = files[at].kept;
    PyObject *spans = parsed_spans(texts, count);
    free(texts);
    return spans;
}

/* Return what some files say, the former object if they did not change. */
static PyObject *value_of(const Kept *self, Py_ssize_t from, Py_ssize_t count, Py_ssize_t place)
{
    const KeptFile *files = &self->files[from];
    int changed = self->values == NULL;
    for (Py_ssize_t at = 0; at < count; at++)
        changed |= files[at].changed;
    if (!changed)
        return Py_NewRef(PyTuple_GetItem(self->values, place));
    if (files->layout == SCHEDSTAT)
        return spans_of(files, count);
    return parsed(files->layout, files->kept.text, files->kept.size);
}

static PyObject *values_of(const Kept *self)
{
    PyObject *values = PyTuple_New(self->value_count);
    Py_ssize_t from = 0, count;
    for (Py_ssize_t place = 0; values != NULL && place < self->value_count; place++) {
        count = together(self, from);
        PyObject *value = value_of(self, from, count, place);
        if (value == NULL || PyTuple_SetItem(values, place, value) < 0)
            Py_CLEAR(values);
        from += count;
    }
    return values;
}

static int anything_changed(const Kept *self)
{
    for (Py_ssize_t at = 0; at < self->count; at++)
        if (self->files[at].changed)
            return 1;
    return self->values == NULL;
}

static PyObject *kept_read(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Kept *self = (Kept *)object;
    if (self->reading) {
        PyErr_SetString(PyExc_RuntimeError, "another thread reads these files");
        return NULL;
    }
    self->reading = 1;
    int failed;
    do {
        Py_BEGIN_ALLOW_THREADS
        failed = read_files(self);
        Py_END_ALLOW_THREADS
    } while (failed == EINTR && PyErr_CheckSignals() == 0);
    if (failed) {
        Py_CLEAR(self->values);
        if (!PyErr_Occurred()) {
            errno = failed;
            PyErr_SetFromErrno(PyExc_OSError);
        }
    } else if (anything_changed(self)) {
        PyObject *former = self->values;
        self->values = values_of(self);
        Py_XDECREF(former);
        for (Py_ssize_t at = 0; at < self->count; at++)
            self->files[at].changed = 0;
    }
    self->reading = 0;
    return Py_XNewRef(self->values);
}

static void kept_dealloc(PyObject *object)
{
    Kept *self = (Kept *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (Py_ssize_t at = 0; at < self->count; at++)
        free(self->files[at].kept.text);
    free(self->files);
    Py_XDECREF(self->values);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* Take descriptors and layouts; 0 with an exception set if they are none. */
static int take_files(Kept *self, PyObject *descriptors, const char *layouts, Py_ssize_t count)
{
    if (PySequence_Size(descriptors) != count) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "each file needs a layout");
        return 0;
    }
    self->files = calloc((size_t)count + 1, sizeof *self->files);
    if (self->files == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    for (; self->count < count; self->count++) {
        PyObject *item = PySequence_GetItem(descriptors, self->count);
        long descriptor = item == NULL ? -1 : PyLong_AsLong(item);
        Py_XDECREF(item);
        if (PyErr_Occurred())
            return 0;
        if (descriptor < 0 || descriptor > 0x7fffffffL || !is_layout(layouts[self->count])) {
            PyErr_SetString(PyExc_ValueError, "no such descriptor or layout");
            return 0;
        }
        self->files[self->count].descriptor = (int)descriptor;
        self->files[self->count].layout = layouts[self->count];
    }
    for (Py_ssize_t at = 0; at < count; at += together(self, at))
        self->value_count++;
    return 1;
}

static PyObject *kept_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    PyObject *descriptors;
    const char *layouts;
    Py_ssize_t count;
    if (named != NULL && PyDict_Size(named) > 0) {
        PyErr_SetString(PyExc_TypeError, "Kept() takes no named arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "Os#:Kept", &descriptors, &layouts, &count))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *object = allocate(type, 0);
    if (object != NULL && !take_files((Kept *)object, descriptors, layouts, count))
        Py_CLEAR(object);
    return object;
}

static PyMethodDef methods[] = {
    {"read", kept_read, METH_NOARGS, "Return what each file says now; see `plain`."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot type_slots[] = {
    {Py_tp_doc, (void *)"Files that are kept open; see `plain`."},
    {Py_tp_new, (void *)kept_new},
    {Py_tp_dealloc, (void *)kept_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec kept_spec = {
    .name = "virtstatd._fast.native.Kept",
    .basicsize = sizeof(Kept),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = type_slots,
};
