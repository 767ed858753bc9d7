/* Options: what is set is told, on fresh, connected and listening sockets, and accepted ones work. */
#include "test.h"

static void int_option(int fd, int level, int name, int value)
{
    int found = -1;
    socklen_t len = sizeof found;

    CHECK(evs_setsockopt(fd, level, name, &value, sizeof value) == 0);
    CHECK(evs_getsockopt(fd, level, name, &found, &len) == 0);
    CHECK(len == sizeof found);
    CHECK(found == value);
}

static int option_of(int fd, int level, int name)
{
    int found = -1;
    socklen_t len = sizeof found;

    CHECK(evs_getsockopt(fd, level, name, &found, &len) == 0 && len == sizeof found);
    return found;
}

static void timeval_option(int fd, int name)
{
    struct timeval set = { 7, 500000 }, found = { 0, 0 };
    socklen_t len = sizeof found;

    CHECK(evs_setsockopt(fd, SOL_SOCKET, name, &set, sizeof set) == 0);
    CHECK(evs_getsockopt(fd, SOL_SOCKET, name, &found, &len) == 0 && len == sizeof found);
    CHECK(found.tv_sec == 7 && found.tv_usec == 500000);
}

static void all_options(int fd)
{
    struct linger set = { 1, 3 }, found = { 0, 0 };
    socklen_t len = sizeof found;
    char short_value[2];

    int_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    int_option(fd, IPPROTO_TCP, TCP_NODELAY, 0);
    int_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    int_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 77);
    int_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    int_option(fd, SOL_SOCKET, SO_PRIORITY, 4);
    int_option(fd, IPPROTO_IP, IP_TOS, 0x10);
    timeval_option(fd, SO_RCVTIMEO);
    timeval_option(fd, SO_SNDTIMEO);
    CHECK(evs_setsockopt(fd, SOL_SOCKET, SO_LINGER, &set, sizeof set) == 0);
    CHECK(evs_getsockopt(fd, SOL_SOCKET, SO_LINGER, &found, &len) == 0 && len == sizeof found);
    CHECK(found.l_onoff == 1 && found.l_linger == 3);
    set.l_onoff = 0;
    CHECK(evs_setsockopt(fd, SOL_SOCKET, SO_LINGER, &set, sizeof set) == 0);
    CHECK(option_of(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM);
    CHECK(option_of(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET);
    CHECK(option_of(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP);
    CHECK(option_of(fd, SOL_SOCKET, SO_ACCEPTCONN) == 0);
    CHECK(option_of(fd, SOL_SOCKET, SO_ERROR) == 0);
    len = sizeof short_value;
    CHECK(evs_getsockopt(fd, SOL_SOCKET, SO_TYPE, short_value, &len) == 0 && len == 2);
    CHECK_FAILS(evs_getsockopt(fd, SOL_SOCKET, 4711, &found, &len), ENOPROTOOPT);
    CHECK_FAILS(evs_setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &found, sizeof(int)), EOPNOTSUPP);
}

static void nonblocking(int fd)
{
    int on = 1, off = 0;

    CHECK(evs_ioctl(fd, FIONBIO, &on) == 0);
    CHECK(evs_fcntl(fd, F_GETFL) & O_NONBLOCK);
    CHECK(evs_ioctl(fd, FIONBIO, &off) == 0);
    CHECK(!(evs_fcntl(fd, F_GETFL) & O_NONBLOCK));
    CHECK(evs_fcntl(fd, F_SETFD, FD_CLOEXEC) == 0);
    CHECK(evs_fcntl(fd, F_GETFD) == FD_CLOEXEC);
}

static void with_mode(int mode)
{
    evs_config *config = config_of(mode);
    struct pair pair = pair_of(config);
    int fresh = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    struct sockaddr_storage addr;
    socklen_t len = 5;
    int waiting = -1;
    char buffer[8];

    CHECK(fresh >= 0);
    all_options(fresh);
    all_options(pair.client);
    all_options(pair.server);
    nonblocking(fresh);
    nonblocking(pair.client);
    CHECK(option_of(pair.listener, SOL_SOCKET, SO_ACCEPTCONN) == 1);
    CHECK(option_of(pair.listener, SOL_SOCKET, SO_TYPE) == SOCK_STREAM);

    /* Addresses are cut to the room that there is, and tell their whole length. */
    memset(&addr, 0x55, sizeof addr);
    CHECK(evs_getpeername(pair.client, (struct sockaddr *)&addr, &len) == 0);
    CHECK(len == sizeof(struct sockaddr_in));
    CHECK(memcmp(&addr, &pair.addr, 5) == 0 && ((unsigned char *)&addr)[5] == 0x55);
    len = sizeof addr;
    CHECK(evs_getsockname(pair.server, (struct sockaddr *)&addr, &len) == 0);
    CHECK(memcmp(&addr, &pair.addr, sizeof pair.addr) == 0);

    /* Exactly the bytes that can be read. */
    send_all(pair.client, "seven!!", 7);
    for (long long limit = now_ms() + WAIT_MS_MAX; waiting != 7;) {
        CHECK(evs_ioctl(pair.server, FIONREAD, &waiting) == 0);
        CHECK(now_ms() < limit);
        await(pair.server, POLLIN);
    }
    CHECK(evs_recv(pair.server, buffer, 8, MSG_PEEK) == 7);
    CHECK(evs_recv(pair.server, buffer, 3, 0) == 3);
    CHECK(evs_ioctl(pair.server, FIONREAD, &waiting) == 0 && waiting == 4);
    CHECK(evs_close(fresh) == 0);
    pair_end(&pair);
    evs_config_free(config);
}

int main(void)
{
    begin();
    with_mode(EVS_MODE_DIRECT);
    with_mode(EVS_MODE_PUMPED);
    return 0;
}
