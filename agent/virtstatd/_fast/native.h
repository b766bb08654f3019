/* What the files of the helper share. The limited API: one library for every Python from 3.11 on. */

#ifndef VIRTSTATD_NATIVE_H
#define VIRTSTATD_NATIVE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

extern PyType_Spec kept_spec, fill_spec, libvirt_spec, records_spec, shares_spec,
    take_spec;

#endif
