/* What the durable log takes, through duramen_log_*:
 *
 *   log_speed DIR BYTES COUNT [OUTSTANDING [IO]]
 *
 * Makes a log in DIR/log-speed, which must not exist, appends COUNT records and removes the log again. A record fills BYTES of
 * the disk, its header included (so that one append is one write of BYTES, as the reference's is). With OUTSTANDING 1, or left out, each
 * record is waited for before the next one: prints p50 and p99 of append-to-durable. With more, that many are kept not yet durable. IO is
 * the log's key of that name: auto, uring, threads.
 */
#define _POSIX_C_SOURCE 200809L
#define _XOPEN_SOURCE 700

#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "duramen.h"

/* Kept for the header of a record; it has fewer, and the rest of the block is padding. */
#define HEADER_ROOM 256
#define SEGMENT_BYTES ((uint64_t)64 << 20)
#define BYTES_MAX ((uint64_t)1 << 20)
#define COUNT_MAX 65536
#define STOP_MS 10000

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static int complain(const char *what)
{
    char message[512] = "";

    duramen_errmsg(NULL, message, sizeof message);
    fprintf(stderr, "%s: %s\n", what, message);
    return -1;
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about;
    (void)kind;
    (void)place;
    return remove(path);
}

static int set(duramen_conf *conf, const char *key, const char *value)
{
    char message[512];

    if (duramen_conf_set(conf, key, value, message, sizeof message) == DURAMEN_OK)
        return 0;
    fprintf(stderr, "%s\n", message);
    return -1;
}

/* A log with room for all that comes, filled with zeros ahead: what is measured is writing, not filling. */
static duramen_log *make_log(const char *dir, uint64_t bytes, const char *io)
{
    duramen_conf *conf = duramen_conf_new();
    duramen_log *log = NULL;
    char segments[32];

    /* Two more are kept ready always; while they are there, none is filled. */
    snprintf(segments, sizeof segments, "%" PRIu64, bytes / SEGMENT_BYTES + 3);
    if (conf != NULL && set(conf, "dir", dir) == 0 && set(conf, "segment-mib", "64") == 0 &&
        set(conf, "prefill-segments", segments) == 0 && set(conf, "io", io) == 0) {
        if (duramen_log_format(conf) != DURAMEN_OK)
            complain("format");
        else if (duramen_log_open(conf, NULL, NULL, &log) != DURAMEN_OK)
            complain("open");
    }
    duramen_conf_destroy(conf);
    return log;
}

/* One record after the other, each waited for; their times, sorted. */
static int measure_waits(duramen_log *log, const char *record, size_t len, uint64_t *times, size_t count)
{
    size_t i;

    for (i = 0; i < count; i++) {
        uint64_t lsn, begin = now_ns();

        if (duramen_log_append(log, 1, i, record, len, &lsn) != DURAMEN_OK)
            return complain("append");
        if (duramen_log_wait(log, lsn, DURAMEN_FOREVER) != DURAMEN_OK)
            return complain("wait");
        times[i] = now_ns() - begin;
    }
    qsort(times, count, sizeof *times, by_value);
    return 0;
}

/* Keeps `outstanding` of them not yet durable. */
static int measure_stream(duramen_log *log, const char *record, size_t len, size_t outstanding, size_t count)
{
    uint64_t lsn = 0;
    size_t i;

    for (i = 0; i < count; i++) {
        if (lsn >= outstanding && duramen_log_wait(log, lsn + 1 - outstanding, DURAMEN_FOREVER) != DURAMEN_OK)
            return complain("wait");
        if (duramen_log_append(log, 1, i, record, len, &lsn) != DURAMEN_OK)
            return complain("append");
    }
    return duramen_log_wait(log, lsn, DURAMEN_FOREVER) == DURAMEN_OK ? 0 : complain("wait");
}

/* How many writes of the disk there were, so that it is known what was measured. */
static uint64_t count_writes(duramen_log *log)
{
    char text[4096];
    const char *line;

    if (duramen_log_metrics(log, text, sizeof text, NULL) != DURAMEN_OK)
        return 0;
    line = strstr(text, "\nduramen_log_writes_total ");
    return line == NULL ? 0 : strtoull(line + strlen("\nduramen_log_writes_total "), NULL, 10);
}

int main(int argc, char **argv)
{
    uint64_t bytes, count, outstanding, *times, before, writes, begin;
    char dir[4096], *record;
    duramen_log *log;
    double seconds;
    size_t len;
    int failed;

    bytes = argc >= 4 ? strtoull(argv[2], NULL, 10) : 0;
    count = argc >= 4 ? strtoull(argv[3], NULL, 10) : 0;
    outstanding = argc >= 5 ? strtoull(argv[4], NULL, 10) : 1;
    if (argc > 6 || bytes <= HEADER_ROOM || bytes > BYTES_MAX || count < 1 || count > COUNT_MAX || outstanding < 1) {
        fprintf(stderr, "usage: log_speed DIR BYTES COUNT [OUTSTANDING [IO]]\n");
        return 2;
    }
    len = (size_t)bytes - HEADER_ROOM;
    record = malloc(len);
    times = malloc(count * sizeof *times);
    if (record == NULL || times == NULL || snprintf(dir, sizeof dir, "%s/log-speed", argv[1]) >= (int)sizeof dir)
        return 1;
    memset(record, 7, len);
    log = make_log(dir, bytes * count, argc == 6 ? argv[5] : "auto");
    if (log == NULL)
        return 1;
    /* The first one finds everything cold. */
    failed = measure_waits(log, record, len, times, 1) != 0;
    before = count_writes(log);
    begin = now_ns();
    if (!failed && outstanding == 1)
        failed = measure_waits(log, record, len, times, count) != 0;
    else if (!failed)
        failed = measure_stream(log, record, len, outstanding, count) != 0;
    seconds = (double)(now_ns() - begin) / 1e9;
    writes = count_writes(log) - before;
    if (duramen_log_destroy(log, STOP_MS) != DURAMEN_OK)
        failed = complain("destroy") != 0;
    if (nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS) != 0)
        failed = 1;
    if (failed)
        return 1;
    printf("%" PRIu64 " records of %" PRIu64 " bytes in %" PRIu64 " writes", count, bytes, writes);
    if (outstanding == 1)
        printf(", p50 %.1f us, p99 %.1f us", (double)times[count / 2] / 1e3, (double)times[count * 99 / 100] / 1e3);
    printf(", %.1f MB/s\n", (double)(bytes * count) / seconds / 1e6);
    free(times);
    free(record);
    return 0;
}
