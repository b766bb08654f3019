/*
 * Libvirt's own structures: asked for and freed without the interpreter's lock.
 *
 * The functions are those of the library that libvirt-python has loaded, so that connections and
 * domains are the binding's. Nothing here is linked to libvirt.
 */

#include "records.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { UUID_BYTES = 37 };

typedef struct {
    int (*all)(void *, unsigned int, Record ***, unsigned int);
    int (*of)(void **, unsigned int, Record ***, unsigned int);
    void (*release)(Record **);
    int (*uuid)(void *, char *);
    const char *(*name)(void *);
    unsigned int (*number)(void *);
} Functions;

typedef struct {
    int (*add_int)(Parameter **, int *, int *, const char *, int);
    int (*add_uint)(Parameter **, int *, int *, const char *, unsigned int);
    int (*add_llong)(Parameter **, int *, int *, const char *, long long);
    int (*add_ullong)(Parameter **, int *, int *, const char *, unsigned long long);
    int (*add_double)(Parameter **, int *, int *, const char *, double);
    int (*add_boolean)(Parameter **, int *, int *, const char *, int);
    int (*add_string)(Parameter **, int *, int *, const char *, const char *);
    void (*release)(Parameter *, int);
} Adding;

typedef struct {
    PyObject_HEAD
    void *library;
    Functions call;
} Libvirt;

typedef struct {
    PyObject_HEAD
    PyObject *libvirt;
    Record **records;
    Py_ssize_t count;
} Records;

static PyTypeObject *records_type(PyObject *libvirt);

/* Find functions, in the order of the members of a struct of pointers to them; 0 if one lacks. */
static int find(void *library, const char *const *names, size_t count, void *functions)
{
    for (size_t at = 0; at < count; at++) {
        void *found = dlsym(library, names[at]);
        if (found == NULL)
            return 0;
        memcpy((char *)functions + at * sizeof found, &found, sizeof found);
    }
    return 1;
}

static int is(const Parameter *parameter, const char *field, int type)
{
    return strcmp(parameter->field, field) == 0 && parameter->type == type;
}

/* Whether libvirt lays parameters out as they are here: it fills some, which are then read. */
static int layout_fits(void *library)
{
    static const char *const names[] = {
        "virTypedParamsAddInt",    "virTypedParamsAddUInt",   "virTypedParamsAddLLong",
        "virTypedParamsAddULLong", "virTypedParamsAddDouble", "virTypedParamsAddBoolean",
        "virTypedParamsAddString", "virTypedParamsFree",
    };
    Adding adding;
    if (!find(library, names, sizeof names / sizeof *names, &adding))
        return 0;
    Parameter *made = NULL;
    int count = 0, room = 0;
    int failed = adding.add_int(&made, &count, &room, "an.int", -7)
                 || adding.add_uint(&made, &count, &room, "a.uint", 0xfffffff9u)
                 || adding.add_llong(&made, &count, &room, "an.llong", -(1LL << 40))
                 || adding.add_ullong(&made, &count, &room, "an.ullong", ~0ULL)
                 || adding.add_double(&made, &count, &room, "a.double", 0.5)
                 || adding.add_boolean(&made, &count, &room, "a.boolean", 1)
                 || adding.add_string(&made, &count, &room, "a.string", "text");
    int fits = !failed && count == TYPE_STRING
               && is(&made[0], "an.int", TYPE_INT) && made[0].value.i == -7
               && is(&made[1], "a.uint", TYPE_UINT) && made[1].value.ui == 0xfffffff9u
               && is(&made[2], "an.llong", TYPE_LLONG) && made[2].value.l == -(1LL << 40)
               && is(&made[3], "an.ullong", TYPE_ULLONG) && made[3].value.ul == ~0ULL
               && is(&made[4], "a.double", TYPE_DOUBLE)
               && !(made[4].value.d < 0.5 || made[4].value.d > 0.5)
               && is(&made[5], "a.boolean", TYPE_BOOLEAN) && made[5].value.b == 1
               && is(&made[6], "a.string", TYPE_STRING)
               && strcmp(made[6].value.s, "text") == 0;
    adding.release(made, count);
    return fits;
}

static PyObject *libvirt_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static const char *const names[] = {
        "virConnectGetAllDomainStats", "virDomainListGetStats", "virDomainStatsRecordListFree",
        "virDomainGetUUIDString",      "virDomainGetName",      "virDomainGetID",
    };
    const char *name;
    if (named != NULL && PyDict_Size(named) > 0) {
        PyErr_SetString(PyExc_TypeError, "Libvirt() takes no named arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "s:Libvirt", &name))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Libvirt *self = (Libvirt *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->library = dlopen(name, RTLD_NOLOAD | RTLD_NOW);
    if (self->library == NULL
        || !find(self->library, names, sizeof names / sizeof *names, &self->call)
        || !layout_fits(self->library)) {
        PyErr_SetString(PyExc_OSError, "not loaded, or of another layout");
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static void libvirt_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (((Libvirt *)object)->library != NULL)
        dlclose(((Libvirt *)object)->library);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* Return the pointers in a list, with NULL behind them; NULL with an exception set. */
static void **pointers(PyObject *list)
{
    Py_ssize_t count = PyList_Size(list);
    void **found = calloc((size_t)count + 1, sizeof *found);
    if (found == NULL)
        PyErr_NoMemory();
    for (Py_ssize_t at = 0; found != NULL && at < count; at++) {
        found[at] = PyLong_AsVoidPtr(PyList_GetItem(list, at));
        if (found[at] == NULL) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "a pointer to nothing");
            free(found);
            return NULL;
        }
    }
    return found;
}

/* Return records, or None where libvirt has none: its own error is then this thread's last one. */
static PyObject *answer(PyObject *libvirt, Record **records, int count)
{
    if (count < 0)
        Py_RETURN_NONE;
    PyTypeObject *type = records_type(libvirt);
    allocfunc allocate = type == NULL ? NULL : (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Records *made = allocate == NULL ? NULL : (Records *)allocate(type, 0);
    Py_XDECREF((PyObject *)type);
    if (made == NULL) {
        ((Libvirt *)libvirt)->call.release(records);
        return NULL;
    }
    made->libvirt = Py_NewRef(libvirt);
    made->records = records;
    made->count = count;
    return (PyObject *)made;
}

static PyObject *libvirt_all(PyObject *object, PyObject *arguments)
{
    const Libvirt *self = (Libvirt *)object;
    unsigned int bits, flags;
    PyObject *pointer;
    if (!PyArg_ParseTuple(arguments, "O!II:all", &PyLong_Type, &pointer, &bits, &flags))
        return NULL;
    void *connection = PyLong_AsVoidPtr(pointer);
    if (connection == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a pointer to nothing");
        return NULL;
    }
    Record **records = NULL;
    int count;
    Py_BEGIN_ALLOW_THREADS
    count = self->call.all(connection, bits, &records, flags);
    Py_END_ALLOW_THREADS
    return answer(object, records, count);
}

static PyObject *libvirt_of(PyObject *object, PyObject *arguments)
{
    const Libvirt *self = (Libvirt *)object;
    unsigned int bits, flags;
    PyObject *list;
    if (!PyArg_ParseTuple(arguments, "O!II:of", &PyList_Type, &list, &bits, &flags))
        return NULL;
    void **domains = pointers(list);
    if (domains == NULL)
        return NULL;
    Record **records = NULL;
    int count;
    Py_BEGIN_ALLOW_THREADS
    count = self->call.of(domains, bits, &records, flags);
    Py_END_ALLOW_THREADS
    free(domains);
    return answer(object, records, count);
}

static Py_ssize_t records_length(PyObject *object)
{
    return ((Records *)object)->count;
}

const Record *record_at(PyObject *object, Py_ssize_t at)
{
    const Records *self = (Records *)object;
    if (at < 0 || at >= self->count) {
        PyErr_SetString(PyExc_IndexError, "no such record");
        return NULL;
    }
    return self->records[at];
}

/* Return the record that an argument means, or NULL with an exception set. */
static const Record *record_of(PyObject *object, PyObject *argument)
{
    Py_ssize_t at = PyLong_AsSsize_t(argument);
    return at == -1 && PyErr_Occurred() ? NULL : record_at(object, at);
}

static PyObject *records_identity(PyObject *object, PyObject *argument)
{
    const Record *record = record_of(object, argument);
    if (record == NULL)
        return NULL;
    const Functions *call = &((Libvirt *)((Records *)object)->libvirt)->call;
    char uuid[UUID_BYTES];
    const char *name = call->name(record->domain);
    if (name == NULL || call->uuid(record->domain, uuid) < 0) {
        PyErr_SetString(PyExc_ValueError, "a domain without a name");
        return NULL;
    }
    /* as the binding has it: none is -1 */
    return Py_BuildValue("(ssi)", uuid, name, (int)call->number(record->domain));
}

/* Return what the binding makes of a value. */
static PyObject *value_of(const Parameter *parameter)
{
    switch (parameter->type) {
    case TYPE_INT:
        return PyLong_FromLong(parameter->value.i);
    case TYPE_UINT:
        return PyLong_FromLong((int)parameter->value.ui);
    case TYPE_LLONG:
        return PyLong_FromLongLong(parameter->value.l);
    case TYPE_ULLONG:
        return PyLong_FromUnsignedLongLong(parameter->value.ul);
    case TYPE_DOUBLE:
        return PyFloat_FromDouble(parameter->value.d);
    case TYPE_BOOLEAN:
        return PyBool_FromLong(parameter->value.b);
    case TYPE_STRING:
        if (parameter->value.s == NULL)
            return Py_NewRef(Py_None);
        return PyUnicode_FromString(parameter->value.s);
    default:
        return PyErr_Format(PyExc_LookupError, "Type value \"%d\" not recognized",
                            parameter->type);
    }
}

static PyObject *records_dictionary(PyObject *object, PyObject *argument)
{
    const Record *record = record_of(object, argument);
    if (record == NULL)
        return NULL;
    PyObject *found = PyDict_New();
    for (int at = 0; found != NULL && at < record->count; at++) {
        const Parameter *parameter = &record->parameters[at];
        PyObject *value = value_of(parameter);
        PyObject *key = value == NULL ? NULL : PyUnicode_FromStringAndSize(
            parameter->field, (Py_ssize_t)strnlen(parameter->field, FIELD_BYTES));
        if (key == NULL || PyDict_SetItem(found, key, value) < 0)
            Py_CLEAR(found);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return found;
}

static PyObject *records_types(PyObject *object, PyObject *argument)
{
    const Record *record = record_of(object, argument);
    if (record == NULL)
        return NULL;
    PyObject *types = PyList_New(0);
    for (int at = 0; types != NULL && at < record->count; at++) {
        PyObject *type = PyLong_FromLong(record->parameters[at].type);
        if (type == NULL || PyList_Append(types, type) < 0)
            Py_CLEAR(types);
        Py_XDECREF(type);
    }
    return types;
}

static PyObject *records_free(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Records *self = (Records *)object;
    Record **records = self->records;
    self->records = NULL;
    self->count = 0;
    if (records != NULL) {
        void (*release)(Record **) = ((Libvirt *)self->libvirt)->call.release;
        Py_BEGIN_ALLOW_THREADS
        release(records);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static void records_dealloc(PyObject *object)
{
    Records *self = (Records *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->records != NULL)
        ((Libvirt *)self->libvirt)->call.release(self->records);
    Py_XDECREF(self->libvirt);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyTypeObject *records_type(PyObject *libvirt)
{
    PyObject *module = PyType_GetModule(Py_TYPE(libvirt));
    return module == NULL ? NULL : (PyTypeObject *)PyObject_GetAttrString(module, "Records");
}

static PyMethodDef libvirt_methods[] = {
    {"all", libvirt_all, METH_VARARGS, "Ask for all domains of a connection; None on an error."},
    {"of", libvirt_of, METH_VARARGS, "Ask for some domains; None on an error."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot libvirt_slots[] = {
    {Py_tp_doc, (void *)"The library that libvirt-python has loaded; see `plain.Libvirt`."},
    {Py_tp_new, (void *)libvirt_new},
    {Py_tp_dealloc, (void *)libvirt_dealloc},
    {Py_tp_methods, libvirt_methods},
    {0, NULL},
};

PyType_Spec libvirt_spec = {
    .name = "virtstatd._fast.native.Libvirt",
    .basicsize = sizeof(Libvirt),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = libvirt_slots,
};

static PyMethodDef records_methods[] = {
    {"identity", records_identity, METH_O, "Return the UUID, the name and the number of a domain."},
    {"dictionary", records_dictionary, METH_O, "Return a record as the binding has it."},
    {"types", records_types, METH_O, "Return libvirt's types of a record's values."},
    {"free", records_free, METH_NOARGS, "Free them; none is left."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot records_slots[] = {
    {Py_tp_doc, (void *)"An answer of libvirt; see `plain.Records`."},
    {Py_tp_dealloc, (void *)records_dealloc},
    {Py_tp_methods, records_methods},
    {Py_sq_length, (void *)records_length},
    {0, NULL},
};

PyType_Spec records_spec = {
    .name = "virtstatd._fast.native.Records",
    .basicsize = sizeof(Records),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = records_slots,
};
