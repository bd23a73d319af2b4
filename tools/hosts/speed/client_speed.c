/* Load as `duramen bench` makes it, through duramen_client_submit:
 *
 *   client_speed DIR [--clients N] [--outstanding K] [--seconds S] [--warmup S] [--value-size BYTES] [--keys N]
 *                [--service kv|null] [--callbacks poll|thread]
 *
 * DIR is the folder of a cluster that runs. Each client has one session and keeps K requests unanswered; the kv ones replace values of keys
 * that are drawn uniformly, the null ones mean nothing. Prints throughput, p50 and p99 of what was answered within the S seconds.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "clock.h"
#include "duramen.h"

#define CLIENTS_MAX 64
#define OUTSTANDING_MAX 4096
#define VALUE_BYTES_MAX (1u << 20)
/* Different values; of the key, as bench has it. */
#define VALUES 64
#define DEADLINE_MS 30000
#define STOP_MS 10000

/* ---- latencies: 128 buckets for each power of two of nanoseconds, so that a figure is right to 1 % ---- */

#define BUCKET_BITS 7
#define BUCKETS ((65 - BUCKET_BITS) << BUCKET_BITS)

static unsigned bucket_of(uint64_t ns)
{
    unsigned shift = 0;

    while (ns >> shift >= 2u << BUCKET_BITS)
        shift++;
    return (shift << BUCKET_BITS) + (unsigned)(ns >> shift);
}

static double quantile_ms(const uint64_t *buckets, uint64_t count, double quantile)
{
    uint64_t wanted = (uint64_t)((double)count * quantile), seen = 0;
    unsigned i;

    for (i = 0; i < BUCKETS; i++) {
        unsigned shift = i >> BUCKET_BITS > 1 ? (i >> BUCKET_BITS) - 1 : 0;

        seen += buckets[i];
        if (seen > wanted)
            return (double)((uint64_t)(i - (shift << BUCKET_BITS)) << shift) / 1e6;
    }
    return 0;
}

/* ---- operations ---- */

struct shape {
    const char *dir;
    unsigned clients;
    unsigned outstanding;
    double seconds;
    double warmup;
    uint32_t value_bytes;
    uint64_t keys;
    int null_service;
    const char *callbacks;
};

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void put_u32(unsigned char *to, uint32_t value)
{
    int i;

    for (i = 0; i < 4; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

/* A put of the key-value store: 2, length and bytes of the key (8, big-endian), length and bytes of the value with a 1 before them.
 * An operation of the null service: the reply's length, and bytes up to its own. All but the key is there from the beginning. */
static size_t op_bytes(const struct shape *shape)
{
    return shape->null_service ? shape->value_bytes : 18 + (size_t)shape->value_bytes;
}

static void prepare_op(const struct shape *shape, unsigned char *op, uint64_t *random)
{
    uint32_t i;

    memset(op, 0, op_bytes(shape));
    if (shape->null_service)
        return;
    op[0] = 2;
    put_u32(op + 1, 8);
    put_u32(op + 13, shape->value_bytes + 1);
    op[17] = 1;
    for (i = 0; i < shape->value_bytes; i++)
        op[18 + i] = (unsigned char)(draw(random) >> 32);
}

/* ---- a client ---- */

struct client {
    const struct shape *shape;
    duramen_client *handle;
    pthread_t thread;
    uint64_t random;
    unsigned char *ops;
    /* When latencies count, and when no more is sent. */
    uint64_t from, until;
    /* With callbacks = thread the first requests are still being sent when the first callbacks run: held by both. */
    pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned under_way;
    uint64_t counted, failed;
    uint64_t buckets[BUCKETS];
    char first_failure[256];
};

/* One request that is under way. */
struct place {
    struct client *client;
    uint64_t begin;
};

static void failed(struct client *client, const char *why, size_t len)
{
    if (client->failed++ == 0)
        snprintf(client->first_failure, sizeof client->first_failure, "%.*s", (int)(len < 255 ? len : 255), why);
}

static void ended(void *user, int32_t outcome, const void *reply, size_t len);

static int submit(struct place *place)
{
    struct client *client = place->client;
    const struct shape *shape = client->shape;
    uint64_t key = draw(&client->random) % shape->keys;
    unsigned char *op = client->ops + key % VALUES * op_bytes(shape);
    char message[256] = "";
    int i;

    for (i = 0; i < 8 && !shape->null_service; i++)
        op[5 + i] = (unsigned char)(key >> (56 - 8 * i));
    place->begin = now_ns();
    if (duramen_client_submit(client->handle, op, op_bytes(shape), 0, DEADLINE_MS, ended, place) == DURAMEN_OK)
        return 0;
    duramen_errmsg(client->handle, message, sizeof message);
    failed(client, message, strlen(message));
    return -1;
}

static void ended(void *user, int32_t outcome, const void *reply, size_t len)
{
    struct place *place = user;
    struct client *client = place->client;
    const unsigned char *bytes = reply;
    uint64_t now = now_ns();
    int right = client->shape->null_service ? len == 0 : len == 1 && bytes[0] == 0;

    pthread_mutex_lock(&client->lock);
    if (outcome != DURAMEN_DONE)
        failed(client, reply, len);
    else if (!right)
        failed(client, "an unexpected reply", strlen("an unexpected reply"));
    else if (now >= client->from && now < client->until) {
        client->counted++;
        client->buckets[bucket_of(now - place->begin)]++;
    }
    if (now >= client->until || outcome != DURAMEN_DONE || submit(place) != 0) {
        client->under_way--;
        pthread_cond_signal(&client->idle);
    }
    pthread_mutex_unlock(&client->lock);
}

/* Sends the first requests; each one's callback sends the next. With callbacks = poll they run here. */
static void *run_client(void *user)
{
    struct client *client = user;
    struct place places[OUTSTANDING_MAX];
    int polls = strcmp(client->shape->callbacks, "poll") == 0;
    unsigned i;

    pthread_mutex_lock(&client->lock);
    for (i = 0; i < client->shape->outstanding; i++) {
        places[i].client = client;
        client->under_way += submit(&places[i]) == 0;
    }
    while (client->under_way > 0) {
        if (polls) {
            pthread_mutex_unlock(&client->lock);
            duramen_client_poll(client->handle, 0, 1000);
            pthread_mutex_lock(&client->lock);
        } else {
            pthread_cond_wait(&client->idle, &client->lock);
        }
    }
    pthread_mutex_unlock(&client->lock);
    return NULL;
}

static int open_client(struct client *client, const struct shape *shape, uint64_t seed)
{
    char message[512] = "no memory";
    duramen_conf *conf = duramen_conf_new();
    int32_t code = DURAMEN_E_CONFIG;
    unsigned i;

    client->shape = shape;
    client->random = 0x9e3779b97f4a7c15u * (seed + 1);
    client->ops = malloc(VALUES * op_bytes(shape));
    pthread_mutex_init(&client->lock, NULL);
    pthread_cond_init(&client->idle, NULL);
    if (conf != NULL && client->ops != NULL &&
        duramen_conf_set(conf, "dir", shape->dir, message, sizeof message) == DURAMEN_OK &&
        duramen_conf_set(conf, "callbacks", shape->callbacks, message, sizeof message) == DURAMEN_OK &&
        (code = duramen_client_open(conf, &client->handle)) != DURAMEN_OK)
        duramen_errmsg(NULL, message, sizeof message);
    duramen_conf_destroy(conf);
    if (code != DURAMEN_OK) {
        fprintf(stderr, "client: %s\n", message);
        return -1;
    }
    for (i = 0; i < VALUES; i++)
        prepare_op(shape, client->ops + i * op_bytes(shape), &client->random);
    return 0;
}

/* ---- all of them ---- */

static void sleep_until(uint64_t ns)
{
    struct timespec until;

    until.tv_sec = (time_t)(ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
        ;
}

static double cpu_seconds(void)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static int report(const struct shape *shape, struct client *clients, double cpu)
{
    static uint64_t buckets[BUCKETS];
    uint64_t counted = 0, failures = 0;
    unsigned c, i;

    for (c = 0; c < shape->clients; c++) {
        counted += clients[c].counted;
        failures += clients[c].failed;
        for (i = 0; i < BUCKETS; i++)
            buckets[i] += clients[c].buckets[i];
        if (clients[c].failed > 0)
            fprintf(stderr, "client %u: %" PRIu64 " failed, the first: %s\n", c, clients[c].failed, clients[c].first_failure);
    }
    printf("throughput %.0f ops/s over %.1f s, p50 %.2f p99 %.2f ms, client %.2f us/op, errors %" PRIu64 "\n",
           (double)counted / shape->seconds, shape->seconds, quantile_ms(buckets, counted, 0.5),
           quantile_ms(buckets, counted, 0.99), counted == 0 ? 0 : cpu * 1e6 / (double)counted, failures);
    return failures > 0 || counted == 0;
}

static int run(const struct shape *shape, struct client *clients)
{
    unsigned opened = 0, started = 0, c;
    uint64_t from, until;
    double cpu = 0;
    int code = 0;

    while (opened < shape->clients && open_client(&clients[opened], shape, opened) == 0)
        opened++;
    from = now_ns() + (uint64_t)(shape->warmup * 1e9);
    until = from + (uint64_t)(shape->seconds * 1e9);
    while (opened == shape->clients && started < opened) {
        clients[started].from = from;
        clients[started].until = until;
        if (pthread_create(&clients[started].thread, NULL, run_client, &clients[started]) != 0)
            break;
        started++;
    }
    if (started == shape->clients) {
        sleep_until(from);
        cpu = cpu_seconds();
        sleep_until(until);
        cpu = cpu_seconds() - cpu;
    }
    for (c = 0; c < started; c++)
        pthread_join(clients[c].thread, NULL);
    for (c = 0; c < opened; c++)
        code |= duramen_client_destroy(clients[c].handle, STOP_MS) != DURAMEN_OK;
    if (started < shape->clients)
        return 1;
    return report(shape, clients, cpu) | code;
}

static int usage(void)
{
    fprintf(stderr, "usage: client_speed DIR [--clients N] [--outstanding K] [--seconds S] [--warmup S] [--value-size BYTES]\n"
                    "                    [--keys N] [--service kv|null] [--callbacks poll|thread]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct shape shape = {NULL, 8, 100, 10, 3, 4096, 10000, 0, "poll"};
    struct client *clients;
    int i, code;

    if (argc < 2 || argc % 2 != 0)
        return usage();
    shape.dir = argv[1];
    for (i = 2; i < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];

        if (strcmp(name, "--clients") == 0)
            shape.clients = (unsigned)strtoul(value, NULL, 10);
        else if (strcmp(name, "--outstanding") == 0)
            shape.outstanding = (unsigned)strtoul(value, NULL, 10);
        else if (strcmp(name, "--seconds") == 0)
            shape.seconds = strtod(value, NULL);
        else if (strcmp(name, "--warmup") == 0)
            shape.warmup = strtod(value, NULL);
        else if (strcmp(name, "--value-size") == 0)
            shape.value_bytes = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--keys") == 0)
            shape.keys = strtoull(value, NULL, 10);
        else if (strcmp(name, "--service") == 0)
            shape.null_service = strcmp(value, "null") == 0;
        else if (strcmp(name, "--callbacks") == 0)
            shape.callbacks = value;
        else
            return usage();
    }
    if (shape.clients < 1 || shape.clients > CLIENTS_MAX || shape.outstanding < 1 ||
        shape.outstanding > OUTSTANDING_MAX || !(shape.seconds > 0 && shape.seconds < 1e5) ||
        !(shape.warmup >= 0 && shape.warmup < 1e5) || shape.value_bytes < 4 || shape.value_bytes > VALUE_BYTES_MAX ||
        shape.keys < 1)
        return usage();
    clients = calloc(shape.clients, sizeof *clients);
    if (clients == NULL)
        return 1;
    code = run(&shape, clients);
    for (i = 0; i < (int)shape.clients; i++)
        free(clients[i].ops);
    free(clients);
    return code;
}
