/* Duplicates: one socket under several numbers. */
#include "test.h"

static void talk(int from, int to)
{
    char byte = 0;

    send_all(from, "d", 1);
    recv_all(to, &byte, 1);
    CHECK(byte == 'd');
}

static void with_mode(int mode)
{
    evs_config *config = config_of(mode);
    struct pair pair = pair_of(config);
    int a, b, c, other[2], client;
    char byte = 0;

    a = evs_dup(pair.server);
    CHECK(a >= 0 && evs_is_virtual(a));
    b = evs_fcntl(pair.server, F_DUPFD_CLOEXEC, 300);
    CHECK(b >= 300 && evs_is_virtual(b) && evs_fcntl(b, F_GETFD) == FD_CLOEXEC);
    c = evs_dup2(pair.server, 400);
    CHECK(c == 400 && evs_is_virtual(c));
    CHECK(evs_dup2(c, c) == c && evs_is_virtual(c));
    CHECK(evs_dup3(c, 401, O_CLOEXEC) == 401 && evs_fcntl(401, F_GETFD) == FD_CLOEXEC);
    talk(pair.client, a);
    talk(b, pair.client);
    talk(pair.client, 401);

    /* Every number but one goes; the session stays. */
    CHECK(evs_close(pair.server) == 0 && !evs_is_virtual(pair.server));
    CHECK(evs_close(a) == 0);
    CHECK(evs_close(b) == 0);
    CHECK(evs_close(401) == 0);
    talk(pair.client, c);
    talk(c, pair.client);

    /* A virtual number is replaced by another file, and another by a virtual one. */
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, other) == 0);
    CHECK(evs_dup2(c, other[1]) == other[1] && evs_is_virtual(other[1]));
    CHECK(evs_read(other[0], &byte, 1) == 0);
    CHECK(evs_dup2(other[0], c) == c && !evs_is_virtual(c));
    talk(pair.client, other[1]);
    CHECK(evs_close(c) == 0);
    CHECK(evs_close(other[0]) == 0);

    /* The last number ends it. */
    CHECK(evs_close(other[1]) == 0);
    CHECK(evs_read(pair.client, &byte, 1) == 0);
    CHECK(evs_close(pair.client) == 0);

    /* A listener, too. */
    a = evs_dup(pair.listener);
    CHECK(a >= 0 && evs_close(pair.listener) == 0);
    client = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    CHECK(evs_connect(client, (struct sockaddr *)&pair.addr, sizeof pair.addr) == 0);
    b = evs_accept(a, NULL, NULL);
    CHECK(b >= 0);
    talk(client, b);
    CHECK(evs_close(a) == 0 && evs_close(b) == 0 && evs_close(client) == 0);
    evs_config_free(config);
}

int main(void)
{
    begin();
    with_mode(EVS_MODE_DIRECT);
    with_mode(EVS_MODE_PUMPED);
    return 0;
}
