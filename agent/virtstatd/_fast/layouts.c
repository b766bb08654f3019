/*
 * Texts of the kernel's files to Python's objects, as `plain.py` makes them.
 *
 * A text has its length and may hold anything. The byte behind it is there as well, for the end of
 * a number that is handed to Python.
 */

#include "layouts.h"

#include <string.h>

enum {
    SAFE_DIGITS = 19,  /* so many always fit into 64 bits */
    SCHEDSTAT_NUMBERS = 3,
    STAT_STATE = 0,    /* fields behind the name, as proc(5) lists them */
    STAT_MINOR = 7,
    STAT_MAJOR = 9,
    STAT_THREADS = 17,
    STAT_RESIDENT = 21,
};

typedef struct {
    char *at, *end;
} Span;

static int is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Take the next word off the rest; 0 if there is none. */
static int next_word(Span *rest, Span *word)
{
    while (rest->at < rest->end && is_space(*rest->at))
        rest->at++;
    word->at = rest->at;
    while (rest->at < rest->end && !is_space(*rest->at))
        rest->at++;
    word->end = rest->at;
    return word->at < word->end;
}

static PyObject *number(Span word)
{
    unsigned long long value = 0;
    for (char *digit = word.at; digit < word.end; digit++) {
        if (*digit < '0' || *digit > '9')
            word.end = word.at;
        else
            value = value * 10 + (unsigned)(*digit - '0');  /* wraps for those left to Python */
    }
    if (word.at == word.end) {
        PyErr_SetString(PyExc_ValueError, "not a number");
        return NULL;
    }
    if (word.end - word.at <= SAFE_DIGITS)
        return PyLong_FromUnsignedLongLong(value);
    const char behind = *word.end;
    *word.end = '\0';
    PyObject *large = PyLong_FromString(word.at, NULL, 10);
    *word.end = behind;
    return large;
}

/* Append and give up the reference; 0 if there was nothing to append or no memory. */
static int append(PyObject *list, PyObject *item)
{
    int done = item != NULL && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
    return done;
}

static PyObject *numbers(Span text)
{
    PyObject *found = PyList_New(0);
    Span word;
    while (found != NULL && next_word(&text, &word))
        if (!append(found, number(word)))
            Py_CLEAR(found);
    return found;
}

static PyObject *totals(Span text)
{
    static const char prefix[] = "total=";
    const Py_ssize_t length = sizeof prefix - 1;
    PyObject *found = PyList_New(0);
    Span word;
    while (found != NULL && next_word(&text, &word)) {
        if (word.end - word.at < length || memcmp(word.at, prefix, (size_t)length) != 0)
            continue;
        word.at += length;
        if (!append(found, number(word)))
            Py_CLEAR(found);
    }
    return found;
}

static PyObject *pairs(Span text)
{
    PyObject *found = PyDict_New();
    Span key, word;
    while (found != NULL && next_word(&text, &key) && next_word(&text, &word)) {
        PyObject *name = PyBytes_FromStringAndSize(key.at, key.end - key.at);
        PyObject *value = name == NULL ? NULL : number(word);
        if (value == NULL || PyDict_SetItem(found, name, value) < 0)
            Py_CLEAR(found);
        Py_XDECREF(name);
        Py_XDECREF(value);
    }
    return found;
}

/* Return a tuple of what is in a list, and give up the list. */
static PyObject *as_tuple(PyObject *list)
{
    PyObject *items = list == NULL ? NULL : PyList_AsTuple(list);
    Py_XDECREF(list);
    return items;
}

static PyObject *schedstat(Span text)
{
    PyObject *found = numbers(text);
    if (found != NULL && PyList_Size(found) != SCHEDSTAT_NUMBERS) {
        PyErr_SetString(PyExc_ValueError, "not three numbers");
        Py_CLEAR(found);
    }
    return as_tuple(found);
}

static PyObject *stat_fields(Span text)
{
    for (char *at = text.end; at > text.at; at--)
        if (at[-1] == ')') {
            text.at = at;
            break;
        }
    PyObject *found = PyList_New(0);
    Span word;
    for (int field = 0; found != NULL && field <= STAT_RESIDENT; field++) {
        if (!next_word(&text, &word)) {
            PyErr_SetString(PyExc_ValueError, "too short");
            Py_CLEAR(found);
        } else if (field == STAT_STATE) {
            if (!append(found, PyBytes_FromStringAndSize(word.at, word.end - word.at)))
                Py_CLEAR(found);
        } else if (field == STAT_MINOR || field == STAT_MAJOR || field == STAT_THREADS
                   || field == STAT_RESIDENT) {
            if (!append(found, number(word)))
                Py_CLEAR(found);
        }
    }
    return as_tuple(found);
}

int is_layout(char layout)
{
    return layout != '\0' && strchr("tnpocs", layout) != NULL;
}

PyObject *parsed(char layout, char *text, Py_ssize_t size)
{
    Span span = {text, text + size};
    switch (layout) {
    case 'n':
        return numbers(span);
    case 'p':
        return pairs(span);
    case 'o':
        return totals(span);
    case 'c':
        return schedstat(span);
    case 's':
        return stat_fields(span);
    default:
        return PyBytes_FromStringAndSize(text, size);
    }
}
