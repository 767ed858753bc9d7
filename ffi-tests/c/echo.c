/* An echo both ways in one thread, over every kind of wait, pumped and direct. */
#include "test.h"

#include <sys/select.h>

static size_t total;

typedef void (*waiter)(struct pollfd fds[2]);

static int set_of_epoll = -1;

static void plain_poll(struct pollfd fds[2])
{
    CHECK(poll(fds, 2, WAIT_MS_MAX) > 0);
}

static void our_poll(struct pollfd fds[2])
{
    CHECK(evs_poll(fds, 2, WAIT_MS_MAX) > 0);
}

static void our_ppoll(struct pollfd fds[2])
{
    struct timespec limit = { WAIT_MS_MAX / 1000, 0 };
    sigset_t none;

    sigemptyset(&none);
    CHECK(evs_ppoll(fds, 2, &limit, &none) > 0);
}

static void our_select(struct pollfd fds[2])
{
    struct timeval limit = { WAIT_MS_MAX / 1000, 0 };
    fd_set readable, writable;
    int most = fds[0].fd > fds[1].fd ? fds[0].fd : fds[1].fd;

    FD_ZERO(&readable);
    FD_ZERO(&writable);
    for (int i = 0; i < 2; i++) {
        if (fds[i].events & POLLIN)
            FD_SET(fds[i].fd, &readable);
        if (fds[i].events & POLLOUT)
            FD_SET(fds[i].fd, &writable);
    }
    CHECK(evs_select(most + 1, &readable, &writable, NULL, &limit) > 0);
    for (int i = 0; i < 2; i++) {
        fds[i].revents = 0;
        if (FD_ISSET(fds[i].fd, &readable))
            fds[i].revents |= POLLIN;
        if (FD_ISSET(fds[i].fd, &writable))
            fds[i].revents |= POLLOUT;
    }
}

static void epoll_with(struct pollfd fds[2], int ours)
{
    struct epoll_event events[4];
    int n;

    for (int i = 0; i < 2; i++) {
        struct epoll_event event;

        memset(&event, 0, sizeof event);
        event.events = (uint32_t)fds[i].events;
        event.data.u32 = (uint32_t)i;
        fds[i].revents = 0;
        if (ours)
            CHECK(evs_epoll_ctl(set_of_epoll, EPOLL_CTL_MOD, fds[i].fd, &event) == 0);
        else
            CHECK(epoll_ctl(set_of_epoll, EPOLL_CTL_MOD, fds[i].fd, &event) == 0);
    }
    n = ours ? evs_epoll_wait(set_of_epoll, events, 4, WAIT_MS_MAX)
             : epoll_wait(set_of_epoll, events, 4, WAIT_MS_MAX);
    CHECK(n > 0 && n <= 2);
    for (int i = 0; i < n; i++)
        fds[events[i].data.u32].revents = (short)events[i].events;
}

static void plain_epoll(struct pollfd fds[2])
{
    epoll_with(fds, 0);
}

static void our_epoll(struct pollfd fds[2])
{
    epoll_with(fds, 1);
}

/* What the server has read and not yet sent back. */
static unsigned char held[8192];

/* -1: nothing now. */
static ssize_t attempt(ssize_t n)
{
    CHECK(n > 0 || (n == -1 && (errno == EAGAIN || errno == EINTR)));
    return n;
}

static void exchange(struct pair *pair, waiter wait_for)
{
    size_t sent = 0, back = 0, from = 0, to = 0;
    unsigned char buffer[8192];

    set_nonblocking(pair->client, 1);
    set_nonblocking(pair->server, 1);
    while (back < total) {
        struct pollfd fds[2];
        ssize_t n;

        memset(fds, 0, sizeof fds);
        fds[0].fd = pair->client;
        fds[0].events = (short)(POLLIN | (sent < total ? POLLOUT : 0));
        fds[1].fd = pair->server;
        fds[1].events = from < to ? POLLOUT : POLLIN;
        wait_for(fds);
        if (fds[0].revents & POLLOUT) {
            size_t len = total - sent < 5000 ? total - sent : 5000;

            for (size_t i = 0; i < len; i++)
                buffer[i] = pattern(sent + i);
            n = attempt(evs_send(pair->client, buffer, len, MSG_NOSIGNAL));
            sent += n > 0 ? (size_t)n : 0;
        }
        if (fds[1].revents & POLLIN && from == to) {
            n = attempt(evs_read(pair->server, held, sizeof held));
            from = 0;
            to = n > 0 ? (size_t)n : 0;
        }
        if (from < to) {
            n = attempt(evs_write(pair->server, held + from, to - from));
            from += n > 0 ? (size_t)n : 0;
        }
        if (fds[0].revents & POLLIN) {
            n = attempt(evs_recv(pair->client, buffer, sizeof buffer, 0));
            for (ssize_t i = 0; i < n; i++)
                CHECK(buffer[i] == pattern(back + (size_t)i));
            back += n > 0 ? (size_t)n : 0;
        }
    }
}

/* The plain calls on pumped descriptors, blocking. */
static void plain_calls(struct pair *pair)
{
    char buffer[6];

    set_nonblocking(pair->client, 0);
    set_nonblocking(pair->server, 0);
    CHECK(write(pair->client, "plain", 6) == 6);
    CHECK(recv(pair->server, buffer, 6, MSG_WAITALL) == 6);
    CHECK(memcmp(buffer, "plain", 6) == 0);
}

static void round_with(const char *name, int mode, waiter wait_for)
{
    evs_config *config = config_of(mode);
    struct pair pair = pair_of(config);
    struct epoll_event event;

    memset(&event, 0, sizeof event);
    set_of_epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(set_of_epoll >= 0);
    if (wait_for == plain_epoll || wait_for == our_epoll) {
        CHECK(evs_epoll_ctl(set_of_epoll, EPOLL_CTL_ADD, pair.client, &event) == 0);
        CHECK(evs_epoll_ctl(set_of_epoll, EPOLL_CTL_ADD, pair.server, &event) == 0);
    }
    exchange(&pair, wait_for);
    if (mode == EVS_MODE_PUMPED)
        plain_calls(&pair);
    CHECK(evs_close(set_of_epoll) == 0);
    pair_end(&pair);
    evs_config_free(config);
    printf("%s\n", name);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    begin();
    total = argc > 1 ? (size_t)atol(argv[1]) : 1000 * 1000;
    round_with("pumped, poll", EVS_MODE_PUMPED, plain_poll);
    round_with("pumped, epoll", EVS_MODE_PUMPED, plain_epoll);
    round_with("pumped, evs_poll", EVS_MODE_PUMPED, our_poll);
    round_with("pumped, evs_epoll", EVS_MODE_PUMPED, our_epoll);
    round_with("direct, evs_poll", EVS_MODE_DIRECT, our_poll);
    round_with("direct, evs_ppoll", EVS_MODE_DIRECT, our_ppoll);
    round_with("direct, evs_select", EVS_MODE_DIRECT, our_select);
    round_with("direct, evs_epoll", EVS_MODE_DIRECT, our_epoll);
    return 0;
}
