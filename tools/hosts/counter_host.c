/* A replicated counter in C: its service, its replicas, its client.
 *
 *   counter_host DIR [--replicas N] [--additions N]      DIR is what `duramen init` made, of N replicas (4)
 *
 * Starts the replicas as child processes, adds numbers, kills replica 0 with SIGKILL meanwhile and starts it again, kills
 * all of them and starts them again, and holds what the counter says against what was acknowledged: PASS or FAIL.
 * `counter_host --replica DIR ID` is such a child: the whole of what a program needs that runs one replica.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "duramen.h"

#define REPLICAS_MAX 16
#define OUTSTANDING_MAX 64
#define STOP_MS 10000

static void put_u64(unsigned char *to, uint64_t value)
{
    int i;

    for (i = 0; i < 8; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t get_u64(const unsigned char *from)
{
    uint64_t value = 0;
    int i;

    for (i = 0; i < 8; i++)
        value |= (uint64_t)from[i] << (8 * i);
    return value;
}

static void complain(const char *what)
{
    char message[512] = "";

    duramen_errmsg(NULL, message, sizeof message);
    fprintf(stderr, "%s: %s\n", what, message);
}

/* ---- the service: operations are 8 bytes, a number to add, or none, a read; replies the counter then ---- */

static int32_t reply_value(uint64_t value, duramen_reply *reply)
{
    unsigned char bytes[8];

    put_u64(bytes, value);
    return duramen_reply_set(reply, bytes, sizeof bytes);
}

static int32_t counter_execute(void *user, const duramen_context *context, const void *op, size_t len,
                               duramen_reply *reply)
{
    uint64_t *value = user;

    (void)context;
    if (len == 8)
        *value += get_u64(op);
    else if (len != 0)
        return duramen_reply_set(reply, "", 0);
    return reply_value(*value, reply);
}

static int32_t counter_query(void *user, const void *op, size_t len, duramen_reply *reply)
{
    const uint64_t *value = user;

    (void)op;
    return len == 0 ? reply_value(*value, reply) : duramen_reply_set(reply, "", 0);
}

static int32_t counter_snapshot(void *user, void **snapshot)
{
    uint64_t *copy = malloc(sizeof *copy);

    if (copy == NULL)
        return -1;
    *copy = *(const uint64_t *)user;
    *snapshot = copy;
    return 0;
}

static int32_t counter_snapshot_write(void *user, void *snapshot, duramen_writer *out)
{
    unsigned char bytes[8];

    (void)user;
    put_u64(bytes, *(const uint64_t *)snapshot);
    return duramen_writer_put(out, bytes, sizeof bytes);
}

static void counter_snapshot_free(void *user, void *snapshot)
{
    (void)user;
    free(snapshot);
}

/* Whatever comes may be damaged: the state changes only once all of it was right. */
static int32_t counter_restore(void *user, duramen_reader *in)
{
    unsigned char bytes[9];
    size_t len = 0;
    int32_t got;

    while (len < sizeof bytes && (got = duramen_reader_get(in, bytes + len, sizeof bytes - len)) != 0) {
        if (got < 0)
            return -1;
        len += (size_t)got;
    }
    if (len != 8)
        return -1;
    *(uint64_t *)user = get_u64(bytes);
    return 0;
}

static void counter_destroy(void *user)
{
    free(user);
}

static const duramen_service counter_service = {
    sizeof(duramen_service), NULL, counter_execute, counter_query,   counter_snapshot, counter_snapshot_write,
    counter_snapshot_free,   counter_restore,               counter_destroy};

/* ---- its test: this file as a shared object, for `duramen test-service --library` ---- */

static const duramen_service *make_counter(void *user)
{
    static duramen_service made;

    (void)user;
    made = counter_service;
    made.user = calloc(1, sizeof(uint64_t));
    return made.user != NULL ? &made : NULL;
}

static int32_t counter_operation(void *user, uint64_t index, uint64_t random, void *buf, size_t cap, size_t *len)
{
    (void)user;
    (void)index;
    (void)cap;
    if (random % 4 == 0)
        return 0;
    put_u64(buf, random);
    *len = 8;
    return 0;
}

const duramen_tested_service *duramen_test_services(size_t index)
{
    static const duramen_tested_service counter = {
        sizeof(duramen_tested_service), NULL, "counter", make_counter, NULL, counter_operation};

    return index == 0 ? &counter : NULL;
}

/* ---- a replica ---- */

static int run_replica(const char *dir, uint32_t id)
{
    duramen_service service = counter_service;
    char message[512];
    duramen_conf *conf = duramen_conf_new();
    duramen_replica *replica;
    sigset_t signals;
    int signal_number, code;

    if (conf == NULL || duramen_conf_set(conf, "dir", dir, message, sizeof message) != DURAMEN_OK) {
        fprintf(stderr, "replica %" PRIu32 ": %s\n", id, conf == NULL ? "no memory" : message);
        return 1;
    }
    service.user = calloc(1, sizeof(uint64_t));
    if (service.user == NULL)
        return 1;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    code = duramen_replica_start(conf, id, &service, &replica);
    duramen_conf_destroy(conf);
    if (code != DURAMEN_OK) {
        complain("replica");
        counter_destroy(service.user);
        return 1;
    }
    printf("ready\n");
    fflush(stdout);
    sigwait(&signals, &signal_number);
    return duramen_replica_destroy(replica, STOP_MS) != DURAMEN_OK;
}

/* ---- the replicas as children ---- */

struct cluster {
    const char *exe;
    const char *dir;
    uint32_t n;
    pid_t pids[REPLICAS_MAX];
};

/* Returns once all that are not running have said that they are. */
static int start_replicas(struct cluster *cluster)
{
    int outputs[REPLICAS_MAX];
    uint32_t i;
    int failed = 0;

    for (i = 0; i < cluster->n; i++) {
        char id[16];
        int ends[2];

        outputs[i] = -1;
        if (cluster->pids[i] != 0)
            continue;
        if (pipe(ends) != 0)
            return -1;
        snprintf(id, sizeof id, "%" PRIu32, i);
        /* Between fork and exec nothing of duramen may be called but duramen_strerror. */
        cluster->pids[i] = fork();
        if (cluster->pids[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            dup2(ends[1], STDOUT_FILENO);
            close(ends[0]);
            close(ends[1]);
            execl(cluster->exe, cluster->exe, "--replica", cluster->dir, id, (char *)NULL);
            _exit(127);
        }
        close(ends[1]);
        outputs[i] = ends[0];
    }
    for (i = 0; i < cluster->n; i++) {
        char byte;

        if (outputs[i] < 0)
            continue;
        failed |= read(outputs[i], &byte, 1) != 1;
        close(outputs[i]);
    }
    return failed ? -1 : 0;
}

static void kill_replica(struct cluster *cluster, uint32_t i, int signal_number)
{
    if (cluster->pids[i] > 0) {
        kill(cluster->pids[i], signal_number);
        waitpid(cluster->pids[i], NULL, 0);
    }
    cluster->pids[i] = 0;
}

static void kill_all(struct cluster *cluster, int signal_number)
{
    uint32_t i;

    /* All at once; then they are waited for. */
    for (i = 0; i < cluster->n; i++)
        if (cluster->pids[i] > 0)
            kill(cluster->pids[i], signal_number);
    for (i = 0; i < cluster->n; i++)
        kill_replica(cluster, i, signal_number);
}

/* ---- the client ---- */

struct sums {
    uint64_t done;
    uint64_t unknown;
    uint64_t ended;
    uint64_t last_value;
    int failed;
};

/* One addition that is under way. */
struct addition {
    struct sums *sums;
    uint64_t number;
    int taken;
};

static void addition_ended(void *user, int32_t outcome, const void *reply, size_t len)
{
    struct addition *addition = user;
    struct sums *sums = addition->sums;

    if (outcome == DURAMEN_DONE && len == 8) {
        sums->done += addition->number;
        if (get_u64(reply) > sums->last_value)
            sums->last_value = get_u64(reply);
    } else if (outcome == DURAMEN_UNKNOWN_OUTCOME) {
        sums->unknown += addition->number;
    } else if (outcome != DURAMEN_NOT_EXECUTED) {
        sums->failed = 1;
    }
    sums->ended++;
    addition->taken = 0;
}

static struct addition *free_place(struct addition *places)
{
    int i;

    for (i = 0; i < OUTSTANDING_MAX; i++)
        if (!places[i].taken)
            return &places[i];
    return NULL;
}

/* Adds `first` to `last`, up to OUTSTANDING_MAX at a time; their callbacks run here, in duramen_client_poll. */
static int add_numbers(duramen_client *client, uint64_t first, uint64_t last, struct sums *sums)
{
    static struct addition places[OUTSTANDING_MAX];
    uint64_t next = first, ended_before = sums->ended;

    while (sums->ended - ended_before < last - first + 1) {
        struct addition *place = next <= last ? free_place(places) : NULL;

        if (place != NULL) {
            unsigned char op[8];
            int32_t code;

            place->sums = sums;
            place->number = next;
            place->taken = 1;
            put_u64(op, next);
            code = duramen_client_submit(client, op, sizeof op, 0, 0, addition_ended, place);
            if (code == DURAMEN_OK) {
                next++;
                continue;
            }
            place->taken = 0;
            if (code != DURAMEN_E_BUSY) {
                complain("submit");
                return -1;
            }
        }
        if (duramen_client_poll(client, OUTSTANDING_MAX, 1000) < 0) {
            complain("poll");
            return -1;
        }
    }
    return sums->failed ? -1 : 0;
}

/* What the replicas agree the counter is. */
static int read_counter(duramen_client *client, uint64_t *value)
{
    unsigned char reply[256];
    size_t len = 0;
    int32_t outcome = DURAMEN_FAIL;

    if (duramen_client_call(client, NULL, 0, DURAMEN_READ, 0, reply, sizeof reply, &len, &outcome) != DURAMEN_OK) {
        complain("read");
        return -1;
    }
    if (outcome != DURAMEN_DONE || len != 8) {
        fprintf(stderr, "read: outcome %" PRId32 "\n", outcome);
        return -1;
    }
    *value = get_u64(reply);
    return 0;
}

static int check(duramen_client *client, const struct sums *sums, const char *when)
{
    uint64_t value;

    if (read_counter(client, &value) != 0)
        return -1;
    printf("%s: the counter is %" PRIu64 ", acknowledged %" PRIu64 ", of unknown outcome %" PRIu64 "\n", when, value,
           sums->done, sums->unknown);
    fflush(stdout);
    return value >= sums->done && value <= sums->done + sums->unknown && value >= sums->last_value ? 0 : -1;
}

static duramen_client *open_client(const char *dir)
{
    char message[512] = "no memory";
    duramen_conf *conf = duramen_conf_new();
    duramen_client *client = NULL;

    if (conf == NULL || duramen_conf_set(conf, "dir", dir, message, sizeof message) != DURAMEN_OK ||
        duramen_conf_set(conf, "deadline-ms", "60000", message, sizeof message) != DURAMEN_OK)
        fprintf(stderr, "client: %s\n", message);
    else if (duramen_client_open(conf, &client) != DURAMEN_OK)
        complain("client");
    duramen_conf_destroy(conf);
    return client;
}

static int run(struct cluster *cluster, duramen_client *client, uint64_t additions)
{
    struct sums sums = {0, 0, 0, 0, 0};

    if (add_numbers(client, 1, additions / 3, &sums) != 0 || check(client, &sums, "all run") != 0)
        return -1;
    kill_replica(cluster, 0, SIGKILL);
    if (add_numbers(client, additions / 3 + 1, 2 * additions / 3, &sums) != 0 ||
        check(client, &sums, "without replica 0") != 0)
        return -1;
    if (start_replicas(cluster) != 0 || add_numbers(client, 2 * additions / 3 + 1, additions, &sums) != 0 ||
        check(client, &sums, "with it again") != 0)
        return -1;
    kill_all(cluster, SIGKILL);
    return start_replicas(cluster) == 0 ? check(client, &sums, "all killed and started again") : -1;
}

static int usage(void)
{
    fprintf(stderr, "usage: counter_host DIR [--replicas N] [--additions N]\n       counter_host --replica DIR ID\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct cluster cluster = {argv[0], NULL, 4, {0}};
    uint64_t additions = 3000;
    duramen_client *client = NULL;
    int i, failed;

    if (argc == 4 && strcmp(argv[1], "--replica") == 0)
        return run_replica(argv[2], (uint32_t)strtoul(argv[3], NULL, 10));
    if (argc < 2 || argc % 2 != 0)
        return usage();
    cluster.dir = argv[1];
    for (i = 2; i < argc; i += 2) {
        if (strcmp(argv[i], "--replicas") == 0)
            cluster.n = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--additions") == 0)
            additions = strtoull(argv[i + 1], NULL, 10);
        else
            return usage();
    }
    if (cluster.n < 1 || cluster.n > REPLICAS_MAX || additions < 3)
        return usage();
    failed = start_replicas(&cluster) != 0 || (client = open_client(cluster.dir)) == NULL ||
             run(&cluster, client, additions) != 0;
    if (client != NULL && duramen_client_destroy(client, STOP_MS) != DURAMEN_OK)
        complain("client");
    kill_all(&cluster, SIGTERM);
    printf("%s\n", failed ? "FAIL" : "PASS");
    return failed;
}
