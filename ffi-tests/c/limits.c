/* Limits of a listener: who comes beyond them is refused, and may come again. */
#include "test.h"

/* 0, or the error of a connect. */
static int attempt(const evs_config *config, const struct sockaddr_in *where)
{
    int fd = evs_socket_with(config, AF_INET, SOCK_STREAM, 0), error = 0;

    CHECK(fd >= 0);
    if (evs_connect(fd, (const struct sockaddr *)where, sizeof *where) != 0)
        error = errno;
    CHECK(evs_close(fd) == 0);
    return error;
}

/* Waits until a client is taken again. */
static void room_again(const evs_config *config, const struct sockaddr_in *where)
{
    long long until = now_ms() + WAIT_MS_MAX;
    int error;

    while ((error = attempt(config, where)) != 0) {
        CHECK(error == ECONNREFUSED);
        CHECK(now_ms() < until);
    }
}

static void sessions(int mode)
{
    evs_config *plain = config_of(mode), *limited = config_of(mode);
    struct pair pair;

    CHECK_STATUS(evs_config_set_sessions_max(limited, 1), 0);
    pair = pair_of(limited);
    CHECK(attempt(plain, &pair.addr) == ECONNREFUSED);
    CHECK(evs_close(pair.client) == 0);
    CHECK(evs_close(pair.server) == 0);
    room_again(plain, &pair.addr);
    CHECK(evs_close(pair.listener) == 0);
    evs_config_free(plain);
    evs_config_free(limited);
}

static void memory(int mode)
{
    evs_config *plain = config_of(mode), *limited = config_of(mode);
    static char bytes[10000];
    struct pair pair;
    size_t written = 0, got = 0;
    long long until = now_ms() + WAIT_MS_MAX;
    int error;

    CHECK_STATUS(evs_config_set_memory_max(limited, 100 * 1000), 0);
    CHECK_STATUS(evs_config_set_handshakes_per_source(limited, 8), 0);
    pair = pair_of(limited);
    CHECK(attempt(plain, &pair.addr) == 0);
    CHECK(evs_fcntl(pair.server, F_SETFL, O_NONBLOCK) == 0);
    /* A pumped one takes bytes before the session has them, and gives some away later. */
    while ((error = attempt(plain, &pair.addr)) != ECONNREFUSED) {
        ssize_t n;

        CHECK(error == 0);
        CHECK(now_ms() < until);
        while ((n = evs_write(pair.server, bytes, sizeof bytes)) > 0)
            written += (size_t)n;
        CHECK(errno == EAGAIN);
    }
    while (got < written) {
        ssize_t n = evs_read(pair.client, bytes, sizeof bytes);

        CHECK(n > 0);
        got += (size_t)n;
    }
    room_again(plain, &pair.addr);
    pair_end(&pair);
    evs_config_free(plain);
    evs_config_free(limited);
}

int main(void)
{
    begin();
    sessions(EVS_MODE_DIRECT);
    sessions(EVS_MODE_PUMPED);
    memory(EVS_MODE_DIRECT);
    memory(EVS_MODE_PUMPED);
    return 0;
}
