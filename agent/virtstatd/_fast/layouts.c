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

/* Put the first two of three numbers into tuples; 0 with an exception set if there are no three. */
static int put_spans(Span text, PyObject *run, PyObject *delay, Py_ssize_t at)
{
    Span word[SCHEDSTAT_NUMBERS], rest;
    for (int each = 0; each < SCHEDSTAT_NUMBERS; each++)
        if (!next_word(&text, &word[each])) {
            PyErr_SetString(PyExc_ValueError, "not three numbers");
            return 0;
        }
    PyObject *first = number(word[0]);
    PyObject *second = first == NULL ? NULL : number(word[1]);
    PyObject *third = second == NULL ? NULL : number(word[2]);  /* it has to be one */
    int done = third != NULL && !next_word(&text, &rest);
    Py_XDECREF(third);
    if (!done) {
        Py_XDECREF(first);
        Py_XDECREF(second);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "not three numbers");
        return 0;
    }
    /* both give up the reference, also where they fail */
    int failed = PyTuple_SetItem(run, at, first) < 0;
    return PyTuple_SetItem(delay, at, second) == 0 && !failed;
}

PyObject *parsed_spans(const Text *texts, Py_ssize_t count)
{
    PyObject *run = PyTuple_New(count), *delay = PyTuple_New(count), *both = NULL;
    int done = run != NULL && delay != NULL;
    for (Py_ssize_t at = 0; done && at < count; at++)
        done = put_spans((Span){texts[at].text, texts[at].text + texts[at].size}, run, delay, at);
    if (done)
        both = PyTuple_Pack(2, run, delay);
    Py_XDECREF(run);
    Py_XDECREF(delay);
    return both;
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
    case 's':
        return stat_fields(span);
    default:
        return PyBytes_FromStringAndSize(text, size);
    }
}
