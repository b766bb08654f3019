/* The module: what `plain.py` does, in C. */

#include "native.h"

enum { INTERFACE = 4 };  /* as `_fast/__init__.py` has it: one more with every change of it */

static int add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int failed = type == NULL || PyModule_AddObjectRef(module, name, type) < 0;
    Py_XDECREF(type);
    return failed;
}

static int add_types(PyObject *module)
{
    int failed = PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0
                 || add_type(module, "Kept", &kept_spec) || add_type(module, "Fill", &fill_spec)
                 || add_type(module, "Libvirt", &libvirt_spec)
                 || add_type(module, "Records", &records_spec)
                 || add_type(module, "Shares", &shares_spec)
                 || add_type(module, "Take", &take_spec);
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
