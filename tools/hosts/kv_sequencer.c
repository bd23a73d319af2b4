/* A key-value store in C with an order of its own on duramen's durability layer: no replica, no agreement of duramen's.
 *
 *   kv_sequencer DIR [--kills N] [--cluster CLUSTER]      DIR: a folder of its own, made if it is missing
 *
 * One sequencer numbers what its client threads put; duramen_durable_* logs each batch while it executes and lets the acknowledgements go
 * after both; duramen_checkpoint_* keeps the table, of which it writes the pages that changed, so that the log can be recycled. The
 * program starts itself as a child that puts as fast as it can, kills it with SIGKILL, opens what it left, and holds that against what was
 * acknowledged; N times (5): PASS or FAIL.
 * With CLUSTER, which `duramen init` made (its replicas do not run: it gives addresses and keys), a new store in DIR/joined then gets the
 * state by duramen_transfer_*, from two that serve it, and must hold the same.
 * `kv_sequencer --put DIR` is such a child: it prints one line for each acknowledged put.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "duramen.h"

#define CLIENTS 8
#define KEYS 4096             /* of each client */
#define CHECKPOINT_EVERY 400  /* batches */
#define SLOTS 65536           /* of the table; more than there are keys */
#define STOP_MS 10000
#define PAGE_BYTES 4096       /* of the table, where it is saved and transferred */
#define PAGES (sizeof(struct table) / PAGE_BYTES)
#define UNKNOWN UINT64_MAX    /* no place: all pages are written */
#define SERVERS 2
#define FETCH_MS 30000

/* ---- the state: 32-bit keys (client, key) to 64-bit values, by open addressing ---- */

struct entry {
    uint64_t value; /* 0: the slot is free */
    uint32_t key;
    uint32_t zero;
};

struct table {
    struct entry slots[SLOTS];
};

static struct entry *find(struct table *table, uint32_t key)
{
    uint32_t at = key % SLOTS; /* neighbours side by side, so that few pages change */

    while (table->slots[at].value != 0 && table->slots[at].key != key)
        at = (at + 1) % SLOTS;
    return &table->slots[at];
}

struct put {
    uint32_t key;
    uint32_t zero;
    uint64_t value;
};

/* ---- the store: a sequencer over the durability layer ---- */

struct request {
    struct put put;
    int done;
    struct request *next;
};

/* What one batch acknowledges. */
struct batch {
    uint64_t seq;
    struct request *requests;
    struct batch *next;
};

struct store {
    duramen_durable *log;
    duramen_checkpoint *saves;
    struct table table; /* changed on the layer's thread alone */
    unsigned char changed[PAGES]; /* since the last copy */
    uint64_t executed;
    uint64_t next;
    uint64_t loaded; /* the place of the checkpoint that it began with */
    uint64_t files;  /* that it was made of */
    int failed;

    pthread_mutex_t lock; /* of what follows; never held while duramen is called */
    pthread_cond_t moved;
    struct request *waiting, **waiting_end;
    struct batch *sent, **sent_end;
    struct table *copy; /* for the checkpoint thread, and which of its pages changed since the one before */
    uint64_t copy_changed[PAGES];
    size_t copy_count;
    uint64_t copy_at;
    int saving;
    int room; /* after what was delivered last */
};

static void complain(const char *what, int32_t code)
{
    char message[512] = "";

    duramen_errmsg(NULL, message, sizeof message);
    fprintf(stderr, "kv_sequencer: %s: %s: %s\n", what, duramen_errname(code), message);
}

static void apply(struct store *store, uint64_t seq, const void *op, size_t len)
{
    struct put put;
    struct entry *entry;

    if (len != sizeof put || seq <= store->loaded)
        return; /* a checkpoint has it already */
    memcpy(&put, op, sizeof put);
    entry = find(&store->table, put.key);
    entry->key = put.key;
    entry->value = put.value;
    store->changed[(size_t)((unsigned char *)entry - (unsigned char *)&store->table) / PAGE_BYTES] = 1;
    store->executed = seq;
}

static int32_t on_replay(void *user, uint64_t seq, uint32_t index, const void *op, size_t len)
{
    struct store *store = user;

    (void)index;
    apply(store, seq, op, len);
    if (seq >= store->next)
        store->next = seq + 1;
    return 0;
}

/* Between two batches the table is that of a place: now and then a copy of it goes to the checkpoint thread. */
static void copy_now(struct store *store, uint64_t seq)
{
    uint64_t page;

    pthread_mutex_lock(&store->lock);
    if (!store->saving) {
        *store->copy = store->table;
        store->copy_count = 0;
        for (page = 0; page < PAGES; page++)
            if (store->changed[page])
                store->copy_changed[store->copy_count++] = page;
        memset(store->changed, 0, sizeof store->changed);
        store->copy_at = seq;
        store->saving = 1;
        pthread_cond_broadcast(&store->moved);
    }
    pthread_mutex_unlock(&store->lock);
}

static int32_t on_execute(void *user, uint64_t seq, uint32_t index, const void *op, size_t len)
{
    struct store *store = user;

    if (index == 0 && seq % CHECKPOINT_EVERY == 0 && seq - 1 > store->loaded)
        copy_now(store, seq - 1);
    apply(store, seq, op, len);
    return 0;
}

static void on_release(void *user, uint64_t seq)
{
    struct store *store = user;
    struct request *request;
    struct batch *batch;

    pthread_mutex_lock(&store->lock);
    while ((batch = store->sent) != NULL && batch->seq <= seq) {
        store->sent = batch->next;
        if (store->sent == NULL)
            store->sent_end = &store->sent;
        for (request = batch->requests; request != NULL; request = request->next)
            request->done = 1;
        free(batch);
    }
    pthread_cond_broadcast(&store->moved);
    pthread_mutex_unlock(&store->lock);
}

static void on_room(void *user)
{
    struct store *store = user;

    pthread_mutex_lock(&store->lock);
    store->room = 1;
    pthread_cond_broadcast(&store->moved);
    pthread_mutex_unlock(&store->lock);
}

static void on_end(void *user, int32_t code, const char *why)
{
    struct store *store = user;

    fprintf(stderr, "kv_sequencer: the layer ended: %s: %s\n", duramen_errname(code), why);
    pthread_mutex_lock(&store->lock);
    store->failed = 1;
    pthread_cond_broadcast(&store->moved);
    pthread_mutex_unlock(&store->lock);
}

/* ---- checkpoints ---- */

static int32_t on_page(void *user, uint64_t index, void *buf, size_t cap, size_t *len)
{
    if (cap < PAGE_BYTES)
        return 1;
    memcpy(buf, (unsigned char *)user + index * PAGE_BYTES, PAGE_BYTES);
    *len = PAGE_BYTES;
    return 0;
}

static int32_t on_install(void *user, uint64_t index, const void *page, size_t len)
{
    if (len != PAGE_BYTES || index >= PAGES)
        return 1;
    memcpy((unsigned char *)user + index * PAGE_BYTES, page, len);
    return 0;
}

static duramen_page_source pages_of(struct table *table)
{
    duramen_page_source source = { 0 };

    source.struct_size = sizeof source;
    source.user = table;
    source.pages = PAGES;
    source.page = on_page;
    return source;
}

static void *save(void *user)
{
    struct store *store = user;
    duramen_page_source source = pages_of(store->copy);
    uint64_t at, before = store->loaded;
    int32_t code;

    for (;;) {
        pthread_mutex_lock(&store->lock);
        while (!store->saving)
            pthread_cond_wait(&store->moved, &store->lock);
        at = store->copy_at;
        pthread_mutex_unlock(&store->lock);

        /* Not ahead of the log: what it has, the log has. */
        code = duramen_durable_wait(store->log, at, DURAMEN_FOREVER);
        if (code == DURAMEN_OK)
            code = duramen_checkpoint_write_pages(store->saves, at, NULL, &source, before > 0 ? before : UNKNOWN,
                                                  store->copy_changed, store->copy_count, NULL);
        if (code != DURAMEN_OK) {
            complain("a checkpoint", code);
            return NULL;
        }
        /* Should the newest be damaged, the one before it and the log are enough. */
        if (before > 0)
            duramen_durable_recycle(store->log, before);
        before = at;
        pthread_mutex_lock(&store->lock);
        store->saving = 0;
        pthread_mutex_unlock(&store->lock);
    }
}

static int32_t load(struct store *store)
{
    duramen_checkpoint_info info = { 0 };
    int32_t code;

    info.struct_size = sizeof info;
    code = duramen_checkpoint_newest(store->saves, UINT64_MAX, &info);
    if (code == DURAMEN_E_NOT_FOUND)
        return DURAMEN_OK;
    if (code != DURAMEN_OK)
        return code;
    code = DURAMEN_E_DAMAGED;
    if (info.pages == PAGES)
        code = duramen_checkpoint_read_pages(store->saves, info.position, on_install, &store->table);
    store->loaded = store->executed = info.position;
    store->next = info.position + 1;
    store->files = info.files;
    return code;
}

/* ---- open and close ---- */

static int32_t set(duramen_conf *conf, const char *key, const char *value)
{
    char why[256];
    int32_t code = duramen_conf_set(conf, key, value, why, sizeof why);

    if (code != DURAMEN_OK)
        fprintf(stderr, "kv_sequencer: %s\n", why);
    return code;
}

static int open_store(struct store *store, const char *dir)
{
    duramen_durable_callbacks callbacks = { 0 };
    duramen_conf *conf = duramen_conf_new();
    char path[4096];
    int32_t code;

    memset(store, 0, sizeof *store);
    store->next = 1;
    store->copy = malloc(sizeof *store->copy);
    store->waiting_end = &store->waiting;
    store->sent_end = &store->sent;
    pthread_mutex_init(&store->lock, NULL);
    pthread_cond_init(&store->moved, NULL);
    callbacks.struct_size = sizeof callbacks;
    callbacks.user = store;
    callbacks.replay = on_replay;
    callbacks.execute = on_execute;
    callbacks.release = on_release;
    callbacks.ended = on_end;
    callbacks.room = on_room;

    mkdir(dir, 0700);
    snprintf(path, sizeof path, "%s/checkpoints", dir);
    code = store->copy == NULL ? DURAMEN_E_NO_SPACE : set(conf, "dir", path);
    if (code == DURAMEN_OK)
        code = duramen_checkpoint_open(conf, &store->saves);
    if (code == DURAMEN_OK)
        code = load(store);
    snprintf(path, sizeof path, "%s/log", dir);
    if (code == DURAMEN_OK)
        code = set(conf, "dir", path);
    if (code == DURAMEN_OK)
        code = set(conf, "callbacks", "thread");
    if (code == DURAMEN_OK)
        code = set(conf, "segment-mib", "1");
    if (code == DURAMEN_OK)
        code = set(conf, "segments", "16");
    if (code == DURAMEN_OK && access(path, F_OK) != 0)
        code = duramen_durable_format(conf);
    if (code == DURAMEN_OK)
        code = duramen_durable_open(conf, &callbacks, &store->log);
    if (code != DURAMEN_OK)
        complain("open", code);
    duramen_conf_destroy(conf);
    return code == DURAMEN_OK;
}

static int close_store(struct store *store)
{
    int32_t code = duramen_durable_destroy(store->log, STOP_MS);

    if (code == DURAMEN_OK)
        code = duramen_checkpoint_destroy(store->saves, STOP_MS);
    if (code != DURAMEN_OK)
        complain("close", code);
    free(store->copy);
    return code == DURAMEN_OK;
}

/* ---- the sequencer, and its clients ---- */

static void *sequence(void *user)
{
    struct store *store = user;
    duramen_bytes ops[CLIENTS];
    struct request *request;
    struct batch *batch;
    uint64_t seq;
    size_t count;
    int32_t code;

    for (;;) {
        batch = calloc(1, sizeof *batch);
        if (batch == NULL)
            return NULL;
        pthread_mutex_lock(&store->lock);
        while (store->waiting == NULL)
            pthread_cond_wait(&store->moved, &store->lock);
        batch->requests = store->waiting;
        store->waiting = NULL;
        store->waiting_end = &store->waiting;
        count = 0;
        for (request = batch->requests; request != NULL; request = request->next) {
            ops[count].bytes = &request->put;
            ops[count].len = sizeof request->put;
            count++;
        }
        /* Here is the order. */
        seq = batch->seq = store->next++;
        *store->sent_end = batch;
        store->sent_end = &batch->next;
        pthread_mutex_unlock(&store->lock);
        for (;;) {
            pthread_mutex_lock(&store->lock);
            store->room = 0;
            pthread_mutex_unlock(&store->lock);
            code = duramen_durable_deliver(store->log, seq, ops, count);
            if (code != DURAMEN_E_BUSY && code != DURAMEN_E_NO_SPACE)
                break;
            /* A round, or a checkpoint, makes room. */
            pthread_mutex_lock(&store->lock);
            while (!store->room && !store->failed)
                pthread_cond_wait(&store->moved, &store->lock);
            pthread_mutex_unlock(&store->lock);
        }
        if (code != DURAMEN_OK) {
            complain("deliver", code);
            return NULL;
        }
    }
}

struct client {
    struct store *store;
    uint32_t number;
    uint64_t value; /* the last one that it put */
};

/* Puts rising values under its keys in turn, one after the other is acknowledged. */
static void *put_for_ever(void *user)
{
    struct client *client = user;
    struct store *store = client->store;
    struct request request;
    uint64_t value = client->value;
    char line[64];
    int length;

    for (;;) {
        value++;
        memset(&request, 0, sizeof request);
        request.put.key = client->number * KEYS + (uint32_t)(value % KEYS);
        request.put.value = value;
        pthread_mutex_lock(&store->lock);
        *store->waiting_end = &request;
        store->waiting_end = &request.next;
        pthread_cond_broadcast(&store->moved);
        while (!request.done && !store->failed)
            pthread_cond_wait(&store->moved, &store->lock);
        pthread_mutex_unlock(&store->lock);
        if (!request.done)
            return NULL;
        length = snprintf(line, sizeof line, "%" PRIu32 " %" PRIu64 "\n", request.put.key, value);
        if (write(STDOUT_FILENO, line, (size_t)length) != length)
            return NULL;
    }
}

static int put_all(const char *dir)
{
    static struct store store;
    static struct client clients[CLIENTS];
    pthread_t thread;
    uint32_t i, key;

    if (!open_store(&store, dir))
        return 1;
    for (i = 0; i < CLIENTS; i++) {
        clients[i].store = &store;
        clients[i].number = i;
        for (key = i * KEYS; key < (i + 1) * KEYS; key++)
            if (find(&store.table, key)->value > clients[i].value)
                clients[i].value = find(&store.table, key)->value;
    }
    for (i = 0; i < CLIENTS; i++)
        if (pthread_create(&thread, NULL, put_for_ever, &clients[i]) != 0)
            return 1;
    if (pthread_create(&thread, NULL, save, &store) != 0)
        return 1;
    sequence(&store);
    return 1;
}

/* ---- the test ---- */

static uint64_t acknowledged[CLIENTS * KEYS];

/* Reads a child's acknowledgements, kills it after so many, and reads the rest of what it said. */
static uint64_t kill_after(const char *self, const char *dir, uint64_t most)
{
    uint64_t count = 0, value;
    uint32_t key;
    char line[128];
    int ends[2], status;
    FILE *said;
    pid_t child;

    if (pipe(ends) != 0 || (child = fork()) < 0)
        return 0;
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execlp(self, self, "--put", dir, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    said = fdopen(ends[0], "r");
    while (said != NULL && fgets(line, sizeof line, said) != NULL) {
        if (strchr(line, '\n') == NULL || sscanf(line, "%" SCNu32 " %" SCNu64, &key, &value) != 2)
            continue;
        if (key < CLIENTS * KEYS)
            acknowledged[key] = value;
        if (++count == most)
            kill(child, SIGKILL);
    }
    if (said != NULL)
        fclose(said);
    waitpid(child, &status, 0);
    return count;
}

/* Whether everything that was acknowledged is there; the store's own number of batches goes up. */
static int holds(const char *dir, uint64_t *batches, uint64_t *saved, uint64_t *files)
{
    static struct store store;
    uint64_t lost = 0;
    uint32_t key;

    if (!open_store(&store, dir))
        return 0;
    for (key = 0; key < CLIENTS * KEYS; key++)
        if (find(&store.table, key)->value < acknowledged[key])
            lost++;
    *batches = store.executed;
    *saved = store.loaded;
    *files = store.files;
    if (!close_store(&store))
        return 0;
    if (lost > 0)
        printf("%" PRIu64 " keys are older than what was acknowledged\n", lost);
    return lost == 0;
}

/* ---- a store that joins ---- */

/* The table of `place` goes from two servers to a third end: whether it came. */
static int32_t transfer(const char *cluster, const char *dir, uint64_t place, struct table *from, struct table *to)
{
    duramen_conf *conf = duramen_conf_new();
    duramen_transfer *ends[SERVERS + 1] = { NULL };
    duramen_page_source source = pages_of(from);
    duramen_transfer_info info = { 0 };
    uint8_t roots[SERVERS][32];
    char path[4096];
    int32_t code, closed;
    uint32_t i;

    info.struct_size = sizeof info;
    code = set(conf, "dir", cluster);
    for (i = 0; code == DURAMEN_OK && i <= SERVERS; i++) {
        snprintf(path, sizeof path, "%s/received-%u", dir, (unsigned)i);
        code = set(conf, "transfer-dir", path);
        if (code == DURAMEN_OK)
            code = duramen_transfer_open(conf, i, &ends[i]);
        if (code == DURAMEN_OK && i < SERVERS)
            code = duramen_transfer_serve(ends[i], place, &source, roots[i]);
    }
    duramen_conf_destroy(conf);
    /* Here the host vouches for the root: both servers say the same. */
    if (code == DURAMEN_OK && memcmp(roots[0], roots[1], sizeof roots[0]) != 0)
        code = DURAMEN_E_DAMAGED;
    /* Whoever comes later is asked, too; this only makes the line below say the same every time. */
    for (i = 0; code == DURAMEN_OK && info.peers < SERVERS && i < FETCH_MS / 10; i++) {
        struct timespec moment = { 0, 10000000 };

        code = duramen_transfer_look(ends[SERVERS], &info);
        nanosleep(&moment, NULL);
    }
    if (code == DURAMEN_OK)
        code = duramen_transfer_fetch(ends[SERVERS], place, roots[0]);
    if (code == DURAMEN_OK)
        code = duramen_transfer_wait(ends[SERVERS], FETCH_MS);
    if (code == DURAMEN_OK)
        code = duramen_transfer_look(ends[SERVERS], &info);
    if (code == DURAMEN_OK)
        code = duramen_transfer_install(ends[SERVERS], on_install, to);
    if (code != DURAMEN_OK)
        complain("transfer", code);
    else
        printf("the state of batch %" PRIu64 " came from %u peers: %" PRIu64 " bytes\n", place, (unsigned)info.peers,
               info.received_bytes);
    for (i = 0; i <= SERVERS; i++) {
        closed = ends[i] == NULL ? DURAMEN_OK : duramen_transfer_destroy(ends[i], STOP_MS);
        if (closed != DURAMEN_OK) {
            complain("close", closed);
            code = closed;
        }
    }
    return code;
}

/* A new store begins with the state of the old one, fetched and saved as its first checkpoint. */
static int joins(const char *dir, const char *cluster)
{
    static struct store store;
    static struct table fetched;
    duramen_page_source source = pages_of(&fetched);
    uint64_t place, batches, saved, files;
    char path[4096];
    int32_t code;

    if (!open_store(&store, dir))
        return 0;
    place = store.next - 1;
    code = transfer(cluster, dir, place, &store.table, &fetched);
    if (!close_store(&store) || code != DURAMEN_OK)
        return 0;
    snprintf(path, sizeof path, "%s/joined", dir);
    if (!open_store(&store, path))
        return 0;
    code = duramen_checkpoint_write_pages(store.saves, place, NULL, &source, UNKNOWN, NULL, 0, NULL);
    if (code != DURAMEN_OK)
        complain("the first checkpoint", code);
    if (!close_store(&store) || code != DURAMEN_OK)
        return 0;
    return holds(path, &batches, &saved, &files) && saved == place && files == 1;
}

int main(int argc, char **argv)
{
    uint64_t count, batches = 0, saved = 0, files = 0, before;
    const char *cluster = NULL;
    int kills = 5, i, right = argc >= 2 && argc % 2 == 0 && argv[1][0] != '-';

    if (argc == 3 && strcmp(argv[1], "--put") == 0)
        return put_all(argv[2]);
    for (i = 2; right && i < argc; i += 2) {
        if (strcmp(argv[i], "--kills") == 0)
            kills = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--cluster") == 0)
            cluster = argv[i + 1];
        else
            right = 0;
    }
    if (!right) {
        fprintf(stderr, "usage: kv_sequencer DIR [--kills N] [--cluster CLUSTER]\n");
        return 2;
    }
    for (i = 0; right && i < kills; i++) {
        uint64_t most = 500 + (uint64_t)i * 3700;

        before = batches;
        count = kill_after(argv[0], argv[1], most);
        right = count >= most && holds(argv[1], &batches, &saved, &files) && batches > before;
        printf("killed after %" PRIu64 " acknowledged puts: %" PRIu64 " batches, the last checkpoint at %" PRIu64 ", of %" PRIu64
               " files\n", count, batches, saved, files);
    }
    if (right && cluster != NULL)
        right = joins(argv[1], cluster);
    puts(right ? "PASS" : "FAIL");
    return right ? 0 : 1;
}
