/* The disk for `duramen test-service --library`: a small one, so that operations meet the same blocks. */
#include <stdlib.h>
#include <string.h>

#include "block_service.h"

#define DISK_BYTES (64u * BLOCK_BYTES)

static const duramen_paged_service *make_disk(void *user)
{
    static duramen_paged_service made;

    (void)user;
    return block_service_new(DISK_BYTES, BLOCK_HONEST, &made) == 0 ? &made : NULL;
}

/* Of the random number, the low bits say what, those above where, how much, and which bytes. */
static int32_t operation(void *user, uint64_t index, uint64_t random, void *buf, size_t cap, size_t *len)
{
    unsigned char *op = buf;
    uint64_t offset = (random >> 8) % DISK_BYTES, bytes = (random >> 32) % (3 * BLOCK_BYTES);

    (void)user;
    (void)index;
    (void)cap;
    if ((random & 8) != 0)
        offset -= offset % BLOCK_BYTES;
    if ((random & 16) != 0)
        bytes -= bytes % BLOCK_BYTES;
    /* Some reach beyond the end. */
    switch (random & 7) {
    case 0:
        op[0] = BLOCK_INFO;
        *len = 1;
        return 0;
    case 1:
    case 2:
        op[0] = BLOCK_READ;
        block_put_u64(op + 1, offset);
        block_put_u32(op + 9, (uint32_t)bytes);
        *len = BLOCK_READ_BYTES;
        return 0;
    case 3:
        op[0] = BLOCK_ZERO;
        block_put_u64(op + 1, offset);
        block_put_u64(op + 9, bytes);
        *len = BLOCK_ZERO_BYTES;
        return 0;
    default:
        op[0] = BLOCK_WRITE;
        block_put_u64(op + 1, offset);
        memset(op + BLOCK_WRITE_HEADER_BYTES, (int)(random >> 56), (size_t)bytes);
        *len = BLOCK_WRITE_HEADER_BYTES + (size_t)bytes;
        return 0;
    }
}

const duramen_tested_service *duramen_test_services(size_t index)
{
    static const duramen_tested_service disk = {
        sizeof(duramen_tested_service), NULL, "disk", NULL, make_disk, operation};

    return index == 0 ? &disk : NULL;
}
