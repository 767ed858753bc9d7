/* A classic server: a child for each connection, the parent closes its copy. */
#include "test.h"

#define CLIENTS 4

static void serve_child(int fd)
{
    char buffer[4096];
    ssize_t n;

    alarm(TEST_SECONDS_MAX);
    while ((n = evs_read(fd, buffer, sizeof buffer)) > 0)
        send_all(fd, buffer, (size_t)n);
    CHECK(n == 0);
    CHECK(evs_close(fd) == 0);
    exit(0);
}

static void serve(int listener)
{
    pid_t children[CLIENTS];

    for (int i = 0; i < CLIENTS; i++) {
        int fd = evs_accept(listener, NULL, NULL);

        CHECK(fd >= 0);
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            CHECK(evs_close(listener) == 0);
            serve_child(fd);
        }
        CHECK(evs_close(fd) == 0);
    }
    for (int i = 0; i < CLIENTS; i++)
        reap(children[i]);
    CHECK(evs_close(listener) == 0);
    exit(0);
}

static void ask(const evs_config *config, const struct sockaddr_in *addr, int number)
{
    char data[3000], back[3000];
    char byte;
    int fd = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);

    CHECK(fd >= 0);
    CHECK(evs_connect(fd, (const struct sockaddr *)addr, sizeof *addr) == 0);
    memset(data, 'a' + number, sizeof data);
    for (int i = 0; i < 5; i++) {
        send_all(fd, data, sizeof data);
        recv_all(fd, back, sizeof back);
        CHECK(memcmp(data, back, sizeof data) == 0);
    }
    CHECK(evs_shutdown(fd, SHUT_WR) == 0);
    CHECK(evs_recv(fd, &byte, 1, 0) == 0);
    CHECK(evs_close(fd) == 0);
}

static void with_mode(int mode)
{
    int port_pipe[2];
    struct pair pair;
    pid_t server;

    CHECK(pipe(port_pipe) == 0);
    server = fork();
    CHECK(server >= 0);
    if (server == 0) {
        evs_config *config = config_of(mode);

        alarm(TEST_SECONDS_MAX);
        listen_with(&pair, config);
        evs_config_free(config);
        CHECK(write(port_pipe[1], &pair.addr, sizeof pair.addr) == (ssize_t)sizeof pair.addr);
        serve(pair.listener);
    }
    CHECK(close(port_pipe[1]) == 0);
    CHECK(read(port_pipe[0], &pair.addr, sizeof pair.addr) == (ssize_t)sizeof pair.addr);
    CHECK(close(port_pipe[0]) == 0);
    {
        evs_config *config = config_of(mode);

        for (int i = 0; i < CLIENTS; i++)
            ask(config, &pair.addr, i);
        evs_config_free(config);
    }
    reap(server);
}

int main(void)
{
    begin();
    with_mode(EVS_MODE_DIRECT);
    printf("direct\n");
    fflush(stdout);
    with_mode(EVS_MODE_PUMPED);
    return 0;
}
