/* One direction ends, the other goes on; and what is left of both after that. */
#include "test.h"

static void with_mode(int mode, size_t total)
{
    evs_config *config = config_of(mode);
    struct pair pair = pair_of(config);
    unsigned char *data = malloc(total), *back = malloc(total);
    long long limit = now_ms() + WAIT_MS_MAX;
    char byte;
    ssize_t n;

    CHECK(data != NULL && back != NULL);
    for (size_t i = 0; i < total; i++)
        data[i] = pattern(i);
    send_all(pair.client, data, total);
    CHECK(evs_shutdown(pair.client, SHUT_WR) == 0);
    CHECK_FAILS(evs_send(pair.client, "x", 1, MSG_NOSIGNAL), EPIPE);
    recv_all(pair.server, back, total);
    CHECK(memcmp(data, back, total) == 0);
    CHECK(evs_recv(pair.server, &byte, 1, 0) == 0);
    CHECK(evs_recv(pair.server, &byte, 1, 0) == 0);
    CHECK(await(pair.server, POLLIN) & POLLIN);

    /* The way back is open. */
    memset(back, 0, total);
    send_all(pair.server, data, total);
    recv_all(pair.client, back, total);
    CHECK(memcmp(data, back, total) == 0);
    CHECK(evs_close(pair.server) == 0);
    CHECK(evs_recv(pair.client, &byte, 1, 0) == 0);
    CHECK(evs_close(pair.client) == 0);
    CHECK(evs_close(pair.listener) == 0);

    /* Who writes to a peer that has closed is told so. */
    pair = pair_of(config);
    CHECK(evs_close(pair.server) == 0);
    do {
        CHECK(now_ms() < limit);
        n = evs_send(pair.client, "x", 1, MSG_NOSIGNAL);
    } while (n == 1);
    CHECK(n == -1 && (errno == EPIPE || errno == ECONNRESET));
    CHECK(evs_close(pair.client) == 0);
    CHECK(evs_close(pair.listener) == 0);
    free(data);
    free(back);
    evs_config_free(config);
}

int main(int argc, char **argv)
{
    size_t total = argc > 1 ? (size_t)atol(argv[1]) : 100 * 1000;

    begin();
    with_mode(EVS_MODE_DIRECT, total);
    with_mode(EVS_MODE_PUMPED, total);
    return 0;
}
