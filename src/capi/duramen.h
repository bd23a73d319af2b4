/*
 * duramen: durable state machine replication. The C interface.
 *
 * Made from the Rust sources by cbindgen; do not edit (src/capi says how it is remade).
 *
 * RESULTS     Functions that can fail return int32_t: 0 (DURAMEN_OK) or a number that the function explains; negative: a
 *             DURAMEN_E_ code. Codes are never reused. duramen_errmsg gives a line with the details, per thread.
 * HANDLES     Pointers to duramen_client and the like are numbers to be handed back, never to be read through. NULL, a handle
 *             of another kind, one that is destroyed or was destroyed before: DURAMEN_E_HANDLE, never undefined behaviour.
 *             A handle may be used from any number of threads. A call keeps its handle alive until it returns.
 * DESTROY     Waits, up to its deadline (ms; DURAMEN_FOREVER; 0: does not wait), for calls under way and for threads.
 *             DURAMEN_E_TIMEOUT: not finished; the handle takes nothing but destroy, which may be called again. After any other
 *             result the handle is gone, and none of its threads and callbacks runs any more.
 * CALLBACKS   Run where their function says. They may call anything here, except destroy, and what says so, on their own handle
 *             (DURAMEN_E_REENTRANT). While they run, their handle is locked against destroy, which waits for them: they must not
 *             wait for a thread that destroys it, nor for one that waits for that. Those that destroy itself runs (outcomes that
 *             nobody polled for, a service's destroy) find the handle locked: all but destroy returns DURAMEN_E_STATE there, on any
 *             thread. Log lines come with any lock held: see duramen_set_log_callback. Callbacks must return: no longjmp, no
 *             C++ exception, no thread cancellation or exit through them.
 * STRUCTS     that begin with struct_size: set it to sizeof; set all of the rest to zero first. They grow at their end.
 * BYTES       Pointer and length; NULL is good where the length is 0. Input is copied unless said otherwise.
 * FORK        A child process may only call duramen_strerror, duramen_errname, duramen_version and exec while the
 *             parent has other handles than duramen_conf: everything else returns DURAMEN_E_FORKED.
 * HABITS      No signal handlers, no allocator of its own, nothing on stdout or stderr, no thread before something is opened,
 *             all threads joined after it is destroyed. Errors of its own reasoning do not abort: DURAMEN_E_INTERNAL.
 */

#ifndef DURAMEN_H
#define DURAMEN_H

#include <stddef.h>
#include <stdint.h>

/**
 * The call did what it says.
 */
#define DURAMEN_OK 0

/**
 * duramen found a mistake of its own: it caught a panic. The handle is poisoned; only destroy works on it. Please report the message.
 */
#define DURAMEN_E_INTERNAL (-1)

/**
 * The handle is NULL, of another kind, destroyed, or never was one.
 */
#define DURAMEN_E_HANDLE (-2)

/**
 * An earlier call on this handle ended with DURAMEN_E_INTERNAL: destroy it.
 */
#define DURAMEN_E_POISONED (-3)

/**
 * An argument is NULL or out of its range.
 */
#define DURAMEN_E_ARGUMENT (-4)

/**
 * A configuration key or value, a configuration file or a key file is not right.
 */
#define DURAMEN_E_CONFIG (-5)

/**
 * The operating system refused: files, sockets, threads. The message has its words.
 */
#define DURAMEN_E_IO (-6)

/**
 * The disk, or the space that the configuration grants, is full.
 */
#define DURAMEN_E_NO_SPACE (-7)

/**
 * What is on disk, or was received, is not what was written.
 */
#define DURAMEN_E_DAMAGED (-8)

/**
 * As much is under way as may be: nothing was taken; try again after something has ended.
 */
#define DURAMEN_E_BUSY (-9)

/**
 * Longer than the configuration allows.
 */
#define DURAMEN_E_TOO_LARGE (-10)

/**
 * The time given was not enough.
 */
#define DURAMEN_E_TIMEOUT (-11)

/**
 * Not now: the order of calls is wrong, or the handle is being destroyed.
 */
#define DURAMEN_E_STATE (-12)

/**
 * Called from a callback in which that could wait for itself.
 */
#define DURAMEN_E_REENTRANT (-13)

/**
 * Too few replicas could be reached.
 */
#define DURAMEN_E_UNREACHABLE (-14)

/**
 * The other side does not take us: its keys or configuration are others.
 */
#define DURAMEN_E_REFUSED (-15)

/**
 * Called in a child process after fork: it may only call duramen_strerror and exec.
 */
#define DURAMEN_E_FORKED (-16)

/**
 * struct_size is smaller than the first version of that struct: compiled against another header, or not set.
 */
#define DURAMEN_E_ABI (-17)

/**
 * The caller's buffer is too small; nothing but the length needed, and where the function says so a part, was written.
 */
#define DURAMEN_E_BUFFER (-18)

/**
 * A callback of the host reported failure.
 */
#define DURAMEN_E_CALLBACK (-19)

/**
 * There is no such thing.
 */
#define DURAMEN_E_NOT_FOUND (-20)

/**
 * A state machine of the host does not keep its contract: see duramen_service_test.
 */
#define DURAMEN_E_CONTRACT (-21)

/**
 * A checkpoint of the other kind: in pages where one stream of bytes is asked for, or the other way round.
 */
#define DURAMEN_E_OTHER_KIND (-22)

/**
 * No limit, where a function takes a time in milliseconds and says so.
 */
#define DURAMEN_FOREVER UINT64_MAX

/**
 * The version of this header: major * 1000000 + minor * 1000 + patch.
 */
#define DURAMEN_VERSION 1000

/**
 * A level of log lines: something failed.
 */
#define DURAMEN_LOG_ERROR 1

/**
 * A level of log lines: something is not as it should be, and goes on.
 */
#define DURAMEN_LOG_WARN 2

/**
 * A level of log lines: what an operator may want to know.
 */
#define DURAMEN_LOG_INFO 3

/**
 * A level of log lines: for who looks for a mistake.
 */
#define DURAMEN_LOG_DEBUG 4

/**
 * How a request ended: executed exactly once. The reply is the service's.
 */
#define DURAMEN_DONE 0

/**
 * How a request ended: not executed, and it never will be. It is safe to submit it again.
 */
#define DURAMEN_NOT_EXECUTED 1

/**
 * How a request ended: it is not known whether it was executed, or will be. Ask the service before you submit it again.
 */
#define DURAMEN_UNKNOWN_OUTCOME 2

/**
 * How a request ended: the replicas' answers differ so that none can be believed: more of them are faulty than the cluster bears, or
 * the service is not deterministic.
 */
#define DURAMEN_FAIL 3

/**
 * A flag of requests: a read. The operation must not write; it is answered by the service's query, linearizable, without being ordered
 * where that is possible. Reads are not in sequence with writes that are still under way.
 */
#define DURAMEN_READ 1

/**
 * Pages have indexes below this.
 */
#define DURAMEN_PAGES_MAX (1 << 26)

/**
 * The longest page that a service may ask for.
 */
#define DURAMEN_PAGE_BYTES_MAX (1 << 20)

/**
 * The room that every report of duramen_service_test fits into.
 */
#define DURAMEN_TEST_REPORT_BYTES 4096

/**
 * The fewest operations that a test takes.
 */
#define DURAMEN_TEST_OPERATIONS_MIN 8

/**
 * The most operations that a test takes.
 */
#define DURAMEN_TEST_OPERATIONS_MAX 1000000

/**
 * The highest kind of record that a host has.
 */
#define DURAMEN_KIND_MAX 239

/**
 * The largest page of a state that is transferred, or written into a checkpoint.
 */
#define DURAMEN_TRANSFER_PAGE_BYTES_MAX (256 << 10)

/**
 * Of a duramen_checkpoint_info: the state is one stream of bytes.
 */
#define DURAMEN_NO_PAGES UINT64_MAX

/**
 * A folder with a host's last two checkpoints. A handle.
 */
typedef struct duramen_checkpoint duramen_checkpoint;

/**
 * A client of a cluster: its connections and one session, whose writes execute in the order they were submitted. A handle.
 */
typedef struct duramen_client duramen_client;

/**
 * Values of a configuration. A handle.
 */
typedef struct duramen_conf duramen_conf;

/**
 * Logs and executes batches in an order that the host made. A handle.
 */
typedef struct duramen_durable duramen_durable;

/**
 * A log of the host's records on disk. A handle.
 */
typedef struct duramen_log duramen_log;

/**
 * The state of a paged service: pages by index. Lent to its callbacks, until they return.
 */
typedef struct duramen_pages duramen_pages;

/**
 * Where the bytes of a snapshot come from. Lent to restore, until it returns.
 */
typedef struct duramen_reader duramen_reader;

/**
 * A replica of a cluster, running in this process. A handle.
 */
typedef struct duramen_replica duramen_replica;

/**
 * Where a reply goes. Lent to execute and query, until they return.
 */
typedef struct duramen_reply duramen_reply;

/**
 * One end of state transfers: serves states of the host to its peers, and fetches one from them. A handle.
 */
typedef struct duramen_transfer duramen_transfer;

/**
 * Where the bytes of a snapshot go. Lent to snapshot_write, until it returns.
 */
typedef struct duramen_writer duramen_writer;

/**
 * Takes a line: its level (DURAMEN_LOG_ERROR ...) and its text (UTF-8, ends with NUL, no newline), which lives until the callback returns.
 */
typedef void (*duramen_log_fn)(void *user, int32_t level, const char *line);

/**
 * Takes the outcome of one request: DURAMEN_DONE and the service's reply, or another outcome and a line of text that says why
 * (UTF-8, without a NUL).
 *
 * `reply` lives until the callback returns; it may be NULL if `reply_len` is 0. Must not throw or jump.
 */
typedef void (*duramen_outcome_fn)(void *user, int32_t outcome, const void *reply, size_t reply_len);

/**
 * All that an operation may depend on besides the state and its own bytes: the same on every replica. Lives until the callback returns.
 */
typedef struct duramen_context {
  /**
   * The size that the library knows; fields behind it are not there.
   */
  size_t struct_size;
  /**
   * The batch that the operation was decided in: from 1, without gaps.
   */
  uint64_t seq;
  /**
   * The batch's agreed time: nanoseconds since 1970. Never goes back.
   */
  uint64_t time_ns;
  /**
   * Agreed randomness of this operation.
   */
  uint64_t seed;
  /**
   * The session it came in.
   */
  uint64_t session;
  /**
   * The client whose key signed it: its id in cluster.toml.
   */
  uint32_t client;
  /**
   * The operation's place in its batch, from 0.
   */
  uint32_t index;
} duramen_context;

/**
 * A state machine, replicated. Set struct_size to sizeof(duramen_service) and the rest to zero before you fill it in.
 *
 * It must be deterministic: replies and state depend on nothing but the state, the context and the operation's bytes. No time, no
 * randomness, no pointer values, no hash order, nothing read from the machine. A replica that differs is found by the others and repaired or shut out.
 *
 * Callbacks return 0, or another number for "this machine cannot go on": the replica then stops for good (fail-stop), votes and answers
 * nothing more, and says so in duramen_replica_status ("halted") and in the log. What a client may send must never lead there: it gets a reply
 * that says so, the same on every replica. Callbacks must not throw, jump, or call duramen_replica_destroy of their replica.
 *
 * Threads: execute, query, snapshot and restore never run at the same time, and each sees what the one before did; which thread it is may
 * change (a start executes what the log has on "duramen-replay", afterwards it is "duramen-exec"). snapshot_write and
 * snapshot_free may run at the same time as all others, on any thread; of one snapshot, snapshot_free is the last.
 */
typedef struct duramen_service {
  /**
   * sizeof(duramen_service).
   */
  size_t struct_size;
  /**
   * Handed to every callback, otherwise not touched.
   */
  void *user;
  /**
   * Executes one ordered operation and sets its reply (duramen_reply_set; none set: an empty one). context and op live until it returns.
   */
  int32_t (*execute)(void *user,
                     const duramen_context *context,
                     const void *op,
                     size_t len,
                     duramen_reply *reply);
  /**
   * Answers a read from the present state, without changing it: with the bytes that execute would reply.
   */
  int32_t (*query)(void *user, const void *op, size_t len, duramen_reply *reply);
  /**
   * Sets *snapshot to a view of the state that later executions do not change. Should be quick: execution waits for it. The library gives it
   * back with snapshot_free.
   */
  int32_t (*snapshot)(void *user, void **snapshot);
  /**
   * Writes the view with duramen_writer_put: equal states write equal bytes, whatever history led to them. May be called
   * several times for one view, also at the same time. Return what duramen_writer_put returned if that was not 0.
   */
  int32_t (*snapshot_write)(void *user, void *snapshot, duramen_writer *out);
  /**
   * Frees the view; may be NULL.
   */
  void (*snapshot_free)(void *user, void *snapshot);
  /**
   * Replaces the state by one that snapshot_write wrote, read with duramen_reader_get. The bytes come from a disk or another machine: check
   * them. On failure the state must be as before; the replica goes on, or takes another copy.
   */
  int32_t (*restore)(void *user, duramen_reader *input);
  /**
   * Called once, after the last of all other callbacks, on any thread, if the replica was started; may be NULL.
   */
  void (*destroy)(void *user);
} duramen_service;

/**
 * A state machine whose whole state is in pages that the library keeps: snapshots, state roots, incremental checkpoints and the transfer of
 * differences are its own. Set struct_size to sizeof(duramen_paged_service) and the rest to zero before you fill it in.
 *
 * What is said at duramen_service about determinism, failure and threads holds here: execute and query never run at the same time.
 * Nothing that replies depend on may be kept anywhere but in the pages.
 */
typedef struct duramen_paged_service {
  /**
   * sizeof(duramen_paged_service).
   */
  size_t struct_size;
  /**
   * Handed to every callback, otherwise not touched.
   */
  void *user;
  /**
   * The longest page, 1 to DURAMEN_PAGE_BYTES_MAX. All replicas must have the same, for ever.
   */
  uint32_t page_bytes_max;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Executes one ordered operation on the pages and sets its reply.
   */
  int32_t (*execute)(void *user,
                     const duramen_context *context,
                     duramen_pages *pages,
                     const void *op,
                     size_t len,
                     duramen_reply *reply);
  /**
   * Answers a read with the bytes that execute would reply. Pages cannot be written in it.
   */
  int32_t (*query)(void *user,
                   const duramen_pages *pages,
                   const void *op,
                   size_t len,
                   duramen_reply *reply);
  /**
   * Called once, after the last of all other callbacks, on any thread, if the replica was started; may be NULL.
   */
  void (*destroy)(void *user);
} duramen_paged_service;

/**
 * A kind of state machine to be tested, and what makes operations for it. Set struct_size to sizeof(duramen_tested_service) and the rest to zero
 * before you fill it in; one of make and make_paged stays NULL.
 *
 * The callbacks here run on the thread that calls duramen_service_test. Those of the state machines also run on threads that it
 * starts and joins, as duramen_service says. None must throw, jump or end the process.
 */
typedef struct duramen_tested_service {
  /**
   * sizeof(duramen_tested_service).
   */
  size_t struct_size;
  /**
   * Handed to the callbacks here, otherwise not touched.
   */
  void *user;
  /**
   * For the report and messages: UTF-8, of which 64 bytes are shown. NULL: "service".
   */
  const char *name;
  /**
   * Returns a new state machine in its initial state; NULL: it cannot, and the test ends. The struct is read before any other callback runs,
   * and not needed afterwards: one static one will do. Called some hundred times: several state machines are there at once,
   * each with a `user` of its own that its `destroy` frees.
   */
  const duramen_service *(*make)(void *user);
  /**
   * The same for one whose state is in pages.
   */
  const duramen_paged_service *(*make_paged)(void *user);
  /**
   * Writes the `index`-th operation (from 0; called once each, in order), drawn from the random number `random`, to `buf`: at most `cap` bytes (1 MiB),
   * and how many to *len (it is 0 before). Reads and writes, of which many meet the same part of the state, test best.
   * The same numbers must give the same bytes. Returns 0, or anything else to give up.
   */
  int32_t (*operation)(void *user, uint64_t index, uint64_t random, void *buf, size_t cap, size_t *len);
} duramen_tested_service;

/**
 * A record as it was appended. It lives until the callback that gets it returns.
 */
typedef struct duramen_record {
  /**
   * Its size here; later versions may have more at the end.
   */
  size_t struct_size;
  /**
   * Its number: 1, 2, 3 and so on.
   */
  uint64_t lsn;
  /**
   * The host's.
   */
  uint64_t tag;
  /**
   * The host's, 1 to 239.
   */
  uint32_t kind;
  /**
   * Its bytes, as one piece.
   */
  const void *bytes;
  /**
   * How many.
   */
  size_t len;
} duramen_record;

/**
 * Takes a record. Returns 0 to go on, anything else to stop.
 */
typedef int32_t (*duramen_record_fn)(void *user, const duramen_record *record);

/**
 * Some bytes of the host: pointer and length; NULL if the length is 0.
 */
typedef struct duramen_bytes {
  /**
   * The first of them.
   */
  const void *bytes;
  /**
   * How many.
   */
  size_t len;
} duramen_bytes;

/**
 * Gives the next bytes of a state: at most `cap` into `buf`, and how many into `*len` (it is 0 before); 0 ends the state. Returns 0, or anything
 * else to give up.
 */
typedef int32_t (*duramen_fill_fn)(void *user, void *buf, size_t cap, size_t *len);

/**
 * What a checkpoint is.
 */
typedef struct duramen_checkpoint_info {
  /**
   * sizeof(duramen_checkpoint_info), set by the caller.
   */
  size_t struct_size;
  /**
   * The host's place.
   */
  uint64_t position;
  /**
   * How many bytes the state has.
   */
  uint64_t bytes;
  /**
   * Stands for all of it: place, label and bytes (a tree of BLAKE3 digests). Of one in pages also for the files that it lies on: the same pages
   * have another root where other ones were written before.
   */
  uint8_t root[32];
  /**
   * The host's.
   */
  uint8_t label[32];
  /**
   * How many pages the state has, free ones among them; DURAMEN_NO_PAGES: it is one stream of bytes.
   */
  uint64_t pages;
  /**
   * How many files it is made of. 1: all of it was written; more: they have what changed.
   */
  uint64_t files;
} duramen_checkpoint_info;

/**
 * Takes the next bytes of a state, which live until this returns. Returns 0, or anything else to give up.
 */
typedef int32_t (*duramen_take_fn)(void *user, const void *bytes, size_t len);

/**
 * A state of the host as numbered pages. It must not change while it is served, or written into a checkpoint.
 */
typedef struct duramen_page_source {
  /**
   * sizeof(duramen_page_source).
   */
  size_t struct_size;
  /**
   * Handed to each callback.
   */
  void *user;
  /**
   * How many pages there are: indexes 0 to pages - 1; 2^32 at most.
   */
  uint64_t pages;
  /**
   * Copies page `index` into `buf`, which takes `cap` = DURAMEN_TRANSFER_PAGE_BYTES_MAX bytes, and its length into `*len` (it is 0 before; 0: a free
   * page). Returns 0, or anything else if it cannot: in duramen_transfer_serve and duramen_checkpoint_write_pages that is the end, later it is asked
   * again. One call at a time: on the thread in duramen_checkpoint_write_pages; of a state that is served on any thread: the one in
   * duramen_transfer_serve or duramen_transfer_install, "duramen-transfer".
   */
  int32_t (*page)(void *user, uint64_t index, void *buf, size_t cap, size_t *len);
  /**
   * Nobody reads this state any more: once, on any thread, at the latest in duramen_transfer_destroy; of a checkpoint before
   * duramen_checkpoint_write_pages returns. NULL: not wanted.
   */
  void (*free)(void *user);
} duramen_page_source;

/**
 * Takes a page, which lives until this returns; `len` 0: it is free. Returns 0, or anything else to give up.
 */
typedef int32_t (*duramen_page_fn)(void *user, uint64_t index, const void *page, size_t len);

/**
 * Takes one operation of batch `seq`, the `index`th from 0. It lives until this returns. Returns 0, or anything else to stop.
 */
typedef int32_t (*duramen_op_fn)(void *user, uint64_t seq, uint32_t index, const void *op, size_t len);

/**
 * What the layer calls. All of them run on one thread at a time: with callbacks = thread on "duramen-rounds", with callbacks = poll on
 * whoever is in duramen_durable_poll; `replay` on the one that opens.
 */
typedef struct duramen_durable_callbacks {
  /**
   * sizeof(duramen_durable_callbacks).
   */
  size_t struct_size;
  /**
   * Handed to each of them.
   */
  void *user;
  /**
   * While it is opened: an operation that was logged before, in order. Anything but 0 gives up the open. NULL: not wanted.
   */
  duramen_op_fn replay;
  /**
   * Execute an operation; the next one comes after it. It may be on disk or not: nothing of it may be seen from outside before `release`.
   * Anything but 0 ends the layer: nothing of this batch or a later one is released.
   */
  duramen_op_fn execute;
  /**
   * Every operation of batch `seq` is executed, and what it says may leave: it survives a loss of power, except with mode = async. In order.
   */
  void (*release)(void *user, uint64_t seq);
  /**
   * All batches up to `upto` survive a loss of power: right after `release`, with mode = async some time later. NULL: not wanted.
   */
  void (*logged)(void *user, uint64_t upto);
  /**
   * The layer ended by itself (once at most): code and a line that lives until this returns. Nothing is released any more. NULL: not wanted.
   */
  void (*ended)(void *user, int32_t code, const char *why);
  /**
   * There is room again after duramen_durable_deliver returned DURAMEN_E_BUSY or DURAMEN_E_NO_SPACE, once for all that was turned down: deliver it
   * again, from here or from where it was refused. What waits was taken into a round, which executes after this returns. NULL: not wanted.
   */
  void (*room)(void *user);
} duramen_durable_callbacks;

/**
 * How a transfer is.
 */
typedef struct duramen_transfer_info {
  /**
   * sizeof(duramen_transfer_info), set by the caller.
   */
  size_t struct_size;
  /**
   * Peers that can be spoken to.
   */
  uint32_t peers;
  /**
   * Peers that sent what is wrong, and are not asked any more by this fetch.
   */
  uint32_t banned;
  /**
   * The place that is fetched, or was last; 0: none.
   */
  uint64_t position;
  /**
   * Pages verified; a few of the library's own count, too.
   */
  uint64_t pages_here;
  /**
   * Pages that were not here already.
   */
  uint64_t pages_wanted;
  /**
   * Bytes of pages received by the fetch.
   */
  uint64_t received_bytes;
  /**
   * Bytes of pages sent to peers.
   */
  uint64_t sent_bytes;
} duramen_transfer_info;

/**
 * The symbol "duramen_test_services" of a shared object that `duramen test-service --library` is to test: returns the kind of state machine
 * at `index` (0, 1, ...), which lives as long as the process; NULL behind the last.
 */
typedef const duramen_tested_service *(*duramen_test_services_fn)(size_t index);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * One line about a result code, in English. Of a number that is none: "unknown code".
 *
 * Ownership: the text is static; never free it. Thread: any; also in a child process after fork. Errors: none.
 */
const char *duramen_strerror(int32_t code);

/**
 * The name of a result code as this header spells it, "DURAMEN_E_BUSY"; of a number that is none: "unknown".
 *
 * Ownership: the text is static; never free it. Thread: any; also in a child process after fork. Errors: none.
 */
const char *duramen_errname(int32_t code);

/**
 * Copies the message of this thread's last failed call on `handle` (any kind of handle, also a destroyed one), or of
 * this thread's last failed call at all if `handle` is NULL, into `buf`: at most `len` - 1 bytes and a NUL. Calls that
 * succeed do not clear it; the last 16 handles per thread are remembered. Call it right after the call that failed.
 *
 * Returns the length of the whole message without the NUL; 0 if there is none. More than `len` - 1: it was cut.
 *
 * Ownership: `buf` is the caller's, and not kept; it may be NULL if `len` is 0. Thread: any; messages are per thread.
 * Re-entrancy: may be called from any callback. Errors: none.
 */
size_t duramen_errmsg(const void *handle,
                      char *buf,
                      size_t len);

/**
 * A configuration with all defaults, or NULL (no more handles; a child process after fork): duramen_errmsg(NULL, ...) says why.
 *
 * Ownership: the caller's, until duramen_conf_destroy. What is opened with it copies what it needs: it may be changed or destroyed
 * at once. Thread: any; several threads may use one.
 */
duramen_conf *duramen_conf_new(void);

/**
 * Sets a key. The value is checked here; whether files and addresses exist is checked by what is opened with it.
 *
 * | key                | default      | unit  | used by         | meaning                                                              |
 * |--------------------|--------------|-------|-----------------|----------------------------------------------------------------------|
 * | dir                | duramen-data |       | client, replica,| the cluster's folder, as `duramen init` made it                      |
 * |                    |              |       | transfer        |                                                                      |
 * |                    |              |       | log, durable    | the log's own folder                                                 |
 * |                    |              |       | checkpoint      | the checkpoints' own folder                                          |
 * | client             | default      |       | client          | name of the client; its keys are in DIR/client-NAME.key              |
 * | insecure           | false        |       | client, replica,| true: accept unencrypted links although replicas may lie             |
 * |                    |              |       | transfer        |                                                                      |
 * | deadline-ms        | 10000        | ms    | client          | of requests that name no deadline                                    |
 * | connect-timeout-ms | 10000        | ms    | client          | how long opening waits for a quorum of replicas                      |
 * | outstanding-max    | 65536        | count | client          | requests under way at a time; more are DURAMEN_E_BUSY                |
 * | callbacks          | poll         |       | client, durable | poll: callbacks wait for duramen_..._poll; thread: on a thread       |
 * | allow-tmpfs        | false        |       | replica, log,   | true: accept a log on a file system in memory (for tests)            |
 * |                    |              |       | durable         |                                                                      |
 * | metrics-address    | (none)       |       | replica         | host:port where /metrics, /healthz and /readyz are answered by HTTP  |
 * | transfer-dir       | duramen-transfer |   | transfer        | a folder of its own, made if missing, for what is being received     |
 * | mode               | parallel     |       | durable         | parallel: log and execute at once, release after both; batched: log, |
 * |                    |              |       |                 | then execute; naive: as batched, one write per operation; async:     |
 * |                    |              |       |                 | release before the log is written                                    |
 * | segment-mib        | 64           | MiB   | log, durable    | size of new segment files; a fourth of one is the largest record     |
 * | segments           | 512          | count | log, durable    | as many segments there may be; more are DURAMEN_E_NO_SPACE           |
 * | io                 | auto         |       | log, durable    | auto; uring: or an error; threads: one synchronous write at a time   |
 * | queue-mib          | 64           | MiB   | log, durable    | appended and not in a write yet; more are DURAMEN_E_BUSY             |
 * | group-kib          | 1024         | KiB   | log, durable    | largest single write: 4, 16, 64, 256, 512 or 1024                    |
 * | prefill-segments   | 0            | count | log, durable    | segments filled with zeros before open returns (for benchmarks)      |
 * | full-every         | 8            | count | checkpoint      | files that a checkpoint in pages is made of at most, 1 to 32: then   |
 * |                    |              |       |                 | all pages are written again                                          |
 *
 * Ownership: key and value are copied. `err` (may be NULL if `errlen` is 0) gets one line about what is wrong, cut to `errlen` with a
 * NUL; an empty one on success. Thread: any. Errors: DURAMEN_E_CONFIG (no such key, no such value), DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE.
 */
int32_t duramen_conf_set(duramen_conf *conf,
                         const char *key,
                         const char *value,
                         char *err,
                         size_t errlen);

/**
 * Copies a key's value, or its default, with a NUL into `buf`; `*len` (may be NULL) gets its length without the NUL.
 *
 * Ownership: `buf` is the caller's; NULL if `cap` is 0. Thread: any. Errors: DURAMEN_E_CONFIG (no such key), DURAMEN_E_BUFFER (as
 * much as fits was copied), DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE.
 */
int32_t duramen_conf_get(const duramen_conf *conf,
                         const char *key,
                         char *buf,
                         size_t cap,
                         size_t *len);

/**
 * Forgets a configuration. What was opened with it goes on. NULL is DURAMEN_E_HANDLE.
 *
 * Ownership: the handle is the library's again. Thread: any. Errors: DURAMEN_E_HANDLE.
 */
int32_t duramen_conf_destroy(duramen_conf *conf);

/**
 * The version of this library, "0.1.0".
 *
 * Ownership: static text. Thread: any; also in a child process after fork.
 */
const char *duramen_version(void);

/**
 * The version of this library as DURAMEN_VERSION was when its header was made: compare the two to find a mixture.
 *
 * Thread: any; also in a child process after fork.
 */
uint32_t duramen_version_number(void);

/**
 * Hands log lines up to `level` (DURAMEN_LOG_ERROR, ..._WARN, ..._INFO, ..._DEBUG) of everything in this process to `log`; NULL: to nobody, as
 * it is at the beginning (whatever `level` is). There is one callback per process: this replaces it. When this returns, the one before is not running and will
 * not run again.
 *
 * Ownership: `user` is handed to `log` and otherwise not touched. Thread of `log`: any of the library's, and any that calls it; several at once.
 * Locks may be held there: the callback must be short, and may only call duramen_strerror, duramen_errname, duramen_errmsg and
 * duramen_version; everything else returns DURAMEN_E_REENTRANT. Must not throw or jump.
 *
 * Errors: DURAMEN_E_ARGUMENT (no such level), DURAMEN_E_STATE (a Rust host of this process has a logger of its own), DURAMEN_E_REENTRANT.
 */
int32_t duramen_set_log_callback(int32_t level,
                                 duramen_log_fn log,
                                 void *user);

/**
 * Connects to the cluster of `dir` as `client` (see duramen_conf_set) and returns when a quorum of replicas is connected.
 *
 * Ownership: `conf` stays the caller's and is not needed afterwards; `*out` is the caller's, until duramen_client_destroy; it is NULL on
 * failure. Thread: any; blocks for connect-timeout-ms at most. Starts threads: three at most, named duramen-*.
 *
 * Errors: DURAMEN_E_CONFIG (files, keys, names), DURAMEN_E_UNREACHABLE (too few replicas in time), DURAMEN_E_REFUSED (they do not take this
 * client), DURAMEN_E_IO, DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE, DURAMEN_E_BUSY (too many handles).
 */
int32_t duramen_client_open(const duramen_conf *conf,
                            duramen_client **out);

/**
 * Submits a request and returns at once. If this returns DURAMEN_OK, `cb` is called exactly once, at the latest by
 * duramen_client_destroy; otherwise never.
 *
 * `flags`: 0 (a write, ordered and executed by all replicas) or DURAMEN_READ. `deadline_ms`: from now; 0: the configured one. When
 * it passes the request ends as DURAMEN_NOT_EXECUTED or DURAMEN_UNKNOWN_OUTCOME.
 *
 * Ownership: `op` is copied before this returns; NULL if `len` is 0. `user` is handed to `cb` and otherwise not touched.
 * Thread of `cb`: with callbacks = poll, whoever is in duramen_client_poll or duramen_client_destroy; with callbacks = thread, the client's
 * thread "duramen-calls" (or, at the end, in duramen_client_destroy). Re-entrancy: may be called from any callback, and `cb` may submit.
 * Outcomes come in the order in which requests end.
 *
 * Room after DURAMEN_E_BUSY: every callback that begins has made room for one request, with callbacks = poll and thread alike, and may submit it itself, or
 * wake who waits for it. (A request that ended as DURAMEN_UNKNOWN_OUTCOME because its deadline passed may count on until it is answered or the client destroyed.)
 *
 * Errors: DURAMEN_E_BUSY (outstanding-max requests have no outcome yet, or their callbacks have not begun: poll, or wait for one, then try again),
 * DURAMEN_E_TOO_LARGE (the cluster's limits.request_bytes), DURAMEN_E_ARGUMENT (`cb` is NULL, unknown flags), DURAMEN_E_STATE (being destroyed),
 * DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_client_submit(duramen_client *client,
                              const void *op,
                              size_t len,
                              uint32_t flags,
                              uint64_t deadline_ms,
                              duramen_outcome_fn cb,
                              void *user);

/**
 * Submits a request and waits for its outcome.
 *
 * `*outcome` gets DURAMEN_DONE and so on; `reply` as much of the reply (or, for other outcomes, of a line that says why) as `capacity`
 * takes, and `*reply_len` its whole length. Flags and deadline as of duramen_client_submit. A DURAMEN_DONE whose reply was cut returns
 * DURAMEN_E_BUFFER: the request was executed, do not repeat a write for its reply.
 *
 * Ownership: nothing is kept. `reply` may be NULL if `capacity` is 0 (then no reply is wanted, and none counts as cut); `reply_len` may be NULL. Thread: any, also several at once; blocks until
 * the deadline at most. Re-entrancy: allowed in callbacks, which then block the thread they run on.
 *
 * Errors: as of duramen_client_submit, with nothing executed and `*outcome` = DURAMEN_NOT_EXECUTED; DURAMEN_E_BUFFER. DURAMEN_E_INTERNAL
 * leaves `*outcome` = DURAMEN_UNKNOWN_OUTCOME if the request may have been sent.
 */
int32_t duramen_client_call(duramen_client *client,
                            const void *op,
                            size_t len,
                            uint32_t flags,
                            uint64_t deadline_ms,
                            void *reply,
                            size_t capacity,
                            size_t *reply_len,
                            int32_t *outcome);

/**
 * An eventfd that is readable while outcomes wait for duramen_client_poll: for select, poll, epoll, libuv and the like.
 *
 * Ownership: the library's: do not read, write or close it; it is closed by duramen_client_destroy. Returns the descriptor (at least 0) or a
 * code: DURAMEN_E_STATE (callbacks = thread), DURAMEN_E_HANDLE, DURAMEN_E_POISONED. Thread: any. Re-entrancy: any callback.
 */
int32_t duramen_client_fd(duramen_client *client);

/**
 * Runs the callbacks of requests that have ended, `max` at most (0: of all that wait), on this thread. If none waits, waits `timeout_ms` for
 * one (0: does not wait; negative: without limit, until the client is destroyed).
 *
 * Returns how many callbacks ran (at least 0), or a code. Thread: any; several threads may poll, each outcome goes to one of them.
 * Re-entrancy: not from a callback of this client.
 *
 * Errors: DURAMEN_E_STATE (callbacks = thread; being destroyed), DURAMEN_E_REENTRANT, DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_client_poll(duramen_client *client,
                            uint32_t max,
                            int32_t timeout_ms);

/**
 * Writes figures about the client as OpenMetrics text, with a NUL, into `buf`; `*len` (may be NULL) gets the length without the NUL.
 *
 * Ownership: `buf` is the caller's; NULL if `cap` is 0. Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_BUFFER (as much as fits was
 * written), DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE, DURAMEN_E_POISONED, DURAMEN_E_STATE.
 */
int32_t duramen_client_metrics(duramen_client *client,
                               char *buf,
                               size_t cap,
                               size_t *len);

/**
 * Ends a client. Requests under way end as DURAMEN_UNKNOWN_OUTCOME or DURAMEN_NOT_EXECUTED; callbacks that have not run yet run before this
 * returns DURAMEN_OK, on this thread or on "duramen-calls". A blocked duramen_client_poll returns; a blocked duramen_client_call goes on to its
 * own deadline, and is waited for.
 *
 * `deadline_ms`: how long to wait for calls, callbacks and threads; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a
 * callback of this client.
 *
 * Errors: DURAMEN_E_TIMEOUT (the handle takes destroy alone: call it again), DURAMEN_E_REENTRANT (nothing happened), DURAMEN_E_HANDLE.
 */
int32_t duramen_client_destroy(duramen_client *client,
                               uint64_t deadline_ms);

/**
 * Sets the reply of the operation that is being executed or answered; a second call replaces the first.
 *
 * Ownership: `data` is copied; NULL if `len` is 0. Thread: the callback's. Errors: DURAMEN_E_HANDLE (not the reply of a callback that runs on this
 * thread), DURAMEN_E_ARGUMENT, DURAMEN_E_TOO_LARGE (more than 64 MiB).
 */
int32_t duramen_reply_set(duramen_reply *reply,
                          const void *data,
                          size_t len);

/**
 * Adds bytes to the snapshot that is being written.
 *
 * Ownership: `data` is not needed afterwards; NULL if `len` is 0. Thread: the callback's; may block for the disk. Errors: DURAMEN_E_HANDLE (as
 * of duramen_reply_set), DURAMEN_E_ARGUMENT, DURAMEN_E_IO (also: the replica is being stopped), DURAMEN_E_NO_SPACE, DURAMEN_E_STATE (an earlier put failed): return it from
 * snapshot_write; the snapshot is given up, the replica goes on.
 */
int32_t duramen_writer_put(duramen_writer *out,
                           const void *data,
                           size_t len);

/**
 * Reads the next bytes of the snapshot into `buf`: `len` of them, fewer only at the end, 0 behind it.
 *
 * Returns how many (at least 0; `len` above INT32_MAX reads that many), or a code: DURAMEN_E_HANDLE (as of duramen_reply_set),
 * DURAMEN_E_ARGUMENT, DURAMEN_E_IO, DURAMEN_E_DAMAGED: return failure from restore. Thread: the callback's.
 */
int32_t duramen_reader_get(duramen_reader *input,
                           void *buf,
                           size_t len);

/**
 * Finds a page: `*bytes` and `*len` are its content; NULL and 0 if it was never written, or freed.
 *
 * Ownership: the bytes are the library's, and stay as they are until the next duramen_pages_write or duramen_pages_free, or the end of
 * the callback. Thread: the callback's. Errors: DURAMEN_E_HANDLE (not lent to a callback that runs on this thread), DURAMEN_E_ARGUMENT.
 */
int32_t duramen_pages_read(const duramen_pages *pages,
                           uint64_t index,
                           const void **bytes,
                           size_t *len);

/**
 * Writes a whole page, which may be longer or shorter than before. Pages between the last one and `index` count as never written (and take
 * about 10 bytes of memory each).
 *
 * Ownership: `bytes` are copied. Thread: the callback's. Errors: DURAMEN_E_ARGUMENT (`index` not below DURAMEN_PAGES_MAX; no bytes: use
 * duramen_pages_free), DURAMEN_E_TOO_LARGE (page_bytes_max), DURAMEN_E_STATE (in query), DURAMEN_E_HANDLE.
 */
int32_t duramen_pages_write(duramen_pages *pages,
                            uint64_t index,
                            const void *bytes,
                            size_t len);

/**
 * Forgets a page: it reads as never written. One that was not written is no error.
 *
 * Thread: the callback's. Errors: DURAMEN_E_STATE (in query), DURAMEN_E_HANDLE.
 */
int32_t duramen_pages_free(duramen_pages *pages, uint64_t index);

/**
 * One more than the highest index ever written. 0 also if `pages` is not lent to a callback that runs on this thread.
 *
 * Thread: the callback's.
 */
uint64_t duramen_pages_count(const duramen_pages *pages);

/**
 * Starts replica `id` of the cluster of `dir` (see duramen_conf_set) with a state machine of the host, which is in its initial state: what
 * checkpoints and log have is put into it by callbacks before this returns.
 *
 * Ownership: `conf` and the struct `service` stay the caller's and are not needed afterwards; what `user` points to must live until `destroy`
 * was called, or this has failed: then `destroy` is not called. `*out` is the caller's, until duramen_replica_destroy; NULL on failure.
 * Thread: any; blocks until checkpoint and log are read. Callbacks: on the replica's threads, see duramen_service. Re-entrancy: not from
 * a callback of a service.
 *
 * Errors: DURAMEN_E_CONFIG, DURAMEN_E_NOT_FOUND (no such replica), DURAMEN_E_BUSY (another process runs it), DURAMEN_E_IO, DURAMEN_E_NO_SPACE,
 * DURAMEN_E_DAMAGED (log or checkpoints; the message says what to do), DURAMEN_E_CALLBACK (execute failed), DURAMEN_E_STATE (durability = "none"
 * cannot restart), DURAMEN_E_ABI, DURAMEN_E_ARGUMENT (a callback is missing), DURAMEN_E_HANDLE.
 */
int32_t duramen_replica_start(const duramen_conf *conf,
                              uint32_t id,
                              const duramen_service *service,
                              duramen_replica **out);

/**
 * As duramen_replica_start, with a state machine whose state the library keeps in pages.
 *
 * Ownership, thread, re-entrancy and errors: as of duramen_replica_start; DURAMEN_E_ARGUMENT also for page_bytes_max.
 */
int32_t duramen_replica_start_paged(const duramen_conf *conf,
                                    uint32_t id,
                                    const duramen_paged_service *service,
                                    duramen_replica **out);

/**
 * Writes what is known of the replica as one JSON object, with a NUL, into `json`; `*len` (may be NULL) gets its length without the NUL.
 * "halted" is null, or says why the replica stopped for good: a callback or the log failed.
 *
 * Ownership: `json` is the caller's; NULL if `cap` is 0. Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_BUFFER (as much as fits was
 * written; the text changes from call to call: leave some room), DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE, DURAMEN_E_POISONED, DURAMEN_E_STATE.
 */
int32_t duramen_replica_status(duramen_replica *replica,
                               char *json,
                               size_t cap,
                               size_t *len);

/**
 * Writes the replica's figures as OpenMetrics text, with a NUL, into `buf`: what metrics-address answers at /metrics.
 *
 * Ownership, thread, re-entrancy and errors: as of duramen_replica_status.
 */
int32_t duramen_replica_metrics(duramen_replica *replica,
                                char *buf,
                                size_t cap,
                                size_t *len);

/**
 * Waits until the replica has stopped for good by itself (see "halted" of duramen_replica_status), for `timeout_ms` at most (0: does not wait;
 * DURAMEN_FOREVER). DURAMEN_OK: it has; the message (duramen_errmsg style, into `why`, may be NULL if `cap` is 0) says why.
 *
 * Ownership: `why` is the caller's. Thread: any. Re-entrancy: not from a callback. Errors: DURAMEN_E_TIMEOUT (it runs), DURAMEN_E_REENTRANT,
 * DURAMEN_E_HANDLE, DURAMEN_E_STATE (being destroyed, or destroyed while this waited).
 */
int32_t duramen_replica_wait_failed(duramen_replica *replica,
                                    uint64_t timeout_ms,
                                    char *why,
                                    size_t cap);

/**
 * Stops a replica: what was appended is written, its threads are joined, and its service's `destroy` is called.
 *
 * `deadline_ms`: how long to wait for calls, threads and callbacks; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a callback
 * of its service (it would wait for itself).
 *
 * Errors: DURAMEN_E_TIMEOUT (the handle takes destroy alone: call it again; a callback that never returns keeps it so), DURAMEN_E_REENTRANT,
 * DURAMEN_E_HANDLE.
 */
int32_t duramen_replica_destroy(duramen_replica *replica,
                                uint64_t deadline_ms);

/**
 * Tests whether a state machine keeps the contract of duramen_service or duramen_paged_service: equal operations give equal replies, states and
 * page roots, on whatever thread and whatever else is in the process; queries change nothing; a snapshot stays as it was, also while it is
 * written by another thread; a state or pages taken over replace all of the one before and go on as the original does; bytes cut short,
 * lengthened, unreadable or bent are turned away without a trace, or make another state; no operation, however malformed, makes a
 * callback fail. One in eight of the operations is malformed by the library.
 *
 * `operations`: how many, DURAMEN_TEST_OPERATIONS_MIN to ..._MAX, 256 MiB at most; the same `seed` draws the same ones. `report` gets a few lines of what the
 * run showed, with a NUL, `*len` (may be NULL) their length without it; DURAMEN_TEST_REPORT_BYTES are enough; NULL if `cap` is 0. The report
 * is the same in every process: compare those of two, as addresses, uninitialised memory and the time may differ between them alone.
 * The command `duramen test-service --library` does so.
 *
 * Ownership: the struct and what it points to are the caller's, and not needed afterwards. Thread: any; takes a while. Callbacks: see
 * duramen_tested_service; all state machines are destroyed when this returns. Re-entrancy: callbacks may call anything.
 *
 * Errors, with the details in duramen_errmsg(NULL): DURAMEN_E_CONTRACT (what is not kept), DURAMEN_E_CALLBACK (one of the callbacks failed),
 * DURAMEN_E_ARGUMENT, DURAMEN_E_ABI, DURAMEN_E_TOO_LARGE (more than 256 MiB), DURAMEN_E_BUFFER (it is kept, but the report did not fit), DURAMEN_E_IO (no threads).
 */
int32_t duramen_service_test(const duramen_tested_service *tested,
                             uint64_t operations,
                             uint64_t seed,
                             char *report,
                             size_t cap,
                             size_t *len);

/**
 * Makes an empty log in the folder `dir`, and the folder if it is missing.
 *
 * Keys used (see duramen_conf_set): dir, segment-mib, group-kib, allow-tmpfs. Ownership: `conf` stays the caller's. Thread: any;
 * blocks for the disk. Starts no thread.
 *
 * Errors: DURAMEN_E_STATE (there is a log already), DURAMEN_E_CONFIG (a file system in memory without allow-tmpfs, sizes that do not go
 * together), DURAMEN_E_NO_SPACE, DURAMEN_E_BUSY (another process has it), DURAMEN_E_IO, DURAMEN_E_HANDLE.
 */
int32_t duramen_log_format(const duramen_conf *conf);

/**
 * Opens the log in `dir` for this process alone, hands every record that survived to `cb`, in order, and starts it.
 *
 * What was reported durable, and was not trimmed, is there. What was appended and not reported may be there or not, but without a gap. A record
 * that was not handed over never comes back. `cb` may be NULL.
 *
 * Keys used (see duramen_conf_set): dir, segment-mib, segments, io, queue-mib, group-kib, prefill-segments, allow-tmpfs.
 *
 * Ownership: `conf` stays the caller's; a record lives until `cb` returns; `*out` is the caller's until duramen_log_destroy, and NULL on
 * failure. Thread of `cb`: this one, before this returns; it may use other handles. `cb` returns 0, or anything else to give up: DURAMEN_E_CALLBACK.
 * Starts two threads.
 *
 * Errors: DURAMEN_E_NOT_FOUND (no log here: duramen_log_format), DURAMEN_E_DAMAGED (something durable is gone or changed; nothing on disk was
 * touched; the message says where; `cb` may have seen the records before it), DURAMEN_E_CALLBACK, DURAMEN_E_REFUSED (another
 * owner's log, or another version's), DURAMEN_E_BUSY (another process has it open), DURAMEN_E_NO_SPACE, DURAMEN_E_CONFIG, DURAMEN_E_IO,
 * DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE.
 */
int32_t duramen_log_open(const duramen_conf *conf,
                         duramen_record_fn cb,
                         void *user,
                         duramen_log **out);

/**
 * Appends a record and returns at once: it is written with the next group. `*lsn` (may be NULL) gets its number: one more than the
 * record's before it. It is durable when duramen_log_wait or duramen_log_durable say so.
 *
 * `kind` (1 to DURAMEN_KIND_MAX) and `tag` are the host's; they are kept and given back.
 *
 * Ownership: the bytes are copied before this returns. Thread: any; the order of several threads' records is that of their numbers.
 * Re-entrancy: any callback.
 *
 * Errors, of which nothing was taken: DURAMEN_E_BUSY (queue-mib wait for the disk: wait for an earlier record, then again),
 * DURAMEN_E_NO_SPACE (`segments`, or the disk, are full: trim, then again), DURAMEN_E_TOO_LARGE (above 16 MiB or a fourth of a segment),
 * DURAMEN_E_IO (a write failed: this log takes nothing any more), DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
 * DURAMEN_E_POISONED.
 */
int32_t duramen_log_append(duramen_log *log,
                           uint32_t kind,
                           uint64_t tag,
                           const void *record,
                           size_t len,
                           uint64_t *lsn);

/**
 * As duramen_log_append, of one record whose bytes lie in `count` pieces, one behind the other.
 *
 * Ownership: pieces and bytes are copied before this returns; `parts` may be NULL if `count` is 0. Thread, re-entrancy, errors: as of
 * duramen_log_append.
 */
int32_t duramen_log_appendv(duramen_log *log,
                            uint32_t kind,
                            uint64_t tag,
                            const duramen_bytes *parts,
                            size_t count,
                            uint64_t *lsn);

/**
 * Waits until record `lsn`, and with it every one before it, is durable: it survives a loss of power.
 *
 * `timeout_ms`: 0 does not wait; DURAMEN_FOREVER. Thread: any, several at once. Re-entrancy: any callback. `lsn` 0 is always durable.
 *
 * Errors: DURAMEN_E_TIMEOUT (not yet), DURAMEN_E_IO (a write failed: it may be on disk or not, and nothing becomes durable any more),
 * DURAMEN_E_ARGUMENT (no record has that number yet), DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_log_wait(duramen_log *log,
                         uint64_t lsn,
                         uint64_t timeout_ms);

/**
 * `*lsn` gets the number of the last durable record (0: none). Makes the descriptor of duramen_log_fd unreadable until something happens
 * again.
 *
 * Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_IO (a write failed; `*lsn` was written all the same), DURAMEN_E_ARGUMENT,
 * DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_log_durable(duramen_log *log,
                            uint64_t *lsn);

/**
 * `*first` gets the number of the oldest record that was not trimmed (or that it will get), `*last` that of the last one appended. Either may be
 * NULL.
 *
 * Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_log_range(duramen_log *log,
                          uint64_t *first,
                          uint64_t *last);

/**
 * An eventfd that becomes readable when more is durable, when the log fails, and when it has room again; duramen_log_durable makes it unreadable.
 *
 * Ownership: the library's: do not read, write or close it; it is closed by duramen_log_destroy. Returns the descriptor (at least 0) or
 * DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED. Thread: any. Re-entrancy: any callback.
 */
int32_t duramen_log_fd(duramen_log *log);

/**
 * Reads the durable records from number `from` on and hands them to `cb`, in order, until it returns something else than 0 or none is left.
 * Returns how many it took (at least 0; at most `max`, 0: no limit).
 *
 * Ownership: a record lives until `cb` returns. Thread of `cb`: this one. Re-entrancy: `cb` may append and trim, and read itself. Reads are
 * direct reads of the disk, about 64 KiB each.
 *
 * Errors: DURAMEN_E_NOT_FOUND (`from` was trimmed, or is 0), DURAMEN_E_DAMAGED, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`cb` is NULL), DURAMEN_E_STATE
 * (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_log_read(duramen_log *log,
                         uint64_t from,
                         uint32_t max,
                         duramen_record_fn cb,
                         void *user);

/**
 * Gives up the records below number `below`: the space of whole segments of them is used again, soon. A crash may bring them back.
 * A lower number than before changes nothing. One above the record that is appended next stands for that: records that come later are never given up by it.
 *
 * Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_log_trim(duramen_log *log,
                         uint64_t below);

/**
 * Writes figures about the log as OpenMetrics text, with a NUL, into `buf`; `*len` (may be NULL) gets the length without the NUL.
 *
 * Ownership: `buf` is the caller's; NULL if `cap` is 0. Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_BUFFER (as much as fits was
 * written), DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_log_metrics(duramen_log *log,
                            char *buf,
                            size_t cap,
                            size_t *len);

/**
 * Writes what was appended, waits for it, and closes the log: after DURAMEN_OK all of it is durable. A duramen_log_wait under way returns
 * DURAMEN_E_STATE.
 *
 * `deadline_ms`: how long to wait for calls and the disk; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a callback
 * of this log.
 *
 * Errors: DURAMEN_E_TIMEOUT (the handle takes destroy alone: call it again; the writes go on), DURAMEN_E_IO (closed, but a write had failed:
 * not all that was appended is durable), DURAMEN_E_REENTRANT (nothing happened), DURAMEN_E_HANDLE.
 */
int32_t duramen_log_destroy(duramen_log *log,
                            uint64_t deadline_ms);

/**
 * Opens the folder `dir` for checkpoints of this process alone; it is made if it is missing. What a crash left unfinished is removed.
 *
 * Keys used (see duramen_conf_set): dir, full-every. Ownership: `conf` stays the caller's; `*out` is the caller's until duramen_checkpoint_destroy, and NULL on
 * failure. Thread: any. Starts no thread.
 *
 * Errors: DURAMEN_E_BUSY (another process has it), DURAMEN_E_NO_SPACE, DURAMEN_E_IO, DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE.
 */
int32_t duramen_checkpoint_open(const duramen_conf *conf,
                                duramen_checkpoint **out);

/**
 * Writes a checkpoint of the state that `fill` gives, beside the others, and gives it its name when all of it is durable: a crash leaves all of it or
 * nothing. Then the oldest ones go, so that two are there. When this returned DURAMEN_OK, what only leads to the older one's place may be
 * trimmed from logs.
 *
 * `position` must be above those that are there, and not UINT64_MAX. `label` (NULL: zeros) is kept: a root of the host's own, or a certificate's digest.
 * `bytes_hint`: about how many bytes will come, so that a full disk shows at once (what is not used of it is given back); 0 if that is not known. `root` (may be NULL) gets what stands
 * for all of it.
 *
 * Ownership: nothing is kept. Thread of `fill`: this one; it blocks for the disk. Re-entrancy: `fill` may use other handles. One is written at a
 * time; others wait.
 *
 * Errors, of which nothing is left behind, except after a failed sync of the folder, as the message then says: the next open may find the checkpoint,
 * whole, or not. DURAMEN_E_CALLBACK (fill gave up), DURAMEN_E_NO_SPACE, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`position` does not
 * rise; `fill` is NULL), DURAMEN_E_REENTRANT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_checkpoint_write(duramen_checkpoint *checkpoint,
                                 uint64_t position,
                                 const uint8_t *label,
                                 uint64_t bytes_hint,
                                 duramen_fill_fn fill,
                                 void *user,
                                 uint8_t *root);

/**
 * Finds the newest checkpoint below position `below` (UINT64_MAX: the newest) all of whose bytes are what was written: they are read for that. A
 * damaged one is put aside as damaged-..., and the one before it is tried.
 *
 * Ownership: `*info` is the caller's; its struct_size must be set. Thread: any; blocks for the disk. Re-entrancy: not from a callback of
 * this folder.
 *
 * Errors: DURAMEN_E_NOT_FOUND (there is none), DURAMEN_E_DAMAGED (there are only damaged ones), DURAMEN_E_REFUSED (another owner's, or another
 * version's), DURAMEN_E_ABI, DURAMEN_E_IO, DURAMEN_E_REENTRANT, DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
 * DURAMEN_E_POISONED.
 */
int32_t duramen_checkpoint_newest(duramen_checkpoint *checkpoint,
                                  uint64_t below,
                                  duramen_checkpoint_info *info);

/**
 * Hands the bytes of the checkpoint of `position` to `take`, in order, each piece (1 MiB at most) after it was verified.
 *
 * Ownership: a piece lives until `take` returns. Thread of `take`: this one. Re-entrancy: `take` may use other handles.
 *
 * Errors: DURAMEN_E_NOT_FOUND, DURAMEN_E_OTHER_KIND (it is in pages), DURAMEN_E_CALLBACK (take gave up), DURAMEN_E_DAMAGED (what was handed over before
 * is right, the rest is lost), DURAMEN_E_REFUSED, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`take` is NULL), DURAMEN_E_REENTRANT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
 * DURAMEN_E_POISONED.
 */
int32_t duramen_checkpoint_read(duramen_checkpoint *checkpoint,
                                uint64_t position,
                                duramen_take_fn take,
                                void *user);

/**
 * Closes the folder. What is in it stays.
 *
 * `deadline_ms`: how long to wait for calls under way; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a callback of this
 * folder. Errors: DURAMEN_E_TIMEOUT (call it again), DURAMEN_E_REENTRANT (nothing happened), DURAMEN_E_HANDLE.
 */
int32_t duramen_checkpoint_destroy(duramen_checkpoint *checkpoint,
                                   uint64_t deadline_ms);

/**
 * Writes a checkpoint of a state in pages, as duramen_checkpoint_write does of one stream of bytes: it is there whole or not at all, positions rise, two
 * are kept, and `label`, `root` and what is there after a failure are the same. Of a state that changes little it writes little: only pages that changed
 * since the last but one are asked of `source`, and lie on top of that one's files. All pages are asked for and written
 * - if there are not two others in pages, and by the first call after duramen_checkpoint_open,
 * - when a checkpoint would be made of more than `full-every` files,
 * - when what changed is more than half of the state, or all files with changes more than half of the one with all pages,
 * - when there are fewer pages than before,
 * - when `since` is not the newest checkpoint that is there.
 *
 * The newest two share no file: a damaged one costs one checkpoint, never both. They take three times the bytes of the state on disk at most, and once
 * more that while one is written.
 *
 * `changed`: the indexes, ascending and each once, of all pages that were written or freed since the state was that of the checkpoint of position
 * `since`; those behind its last page count by themselves. A page that is not named is taken to be what it was: that is the host's word.
 * After a failed call they are still to be named by the next one. `since` UINT64_MAX: not known, and `changed` is not looked at.
 * duramen_checkpoint_info.files says what was written.
 *
 * Ownership: `source` is copied; its `user` and the state belong to the library until its `free` is called, which is before this returns, unless it
 * returns DURAMEN_E_HANDLE, DURAMEN_E_POISONED, DURAMEN_E_STATE, DURAMEN_E_REENTRANT or DURAMEN_E_ABI, or `source` is NULL; `changed` is not kept. Thread of the
 * callbacks: this one; they may be asked for a page twice. Re-entrancy: they may use other handles. One is written at a time; others wait.
 *
 * Errors: DURAMEN_E_CALLBACK (page failed), DURAMEN_E_NO_SPACE, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`position` does not rise; `changed` does not, or
 * names pages that are not there; more than 2^32 pages; a page above DURAMEN_TRANSFER_PAGE_BYTES_MAX; NULL), DURAMEN_E_ABI, DURAMEN_E_REENTRANT,
 * DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_checkpoint_write_pages(duramen_checkpoint *checkpoint,
                                       uint64_t position,
                                       const uint8_t *label,
                                       const duramen_page_source *source,
                                       uint64_t since,
                                       const uint64_t *changed,
                                       size_t count,
                                       uint8_t *root);

/**
 * Hands every page of the checkpoint of `position` to `take`, index by index, free ones with length 0, each after it was verified.
 *
 * Ownership: a page lives until `take` returns. Thread of `take`: this one. Re-entrancy: `take` may use other handles.
 *
 * Errors: DURAMEN_E_NOT_FOUND, DURAMEN_E_OTHER_KIND (it is one stream of bytes), DURAMEN_E_CALLBACK (take gave up), DURAMEN_E_DAMAGED (what was handed over
 * before is right, the rest is lost), DURAMEN_E_REFUSED, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`take` is NULL), DURAMEN_E_REENTRANT, DURAMEN_E_STATE (being
 * destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_checkpoint_read_pages(duramen_checkpoint *checkpoint,
                                      uint64_t position,
                                      duramen_page_fn take,
                                      void *user);

/**
 * Makes an empty log for a layer in the folder `dir`, and the folder if it is missing. As duramen_log_format; a log of one cannot be opened as
 * the other.
 *
 * Ownership: `conf` stays the caller's. Thread: any; blocks for the disk. Errors: as of duramen_log_format.
 */
int32_t duramen_durable_format(const duramen_conf *conf);

/**
 * Opens the layer whose log is in `dir`, hands every operation in it to `replay`, and starts.
 *
 * Every batch that was released (mode = async: called logged) and not recycled comes again, whole and in order; a batch that was delivered and not
 * released may come or not, without a gap. What was not handed over never comes back.
 *
 * Keys used (see duramen_conf_set): dir, mode, callbacks, segment-mib, segments, io, queue-mib, group-kib, prefill-segments, allow-tmpfs.
 *
 * Ownership: `conf` and the table stay the caller's and are not needed afterwards, `user` in it until duramen_durable_destroy; `*out` is the
 * caller's until then, and NULL on failure. Thread of `replay`: this one. Starts two threads, with callbacks = thread a third,
 * "duramen-rounds", on which the other callbacks run; see duramen_durable_callbacks.
 *
 * Errors: as of duramen_log_open; DURAMEN_E_CALLBACK (replay gave up), DURAMEN_E_ABI, DURAMEN_E_ARGUMENT (NULL execute or release).
 */
int32_t duramen_durable_open(const duramen_conf *conf,
                             const duramen_durable_callbacks *callbacks,
                             duramen_durable **out);

/**
 * Delivers a batch of `count` operations, the next one in the host's order, and returns at once. All batches that wait make one round: they
 * are logged with one write while they execute, and released after both (mode = parallel; see duramen_conf_set for the others).
 *
 * A disk that does not answer holds up at most what `queue-mib` say, what is being written, and what waits, which is a fourth of a segment: then this
 * returns DURAMEN_E_BUSY, also with mode = async, whose batches are executed and released until then.
 *
 * `seq` is the host's number of the batch, above that of the one before it, and above those that were replayed; gaps are allowed.
 *
 * Ownership: operations are copied before this returns; `ops` may be NULL if `count` is 0. Thread: any, but the order is the host's: deliver
 * one after the other. Re-entrancy: any callback.
 *
 * Errors, of which nothing was taken: DURAMEN_E_BUSY (too much waits for the next round: poll, or wait for `room`), DURAMEN_E_NO_SPACE (`segments`, or
 * the disk, are full: recycle, then wait for `room`), DURAMEN_E_TOO_LARGE (above 16 MiB or a fourth of a segment, with 4 bytes for each
 * operation, with mode = naive 4 KiB), DURAMEN_E_ARGUMENT (`seq` does not rise, or is UINT64_MAX; NULL); the code with which the layer ended: DURAMEN_E_IO (a write failed), DURAMEN_E_CALLBACK; DURAMEN_E_STATE (being destroyed),
 * DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_durable_deliver(duramen_durable *durable,
                                uint64_t seq,
                                const duramen_bytes *ops,
                                size_t count);

/**
 * Waits until batch `seq`, and every one before it, is executed and survives a loss of power.
 *
 * `timeout_ms`: 0 does not wait; DURAMEN_FOREVER. Thread: any; with callbacks = poll another one must poll. Re-entrancy: not from a callback of
 * this layer.
 *
 * Errors: DURAMEN_E_TIMEOUT, DURAMEN_E_ARGUMENT (no such batch was delivered), DURAMEN_E_REENTRANT, the code with which the layer ended,
 * DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_durable_wait(duramen_durable *durable,
                             uint64_t seq,
                             uint64_t timeout_ms);

/**
 * An eventfd that is readable while there is something for duramen_durable_poll: batches that wait, a duramen_durable_recycle that a round did not
 * see, with mode = async batches that became durable; when the layer has ended or its log failed; and once when there is room again after
 * DURAMEN_E_BUSY or DURAMEN_E_NO_SPACE.
 *
 * Ownership: the library's: do not read, write or close it; it is closed by duramen_durable_destroy. Returns the descriptor (at least 0) or
 * DURAMEN_E_STATE (callbacks = thread; being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED. Thread: any. Re-entrancy: any callback.
 */
int32_t duramen_durable_fd(duramen_durable *durable);

/**
 * Does one round on this thread: executes up to `max` (0: all) of the batches that wait while they are logged, waits for the disk (except with
 * mode = async), and releases them. If none waits, waits `timeout_ms` for one, or for room after DURAMEN_E_BUSY or DURAMEN_E_NO_SPACE (0: does not
 * wait; negative: without limit, until the layer is destroyed). Returns how many batches it took (at least 0), or a code. With mode = async it takes as
 * many as `queue-mib` have room for; if there is none, it waits as long for the disk, and then returns DURAMEN_E_BUSY.
 *
 * Thread: any; one polls at a time, others wait for it. Re-entrancy: not from a callback of this layer.
 *
 * Errors: DURAMEN_E_BUSY (mode = async: the disk is as far behind as it may be, and batches wait for it; nothing was taken),
 * DURAMEN_E_STATE (callbacks = thread; being destroyed), DURAMEN_E_REENTRANT, the code with which the layer ended: DURAMEN_E_CALLBACK,
 * DURAMEN_E_IO (a write failed), DURAMEN_E_NO_SPACE; DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_durable_poll(duramen_durable *durable,
                             uint32_t max,
                             int32_t timeout_ms);

/**
 * Hands the operations of batch `seq`, read back from disk, to `cb`, until it returns something else than 0.
 *
 * Ownership: an operation lives until `cb` returns. Thread of `cb`: this one. Re-entrancy: any callback.
 *
 * Errors: DURAMEN_E_NOT_FOUND (not delivered, not durable yet, or recycled), DURAMEN_E_DAMAGED, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`cb` is NULL),
 * DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_durable_read(duramen_durable *durable,
                             uint64_t seq,
                             duramen_op_fn cb,
                             void *user);

/**
 * Gives up the batches up to `upto`, which a checkpoint of the host covers: the space of whole segments of them is used again, soon. A crash may
 * bring them back: `replay` then gets batches that the checkpoint has.
 *
 * Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_ARGUMENT (batch `upto` is not done: not executed or not durable), DURAMEN_E_STATE
 * (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_durable_recycle(duramen_durable *durable,
                                uint64_t upto);

/**
 * Writes figures about the layer as OpenMetrics text, with a NUL, into `buf`; `*len` (may be NULL) gets the length without the NUL.
 *
 * Ownership: `buf` is the caller's; NULL if `cap` is 0. Thread: any. Re-entrancy: not from a callback of this layer.
 *
 * Errors: DURAMEN_E_BUFFER (as much as fits was written), DURAMEN_E_BUSY (a round has been under way for a second), DURAMEN_E_REENTRANT,
 * DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_durable_metrics(duramen_durable *durable,
                                char *buf,
                                size_t cap,
                                size_t *len);

/**
 * Ends the layer: a round under way is finished and released, unless the disk does not answer for a second; batches that wait for the next round
 * are dropped (duramen_durable_wait for the last one before, if they shall not). A duramen_durable_wait under way returns DURAMEN_E_STATE.
 * No callback runs after it returned DURAMEN_OK.
 *
 * `deadline_ms`: how long to wait for calls, the round and the disk; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a
 * callback of this layer.
 *
 * Errors: DURAMEN_E_TIMEOUT (the handle takes destroy alone: call it again; while the disk does not answer it has buffers and threads of the layer, and
 * nothing but an answer ends that), DURAMEN_E_REENTRANT (nothing happened), DURAMEN_E_HANDLE.
 */
int32_t duramen_durable_destroy(duramen_durable *durable,
                                uint64_t deadline_ms);

/**
 * Opens one end of state transfers, as replica `id` of the cluster whose folder is `dir`: `duramen init` made addresses and keys there. No replica
 * of the cluster needs to run; one of the same id must not, because it has the same address. Peers find each other by themselves, now and later.
 *
 * Keys used (see duramen_conf_set): dir, transfer-dir, insecure. Ownership: `conf` stays the caller's; `*out` is the caller's until
 * duramen_transfer_destroy, and NULL on failure. Thread: any. Starts a few threads, named duramen-*: for sockets, for serving and fetching, for
 * hashes (half of the processors, at most 8), for transfer-dir.
 *
 * Errors: DURAMEN_E_CONFIG (files, keys, no such replica, no address for state transfer), DURAMEN_E_IO (the address is in use, and the like),
 * DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE.
 */
int32_t duramen_transfer_open(const duramen_conf *conf,
                              uint32_t id,
                              duramen_transfer **out);

/**
 * Serves the state of `position` to whoever fetches it under its root, beside the one served before (an older one goes when its last
 * receiver has it). Reads and hashes all pages once before it returns.
 *
 * `root` (32 bytes, may be NULL) gets the state's name: it follows from position and pages alone, so that hosts with the same state say the same.
 * A host that agrees on roots, or has f+1 peers say the same one, can vouch for it to who fetches.
 *
 * Ownership: `source` is copied; its `user` and the state belong to the library until its `free` is called, also if this fails with
 * DURAMEN_E_CALLBACK or DURAMEN_E_ARGUMENT. Thread of the callbacks: see duramen_page_source. Re-entrancy: `page` may
 * not serve, fetch, cancel, install or destroy.
 *
 * Errors: DURAMEN_E_CALLBACK (page failed), DURAMEN_E_INTERNAL (its thread has ended), DURAMEN_E_ARGUMENT (position 0; a page above DURAMEN_TRANSFER_PAGE_BYTES_MAX), DURAMEN_E_ABI, DURAMEN_E_REENTRANT,
 * DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_transfer_serve(duramen_transfer *transfer,
                               uint64_t position,
                               const duramen_page_source *source,
                               uint8_t *root);

/**
 * Serves nothing to new receivers any more; those that are being sent a state still get it.
 *
 * Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_INTERNAL (its thread has ended), DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
 * DURAMEN_E_POISONED.
 */
int32_t duramen_transfer_withdraw(duramen_transfer *transfer);

/**
 * Begins to fetch the state of `position` that has this root, for which the host vouches, from all peers that serve it at once, and returns. Every page
 * is verified against the root before it counts; a peer that sends a wrong one is not asked again. What is served here, and what an earlier
 * fetch left in transfer-dir, is not fetched again where it is the same. Goes on until it is here, cancelled or destroyed, whoever comes and goes.
 *
 * Ownership: `root` is copied. Thread: any. Re-entrancy: not from a callback of this transfer.
 *
 * Errors: DURAMEN_E_REENTRANT, DURAMEN_E_INTERNAL (its thread has ended), DURAMEN_E_STATE (a fetch is under way, or its state waits for duramen_transfer_install; being destroyed), DURAMEN_E_ARGUMENT (position 0,
 * `root` NULL or zeros), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_transfer_fetch(duramen_transfer *transfer,
                               uint64_t position,
                               const uint8_t *root);

/**
 * Waits until the state that is being fetched is here.
 *
 * `timeout_ms`: 0 does not wait; DURAMEN_FOREVER. Thread: any. Re-entrancy: any callback.
 *
 * Errors: DURAMEN_E_TIMEOUT (it goes on), DURAMEN_E_IO and DURAMEN_E_NO_SPACE (transfer-dir cannot be written: the fetch has ended), DURAMEN_E_STATE
 * (nothing is being fetched; being destroyed), DURAMEN_E_INTERNAL (its thread failed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_transfer_wait(duramen_transfer *transfer,
                              uint64_t timeout_ms);

/**
 * An eventfd that becomes readable when a fetch has ended; duramen_transfer_look makes it unreadable.
 *
 * Ownership: the library's: do not read, write or close it; it is closed by duramen_transfer_destroy. Returns the descriptor (at least 0) or
 * DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED. Thread: any. Re-entrancy: any callback.
 */
int32_t duramen_transfer_fd(duramen_transfer *transfer);

/**
 * `*info` gets how the transfer is. Makes the descriptor of duramen_transfer_fd unreadable.
 *
 * Ownership: `*info` is the caller's; its struct_size must be set. Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_ABI,
 * DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_transfer_look(duramen_transfer *transfer,
                              duramen_transfer_info *info);

/**
 * Hands every page of the state that was fetched to `take`, index by index, each verified once more; then forgets it and its file. If `take` gives up,
 * the state stays and this may be called again.
 *
 * Returns DURAMEN_OK when all pages were taken. Ownership: a page lives until `take` returns. Thread of `take`: this one; of several calls one
 * installs, the others wait. Re-entrancy: not from a callback of this transfer; `take` may not serve, fetch, cancel, install or destroy either.
 *
 * Errors: DURAMEN_E_STATE (no state is here; being destroyed), DURAMEN_E_CALLBACK (take gave up), DURAMEN_E_DAMAGED (a page is not any more what was
 * received: the fetch was ended, begin it again), DURAMEN_E_ARGUMENT (`take` is NULL), DURAMEN_E_REENTRANT, DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_transfer_install(duramen_transfer *transfer,
                                 duramen_page_fn take,
                                 void *user);

/**
 * Ends a fetch, or forgets the state that it brought. What is in transfer-dir stays, and is not fetched again.
 *
 * A duramen_transfer_install under way goes on with what it has.
 *
 * Thread: any. Re-entrancy: not from a callback of this transfer. Errors: DURAMEN_E_REENTRANT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
 * DURAMEN_E_POISONED.
 */
int32_t duramen_transfer_cancel(duramen_transfer *transfer);

/**
 * Writes figures about the transfer as OpenMetrics text, with a NUL, into `buf`; `*len` (may be NULL) gets the length without the NUL.
 *
 * Ownership: `buf` is the caller's; NULL if `cap` is 0. Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_BUFFER (as much as fits was
 * written), DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
 */
int32_t duramen_transfer_metrics(duramen_transfer *transfer,
                                 char *buf,
                                 size_t cap,
                                 size_t *len);

/**
 * Ends it: a fetch stops (what came stays in transfer-dir), and nothing is served any more. States are freed. A duramen_transfer_wait under way
 * returns DURAMEN_E_STATE.
 *
 * `deadline_ms`: how long to wait for calls, callbacks and threads; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a callback
 * of this transfer. Errors: DURAMEN_E_TIMEOUT (call it again), DURAMEN_E_REENTRANT (nothing happened), DURAMEN_E_HANDLE.
 */
int32_t duramen_transfer_destroy(duramen_transfer *transfer,
                                 uint64_t deadline_ms);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DURAMEN_H */
