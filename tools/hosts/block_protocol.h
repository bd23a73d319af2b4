/* The operations of the replicated disk: what clients send to block_service.c. All numbers are little-endian.
 *
 *   operation                             reply
 *   WRITE  0x01, offset u64, bytes        OK                      as one: all of it or nothing
 *   ZERO   0x02, offset u64, length u64   OK                      the range reads as zeros, and takes no room
 *   READ   0x03, offset u64, length u32   OK, bytes               ordered, or as a query
 *   INFO   0x04                           OK, block bytes u32, disk bytes u64
 *
 * A reply is at least one byte, its status. Offsets and lengths need no alignment. An operation that is anything but
 * the above is answered MALFORMED, and one that passes the end of the disk OUT_OF_RANGE: the same on every replica.
 */
#ifndef BLOCK_PROTOCOL_H
#define BLOCK_PROTOCOL_H

#include <stdint.h>

#define BLOCK_BYTES 4096u

#define BLOCK_WRITE 0x01u
#define BLOCK_ZERO 0x02u
#define BLOCK_READ 0x03u
#define BLOCK_INFO 0x04u

/* Bytes before the data of a write. */
#define BLOCK_WRITE_HEADER_BYTES 9u
#define BLOCK_ZERO_BYTES 17u
#define BLOCK_READ_BYTES 13u
/* One READ returns at most so much, and one ZERO frees at most so much: longer ones would hold up the order. */
#define BLOCK_READ_BYTES_MAX (1u << 20)
#define BLOCK_ZERO_LENGTH_MAX (UINT64_C(128) << 20)

#define BLOCK_OK 0u
#define BLOCK_MALFORMED 1u
#define BLOCK_OUT_OF_RANGE 2u
/* A query that would write. */
#define BLOCK_NOT_A_READ 3u

static inline void block_put_u32(unsigned char *to, uint32_t value)
{
    int i;

    for (i = 0; i < 4; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

static inline void block_put_u64(unsigned char *to, uint64_t value)
{
    block_put_u32(to, (uint32_t)value);
    block_put_u32(to + 4, (uint32_t)(value >> 32));
}

static inline uint32_t block_get_u32(const unsigned char *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static inline uint64_t block_get_u64(const unsigned char *from)
{
    return (uint64_t)block_get_u32(from) | (uint64_t)block_get_u32(from + 4) << 32;
}

#endif
