/* The clock of both programs. */
#ifndef SPEED_CLOCK_H
#define SPEED_CLOCK_H

#include <stdint.h>
#include <time.h>

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
