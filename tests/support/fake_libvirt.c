/*
 * The functions of libvirt that the agent's library in C calls, over records that a test has made.
 *
 * Memory is of the exact size, so that the sanitizers see every byte beyond it.
 */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    char field[80];
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
    char *uuid, *name;
    unsigned int number;
} Domain;

typedef struct {
    Domain *domain;
    Parameter *parameters;
    int count;
} Record;

static Record **next;
static int records;

int fake_fails, fake_live, fake_asked, fake_wait = -1, fake_entered = -1, fake_type_shift;
unsigned int fake_bits, fake_flags;

static void *sized(void *former, size_t count, size_t each)
{
    void *found = realloc(former, count * each);
    if (found == NULL)
        abort();
    return found;
}

void fake_record(const char *uuid, const char *name, unsigned int number)
{
    next = sized(next, (size_t)records + 2, sizeof *next);
    next[records] = calloc(1, sizeof **next);
    next[records]->domain = calloc(1, sizeof(Domain));
    next[records]->domain->uuid = strdup(uuid);
    next[records]->domain->name = name == NULL ? NULL : strdup(name);
    next[records]->domain->number = number;
    next[++records] = NULL;
}

void fake_parameter(const char *field, int type, const void *value, const char *text)
{
    Record *record = next[records - 1];
    record->parameters
        = sized(record->parameters, (size_t)record->count + 1, sizeof *record->parameters);
    Parameter *parameter = &record->parameters[record->count++];
    memcpy(parameter->field, field, sizeof parameter->field);
    parameter->type = type;
    memcpy(&parameter->value, value, sizeof parameter->value);
    if (type == 7)
        parameter->value.s = text == NULL ? NULL : strdup(text);
}

static int answer(Record ***found)
{
    char byte;
    if (fake_wait >= 0 && (write(fake_entered, "x", 1) != 1 || read(fake_wait, &byte, 1) != 1))
        return -1;
    if (fake_fails)
        return -1;
    int count = records;
    *found = next == NULL ? calloc(1, sizeof *next) : next;
    next = NULL;
    records = 0;
    fake_live++;
    return count;
}

int virConnectGetAllDomainStats(void *connection, unsigned int bits, Record ***found,
                                unsigned int flags)
{
    fake_asked = connection == NULL ? 0 : -1;
    fake_bits = bits;
    fake_flags = flags;
    return answer(found);
}

int virDomainListGetStats(void **domains, unsigned int bits, Record ***found, unsigned int flags)
{
    for (fake_asked = 0; domains[fake_asked] != NULL;)
        fake_asked++;
    fake_bits = bits;
    fake_flags = flags;
    return answer(found);
}

void virDomainStatsRecordListFree(Record **list)
{
    for (Record **each = list; *each != NULL; each++) {
        for (int at = 0; at < (*each)->count; at++)
            if ((*each)->parameters[at].type == 7)
                free((*each)->parameters[at].value.s);
        free((*each)->parameters);
        free((*each)->domain->uuid);
        free((*each)->domain->name);
        free((*each)->domain);
        free(*each);
    }
    free(list);
    fake_live--;
}

int virDomainGetUUIDString(Domain *domain, char *uuid)
{
    strcpy(uuid, domain->uuid);
    return 0;
}

const char *virDomainGetName(Domain *domain)
{
    return domain->name;
}

unsigned int virDomainGetID(Domain *domain)
{
    return domain->number;
}

static Parameter *added(Parameter **list, int *count, int *room, const char *name, int type)
{
    *room = ++*count;
    *list = sized(*list, (size_t)*count, sizeof **list);
    Parameter *parameter = &(*list)[*count - 1];
    memset(parameter, 0, sizeof *parameter);
    strcpy(parameter->field, name);
    parameter->type = type + fake_type_shift;
    return parameter;
}

#define ADD(function, kind, member, number)                                                      \
    int function(Parameter **list, int *count, int *room, const char *name, kind value)          \
    {                                                                                            \
        added(list, count, room, name, number)->value.member = value;                            \
        return 0;                                                                                \
    }

ADD(virTypedParamsAddInt, int, i, 1)
ADD(virTypedParamsAddUInt, unsigned int, ui, 2)
ADD(virTypedParamsAddLLong, long long, l, 3)
ADD(virTypedParamsAddULLong, unsigned long long, ul, 4)
ADD(virTypedParamsAddDouble, double, d, 5)

int virTypedParamsAddBoolean(Parameter **list, int *count, int *room, const char *name, int value)
{
    added(list, count, room, name, 6)->value.b = (char)!!value;
    return 0;
}

int virTypedParamsAddString(Parameter **list, int *count, int *room, const char *name,
                            const char *value)
{
    added(list, count, room, name, 7)->value.s = strdup(value);
    return 0;
}

void virTypedParamsFree(Parameter *list, int count)
{
    for (int at = 0; at < count; at++)
        if (list[at].type - fake_type_shift == 7)
            free(list[at].value.s);
    free(list);
}
