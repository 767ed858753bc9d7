/*
 * A classic non-blocking echo server: one thread, epoll, a buffer for each client.
 *
 *     epoll_server [PORT]
 *
 * Plain POSIX and Linux. It is compiled as it is for plain TCP, and with one more argument for the
 * compiler for connections that survive (see the Makefile).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 64

struct client {
    int fd;
    int at_end;
    size_t from;
    size_t to;
    char buffer[65536];
};

static int die(const char *what)
{
    perror(what);
    return EXIT_FAILURE;
}

static void drop(struct client *client)
{
    close(client->fd);
    free(client);
}

/* Reads and writes as long as it goes; -1 when the client is done with. */
static int serve(struct client *client)
{
    for (;;) {
        ssize_t n;

        while (client->from < client->to) {
            n = write(client->fd, client->buffer + client->from, client->to - client->from);
            if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -1;
            client->from += (size_t)n;
        }
        if (client->at_end)
            return -1;
        n = read(client->fd, client->buffer, sizeof client->buffer);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR ? 0 : -1;
        client->from = 0;
        client->to = (size_t)n;
        client->at_end = n == 0;
    }
}

static void welcome(int epfd, int listener)
{
    for (;;) {
        struct epoll_event event;
        struct client *client;
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0)
            return;
        client = calloc(1, sizeof *client);
        if (client == NULL) {
            close(fd);
            return;
        }
        client->fd = fd;
        memset(&event, 0, sizeof event);
        event.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP;
        event.data.ptr = client;
        if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) < 0)
            drop(client);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in addr;
    socklen_t len = sizeof addr;
    struct epoll_event event, events[EVENTS];
    int epfd, listener, on = 1;

    signal(SIGPIPE, SIG_IGN);
    memset(&addr, 0, sizeof addr);
    addr.sin_family = AF_INET;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.sin_port = htons((unsigned short)(argc > 1 ? atoi(argv[1]) : 7007));
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0)
        return die("socket");
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        return die("setsockopt");
    if (bind(listener, (struct sockaddr *)&addr, sizeof addr) < 0)
        return die("bind");
    if (listen(listener, SOMAXCONN) < 0)
        return die("listen");
    if (getsockname(listener, (struct sockaddr *)&addr, &len) < 0)
        return die("getsockname");
    epfd = epoll_create1(EPOLL_CLOEXEC);
    if (epfd < 0)
        return die("epoll_create1");
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    event.data.ptr = NULL;
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &event) < 0)
        return die("epoll_ctl");
    printf("listening on port %d\n", ntohs(addr.sin_port));
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epfd, events, EVENTS, -1);

        if (n < 0 && errno != EINTR)
            return die("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct client *client = events[i].data.ptr;

            if (client == NULL)
                welcome(epfd, listener);
            else if (serve(client) < 0)
                drop(client);
        }
    }
}
