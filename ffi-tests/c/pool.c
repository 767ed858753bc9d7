/* Pools and shared listeners: many connections over one session, and every call that C has. */
#define EVERSOCK_DEDUP
#include "test.h"

#include <pthread.h>
#include <sys/time.h>

#define ADDRESSES 4
#define STREAMS 20

struct shared {
    evs_shared *listener;
    struct sockaddr_in addrs[ADDRESSES];
};

/* Four addresses of loopback, one port. */
static struct shared shared_of(void)
{
    const struct sockaddr *addrs[ADDRESSES];
    socklen_t lens[ADDRESSES], len;
    struct shared shared;
    size_t i;

    for (i = 0; i < ADDRESSES; i++) {
        shared.addrs[i] = loopback(0);
        shared.addrs[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK + (unsigned)i);
        addrs[i] = (const struct sockaddr *)&shared.addrs[i];
        lens[i] = sizeof shared.addrs[i];
    }
    shared.listener = evs_shared_listen(addrs, lens, ADDRESSES, NULL);
    CHECK(shared.listener != NULL);
    for (i = 0; i < ADDRESSES; i++) {
        len = sizeof shared.addrs[i];
        CHECK_STATUS(evs_shared_addr(shared.listener, i, (struct sockaddr *)&shared.addrs[i],
                                     &len), 0);
        CHECK(len == sizeof shared.addrs[i]);
        CHECK(shared.addrs[i].sin_port == shared.addrs[0].sin_port);
    }
    CHECK(shared.addrs[0].sin_port != 0);
    CHECK_STATUS(evs_shared_addr(shared.listener, ADDRESSES, (struct sockaddr *)&shared.addrs[0],
                                 &len), -ENOENT);
    return shared;
}

static int is_cloexec(int fd)
{
    int flags = fcntl(fd, F_GETFD);

    CHECK(flags >= 0);
    return (flags & FD_CLOEXEC) != 0;
}

static int is_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    CHECK(flags >= 0);
    return (flags & O_NONBLOCK) != 0;
}

/* One connection, both ends. */
struct ends {
    int client;
    int server;
};

static struct ends connect_to(evs_pool *pool, struct shared *shared, size_t which,
                              const evs_pool_options *options)
{
    struct sockaddr_in *addr = &shared->addrs[which];
    struct sockaddr_in requested;
    evs_accepted about;
    struct ends ends;

    ends.client = evs_pool_connect_addr(pool, (struct sockaddr *)addr, sizeof *addr, options,
                                        sizeof *options);
    CHECK(ends.client >= 0);
    CHECK(await(evs_shared_fd(shared->listener), POLLIN) & POLLIN);
    ends.server = evs_shared_accept(shared->listener, 0, &about, sizeof about);
    CHECK(ends.server >= 0);
    CHECK(ends.client < 200 && ends.server < 200);
    CHECK(about.is_shared == 1 && about.has_client_key == 0);
    CHECK(about.peer_len == sizeof(struct sockaddr_in));
    CHECK(about.requested_len == sizeof requested);
    memcpy(&requested, &about.requested, sizeof requested);
    CHECK(requested.sin_addr.s_addr == addr->sin_addr.s_addr);
    CHECK(requested.sin_port == addr->sin_port);
    CHECK(strcmp(about.service, options && options->service ? options->service : "") == 0);
    return ends;
}

/* Plain calls at one end, this header's at the other, and each direction ends by itself. */
static void talk(struct ends ends, int turn)
{
    char word[16], back[16];
    size_t len = (size_t)snprintf(word, sizeof word, "turn %d", turn);

    CHECK(write(ends.client, word, len) == (ssize_t)len);
    CHECK(await(ends.server, POLLIN) & POLLIN);
    recv_all(ends.server, back, len);
    CHECK(memcmp(word, back, len) == 0);
    CHECK(evs_write(ends.server, word, len) == (ssize_t)len);
    CHECK(evs_recv(ends.client, back, len, MSG_WAITALL) == (ssize_t)len);
    CHECK(memcmp(word, back, len) == 0);
}

static void end(struct ends ends)
{
    char byte;

    CHECK(evs_shutdown(ends.client, SHUT_WR) == 0);
    CHECK(evs_read(ends.server, &byte, 1) == 0);
    CHECK(evs_send(ends.server, "x", 1, MSG_NOSIGNAL) == 1);
    CHECK(shutdown(ends.server, SHUT_WR) == 0);
    CHECK(read(ends.client, &byte, 1) == 1 && byte == 'x');
    CHECK(read(ends.client, &byte, 1) == 0);
    CHECK(evs_close(ends.client) == 0);
    CHECK(close(ends.server) == 0);
}

static void many_streams_over_one_session(void)
{
    struct shared shared = shared_of();
    evs_pool *pool = evs_pool_new(NULL);
    struct ends ends[STREAMS];
    struct {
        evs_pool_row row;
        unsigned char more[24];
    } rows[STREAMS];
    evs_pool_options options;
    evs_pool_counts counts;
    uint64_t numbers[STREAMS];
    unsigned char earlier[24];

    CHECK(pool != NULL);
    CHECK_STATUS(evs_pool_rows(pool, NULL, sizeof rows[0].row, 0), 0);
    memset(&options, 0, sizeof options);
    options.application = "pool.c";
    for (int i = 0; i < STREAMS; i++) {
        options.management = &numbers[i];
        ends[i] = connect_to(pool, &shared, (size_t)i % ADDRESSES, &options);
        CHECK(!is_cloexec(ends[i].client) && !is_cloexec(ends[i].server));
        CHECK(!is_nonblocking(ends[i].client) && !is_nonblocking(ends[i].server));
        CHECK(!evs_is_virtual(ends[i].client));
        talk(ends[i], i);
    }
    CHECK_STATUS(evs_pool_rows(pool, NULL, sizeof rows[0], 0), STREAMS);
    /* A newer program's rows are larger, and it gets zeros. */
    memset(rows, 0xaa, sizeof rows);
    CHECK_STATUS(evs_pool_rows(pool, &rows[0].row, sizeof rows[0], STREAMS + 5), STREAMS);
    for (int i = 0; i < STREAMS; i++) {
        evs_pool_row *row = &rows[i].row;

        CHECK(row->management == numbers[i]);
        CHECK(row->references == STREAMS && row->state == EVS_ROW_ACTIVE && row->epoch >= 1);
        CHECK(i == 0 ? row->why == EVS_WHY_FIRST
                     : row->why == EVS_WHY_SHARED || row->why == EVS_WHY_LATE_MERGE);
        CHECK(memcmp(row->session, rows[0].row.session, sizeof row->session) == 0);
        CHECK(memcmp(row->server, rows[0].row.server, sizeof row->server) == 0);
        CHECK(strcmp(row->application, "pool.c") == 0);
        CHECK(strncmp(row->address, "127.0.0.", 8) == 0);
        CHECK(strncmp(row->requested, "127.0.0.", 8) == 0 && row->requested[8] == '1' + i % 4);
        CHECK(row->hops >= -1 && row->mtu >= -1 && row->rtt_us >= -1 && row->reserved == 0);
        for (size_t at = 0; at < sizeof rows[i].more; at++)
            CHECK(rows[i].more[at] == 0);
    }
    /* An older one's are smaller. */
    memset(earlier, 0xaa, sizeof earlier);
    CHECK_STATUS(evs_pool_rows(pool, (evs_pool_row *)(void *)earlier, 8, 2), STREAMS);
    CHECK(memcmp(earlier, &numbers[0], 8) == 0 && memcmp(earlier + 8, &numbers[1], 8) == 0);
    CHECK(earlier[16] == 0xaa && earlier[23] == 0xaa);

    CHECK_STATUS(evs_pool_metrics(pool, &counts, sizeof counts), 0);
    CHECK(counts.sessions == 1 && counts.opens == STREAMS && counts.sessions_opened == 1);
    CHECK(counts.sessions_saved == STREAMS - 1 && counts.refused[EVS_WHY_FIRST] <= 1);
    memset(earlier, 0xaa, sizeof earlier);
    CHECK_STATUS(evs_pool_metrics(pool, (evs_pool_counts *)(void *)earlier, 16), 0);
    CHECK(earlier[0] == 1 && earlier[8] == STREAMS && earlier[16] == 0xaa);

    CHECK_STATUS(evs_pool_migrate(pool, 1 << 30, (struct sockaddr *)&shared.addrs[1],
                                  sizeof shared.addrs[1]), -ENOENT);
    CHECK_STATUS(evs_pool_network_changed(pool), 0);
    for (int i = 0; i < STREAMS; i++) {
        talk(ends[i], i + 100);
        end(ends[i]);
    }
    CHECK_STATUS(evs_pool_free(pool), 0);
    CHECK_STATUS(evs_shared_free(shared.listener), 0);
}

static void flags_names_and_services(void)
{
    struct shared shared = shared_of();
    struct sockaddr_in source = loopback(0);
    evs_pool_config *config = evs_pool_config_new();
    evs_pool *pool;
    evs_pool_options options;
    struct ends ends;
    char port[8];
    int server;

    CHECK(config != NULL);
    CHECK_STATUS(evs_pool_config_set_ask(config, 0), 0);
    CHECK_STATUS(evs_pool_config_set_migrate(config, 0), 0);
    pool = evs_pool_new(config);
    CHECK(pool != NULL);
    evs_pool_config_free(config);
    memset(&options, 0, sizeof options);
    options.service = "mail";
    options.tag = "a tag";
    options.flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
    options.timeout_ms = WAIT_MS_MAX;
    options.source = (struct sockaddr *)&source;
    options.source_len = sizeof source;
    ends = connect_to(pool, &shared, 0, &options);
    CHECK(is_cloexec(ends.client) && is_nonblocking(ends.client));
    CHECK_FAILS(evs_shared_accept(shared.listener, SOCK_NONBLOCK, NULL, 0), EAGAIN);
    set_nonblocking(ends.client, 0);
    talk(ends, 1);
    end(ends);

    snprintf(port, sizeof port, "%d", ntohs(shared.addrs[0].sin_port));
    ends.client = evs_pool_connect(pool, "127.0.0.1", port, NULL, 0);
    CHECK(ends.client >= 0);
    CHECK(await(evs_shared_fd(shared.listener), POLLIN) & POLLIN);
    server = evs_shared_accept(shared.listener, SOCK_NONBLOCK | SOCK_CLOEXEC, NULL, 0);
    CHECK(server >= 0 && is_cloexec(server) && is_nonblocking(server));
    set_nonblocking(server, 0);
    ends.server = server;
    talk(ends, 2);
    end(ends);
    CHECK_FAILS(evs_pool_connect(pool, "no-such-name.invalid", port, NULL, 0), ENOENT);

    CHECK_STATUS(evs_shared_misdirect(shared.listener, "mail", 1), 0);
    CHECK_STATUS(evs_shared_misdirect(shared.listener, "mail", 0), 0);
    CHECK_STATUS(evs_shared_announce(shared.listener, NULL, NULL, 0), 0);
    CHECK_STATUS(evs_shared_go_away(shared.listener, 7), 0);
    CHECK_STATUS(evs_pool_free(pool), 0);
    CHECK_STATUS(evs_shared_free(shared.listener), 0);
}

static void null_and_nonsense(void)
{
    struct shared shared = shared_of();
    struct sockaddr *any = (struct sockaddr *)&shared.addrs[0];
    const struct sockaddr *addrs[17];
    socklen_t lens[17], len = sizeof shared.addrs[0];
    evs_pool_config *config = evs_pool_config_new();
    evs_config *session = evs_config_new();
    evs_pool *pool = evs_pool_new(NULL);
    struct {
        evs_pool_options known;
        unsigned char more[8];
    } options;
    evs_weights weights = { 1, 1, 1, 1, 1, 1, 1 };
    evs_pool_row row;
    evs_pool_counts counts;
    evs_accepted about;

    evs_pool_config_free(NULL);
    CHECK_STATUS(evs_pool_config_set_session(NULL, session), -EFAULT);
    CHECK_STATUS(evs_pool_config_set_session(config, NULL), -EFAULT);
    CHECK_STATUS(evs_pool_config_set_session(config, session), 0);
    CHECK_STATUS(evs_pool_config_set_linger(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_pool_config_set_linger(config, UINT64_MAX), -EINVAL);
    CHECK_STATUS(evs_pool_config_set_linger(config, 0), 0);
    CHECK_STATUS(evs_pool_config_set_streams_max(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_pool_config_set_streams_max(config, 0), -EINVAL);
    CHECK_STATUS(evs_pool_config_set_streams_max(config, 16385), -EINVAL);
    CHECK_STATUS(evs_pool_config_set_streams_max(config, 16384), 0);
    CHECK_STATUS(evs_pool_config_set_sessions_max(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_pool_config_set_sessions_max(config, 0), -EINVAL);
    CHECK_STATUS(evs_pool_config_set_sessions_max(config, UINT32_MAX), 0);
    CHECK_STATUS(evs_pool_config_set_ask(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_pool_config_set_migrate(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_pool_config_set_weights(NULL, &weights, sizeof weights), -EFAULT);
    CHECK_STATUS(evs_pool_config_set_weights(config, NULL, sizeof weights), -EFAULT);
    CHECK_STATUS(evs_pool_config_set_weights(config, &weights, 0), -EINVAL);
    CHECK_STATUS(evs_pool_config_set_weights(config, &weights, 8), 0);
    CHECK_STATUS(evs_pool_config_set_weights(config, &weights, sizeof weights), 0);
    weights.loss = -1;
    CHECK_STATUS(evs_pool_config_set_weights(config, &weights, sizeof weights), -EINVAL);

    CHECK_STATUS(evs_pool_free(NULL), 0);
    memset(&options, 0, sizeof options);
    CHECK_FAILS(evs_pool_connect(NULL, "127.0.0.1", "1", NULL, 0), EFAULT);
    CHECK_FAILS(evs_pool_connect(pool, NULL, "1", NULL, 0), EFAULT);
    CHECK_FAILS(evs_pool_connect(pool, "127.0.0.1", NULL, NULL, 0), EFAULT);
    CHECK_FAILS(evs_pool_connect(pool, "127.0.0.1", "http", NULL, 0), EINVAL);
    CHECK_FAILS(evs_pool_connect(pool, "127.0.0.1", "65536", NULL, 0), EINVAL);
    CHECK_FAILS(evs_pool_connect(pool, "\xff", "1", NULL, 0), EILSEQ);
    CHECK_FAILS(evs_pool_connect_addr(NULL, any, len, NULL, 0), EFAULT);
    CHECK_FAILS(evs_pool_connect_addr(pool, NULL, len, NULL, 0), EFAULT);
    CHECK_FAILS(evs_pool_connect_addr(pool, any, 3, NULL, 0), EINVAL);
    CHECK_FAILS(evs_pool_connect_addr(pool, any, len, &options.known, 0), EINVAL);
    options.more[0] = 1;
    CHECK_FAILS(evs_pool_connect_addr(pool, any, len, &options.known, sizeof options), E2BIG);
    options.more[0] = 0;
    options.known.flags = 1;
    CHECK_FAILS(evs_pool_connect_addr(pool, any, len, &options.known, sizeof options), EINVAL);
    options.known.flags = 0;
    options.known.timeout_ms = -1;
    CHECK_FAILS(evs_pool_connect_addr(pool, any, len, &options.known, sizeof options), EINVAL);
    options.known.timeout_ms = 0;
    options.known.reserved = 1;
    CHECK_FAILS(evs_pool_connect_addr(pool, any, len, &options.known, sizeof options), EINVAL);
    options.known.reserved = 0;
    options.known.tag = "\xff";
    CHECK_FAILS(evs_pool_connect_addr(pool, any, len, &options.known, sizeof options), EILSEQ);
    options.known.tag = NULL;
    options.known.service = "a name of more than thirty-two bytes";
    CHECK_FAILS(evs_pool_connect_addr(pool, any, len, &options.known, sizeof options), EINVAL);
    options.known.service = NULL;
    options.known.source = any;
    CHECK_FAILS(evs_pool_connect_addr(pool, any, len, &options.known, sizeof options), EINVAL);
    CHECK_STATUS(evs_pool_rows(NULL, &row, sizeof row, 1), -EFAULT);
    CHECK_STATUS(evs_pool_rows(pool, &row, 0, 1), -EINVAL);
    CHECK_STATUS(evs_pool_rows(pool, NULL, SIZE_MAX, SIZE_MAX), 0);
    CHECK_STATUS(evs_pool_metrics(NULL, &counts, sizeof counts), -EFAULT);
    CHECK_STATUS(evs_pool_metrics(pool, NULL, sizeof counts), -EFAULT);
    CHECK_STATUS(evs_pool_metrics(pool, &counts, 0), -EINVAL);
    CHECK_STATUS(evs_pool_migrate(NULL, 1, any, len), -EFAULT);
    CHECK_STATUS(evs_pool_migrate(pool, 1, NULL, len), -EFAULT);
    CHECK_STATUS(evs_pool_migrate(pool, 1, any, len), -ENOENT);
    CHECK_STATUS(evs_pool_network_changed(NULL), -EFAULT);
    CHECK_STATUS(evs_pool_network_changed(pool), 0);

    for (size_t i = 0; i < 17; i++) {
        addrs[i] = any;
        lens[i] = len;
    }
    errno = 0;
    CHECK(evs_shared_listen(addrs, lens, 17, NULL) == NULL && errno == EINVAL);
    CHECK(evs_shared_listen(addrs, lens, 0, NULL) == NULL && errno == EINVAL);
    CHECK(evs_shared_listen(NULL, lens, 1, NULL) == NULL && errno == EFAULT);
    CHECK(evs_shared_listen(addrs, NULL, 1, NULL) == NULL && errno == EFAULT);
    CHECK(evs_shared_listen(addrs, lens, 1, NULL) == NULL && errno == EADDRINUSE);
    CHECK_STATUS(evs_shared_free(NULL), 0);
    CHECK_STATUS(evs_shared_fd(NULL), -EFAULT);
    CHECK_STATUS(evs_shared_addr(NULL, 0, any, &len), -EFAULT);
    CHECK_STATUS(evs_shared_addr(shared.listener, 0, any, NULL), -EFAULT);
    CHECK_STATUS(evs_shared_addr(shared.listener, 0, NULL, &len), -EFAULT);
    CHECK_FAILS(evs_shared_accept(NULL, 0, NULL, 0), EFAULT);
    CHECK_FAILS(evs_shared_accept(shared.listener, SOCK_STREAM, NULL, 0), EINVAL);
    CHECK_FAILS(evs_shared_accept(shared.listener, SOCK_NONBLOCK, &about, 0), EINVAL);
    CHECK_FAILS(evs_shared_accept(shared.listener, SOCK_NONBLOCK, &about, sizeof about), EAGAIN);
    CHECK_STATUS(evs_shared_announce(NULL, addrs, lens, 1), -EFAULT);
    CHECK_STATUS(evs_shared_announce(shared.listener, NULL, lens, 1), -EFAULT);
    CHECK_STATUS(evs_shared_announce(shared.listener, addrs, lens, 17), -EINVAL);
    CHECK_STATUS(evs_shared_go_away(NULL, 0), -EFAULT);
    CHECK_STATUS(evs_shared_misdirect(NULL, "x", 1), -EFAULT);
    CHECK_STATUS(evs_shared_misdirect(shared.listener, NULL, 1), -EFAULT);
    CHECK_STATUS(evs_shared_misdirect(shared.listener, "\xff", 1), -EILSEQ);
    CHECK_STATUS(evs_shared_misdirect(shared.listener, "a name of more than thirty-two bytes", 1),
                 -EINVAL);
    evs_config_free(session);
    evs_pool_config_free(config);
    CHECK_STATUS(evs_pool_free(pool), 0);
    CHECK_STATUS(evs_shared_free(shared.listener), 0);
}

/* The listener is its parent's: a child is told, and does not wait for ever. */
static void a_child_of_a_fork_has_no_listener(void)
{
    struct shared shared = shared_of();
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK_STATUS(evs_shared_fd(shared.listener), -ESHUTDOWN);
        CHECK_FAILS(evs_shared_accept(shared.listener, 0, NULL, 0), ESHUTDOWN);
        CHECK_STATUS(evs_shared_announce(shared.listener, NULL, NULL, 0), -ESHUTDOWN);
        CHECK_STATUS(evs_shared_free(shared.listener), 0);
        _exit(0);
    }
    reap(pid);
    CHECK_FAILS(evs_shared_accept(shared.listener, SOCK_NONBLOCK, NULL, 0), EAGAIN);
    CHECK_STATUS(evs_shared_free(shared.listener), 0);
}

static void interrupted(int number)
{
    (void)number;
}

/* A signal ends the wait of an accept, as of any other. */
static void a_signal_ends_a_wait(void)
{
    struct shared shared = shared_of();
    struct sigaction action;
    struct itimerval every = { { 0, 20000 }, { 0, 20000 } }, never = { { 0, 0 }, { 0, 0 } };

    memset(&action, 0, sizeof action);
    action.sa_handler = interrupted;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
    CHECK_FAILS(evs_shared_accept(shared.listener, 0, NULL, 0), EINTR);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    signal(SIGALRM, SIG_DFL);
    alarm(TEST_SECONDS_MAX);
    CHECK_STATUS(evs_shared_free(shared.listener), 0);
}

static void *accepts(void *listener)
{
    evs_shared_accept(listener, 0, NULL, 0);
    return NULL;
}

struct job {
    evs_pool *pool;
    struct shared *shared;
    int fd;
};

/* Cancelled beforehand: what is no cancellation point is done whole, and none of it unwound. */
static void *connects(void *argument)
{
    struct job *job = argument;
    struct sockaddr_in *addr = &job->shared->addrs[0];

    pthread_cancel(pthread_self());
    job->fd = evs_pool_connect_addr(job->pool, (struct sockaddr *)addr, sizeof *addr, NULL, 0);
    pthread_testcancel();
    return NULL;
}

static void cancelled_threads(void)
{
    struct shared shared = shared_of();
    struct job job = { evs_pool_new(NULL), &shared, -1 };
    pthread_t thread;
    struct ends ends;
    void *result;

    CHECK(job.pool != NULL);
    CHECK(pthread_create(&thread, NULL, accepts, shared.listener) == 0);
    CHECK(pthread_cancel(thread) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    CHECK(pthread_create(&thread, NULL, connects, &job) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    CHECK(job.fd >= 0);
    ends.client = job.fd;
    ends.server = evs_shared_accept(shared.listener, 0, NULL, 0);
    CHECK(ends.server >= 0);
    talk(ends, 1);
    end(ends);
    CHECK_STATUS(evs_pool_free(job.pool), 0);
    CHECK_STATUS(evs_shared_free(shared.listener), 0);
}

int main(void)
{
    begin();
    cancelled_threads();
    null_and_nonsense();
    flags_names_and_services();
    many_streams_over_one_session();
    a_child_of_a_fork_has_no_listener();
    a_signal_ends_a_wait();
    return 0;
}
