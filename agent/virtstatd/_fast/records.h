/*
 * What libvirt answers, as its public headers lay it out since 1.2.8: `libvirt-domain.h` and
 * `libvirt-common.h`. They are part of the ABI of libvirt.so.0, so no headers are needed.
 */

#ifndef VIRTSTATD_RECORDS_H
#define VIRTSTATD_RECORDS_H

#include "native.h"

enum { FIELD_BYTES = 80 };

enum { TYPE_INT = 1, TYPE_UINT, TYPE_LLONG, TYPE_ULLONG, TYPE_DOUBLE, TYPE_BOOLEAN, TYPE_STRING };

typedef struct {
    char field[FIELD_BYTES];
    int type;
    union {
        int i;
        unsigned int ui;
        long long l;
        unsigned long long ul;
        double d;
        char b;
        char *s;
    } value;
} Parameter;

typedef struct {
    void *domain;
    Parameter *parameters;
    int count;
} Record;

/* Return a record of `Records`, or NULL with an exception set where there is none. */
const Record *record_at(PyObject *records, Py_ssize_t at);

#endif
