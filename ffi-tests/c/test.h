/* What the C tests share: checks that say where and why, pairs, waits with a deadline. */
#ifndef EVS_TEST_H
#define EVS_TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "eversock.h"

#define TEST_SECONDS_MAX 100
#define WAIT_MS_MAX 30000
#define UNUSED __attribute__((unused))

static UNUSED void fail(const char *file, int line, const char *what)
{
    int error = errno;

    fprintf(stderr, "%s:%d: %s (errno %d: %s)\n", file, line, what, error, strerror(error));
    fflush(NULL);
    _exit(1);
}

#define CHECK(condition)                            \
    do {                                            \
        if (!(condition))                           \
            fail(__FILE__, __LINE__, #condition);   \
    } while (0)

/* -1 and this errno. */
#define CHECK_FAILS(call, error)                                        \
    do {                                                                \
        long result_;                                                   \
        errno = 0;                                                      \
        result_ = (long)(call);                                         \
        if (result_ != -1 || errno != (error))                          \
            fail(__FILE__, __LINE__, #call " does not give " #error);   \
    } while (0)

/* 0 or -errno, errno left alone. */
#define CHECK_STATUS(call, wanted)                                      \
    do {                                                                \
        int status_;                                                    \
        errno = 4711;                                                   \
        status_ = (call);                                               \
        if (status_ != (wanted) || errno != 4711) {                     \
            errno = status_ < 0 ? -status_ : errno;                     \
            fail(__FILE__, __LINE__, #call " does not give " #wanted);  \
        }                                                               \
    } while (0)

static UNUSED void begin(void)
{
    alarm(TEST_SECONDS_MAX);
    signal(SIGPIPE, SIG_IGN);
}

static UNUSED long long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static UNUSED struct sockaddr_in loopback(int port)
{
    struct sockaddr_in addr;

    memset(&addr, 0, sizeof addr);
    addr.sin_family = AF_INET;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.sin_port = htons((unsigned short)port);
    return addr;
}

/* Direct or pumped; the caller frees it. */
static UNUSED evs_config *config_of(int mode)
{
    evs_config *config = evs_config_new();

    CHECK(config != NULL);
    CHECK_STATUS(evs_config_set_mode(config, mode), 0);
    CHECK_STATUS(evs_config_set_linger(config, 5000), 0);
    return config;
}

struct pair {
    int listener;
    int client;
    int server;
    struct sockaddr_in addr;
};

static UNUSED void listen_with(struct pair *pair, const evs_config *config)
{
    socklen_t len = sizeof pair->addr;

    pair->addr = loopback(0);
    pair->listener = evs_socket_with(config, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(pair->listener >= 0);
    CHECK(evs_bind(pair->listener, (struct sockaddr *)&pair->addr, sizeof pair->addr) == 0);
    CHECK(evs_listen(pair->listener, 16) == 0);
    CHECK(evs_getsockname(pair->listener, (struct sockaddr *)&pair->addr, &len) == 0);
    CHECK(len == sizeof pair->addr && pair->addr.sin_port != 0);
}

static UNUSED struct pair pair_of(const evs_config *config)
{
    struct pair pair;

    listen_with(&pair, config);
    pair.client = evs_socket_with(config, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(pair.client >= 0);
    CHECK(evs_connect(pair.client, (struct sockaddr *)&pair.addr, sizeof pair.addr) == 0);
    pair.server = evs_accept4(pair.listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(pair.server >= 0);
    CHECK(evs_is_virtual(pair.client) && evs_is_virtual(pair.server));
    return pair;
}

static UNUSED void pair_end(struct pair *pair)
{
    CHECK(evs_close(pair->client) == 0);
    CHECK(evs_close(pair->server) == 0);
    CHECK(evs_close(pair->listener) == 0);
}

/* Waits for one of the events, which must come; gives what came. */
static UNUSED int await(int fd, short events)
{
    struct pollfd entry;

    entry.fd = fd;
    entry.events = events;
    entry.revents = 0;
    CHECK(evs_poll(&entry, 1, WAIT_MS_MAX) == 1);
    CHECK(entry.revents != 0);
    return entry.revents;
}

static UNUSED void set_nonblocking(int fd, int on)
{
    int flags = evs_fcntl(fd, F_GETFL);

    CHECK(flags >= 0);
    flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    CHECK(evs_fcntl(fd, F_SETFL, flags) == 0);
}

/* All of it, whatever the call takes at a time. */
static UNUSED void send_all(int fd, const void *data, size_t len)
{
    const char *at = data;

    while (len > 0) {
        ssize_t n = evs_send(fd, at, len, MSG_NOSIGNAL);

        CHECK(n > 0);
        at += n;
        len -= (size_t)n;
    }
}

static UNUSED void recv_all(int fd, void *data, size_t len)
{
    char *at = data;

    while (len > 0) {
        ssize_t n = evs_recv(fd, at, len, 0);

        CHECK(n > 0);
        at += n;
        len -= (size_t)n;
    }
}

static UNUSED unsigned char pattern(size_t at)
{
    return (unsigned char)(at * 7 + at / 251);
}

/* Waits for a child that must end well. */
static UNUSED void reap(pid_t pid)
{
    int status = 0;

    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#endif
