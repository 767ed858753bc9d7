/* Calls that sleep are cancellation points, and a cancelled one leaves the socket as it was. */
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

enum call { READ, RECVMSG, WRITE, POLL, EPOLL, SELECT, ACCEPT, CALLS };

struct job {
    enum call call;
    struct pair *pair;
    int epfd;
    atomic_int thread;
};

static void *sleeper(void *argument)
{
    struct job *job = argument;
    struct pollfd entry = { job->pair->server, POLLIN, 0 };
    struct epoll_event event;
    static char big[1 << 20];
    char small[8];
    struct iovec vectors[2] = { { small, 4 }, { small + 4, 4 } };
    struct msghdr message;
    fd_set set;

    atomic_store(&job->thread, (int)syscall(SYS_gettid));
    switch (job->call) {
    case READ:
        evs_read(job->pair->server, small, sizeof small);
        break;
    case RECVMSG:
        memset(&message, 0, sizeof message);
        message.msg_iov = vectors;
        message.msg_iovlen = 2;
        evs_recvmsg(job->pair->server, &message, 0);
        break;
    case WRITE:
        /* Nobody reads: it sleeps when the window is full, if not before. */
        for (;;)
            evs_write(job->pair->client, big, sizeof big);
    case POLL:
        evs_poll(&entry, 1, -1);
        break;
    case EPOLL:
        evs_epoll_wait(job->epfd, &event, 1, -1);
        break;
    case SELECT:
        FD_ZERO(&set);
        FD_SET(job->pair->server, &set);
        evs_select(job->pair->server + 1, &set, NULL, NULL, NULL);
        break;
    default:
        evs_accept(job->pair->listener, NULL, NULL);
    }
    return NULL;
}

/* Waits until the thread sleeps, wherever. */
static void await_sleep(struct job *job)
{
    struct timespec pause = { 0, 1000000 };
    char path[64], text[256], *state;
    int slept = 0, tries;
    FILE *file;

    for (tries = 0; slept < 20; tries++) {
        CHECK(tries < WAIT_MS_MAX);
        nanosleep(&pause, NULL);
        if (atomic_load(&job->thread) == 0)
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", atomic_load(&job->thread));
        file = fopen(path, "r");
        CHECK(file != NULL);
        CHECK(fgets(text, sizeof text, file) != NULL);
        fclose(file);
        state = strrchr(text, ')');
        CHECK(state != NULL);
        slept = state[2] == 'S' ? slept + 1 : 0;
    }
}

static void cancelled(enum call call, struct pair *pair, int epfd)
{
    struct job job = { call, pair, epfd, 0 };
    char got[6] = "";
    pthread_t thread;
    void *result;

    CHECK(pthread_create(&thread, NULL, sleeper, &job) == 0);
    await_sleep(&job);
    CHECK(pthread_cancel(thread) == 0);
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
    if (call == WRITE)
        return;
    send_all(pair->client, "hello", 5);
    recv_all(pair->server, got, 5);
    CHECK(strcmp(got, "hello") == 0);
    send_all(pair->server, "there", 5);
    recv_all(pair->client, got, 5);
    CHECK(strcmp(got, "there") == 0);
}

static void with_mode(int mode)
{
    evs_config *config = config_of(mode);
    struct pair pair = pair_of(config);
    struct epoll_event event;
    int epfd = epoll_create1(EPOLL_CLOEXEC);
    char end = 0;
    int call;

    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    CHECK(evs_epoll_ctl(epfd, EPOLL_CTL_ADD, pair.server, &event) == 0);
    for (call = READ; call < CALLS; call++)
        if (call != WRITE)
            cancelled((enum call)call, &pair, epfd);
    cancelled(WRITE, &pair, epfd);
    CHECK(evs_close(epfd) == 0);
    /* What the cancelled writer had written arrives, and then the end. */
    CHECK(evs_shutdown(pair.client, SHUT_WR) == 0);
    for (;;) {
        static char rest[65536];
        ssize_t n = evs_read(pair.server, rest, sizeof rest);

        CHECK(n >= 0);
        if (n == 0)
            break;
        end = rest[n - 1];
    }
    CHECK(end == 0);
    pair_end(&pair);
    evs_config_free(config);
}

int main(void)
{
    begin();
    with_mode(EVS_MODE_DIRECT);
    with_mode(EVS_MODE_PUMPED);
    puts("ok");
    return 0;
}
