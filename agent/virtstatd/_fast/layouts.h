#ifndef VIRTSTATD_LAYOUTS_H
#define VIRTSTATD_LAYOUTS_H

#include "native.h"

/* Whether there is a layout of this letter; those of `plain.Layout`. */
int is_layout(char layout);

enum { SCHEDSTAT = 'c' };  /* neighbours of this layout make one value together */

typedef struct {
    char *text;
    Py_ssize_t size;
} Text;

/* Return how long threads ran and waited, as two tuples; NULL as below. The same holds for texts. */
PyObject *parsed_spans(const Text *texts, Py_ssize_t count);

/* Return what a text says, or NULL with ValueError set. text[size] must be there: it is put back. */
PyObject *parsed(char layout, char *text, Py_ssize_t size);

#endif
