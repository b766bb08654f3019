#ifndef VIRTSTATD_LAYOUTS_H
#define VIRTSTATD_LAYOUTS_H

#include "native.h"

/* Whether there is a layout of this letter; those of `plain.Layout`. */
int is_layout(char layout);

/* Return what a text says, or NULL with ValueError set. text[size] must be there: it is put back. */
PyObject *parsed(char layout, char *text, Py_ssize_t size);

#endif
