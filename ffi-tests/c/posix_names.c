/* eversock_posix.h with source that uses the plain names in all ways. */
#define _GNU_SOURCE
#include "eversock_posix.h"
#include "eversock_posix.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

struct transport {
    ssize_t (*read)(int, void *, size_t);
    ssize_t (*write)(int, const void *, size_t);
    int (*close)(int);
    int socket;
};

static const struct transport plain = { read, .write = write, .close = close, .socket = -1 };

int main(void)
{
    struct transport transport = plain;
    int pair[2];
    char byte = 0;

    if (evs_is_virtual(0))
        return 1;
    transport.socket = socket(AF_INET, SOCK_STREAM, 0);
    if (transport.socket < 0 || !evs_is_virtual(transport.socket))
        return 2;
    if (transport.close(transport.socket) != 0 || evs_is_virtual(transport.socket))
        return 3;
    /* What is not TCP stays what it was. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return 4;
    if ((write)(pair[0], "x", 1) != 1 || transport.read(pair[1], &byte, 1) != 1 || byte != 'x')
        return 5;
    if (close(pair[0]) != 0 || close(pair[1]) != 0 || close(pair[1]) != -1 || errno != EBADF)
        return 6;
    return 0;
}
