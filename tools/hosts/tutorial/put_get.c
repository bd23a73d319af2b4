/* Puts a value into a replicated key-value store and reads it back. Usage: put_get DIR (made by `duramen init`; replicas run).
 *   cc -std=c99 put_get.c $(pkg-config --cflags --libs duramen) -o put_get */
#include <duramen.h>
#include <stdio.h>
#include <string.h>

static void fail(const char *what, int32_t code) {
  char why[256];
  duramen_errmsg(NULL, why, sizeof why);
  fprintf(stderr, "%s: %s (%s)\n", what, duramen_strerror(code), why);
}

static size_t field(unsigned char *out, const char *data, size_t len) { /* a length of 4 bytes, little-endian, and the data */
  for (int i = 0; i < 4; i++) out[i] = (unsigned char)(len >> (8 * i));
  memcpy(out + 4, data, len);
  return 4 + len;
}

int main(int argc, char **argv) {
  unsigned char put[64] = {2}, get[64] = {1}; /* operations of the store `duramen start` runs: PUT key 1+value, GET key */
  char reply[64];
  size_t n = 1, m = 1, len;
  duramen_client *client;
  int32_t code, outcome;
  duramen_conf *conf = duramen_conf_new();
  duramen_conf_set(conf, "dir", argc > 1 ? argv[1] : "duramen-data", NULL, 0);
  code = duramen_client_open(conf, &client); /* waits for a quorum of replicas */
  duramen_conf_destroy(conf);
  if (code != DURAMEN_OK) return fail("open", code), 1;

  n += field(put + n, "colour", 6);
  n += field(put + n, "\001blue", 5);
  m += field(get + m, "colour", 6);
  code = duramen_client_call(client, put, n, 0, 0, reply, sizeof reply, &len, &outcome);
  if (code == DURAMEN_OK && outcome == DURAMEN_DONE) /* on the disks of a quorum, and executed */
    code = duramen_client_call(client, get, m, DURAMEN_READ, 0, reply, sizeof reply, &len, &outcome);
  if (code != DURAMEN_OK) fail("call", code);
  else printf("outcome %d: %.*s\n", outcome, (int)len - 1, reply + 1); /* the reply's first byte says that it is a value */
  duramen_client_destroy(client, DURAMEN_FOREVER);
  return code != DURAMEN_OK || outcome != DURAMEN_DONE;
}
