/*
 * One session for eight connections to a server with four addresses.
 *
 *     pool
 *
 * Server and client are in one process here, and could be anywhere: the client knows the addresses,
 * and finds out that they are one server's. It says a word on each connection, prints the pool's
 * table, and ends.
 */
#define EVERSOCK_DEDUP
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eversock.h"

#define ADDRESSES 4
#define CONNECTIONS 8

static const char *const states[] = { "waiting", "active", "recovering", "draining", "dead" };

static int die(const char *what, int error)
{
    fprintf(stderr, "pool: %s: %s\n", what, evs_strerror(error));
    return EXIT_FAILURE;
}

/* 127.0.0.1 to 127.0.0.4, one port. */
static evs_shared *serve(struct sockaddr_in addrs[ADDRESSES])
{
    const struct sockaddr *all[ADDRESSES];
    socklen_t lens[ADDRESSES], len;
    evs_shared *shared;
    size_t i;

    for (i = 0; i < ADDRESSES; i++) {
        memset(&addrs[i], 0, sizeof addrs[i]);
        addrs[i].sin_family = AF_INET;
        addrs[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK + (unsigned)i);
        all[i] = (const struct sockaddr *)&addrs[i];
        lens[i] = sizeof addrs[i];
    }
    shared = evs_shared_listen(all, lens, ADDRESSES, NULL);
    for (i = 0; shared != NULL && i < ADDRESSES; i++) {
        len = sizeof addrs[i];
        evs_shared_addr(shared, i, (struct sockaddr *)&addrs[i], &len);
    }
    return shared;
}

static int print_table(evs_pool *pool)
{
    evs_pool_row rows[CONNECTIONS];
    evs_pool_counts counts;
    int n = evs_pool_rows(pool, rows, sizeof rows[0], CONNECTIONS);

    if (n < 0)
        return die("rows", n);
    printf("%-4s %-12s %-22s %-22s %-10s %s\n", "no", "application", "requested", "address",
           "state", "references");
    for (int i = 0; i < n && i < CONNECTIONS; i++)
        printf("%-4llu %-12s %-22s %-22s %-10s %u\n", (unsigned long long)rows[i].management,
               rows[i].application, rows[i].requested, rows[i].address, states[rows[i].state],
               rows[i].references);
    n = evs_pool_metrics(pool, &counts, sizeof counts);
    if (n < 0)
        return die("metrics", n);
    printf("%llu connections, %llu session%s\n", (unsigned long long)counts.opens,
           (unsigned long long)counts.sessions, counts.sessions == 1 ? "" : "s");
    return 0;
}

int main(void)
{
    struct sockaddr_in addrs[ADDRESSES];
    int clients[CONNECTIONS], servers[CONNECTIONS], result;
    evs_pool_options options;
    evs_shared *shared = serve(addrs);
    evs_pool *pool = evs_pool_new(NULL);

    if (shared == NULL || pool == NULL)
        return die("start", errno);
    memset(&options, 0, sizeof options);
    options.application = "example";
    options.flags = SOCK_CLOEXEC;
    for (int i = 0; i < CONNECTIONS; i++) {
        const struct sockaddr *to = (const struct sockaddr *)&addrs[i % ADDRESSES];
        char word[6] = "";

        clients[i] = evs_pool_connect_addr(pool, to, sizeof addrs[0], &options, sizeof options);
        if (clients[i] < 0)
            return die("connect", errno);
        servers[i] = evs_shared_accept(shared, SOCK_CLOEXEC, NULL, 0);
        if (servers[i] < 0)
            return die("accept", errno);
        /* Ordinary descriptors: any call works on them. */
        if (write(clients[i], "hello", 5) != 5 || evs_recv(servers[i], word, 5, MSG_WAITALL) != 5)
            return die("talk", errno);
    }
    result = print_table(pool);
    for (int i = 0; i < CONNECTIONS; i++) {
        close(clients[i]);
        close(servers[i]);
    }
    evs_pool_free(pool);
    evs_shared_free(shared);
    return result;
}
