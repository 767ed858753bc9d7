/* What the C programs share: sockets on loopback, reading and writing whole messages. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHECK(what)                                                                           \
    do {                                                                                      \
        if (!(what)) {                                                                        \
            fprintf(stderr, "%s:%d: %s (errno %d: %s)\n", __FILE__, __LINE__, #what, errno,   \
                    strerror(errno));                                                         \
            _exit(1);                                                                         \
        }                                                                                     \
    } while (0)

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return addr;
}

static inline int connected(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in addr = loopback(port);
    CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0);
    return fd;
}

static inline int listening(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in addr = loopback(0);
    socklen_t len = sizeof addr;
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&addr, len) == 0 && listen(fd, 16) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&addr, &len) == 0);
    printf("%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    return fd;
}

static inline void put(int fd, const char *text) {
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static inline void expect(int fd, const char *text) {
    char buf[256];
    size_t len = strlen(text), done = 0;
    while (done < len) {
        ssize_t n = read(fd, buf + done, len - done);
        CHECK(n > 0);
        done += (size_t)n;
    }
    CHECK(memcmp(buf, text, len) == 0);
}

/* Tells the test that it may cut, and waits until it says that it has. */
static inline void cut(void) {
    char byte;
    printf("cut\n");
    fflush(stdout);
    CHECK(read(STDIN_FILENO, &byte, 1) == 1);
}
