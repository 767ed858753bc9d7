/*
 * An echo server whose conversations survive their connections.
 *
 *     echo_server [PORT]
 *
 * Says where it listens, then serves one client after the other. Cut the connection as you like:
 * the client comes back and both go on where they were.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eversock.h"

static int die(const char *what)
{
    fprintf(stderr, "echo_server: %s: %s\n", what, evs_strerror(errno));
    return EXIT_FAILURE;
}

static void serve(int fd)
{
    char buffer[65536];
    ssize_t got;

    while ((got = evs_recv(fd, buffer, sizeof buffer, 0)) > 0) {
        ssize_t at = 0;

        while (at < got) {
            ssize_t sent = evs_send(fd, buffer + at, (size_t)(got - at), MSG_NOSIGNAL);

            if (sent < 0) {
                die("send");
                return;
            }
            at += sent;
        }
    }
    if (got < 0)
        die("recv");
}

int main(int argc, char **argv)
{
    struct sockaddr_in addr;
    socklen_t len = sizeof addr;
    int listener, fd, on = 1;

    memset(&addr, 0, sizeof addr);
    addr.sin_family = AF_INET;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.sin_port = htons((unsigned short)(argc > 1 ? atoi(argv[1]) : 7007));
    listener = evs_socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0)
        return die("socket");
    if (evs_setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        return die("setsockopt");
    if (evs_bind(listener, (struct sockaddr *)&addr, sizeof addr) < 0)
        return die("bind");
    if (evs_listen(listener, 16) < 0)
        return die("listen");
    if (evs_getsockname(listener, (struct sockaddr *)&addr, &len) < 0)
        return die("getsockname");
    printf("listening on port %d\n", ntohs(addr.sin_port));
    fflush(stdout);
    for (;;) {
        fd = evs_accept(listener, NULL, NULL);
        if (fd < 0 && errno != EINTR)
            return die("accept");
        if (fd >= 0) {
            serve(fd);
            evs_close(fd);
        }
    }
}
