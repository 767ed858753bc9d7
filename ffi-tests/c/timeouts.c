/* Time-outs of options and of waits; the session is as it was afterwards. */
#include "test.h"

#include <sys/select.h>

/* Not too early, and not as if there were no time-out at all. */
static void took(long long since, int wanted)
{
    long long took = now_ms() - since;

    CHECK(took >= wanted - 1 && took < WAIT_MS_MAX);
}

static void with_mode(int mode)
{
    evs_config *config = config_of(mode);
    struct pair pair = pair_of(config);
    struct timeval short_time = { 0, 50000 };
    struct timespec short_spec = { 0, 50000000 };
    struct pollfd entry = { pair.server, POLLIN, 0 };
    struct epoll_event event;
    int epfd = epoll_create1(EPOLL_CLOEXEC);
    char *chunk = calloc(1, 65536);
    long long start;
    fd_set set;
    char byte = 0;
    ssize_t n;

    CHECK(chunk != NULL && epfd >= 0);
    CHECK(evs_setsockopt(pair.server, SOL_SOCKET, SO_RCVTIMEO, &short_time, sizeof short_time) == 0);
    start = now_ms();
    CHECK_FAILS(evs_recv(pair.server, &byte, 1, 0), EAGAIN);
    took(start, 50);
    start = now_ms();
    CHECK_FAILS(evs_recv(pair.server, &byte, 1, MSG_DONTWAIT), EAGAIN);
    start = now_ms();
    CHECK(evs_poll(&entry, 1, 50) == 0 && entry.revents == 0);
    took(start, 50);
    start = now_ms();
    CHECK(evs_ppoll(&entry, 1, &short_spec, NULL) == 0);
    took(start, 50);
    FD_ZERO(&set);
    FD_SET(pair.server, &set);
    start = now_ms();
    CHECK(evs_select(pair.server + 1, &set, NULL, NULL, &short_time) == 0);
    took(start, 50);
    CHECK(!FD_ISSET(pair.server, &set));
    CHECK(short_time.tv_sec == 0 && short_time.tv_usec == 0);
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    CHECK(evs_epoll_ctl(epfd, EPOLL_CTL_ADD, pair.server, &event) == 0);
    start = now_ms();
    CHECK(evs_epoll_wait(epfd, &event, 1, 50) == 0);
    took(start, 50);
    CHECK(evs_epoll_ctl(epfd, EPOLL_CTL_DEL, pair.server, NULL) == 0);
    CHECK(evs_close(epfd) == 0);

    /* Nobody reads: the window fills, and a write with a time-out ends. */
    short_time.tv_usec = 50000;
    CHECK(evs_setsockopt(pair.client, SOL_SOCKET, SO_SNDTIMEO, &short_time, sizeof short_time) == 0);
    for (long long limit = now_ms() + WAIT_MS_MAX;;) {
        CHECK(now_ms() < limit);
        n = evs_send(pair.client, chunk, 65536, MSG_NOSIGNAL);
        if (n < 0)
            break;
    }
    CHECK(errno == EAGAIN);
    entry.fd = pair.client;
    entry.events = POLLOUT;
    CHECK(evs_poll(&entry, 1, 20) == 0);

    /* The other way nothing is in the way. */
    send_all(pair.server, "t", 1);
    short_time.tv_sec = 30;
    CHECK(evs_setsockopt(pair.client, SOL_SOCKET, SO_RCVTIMEO, &short_time, sizeof short_time) == 0);
    recv_all(pair.client, &byte, 1);
    CHECK(byte == 't');
    pair_end(&pair);
    free(chunk);
    evs_config_free(config);
}

int main(void)
{
    begin();
    with_mode(EVS_MODE_DIRECT);
    with_mode(EVS_MODE_PUMPED);
    return 0;
}
