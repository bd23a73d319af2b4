/* Services that break their contract, one way each, for `duramen test-service --library`: the variable FAULT says how. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "duramen.h"

/* The number of executions, and where they were counted. */
struct state {
    uint64_t count;
    char *note;
    pthread_t made_on;
};

static const char *fault;
static uint64_t total;

static int is(const char *name)
{
    return strcmp(fault, name) == 0;
}

static int32_t reply_number(duramen_reply *reply, uint64_t number)
{
    return duramen_reply_set(reply, &number, sizeof number);
}

static int32_t execute(void *user, const duramen_context *context, const void *op, size_t len, duramen_reply *reply)
{
    struct state *state = user;

    (void)context;
    state->count++;
    if (is("address"))
        return reply_number(reply, (uint64_t)(uintptr_t)state);
    if (is("random"))
        return reply_number(reply, (uint64_t)rand());
    if (is("static"))
        return reply_number(reply, ++total);
    if (is("thread"))
        return reply_number(reply, pthread_equal(state->made_on, pthread_self()) != 0);
    if (is("time"))
        return reply_number(reply, (uint64_t)time(NULL));
    if (is("zone")) {
        char text[32];
        time_t agreed = (time_t)(context->time_ns / 1000000000);

        return duramen_reply_set(reply, text, strftime(text, sizeof text, "%H:%M", localtime(&agreed)));
    }
    if (is("malformed") && len != sizeof(uint64_t))
        return 7;
    if (is("crash") && len != sizeof(uint64_t))
        abort();
    if (is("exit") && state->count == 3)
        exit(0);
    (void)op;
    return reply_number(reply, state->count);
}

static int32_t query(void *user, const void *op, size_t len, duramen_reply *reply)
{
    struct state *state = user;

    (void)op;
    (void)len;
    if (is("query"))
        state->count++;
    return reply_number(reply, 0);
}

/* 24 bytes, of which 8 are never written: as padding would be. */
static int32_t snapshot(void *user, void **out)
{
    const struct state *state = user;
    uint64_t *copy = malloc(3 * sizeof *copy);

    if (copy == NULL)
        return -1;
    copy[0] = state->count;
    copy[1] = is("address-in-state") ? (uint64_t)(uintptr_t)state->note : 0;
    if (!is("uninitialised"))
        copy[2] = 0;
    *out = is("alive") ? user : copy;
    if (is("alive"))
        free(copy);
    return 0;
}

static int32_t snapshot_write(void *user, void *view, duramen_writer *out)
{
    (void)user;
    if (is("alive")) {
        uint64_t copy[3] = {0, 0, 0};

        copy[0] = ((const struct state *)view)->count;
        return duramen_writer_put(out, copy, sizeof copy);
    }
    return is("write") ? 5 : duramen_writer_put(out, view, 3 * sizeof(uint64_t));
}

static void snapshot_free(void *user, void *view)
{
    (void)user;
    if (!is("alive"))
        free(view);
}

static int32_t restore(void *user, duramen_reader *in)
{
    struct state *state = user;
    uint64_t copy[4];
    int32_t got;

    if (is("refuses"))
        return 1;
    if (is("trusts"))
        return duramen_reader_get(in, &state->count, sizeof state->count) < 0;
    got = duramen_reader_get(in, copy, sizeof copy);
    if (is("half") && got > 0)
        state->count = copy[0];
    if (got != 3 * sizeof copy[0])
        return 1;
    if ((copy[1] != 0 && !is("address-in-state")) || (copy[2] != 0 && !is("uninitialised")))
        return 1;
    if (!is("forgets"))
        state->count = copy[0];
    return 0;
}

static void destroy(void *user)
{
    struct state *state = user;

    free(state->note);
    free(state);
}

static const duramen_service *make(void *user)
{
    static duramen_service made = {sizeof made,   NULL,           execute,       query,   snapshot,
                                   snapshot_write, snapshot_free, restore, destroy};
    struct state *state = calloc(1, sizeof *state);

    (void)user;
    if (state == NULL || (state->note = malloc(100)) == NULL || is("make"))
        return NULL;
    state->made_on = pthread_self();
    made.user = state;
    return &made;
}

/* All of its state is in the pages, but for what FAULT=beside keeps beside them. */
static int32_t execute_paged(void *user, const duramen_context *context, duramen_pages *pages, const void *op, size_t len,
                             duramen_reply *reply)
{
    struct state *state = user;
    const void *bytes;
    uint64_t count = 0;
    int32_t code = duramen_pages_read(pages, 0, &bytes, &len);

    (void)context;
    (void)op;
    if (code != DURAMEN_OK)
        return code;
    if (len == sizeof count)
        memcpy(&count, bytes, len);
    count++;
    state->count++;
    code = duramen_pages_write(pages, 0, &count, sizeof count);
    return code != DURAMEN_OK ? code : reply_number(reply, is("beside") ? state->count : count);
}

static int32_t query_paged(void *user, const duramen_pages *pages, const void *op, size_t len, duramen_reply *reply)
{
    (void)user;
    (void)op;
    (void)len;
    return reply_number(reply, duramen_pages_count(pages) != 0);
}

static const duramen_paged_service *make_paged(void *user)
{
    static duramen_paged_service made = {sizeof made, NULL, 8, 0, execute_paged, query_paged, destroy};

    made.user = make(user)->user;
    return &made;
}

static int32_t operation(void *user, uint64_t index, uint64_t random, void *buf, size_t cap, size_t *len)
{
    (void)user;
    (void)index;
    (void)cap;
    if (is("operations"))
        random = (uint64_t)(uintptr_t)buf;
    if (is("gives-up"))
        return 3;
    memcpy(buf, &random, sizeof random);
    *len = is("too-long") ? cap + 1 : sizeof random;
    return 0;
}

const duramen_tested_service *duramen_test_services(size_t index)
{
    static duramen_tested_service tested = {sizeof tested, NULL, "faulty", make, NULL, operation};

    fault = getenv("FAULT");
    if (fault == NULL || is("nothing"))
        return NULL;
    if (is("prints"))
        printf("a line of the service's own");
    if (is("beside") || is("paged")) {
        tested.make = NULL;
        tested.make_paged = make_paged;
    }
    return index == 0 ? &tested : NULL;
}
