#include "block_service.h"

#include <stdlib.h>
#include <string.h>

#define SUPERBLOCK_BYTES 32u

struct disk {
    uint64_t size;
    int lie;
    unsigned char superblock[SUPERBLOCK_BYTES];
    /* Replies of reads are put together here, and blocks that are written in part. */
    unsigned char reply[1 + BLOCK_READ_BYTES_MAX];
    unsigned char block[BLOCK_BYTES];
};

/* One operation, taken apart and held against the disk's size. */
struct operation {
    unsigned kind;
    uint64_t offset;
    uint64_t length;
    const unsigned char *data;
};

static int all_zero(const unsigned char *bytes, size_t len)
{
    return len == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0);
}

static unsigned parse(const struct disk *disk, const unsigned char *op, size_t len, struct operation *out)
{
    if (len == 0)
        return BLOCK_MALFORMED;
    out->kind = op[0];
    out->offset = 0;
    out->length = 0;
    out->data = NULL;
    switch (op[0]) {
    case BLOCK_WRITE:
        if (len < BLOCK_WRITE_HEADER_BYTES)
            return BLOCK_MALFORMED;
        out->offset = block_get_u64(op + 1);
        out->length = len - BLOCK_WRITE_HEADER_BYTES;
        out->data = op + BLOCK_WRITE_HEADER_BYTES;
        break;
    case BLOCK_ZERO:
        if (len != BLOCK_ZERO_BYTES)
            return BLOCK_MALFORMED;
        out->offset = block_get_u64(op + 1);
        out->length = block_get_u64(op + 9);
        if (out->length > BLOCK_ZERO_LENGTH_MAX)
            return BLOCK_MALFORMED;
        break;
    case BLOCK_READ:
        if (len != BLOCK_READ_BYTES)
            return BLOCK_MALFORMED;
        out->offset = block_get_u64(op + 1);
        out->length = block_get_u32(op + 9);
        if (out->length > BLOCK_READ_BYTES_MAX)
            return BLOCK_MALFORMED;
        break;
    case BLOCK_INFO:
        return len == 1 ? BLOCK_OK : BLOCK_MALFORMED;
    default:
        return BLOCK_MALFORMED;
    }
    if (out->offset > disk->size || out->length > disk->size - out->offset)
        return BLOCK_OUT_OF_RANGE;
    return BLOCK_OK;
}

static int32_t reply_status(duramen_reply *reply, unsigned status)
{
    unsigned char byte = (unsigned char)status;

    return duramen_reply_set(reply, &byte, 1);
}

static int32_t reply_info(const struct disk *disk, duramen_reply *reply)
{
    unsigned char info[13];

    info[0] = BLOCK_OK;
    block_put_u32(info + 1, BLOCK_BYTES);
    block_put_u64(info + 5, disk->size);
    return duramen_reply_set(reply, info, sizeof info);
}

/* `flip`: what every byte is changed by. */
static int32_t reply_read(struct disk *disk, const duramen_pages *pages, const struct operation *op, unsigned char flip,
                          duramen_reply *reply)
{
    unsigned char *to = disk->reply + 1;
    uint64_t at = op->offset, left = op->length;

    disk->reply[0] = BLOCK_OK;
    while (left > 0) {
        size_t within = (size_t)(at % BLOCK_BYTES);
        size_t part = BLOCK_BYTES - within < left ? BLOCK_BYTES - within : (size_t)left;
        const void *bytes;
        size_t len;
        int32_t code = duramen_pages_read(pages, 1 + at / BLOCK_BYTES, &bytes, &len);

        if (code != DURAMEN_OK)
            return code;
        if (len == BLOCK_BYTES)
            memcpy(to, (const unsigned char *)bytes + within, part);
        else
            memset(to, 0, part);
        if (flip != 0)
            for (len = 0; len < part; len++)
                to[len] ^= flip;
        to += part;
        at += part;
        left -= part;
    }
    return duramen_reply_set(reply, disk->reply, 1 + (size_t)op->length);
}

/* `bytes` is NULL for zeros. */
static int32_t put(struct disk *disk, duramen_pages *pages, uint64_t at, const unsigned char *bytes, size_t len)
{
    uint64_t page = 1 + at / BLOCK_BYTES;
    size_t within = (size_t)(at % BLOCK_BYTES);

    if (len < BLOCK_BYTES) {
        const void *before;
        size_t before_len;
        int32_t code = duramen_pages_read(pages, page, &before, &before_len);

        if (code != DURAMEN_OK)
            return code;
        if (before_len == BLOCK_BYTES)
            memcpy(disk->block, before, BLOCK_BYTES);
        else
            memset(disk->block, 0, BLOCK_BYTES);
        if (bytes != NULL)
            memcpy(disk->block + within, bytes, len);
        else
            memset(disk->block + within, 0, len);
        bytes = disk->block;
    }
    /* Also of a block that was written: what a disk holds alone says which pages there are. */
    if (bytes == NULL || all_zero(bytes, BLOCK_BYTES))
        return duramen_pages_free(pages, page);
#ifdef BLOCK_LIES
    if (disk->lie == BLOCK_LIES_IN_STATE) {
        if (bytes != disk->block)
            memcpy(disk->block, bytes, BLOCK_BYTES);
        disk->block[BLOCK_BYTES - 1] ^= 0xff;
        bytes = disk->block;
    }
#endif
    return duramen_pages_write(pages, page, bytes, BLOCK_BYTES);
}

static int32_t put_range(struct disk *disk, duramen_pages *pages, const struct operation *op)
{
    uint64_t at = op->offset, left = op->length;
    const unsigned char *from = op->data;

    while (left > 0) {
        size_t within = (size_t)(at % BLOCK_BYTES);
        size_t part = BLOCK_BYTES - within < left ? BLOCK_BYTES - within : (size_t)left;
        int32_t code;

        /* Nothing was ever written from here on. */
        if (from == NULL && 1 + at / BLOCK_BYTES >= duramen_pages_count(pages))
            return DURAMEN_OK;
        code = put(disk, pages, at, from, part);
        if (code != DURAMEN_OK)
            return code;
        if (from != NULL)
            from += part;
        at += part;
        left -= part;
    }
    return DURAMEN_OK;
}

/* A disk of another size than the one that the state was begun with would answer otherwise than the other replicas, or
 * than this one did: better not at all. */
static int32_t check_superblock(const struct disk *disk, duramen_pages *pages)
{
    const void *bytes;
    size_t len;
    int32_t code = duramen_pages_read(pages, 0, &bytes, &len);

    if (code != DURAMEN_OK)
        return code;
    if (len == 0)
        return duramen_pages_write(pages, 0, disk->superblock, SUPERBLOCK_BYTES);
    return len == SUPERBLOCK_BYTES && memcmp(bytes, disk->superblock, len) == 0 ? DURAMEN_OK : DURAMEN_E_ARGUMENT;
}

static int32_t execute(void *user, const duramen_context *context, duramen_pages *pages, const void *bytes, size_t len,
                       duramen_reply *reply)
{
    struct disk *disk = user;
    struct operation op;
    unsigned status = parse(disk, bytes, len, &op);
    int32_t code = check_superblock(disk, pages);

    (void)context;
    if (code != DURAMEN_OK)
        return code;
    if (status != BLOCK_OK)
        return reply_status(reply, status);
    if (op.kind == BLOCK_READ)
        return reply_read(disk, pages, &op, 0, reply);
    if (op.kind == BLOCK_INFO)
        return reply_info(disk, reply);
    code = put_range(disk, pages, &op);
    return code != DURAMEN_OK ? code : reply_status(reply, BLOCK_OK);
}

static int32_t query(void *user, const duramen_pages *pages, const void *bytes, size_t len, duramen_reply *reply)
{
    struct disk *disk = user;
    struct operation op;
    unsigned status = parse(disk, bytes, len, &op);

    if (status != BLOCK_OK)
        return reply_status(reply, status);
    if (op.kind == BLOCK_READ)
        return reply_read(disk, pages, &op, disk->lie == BLOCK_LIES_IN_ANSWERS ? 0xff : 0, reply);
    if (op.kind == BLOCK_INFO)
        return reply_info(disk, reply);
    return reply_status(reply, BLOCK_NOT_A_READ);
}

static void destroy(void *user)
{
    free(user);
}

int block_service_new(uint64_t size, int lie, duramen_paged_service *out)
{
    struct disk *disk;

    if (size == 0 || size > BLOCK_DISK_BYTES_MAX || size % BLOCK_BYTES != 0)
        return -1;
#ifndef BLOCK_LIES
    if (lie != BLOCK_HONEST)
        return -1;
#endif
    disk = calloc(1, sizeof *disk);
    if (disk == NULL)
        return -1;
    disk->size = size;
    disk->lie = lie;
    memcpy(disk->superblock, "duramen disk 1", 14);
    block_put_u32(disk->superblock + 16, BLOCK_BYTES);
    block_put_u64(disk->superblock + 24, size);
    memset(out, 0, sizeof *out);
    out->struct_size = sizeof *out;
    out->user = disk;
    out->page_bytes_max = BLOCK_BYTES;
    out->execute = execute;
    out->query = query;
    out->destroy = destroy;
    return 0;
}
