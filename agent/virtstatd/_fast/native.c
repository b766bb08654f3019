/* The module: what `plain.py` does, in C. */

#include "native.h"

static int add_types(PyObject *module)
{
    PyObject *kept = PyType_FromSpec(&kept_spec);
    int failed = kept == NULL || PyModule_AddObjectRef(module, "Kept", kept) < 0;
    Py_XDECREF(kept);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)add_types},
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "native",
    .m_doc = "What `plain` does, in C.",
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_native(void)
{
    return PyModuleDef_Init(&definition);
}
