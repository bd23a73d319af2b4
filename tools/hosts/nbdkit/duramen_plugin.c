/* An nbdkit plugin: the replicated disk of block_service.c as a network block device, on duramen.h alone.
 *
 * - A write is one ordered command, or several that are outstanding together where it is longer than `op-bytes`. It is
 *   acknowledged once the cluster has ordered it and a quorum has it on disk (with the cluster's `durability = "vote"`).
 * - So flush has nothing left to do, and neither has FUA: what NBD lets a flush cover is what was acknowledged before.
 * - For the same reason connections may be mixed (`can_multi_conn`): all of them speak to one order, there is no cache
 *   that one of them could miss, and a flush on any of them covers what was acknowledged on all.
 * - A read is a quorum read: enough replicas agree on what the last write left, so that none of them can lie or be behind.
 *   `read=ordered` sends it through the order instead, as a write. Neither ever returns what was overwritten before it began.
 * - Requests longer than `op-bytes` are not atomic, as on a disk.
 * - A write whose outcome is not known by its deadline fails with EIO; it may still take place, as on a disk that
 *   reports an error.
 */
#define _POSIX_C_SOURCE 200809L
#define NBDKIT_API_VERSION 2
#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nbdkit-plugin.h>

#include "block_protocol.h"
#include "duramen.h"

#define DEADLINE_MS_DEFAULT 30000
#define OP_BYTES_DEFAULT (128u << 10)
/* Longer writes are for the file's owner to allow: `request_bytes` in cluster.toml is 4 MiB if nobody said otherwise. */
#define OP_BYTES_MAX BLOCK_READ_BYTES_MAX
/* nbdkit's own bound of one request. */
#define REQUEST_BYTES_MAX (64u << 20)
#define WHY_BYTES 256

static struct {
    duramen_conf *conf;
    duramen_client *client;
    int has_dir;
    uint64_t deadline_ms;
    uint32_t op_bytes;
    uint32_t read_flags;
    int64_t size;
} disk = {NULL, NULL, 0, DEADLINE_MS_DEFAULT, OP_BYTES_DEFAULT, DURAMEN_READ, -1};

/* Requests of one call of nbdkit's, outstanding together. */
struct gathered {
    pthread_mutex_t lock;
    pthread_cond_t all_ended;
    uint32_t outstanding;
    /* Of the last that failed; 0 if none did. */
    int error;
    char why[WHY_BYTES];
};

/* One of them. */
struct part {
    struct gathered *gathered;
    /* Where the bytes of a read go; NULL if it is none. */
    unsigned char *read_to;
    size_t read_bytes;
};

/* ---- outcomes ---- */

static const char *outcome_text(int32_t outcome)
{
    switch (outcome) {
    case DURAMEN_NOT_EXECUTED:
        return "it was not executed";
    case DURAMEN_UNKNOWN_OUTCOME:
        return "it may have been executed or not";
    case DURAMEN_FAIL:
        return "the replicas disagree";
    default:
        return "no such outcome";
    }
}

/* An errno and its reason, 0 for a request that was done. For reads `reply` is one with `read_bytes` bytes behind its status. */
static int errno_of(int32_t outcome, const unsigned char *reply, size_t len, size_t read_bytes, char *why)
{
    if (outcome != DURAMEN_DONE) {
        snprintf(why, WHY_BYTES, "%s%s%.*s", outcome_text(outcome), len != 0 ? ": " : "", (int)(len < WHY_BYTES ? len : 0),
                 len != 0 ? (const char *)reply : "");
        return EIO;
    }
    if (len != 0 && reply[0] == BLOCK_OUT_OF_RANGE) {
        snprintf(why, WHY_BYTES, "beyond the end of the disk");
        return read_bytes != 0 ? EINVAL : ENOSPC;
    }
    if (len != 1 + read_bytes || reply[0] != BLOCK_OK) {
        snprintf(why, WHY_BYTES, "a reply of %zu bytes, status %d: is this cluster a disk?", len, len != 0 ? reply[0] : -1);
        return EIO;
    }
    return 0;
}

static int errno_of_code(int32_t code, char *why)
{
    why[0] = '\0';
    duramen_errmsg(disk.client, why, WHY_BYTES);
    if (why[0] == '\0')
        snprintf(why, WHY_BYTES, "%s", duramen_strerror(code));
    switch (code) {
    case DURAMEN_E_TOO_LARGE:
        return EINVAL;
    case DURAMEN_E_HANDLE:
    case DURAMEN_E_FORKED:
        return ESHUTDOWN;
    default:
        return EIO;
    }
}

/* ---- requests ---- */

/* On a thread of duramen's. */
static void part_ended(void *user, int32_t outcome, const void *reply, size_t len)
{
    struct part *part = user;
    struct gathered *gathered = part->gathered;
    char why[WHY_BYTES];
    int error = errno_of(outcome, reply, len, part->read_bytes, why);

    if (error == 0 && part->read_to != NULL)
        memcpy(part->read_to, (const unsigned char *)reply + 1, part->read_bytes);
    pthread_mutex_lock(&gathered->lock);
    if (error != 0) {
        gathered->error = error;
        memcpy(gathered->why, why, WHY_BYTES);
    }
    if (--gathered->outstanding == 0)
        pthread_cond_signal(&gathered->all_ended);
    pthread_mutex_unlock(&gathered->lock);
}

/* Makes the operation on a range, in `op`, and returns its length. */
typedef size_t fill_operation(unsigned char *op, uint64_t offset, uint64_t length, const unsigned char *data);

static size_t fill_write(unsigned char *op, uint64_t offset, uint64_t length, const unsigned char *data)
{
    op[0] = BLOCK_WRITE;
    block_put_u64(op + 1, offset);
    memcpy(op + BLOCK_WRITE_HEADER_BYTES, data, (size_t)length);
    return BLOCK_WRITE_HEADER_BYTES + (size_t)length;
}

static size_t fill_zero(unsigned char *op, uint64_t offset, uint64_t length, const unsigned char *data)
{
    (void)data;
    op[0] = BLOCK_ZERO;
    block_put_u64(op + 1, offset);
    block_put_u64(op + 9, length);
    return BLOCK_ZERO_BYTES;
}

static size_t fill_read(unsigned char *op, uint64_t offset, uint64_t length, const unsigned char *data)
{
    (void)data;
    op[0] = BLOCK_READ;
    block_put_u64(op + 1, offset);
    block_put_u32(op + 9, (uint32_t)length);
    return BLOCK_READ_BYTES;
}

static void wait_a_moment(void)
{
    struct timespec moment = {0, 1000000};

    nanosleep(&moment, NULL);
}

/* As many requests may be outstanding as the client's configuration says; then others have to end first. So here, and below. */
static int32_t call(const unsigned char *op, size_t len, uint32_t flags, unsigned char *reply, size_t capacity,
                    size_t *reply_len, int32_t *outcome)
{
    uint64_t waited_ms = 0;
    int32_t code;

    while ((code = duramen_client_call(disk.client, op, len, flags, disk.deadline_ms, reply, capacity, reply_len,
                                       outcome)) == DURAMEN_E_BUSY &&
           waited_ms++ < disk.deadline_ms)
        wait_a_moment();
    return code;
}

static int32_t submit(const unsigned char *op, size_t len, uint32_t flags, struct part *part)
{
    uint64_t waited_ms = 0;
    int32_t code;

    while ((code = duramen_client_submit(disk.client, op, len, flags, disk.deadline_ms, part_ended, part)) ==
               DURAMEN_E_BUSY &&
           waited_ms++ < disk.deadline_ms)
        wait_a_moment();
    return code;
}

/* What nbdkit asks for: a range, and what to do with it. At most one of `data` (written) and `to` (read) is there. */
struct request {
    const char *what;
    fill_operation *fill;
    uint32_t flags;
    uint64_t offset;
    uint64_t length;
    /* Longer ranges are split. */
    uint64_t part_bytes;
    const unsigned char *data;
    unsigned char *to;
};

static int no_memory(const struct request *request)
{
    nbdkit_error("duramen: %s: no memory", request->what);
    errno = ENOMEM;
    return -1;
}

/* One operation: nbdkit's thread waits for the reply itself, which spares the way over another thread. */
static int do_whole(const struct request *request)
{
    size_t read_bytes = request->to != NULL ? (size_t)request->length : 0;
    size_t op_room = BLOCK_ZERO_BYTES + (request->data != NULL ? (size_t)request->length : 0);
    /* What is no reply is a reason, in words. */
    size_t capacity = 1 + read_bytes + WHY_BYTES, len = 0;
    unsigned char *op = malloc(op_room + capacity), *reply;
    int32_t outcome = DURAMEN_NOT_EXECUTED, code;
    char why[WHY_BYTES];
    int error;

    if (op == NULL)
        return no_memory(request);
    reply = op + op_room;
    code = call(op, request->fill(op, request->offset, request->length, request->data), request->flags, reply, capacity,
                &len, &outcome);
    error = code != DURAMEN_OK ? errno_of_code(code, why) : errno_of(outcome, reply, len, read_bytes, why);
    if (error == 0 && read_bytes != 0)
        memcpy(request->to, reply + 1, read_bytes);
    free(op);
    if (error == 0)
        return 0;
    nbdkit_error("duramen: %s: %s", request->what, why);
    errno = error;
    return -1;
}

/* Submits all parts of `request`, as far as that goes; `op` has room for each of them, and `parts` for all. */
static void submit_parts(struct request request, struct gathered *gathered, struct part *part, unsigned char *op)
{
    for (; request.length > 0; part++) {
        /* Parts end where blocks do, or two of them would write one block. */
        uint64_t room = request.part_bytes - request.offset % BLOCK_BYTES;
        uint64_t bytes = room < request.length ? room : request.length;
        int32_t code;

        part->gathered = gathered;
        part->read_to = request.to;
        part->read_bytes = request.to != NULL ? (size_t)bytes : 0;
        pthread_mutex_lock(&gathered->lock);
        gathered->outstanding++;
        pthread_mutex_unlock(&gathered->lock);
        code = submit(op, request.fill(op, request.offset, bytes, request.data), request.flags, part);
        if (code != DURAMEN_OK) {
            pthread_mutex_lock(&gathered->lock);
            gathered->outstanding--;
            gathered->error = errno_of_code(code, gathered->why);
            pthread_mutex_unlock(&gathered->lock);
            return;
        }
        request.data = request.data != NULL ? request.data + bytes : NULL;
        request.to = request.to != NULL ? request.to + bytes : NULL;
        request.offset += bytes;
        request.length -= bytes;
    }
}

/* Several operations, all of them outstanding at a time. */
static int do_parts(const struct request *request)
{
    struct gathered gathered = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, ""};
    struct part *parts = calloc((size_t)(request->length / request->part_bytes + 2), sizeof *parts);
    unsigned char *op = malloc(BLOCK_ZERO_BYTES + (request->data != NULL ? (size_t)request->part_bytes : 0));

    if (parts == NULL || op == NULL) {
        free(parts);
        free(op);
        return no_memory(request);
    }
    submit_parts(*request, &gathered, parts, op);
    pthread_mutex_lock(&gathered.lock);
    /* Every request ends by its deadline, so this does. */
    while (gathered.outstanding > 0)
        pthread_cond_wait(&gathered.all_ended, &gathered.lock);
    pthread_mutex_unlock(&gathered.lock);
    pthread_mutex_destroy(&gathered.lock);
    pthread_cond_destroy(&gathered.all_ended);
    free(parts);
    free(op);
    if (gathered.error == 0)
        return 0;
    nbdkit_error("duramen: %s: %s", request->what, gathered.why);
    errno = gathered.error;
    return -1;
}

static int do_request(struct request request)
{
    if (request.length <= request.part_bytes - request.offset % BLOCK_BYTES)
        return do_whole(&request);
    return do_parts(&request);
}

/* ---- configuration ---- */

static int set(const char *key, const char *value)
{
    char message[512];

    if (disk.conf == NULL)
        disk.conf = duramen_conf_new();
    if (disk.conf == NULL) {
        nbdkit_error("no memory");
        return -1;
    }
    if (duramen_conf_set(disk.conf, key, value, message, sizeof message) != DURAMEN_OK) {
        nbdkit_error("%s=%s: %s", key, value, message);
        return -1;
    }
    return 0;
}

static int duramen_config(const char *key, const char *value)
{
    if (strcmp(key, "dir") == 0) {
        /* nbdkit leaves this folder when it goes to the background. */
        char *path = nbdkit_realpath(value);
        int code = path != NULL ? set("dir", path) : -1;

        free(path);
        disk.has_dir = 1;
        return code;
    }
    if (strcmp(key, "client") == 0)
        return set("client", value);
    if (strcmp(key, "insecure") == 0) {
        int insecure = nbdkit_parse_bool(value);

        return insecure < 0 ? -1 : set("insecure", insecure ? "true" : "false");
    }
    if (strcmp(key, "deadline-ms") == 0) {
        uint32_t deadline_ms;

        if (nbdkit_parse_uint32_t(key, value, &deadline_ms) < 0)
            return -1;
        if (deadline_ms == 0) {
            nbdkit_error("deadline-ms: at least 1");
            return -1;
        }
        disk.deadline_ms = deadline_ms;
        return 0;
    }
    if (strcmp(key, "op-bytes") == 0) {
        int64_t bytes = nbdkit_parse_size(value);

        if (bytes < BLOCK_BYTES || bytes > OP_BYTES_MAX || bytes % BLOCK_BYTES != 0) {
            nbdkit_error("op-bytes: a multiple of %u, at most %u", BLOCK_BYTES, OP_BYTES_MAX);
            return -1;
        }
        disk.op_bytes = (uint32_t)bytes;
        return 0;
    }
    if (strcmp(key, "read") == 0) {
        if (strcmp(value, "quorum") != 0 && strcmp(value, "ordered") != 0) {
            nbdkit_error("read: \"quorum\" or \"ordered\"");
            return -1;
        }
        disk.read_flags = value[0] == 'q' ? DURAMEN_READ : 0;
        return 0;
    }
    nbdkit_error("unknown parameter %s", key);
    return -1;
}

static int duramen_config_complete(void)
{
    if (!disk.has_dir) {
        nbdkit_error("dir= is missing: the cluster's folder");
        return -1;
    }
    /* Threads of nbdkit's wait in part_ended's condition, not in a poll. */
    return set("callbacks", "thread");
}

#define CONFIG_HELP \
    "dir=DIR             (required) folder with the cluster's configuration and the client's key\n" \
    "client=NAME         the client's name, \"default\" if left out\n" \
    "deadline-ms=MS      a request that has not ended by then fails: 30000\n" \
    "op-bytes=SIZE       longer requests become several commands: 128K, at most 1M\n" \
    "read=quorum|ordered quorum (default): replicas' answers that agree; ordered: as a command. Both are linearizable\n" \
    "insecure=BOOL       accept plain links between liars"

/* ---- the device ---- */

/* The client has threads, and threads do not survive the fork into the background: it begins after that. */
static int duramen_after_fork(void)
{
    unsigned char op = BLOCK_INFO, reply[256];
    char why[WHY_BYTES];
    size_t len = 0;
    int32_t outcome = DURAMEN_NOT_EXECUTED;
    int32_t code = duramen_client_open(disk.conf, &disk.client);

    if (code == DURAMEN_OK)
        code = call(&op, 1, 0, reply, sizeof reply, &len, &outcome);
    if (code != DURAMEN_OK ? errno_of_code(code, why) : errno_of(outcome, reply, len, 12, why)) {
        nbdkit_error("duramen: %s", why);
        return -1;
    }
    if (block_get_u32(reply + 1) != BLOCK_BYTES || block_get_u64(reply + 5) > INT64_MAX) {
        nbdkit_error("duramen: a disk with blocks of %" PRIu32 " bytes", block_get_u32(reply + 1));
        return -1;
    }
    disk.size = (int64_t)block_get_u64(reply + 5);
    return 0;
}

static void duramen_unload(void)
{
    if (disk.client != NULL)
        /* Requests have deadlines, so this ends; what is left running would call into an unloaded plugin. */
        duramen_client_destroy(disk.client, DURAMEN_FOREVER);
    if (disk.conf != NULL)
        duramen_conf_destroy(disk.conf);
}

static void *duramen_open(int readonly)
{
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t duramen_get_size(void *handle)
{
    (void)handle;
    return disk.size;
}

static int duramen_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    (void)handle;
    *minimum = 1;
    *preferred = BLOCK_BYTES;
    *maximum = REQUEST_BYTES_MAX;
    return 0;
}

static int duramen_yes(void *handle)
{
    (void)handle;
    return 1;
}

static int duramen_can_fua(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static int duramen_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct request request = {"read", fill_read, disk.read_flags, offset, count, disk.op_bytes, NULL, buf};

    (void)handle, (void)flags;
    return do_request(request);
}

static int duramen_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct request request = {"write", fill_write, 0, offset, count, disk.op_bytes, buf, NULL};

    (void)handle, (void)flags;
    return do_request(request);
}

static int duramen_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct request request = {"zero", fill_zero, 0, offset, count, BLOCK_ZERO_LENGTH_MAX, NULL, NULL};

    (void)handle, (void)flags;
    return do_request(request);
}

static int duramen_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct request request = {"trim", fill_zero, 0, offset, count, BLOCK_ZERO_LENGTH_MAX, NULL, NULL};

    (void)handle, (void)flags;
    return do_request(request);
}

static int duramen_flush(void *handle, uint32_t flags)
{
    /* What was acknowledged is durable. */
    (void)handle, (void)flags;
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "duramen",
    .longname = "a disk that is replicated",
    .description = "A disk kept by a group of duramen replicas, some of which may crash or lie.",
    .unload = duramen_unload,
    .config = duramen_config,
    .config_complete = duramen_config_complete,
    .config_help = CONFIG_HELP,
    .magic_config_key = "dir",
    .after_fork = duramen_after_fork,
    .open = duramen_open,
    .get_size = duramen_get_size,
    .block_size = duramen_block_size,
    .can_multi_conn = duramen_yes,
    .can_flush = duramen_yes,
    .can_trim = duramen_yes,
    .can_zero = duramen_yes,
    .can_fast_zero = duramen_yes,
    .can_fua = duramen_can_fua,
    .pread = duramen_pread,
    .pwrite = duramen_pwrite,
    .flush = duramen_flush,
    .trim = duramen_trim,
    .zero = duramen_zero,
    .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN(plugin)
