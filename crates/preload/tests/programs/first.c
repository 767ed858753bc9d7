/* A library whose constructor is run before the program, and perhaps before the preload's own: it has
 * a session with the echo server on $PORT. */
#include "waits.h"
#include <fcntl.h>

static __attribute__((constructor)) void first(void) {
    int pair[2], file = open("/dev/null", O_RDWR);
    int fd = connected(atoi(getenv("PORT")));
    put(fd, "first");
    CHECK(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 20000) == 1);
    expect(fd, "first");
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(close(fd) == 0 && close(file) == 0 && close(pair[0]) == 0 && close(pair[1]) == 0);
}
