#include <stdio.h>
#include <stdlib.h>

#include "duramen.h"

/* add DIR NUMBER: adds to the counter that counter_host's replicas keep, and prints it. */
int main(int argc, char **argv)
{
    unsigned char op[8], reply[64];
    char message[512] = "usage: add DIR NUMBER";
    unsigned long long number = argc == 3 ? strtoull(argv[2], NULL, 10) : 0, value = 0;
    duramen_conf *conf = duramen_conf_new();
    duramen_client *client = NULL;
    size_t i, len = 0;
    int32_t outcome = DURAMEN_NOT_EXECUTED, code = DURAMEN_E_ARGUMENT;

    /* Configuration is text, and a client needs the folder of its cluster only. */
    if (argc == 3)
        code = duramen_conf_set(conf, "dir", argv[1], message, sizeof message);
    if (code == DURAMEN_OK && (code = duramen_client_open(conf, &client)) != DURAMEN_OK)
        duramen_errmsg(NULL, message, sizeof message);
    /* An operation is bytes that the service knows: here 8, little-endian. */
    for (i = 0; i < 8; i++)
        op[i] = (unsigned char)(number >> (8 * i));
    if (code == DURAMEN_OK) {
        code = duramen_client_call(client, op, sizeof op, 0, 5000, reply, sizeof reply, &len, &outcome);
        if (code != DURAMEN_OK)
            duramen_errmsg(client, message, sizeof message);
    }
    /* A code says whether the call was right; the outcome whether the operation took place: yes, no, or nobody knows. */
    if (code != DURAMEN_OK)
        fprintf(stderr, "error: %s\n", message);
    else if (outcome != DURAMEN_DONE)
        fprintf(stderr, "error: %s added\n", outcome == DURAMEN_NOT_EXECUTED ? "not" : "perhaps");
    else if (len != 8)
        fprintf(stderr, "error: that cluster is no counter\n");
    for (i = 0; i < 8 && len == 8; i++)
        value |= (unsigned long long)reply[i] << (8 * i);
    if (code == DURAMEN_OK && outcome == DURAMEN_DONE && len == 8)
        printf("%llu\n", value);
    duramen_client_destroy(client, 1000);
    duramen_conf_destroy(conf);
    return code != DURAMEN_OK || outcome != DURAMEN_DONE || len != 8;
}
