/* A disk as a replicated service: block_protocol.h has its operations.
 *
 * The engine keeps the state as pages, so checkpoints write and peers send only what changed:
 *   page 0        "duramen disk 1" and two zeros, block bytes u32, zero u32, disk bytes u64, little-endian; written by the first
 *                 ordered operation
 *   page 1 + i    block i, 4096 bytes; none if all of them are zero
 */
#ifndef BLOCK_SERVICE_H
#define BLOCK_SERVICE_H

#include <stdint.h>

#include "block_protocol.h"
#include "duramen.h"

/* 256 GiB: all pages but one. */
#define BLOCK_DISK_BYTES_MAX ((uint64_t)(DURAMEN_PAGES_MAX - 1) * BLOCK_BYTES)

/* What a replica built with -DBLOCK_LIES may be told to do wrong. */
#define BLOCK_HONEST 0
/* It answers queries with other bytes: clients must not believe it. Nobody else can see it. */
#define BLOCK_LIES_IN_ANSWERS 1
/* It stores other bytes than it was told: its state is not that of the others, who notice. */
#define BLOCK_LIES_IN_STATE 2

/* Fills `out` with a service for a disk of `size` bytes: the same on all replicas, and for ever. It is destroyed with the
 * replica; where none could be started, the caller does it: `out->destroy(out->user)`. Returns -1 if `size` is no multiple of
 * BLOCK_BYTES, 0, or more than BLOCK_DISK_BYTES_MAX; if `lie` is none of this build; or if memory is short. */
int block_service_new(uint64_t size, int lie, duramen_paged_service *out);

#endif
