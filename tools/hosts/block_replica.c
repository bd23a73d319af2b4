/* One replica of a replicated disk:
 *
 *   block_replica DIR ID --size BYTES [--metrics ADDRESS:PORT] [--insecure]
 *
 * DIR is a cluster's folder that `duramen init` made. Prints one line when the replica takes part, and ends cleanly on
 * SIGTERM and SIGINT. Exit codes: 1 it cannot start, or has halted; 2 wrong arguments.
 * Built with -DBLOCK_LIES there is `--lie answers|state`, for tests: see block_service.h.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block_service.h"
#include "duramen.h"

#define STOP_MS 10000

struct arguments {
    const char *dir;
    uint32_t id;
    uint64_t size;
    const char *metrics;
    int insecure;
    int lie;
};

static int usage(void)
{
    fprintf(stderr, "usage: block_replica DIR ID --size BYTES [--metrics ADDRESS:PORT] [--insecure]"
#ifdef BLOCK_LIES
                    " [--lie answers|state]"
#endif
                    "\n");
    return 2;
}

static int number(const char *text, uint64_t max, uint64_t *out)
{
    char *end;

    errno = 0;
    if (text == NULL || *text < '0' || *text > '9')
        return -1;
    *out = strtoull(text, &end, 10);
    return errno == 0 && *end == '\0' && *out <= max ? 0 : -1;
}

static int parse(int argc, char **argv, struct arguments *out)
{
    uint64_t id;
    int i;

    memset(out, 0, sizeof *out);
    if (argc < 3 || number(argv[2], UINT32_MAX, &id) != 0)
        return -1;
    out->dir = argv[1];
    out->id = (uint32_t)id;
    for (i = 3; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (strcmp(argv[i], "--insecure") == 0) {
            out->insecure = 1;
            continue;
        }
        if (value == NULL)
            return -1;
        if (strcmp(argv[i], "--size") == 0) {
            if (number(value, UINT64_MAX, &out->size) != 0)
                return -1;
        } else if (strcmp(argv[i], "--metrics") == 0) {
            out->metrics = value;
#ifdef BLOCK_LIES
        } else if (strcmp(argv[i], "--lie") == 0 && strcmp(value, "answers") == 0) {
            out->lie = BLOCK_LIES_IN_ANSWERS;
        } else if (strcmp(argv[i], "--lie") == 0 && strcmp(value, "state") == 0) {
            out->lie = BLOCK_LIES_IN_STATE;
#endif
        } else {
            return -1;
        }
        i++;
    }
    return out->size != 0 ? 0 : -1;
}

static duramen_conf *configuration(const struct arguments *arguments)
{
    char message[512] = "no memory";
    duramen_conf *conf = duramen_conf_new();

    if (conf != NULL && duramen_conf_set(conf, "dir", arguments->dir, message, sizeof message) == DURAMEN_OK &&
        (!arguments->insecure || duramen_conf_set(conf, "insecure", "true", message, sizeof message) == DURAMEN_OK) &&
        (arguments->metrics == NULL ||
         duramen_conf_set(conf, "metrics-address", arguments->metrics, message, sizeof message) == DURAMEN_OK))
        return conf;
    fprintf(stderr, "error: %s\n", message);
    duramen_conf_destroy(conf);
    return NULL;
}

int main(int argc, char **argv)
{
    struct arguments arguments;
    duramen_paged_service service;
    duramen_replica *replica;
    duramen_conf *conf;
    struct timespec moment = {0, 200000000};
    sigset_t signals;
    char message[512];
    int32_t code;
    int halted = 0;

    if (parse(argc, argv, &arguments) != 0)
        return usage();
    if (block_service_new(arguments.size, arguments.lie, &service) != 0) {
        fprintf(stderr, "error: a disk is a multiple of 4096 bytes, and at most %" PRIu64 "\n", BLOCK_DISK_BYTES_MAX);
        return 2;
    }
    conf = configuration(&arguments);
    if (conf == NULL)
        return 1;
    /* Before there are threads, so that all of them leave these signals to this one. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    code = duramen_replica_start_paged(conf, arguments.id, &service, &replica);
    duramen_conf_destroy(conf);
    if (code != DURAMEN_OK) {
        duramen_errmsg(NULL, message, sizeof message);
        fprintf(stderr, "error: %s\n", message);
        service.destroy(service.user);
        return 1;
    }
    printf("replica %" PRIu32 " runs: a disk of %" PRIu64 " bytes\n", arguments.id, arguments.size);
    fflush(stdout);
    while (!halted && sigtimedwait(&signals, NULL, &moment) < 0)
        halted = duramen_replica_wait_failed(replica, 0, message, sizeof message) == DURAMEN_OK;
    if (halted)
        fprintf(stderr, "error: replica %" PRIu32 " has halted: %s\n", arguments.id, message);
    code = duramen_replica_destroy(replica, STOP_MS);
    if (code != DURAMEN_OK) {
        duramen_errmsg(NULL, message, sizeof message);
        fprintf(stderr, "error: %s\n", message);
    }
    return halted || code != DURAMEN_OK;
}
