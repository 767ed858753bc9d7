/* Connecting: blocking, non-blocking, refused, to a peer of another kind, with another key. */
#include "test.h"

static int error_of(int fd)
{
    int error = -1;
    socklen_t len = sizeof error;

    CHECK(evs_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0);
    return error;
}

static int socket_of(const evs_config *config, int flags)
{
    int fd = evs_socket_with(config, AF_INET, SOCK_STREAM | flags, 0);

    CHECK(fd >= 0);
    return fd;
}

static int to(int fd, const struct sockaddr_in *addr)
{
    return evs_connect(fd, (const struct sockaddr *)addr, sizeof *addr);
}

static void without_blocking(const evs_config *config)
{
    struct pair pair;
    char byte = 0;

    listen_with(&pair, config);
    pair.client = socket_of(config, SOCK_NONBLOCK);
    CHECK_FAILS(to(pair.client, &pair.addr), EINPROGRESS);
    CHECK(await(pair.client, POLLOUT) & POLLOUT);
    CHECK(error_of(pair.client) == 0);
    CHECK_FAILS(to(pair.client, &pair.addr), EISCONN);
    CHECK_FAILS(evs_recv(pair.client, &byte, 1, 0), EAGAIN);
    CHECK_STATUS(evs_wait_attached(pair.client, 0), 0);
    pair.server = evs_accept4(pair.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK(pair.server >= 0);
    CHECK(evs_fcntl(pair.server, F_GETFL) & O_NONBLOCK);
    CHECK(evs_fcntl(pair.server, F_GETFD) & FD_CLOEXEC);
    CHECK_FAILS(evs_recv(pair.server, &byte, 1, 0), EAGAIN);
    send_all(pair.server, "n", 1);
    await(pair.client, POLLIN);
    recv_all(pair.client, &byte, 1);
    CHECK(byte == 'n');
    pair_end(&pair);
}

static void refused(const evs_config *config)
{
    struct pair pair;
    int fd;

    /* A port that was just free. */
    listen_with(&pair, config);
    CHECK(evs_close(pair.listener) == 0);
    fd = socket_of(config, 0);
    for (long long limit = now_ms() + WAIT_MS_MAX; to(fd, &pair.addr) == 0;) {
        CHECK(now_ms() < limit);
        CHECK(evs_close(fd) == 0);
        fd = socket_of(config, 0);
    }
    CHECK(errno == ECONNREFUSED);
    CHECK(evs_close(fd) == 0);
    fd = socket_of(config, SOCK_NONBLOCK);
    CHECK_FAILS(to(fd, &pair.addr), EINPROGRESS);
    CHECK(await(fd, POLLOUT) & (POLLERR | POLLOUT));
    CHECK(error_of(fd) == ECONNREFUSED);
    CHECK(error_of(fd) == 0);
    CHECK(evs_close(fd) == 0);
}

/* A peer that answers something else. */
static void another_protocol(const evs_config *config)
{
    struct sockaddr_in addr = loopback(0);
    socklen_t len = sizeof addr;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int fd = socket_of(config, SOCK_NONBLOCK);
    int peer, error;

    CHECK(bind(listener, (struct sockaddr *)&addr, sizeof addr) == 0);
    CHECK(listen(listener, 4) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&addr, &len) == 0);
    CHECK_FAILS(to(fd, &addr), EINPROGRESS);
    peer = accept(listener, NULL, NULL);
    CHECK(peer >= 0);
    CHECK(write(peer, "220 mail.example ready, how do you do? Please say HELO first.\r\n", 63) == 63);
    await(fd, POLLOUT);
    error = error_of(fd);
    CHECK(error == EPROTO);
    CHECK(strstr(evs_strerror(error), "does not speak") != NULL);
    CHECK(evs_close(fd) == 0 && close(peer) == 0 && close(listener) == 0);
}

static void keys(int mode)
{
    evs_config *ours = config_of(mode), *other = config_of(mode);
    unsigned char key[EVS_KEY_BYTES] = { 1, 2, 3 };
    struct pair pair;
    int fd;

    CHECK_STATUS(evs_config_set_key(ours, key, sizeof key), 0);
    key[0] = 99;
    CHECK_STATUS(evs_config_set_key(other, key, sizeof key), 0);
    pair = pair_of(ours);
    fd = socket_of(other, 0);
    CHECK_FAILS(to(fd, &pair.addr), EACCES);
    CHECK(evs_close(fd) == 0);
    pair_end(&pair);
    evs_config_free(ours);
    evs_config_free(other);
}

/* By the default configuration, over IPv6, and what is not TCP. */
static void by_default(void)
{
    struct sockaddr_in6 addr;
    socklen_t len = sizeof addr;
    int listener = evs_socket(AF_INET6, SOCK_STREAM, 0);
    int fd = evs_socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP);
    int udp = evs_socket(AF_INET, SOCK_DGRAM, 0);
    struct evs_info info;

    CHECK(udp >= 0 && !evs_is_virtual(udp) && evs_close(udp) == 0);
    CHECK_FAILS(evs_socket(4711, SOCK_STREAM, 0), EAFNOSUPPORT);
    CHECK_FAILS(evs_socket(AF_INET, 4711, 0), EINVAL);
    CHECK(listener >= 0 && fd >= 0);
    memset(&addr, 0, sizeof addr);
    addr.sin6_family = AF_INET6;
    addr.sin6_addr = in6addr_loopback;
    if (evs_bind(listener, (struct sockaddr *)&addr, sizeof addr) == 0) {
        CHECK(evs_listen(listener, 1) == 0);
        CHECK(evs_getsockname(listener, (struct sockaddr *)&addr, &len) == 0);
        CHECK(len == sizeof addr);
        CHECK(evs_connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0);
        CHECK_STATUS(evs_session_info(fd, &info, sizeof info), 0);
        CHECK(info.mode == EVS_MODE_PUMPED);
    } else {
        CHECK(errno == EADDRNOTAVAIL);
    }
    CHECK(evs_close(fd) == 0 && evs_close(listener) == 0);
}

/* A direct socket that becomes a pumped one in the middle. */
static void pump(void)
{
    evs_config *config = config_of(EVS_MODE_DIRECT);
    struct pair pair = pair_of(config);
    struct evs_info info;
    char buffer[4];

    send_all(pair.client, "one", 3);
    recv_all(pair.server, buffer, 1);
    CHECK_STATUS(evs_pump(pair.server), 0);
    CHECK_STATUS(evs_pump(pair.server), 0);
    CHECK_STATUS(evs_session_info(pair.server, &info, sizeof info), 0);
    CHECK(info.mode == EVS_MODE_PUMPED);
    CHECK(recv(pair.server, buffer, 2, MSG_WAITALL) == 2 && memcmp(buffer, "ne", 2) == 0);
    CHECK(write(pair.server, "two", 3) == 3);
    recv_all(pair.client, buffer, 3);
    CHECK(memcmp(buffer, "two", 3) == 0);
    pair_end(&pair);
    evs_config_free(config);
}

int main(void)
{
    int modes[] = { EVS_MODE_DIRECT, EVS_MODE_PUMPED };

    begin();
    for (int i = 0; i < 2; i++) {
        evs_config *config = config_of(modes[i]);

        without_blocking(config);
        refused(config);
        another_protocol(config);
        keys(modes[i]);
        evs_config_free(config);
    }
    by_default();
    pump();
    return 0;
}
