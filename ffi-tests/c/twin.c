/*
 * Plain POSIX, with no word of eversock. Compiled against libc and, with eversock_posix.h in front,
 * against eversock; both must print the same. So it prints nothing that may differ between two runs
 * of the same program: no ports, no descriptors, no sizes of kernel buffers, no times.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define LONG_MS 20000

static const char *section = "";

/* Nonsense that the compiler must not see through. */
static volatile int minus_one = -1, too_many = 1025;
static void *volatile nowhere = NULL;

static void show(const char *what, long result)
{
    int error = errno;

    printf("%s: %s = %ld", section, what, result);
    if (result == -1)
        printf(" %s", strerrorname_np(error));
    printf("\n");
    fflush(stdout);
}

/* What a call gives, and errno if it fails. */
#define SHOW(call)                      \
    do {                                \
        errno = 0;                      \
        show(#call, (long)(call));      \
    } while (0)

/* A condition that must come true in time. */
#define EVENTUALLY(condition)                                               \
    do {                                                                    \
        int left_ = LONG_MS;                                                \
        while (!(condition) && left_-- > 0)                                 \
            usleep(1000);                                                   \
        printf("%s: eventually " #condition "%s\n", section, left_ > 0 ? "" : ": NO"); \
        fflush(stdout);                                                     \
    } while (0)

static struct sockaddr_in where;
static socklen_t where_len = sizeof where;
static int listener, client, server;

#define WHERE ((struct sockaddr *)&where), where_len

static short polled(int fd, short events, int ms)
{
    struct pollfd entry = { fd, events, 0 };

    return poll(&entry, 1, ms) < 0 ? -1 : entry.revents;
}

static int waiting(int fd)
{
    int n = -1;

    return ioctl(fd, FIONREAD, &n) < 0 ? -1 : n;
}

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof value;

    if (getsockopt(fd, level, name, &value, &len) < 0)
        return -1;
    return len == sizeof value ? value : -2;
}

static int set_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value);
}

static int error_of(int fd)
{
    return option(fd, SOL_SOCKET, SO_ERROR);
}

static void open_listener(void)
{
    memset(&where, 0, sizeof where);
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(set_option(listener, SOL_SOCKET, SO_REUSEADDR, 1));
    SHOW(bind(listener, WHERE));
    SHOW(listen(listener, 8));
    SHOW(getsockname(listener, (struct sockaddr *)&where, &where_len));
}

static void open_pair(void)
{
    open_listener();
    client = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(connect(client, WHERE));
    server = accept(listener, NULL, NULL);
    SHOW(server >= 0);
}

static void close_all(void)
{
    SHOW(close(client));
    SHOW(close(server));
    SHOW(close(listener));
}

static void fresh(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_storage any;
    socklen_t len = sizeof any;
    char byte = 0;

    section = "fresh";
    SHOW(option(fd, SOL_SOCKET, SO_TYPE));
    SHOW(option(fd, SOL_SOCKET, SO_DOMAIN));
    SHOW(option(fd, SOL_SOCKET, SO_PROTOCOL));
    SHOW(option(fd, SOL_SOCKET, SO_ACCEPTCONN));
    SHOW(option(fd, IPPROTO_TCP, TCP_NODELAY));
    SHOW(error_of(fd));
    SHOW(fcntl(fd, F_GETFL) & O_NONBLOCK);
    SHOW(fcntl(fd, F_GETFD));
    SHOW(getpeername(fd, (struct sockaddr *)&any, &len));
    SHOW(getsockname(fd, (struct sockaddr *)&any, &len));
    SHOW(len);
    SHOW(recv(fd, &byte, 1, 0));
    SHOW(read(fd, &byte, 1));
    SHOW(send(fd, "x", 1, MSG_NOSIGNAL));
    SHOW(accept(fd, NULL, NULL));
    SHOW(polled(fd, POLLIN | POLLOUT, 0));
    SHOW(shutdown(fd, SHUT_RDWR));
    SHOW(connect(fd, nowhere, 16));
    SHOW(connect(fd, (struct sockaddr *)&where, 1));
    SHOW(bind(fd, nowhere, 16));
    SHOW(bind(fd, (struct sockaddr *)&where, 8));
    SHOW(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, "x", 1));
    SHOW(setsockopt(fd, SOL_SOCKET, 4711, &len, sizeof len));
    SHOW(close(fd));
    SHOW(close(fd));
    SHOW(socket(AF_INET, 99, 0));
    SHOW(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
}

static void listening(void)
{
    struct sockaddr_in other = where;
    struct sockaddr_in seen;
    socklen_t len = sizeof seen;
    char byte = 0;
    int fd;

    section = "listening";
    open_listener();
    other = where;
    SHOW(option(listener, SOL_SOCKET, SO_ACCEPTCONN));
    SHOW(option(listener, SOL_SOCKET, SO_TYPE));
    SHOW(polled(listener, POLLIN, 0));
    SHOW(recv(listener, &byte, 1, 0));
    SHOW(send(listener, "x", 1, MSG_NOSIGNAL));
    SHOW(getpeername(listener, (struct sockaddr *)&seen, &len));
    SHOW(listen(listener, 4));
    SHOW(fcntl(listener, F_SETFL, O_RDWR | O_NONBLOCK));
    SHOW(accept(listener, NULL, NULL));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(bind(fd, (struct sockaddr *)&other, sizeof other));
    SHOW(connect(fd, WHERE));
    SHOW(polled(listener, POLLIN, LONG_MS));
    client = accept4(listener, (struct sockaddr *)&seen, &len, SOCK_NONBLOCK);
    SHOW(client >= 0);
    SHOW(len);
    SHOW(seen.sin_family);
    SHOW(seen.sin_addr.s_addr == where.sin_addr.s_addr);
    SHOW((fcntl(client, F_GETFL) & O_NONBLOCK) != 0);
    SHOW(fcntl(client, F_GETFD));
    SHOW(accept4(listener, NULL, NULL, 4711));
    SHOW(close(fd));
    SHOW(close(client));
    SHOW(close(listener));
}

static void refused(void)
{
    int fd;

    section = "refused";
    open_listener();
    SHOW(close(listener));
    usleep(100000);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(connect(fd, WHERE));
    SHOW(close(fd));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SHOW(connect(fd, WHERE));
    SHOW((polled(fd, POLLOUT, LONG_MS) & POLLOUT) != 0);
    SHOW(error_of(fd));
    SHOW(error_of(fd));
    SHOW(close(fd));
}

static void without_blocking(void)
{
    char byte = 0;

    section = "non-blocking";
    open_listener();
    client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    SHOW(fcntl(client, F_GETFD));
    SHOW(connect(client, WHERE));
    SHOW(polled(client, POLLOUT, LONG_MS));
    SHOW(error_of(client));
    SHOW(connect(client, WHERE) == 0 || errno == EISCONN);
    SHOW(connect(client, WHERE));
    server = accept(listener, NULL, NULL);
    SHOW(server >= 0);
    SHOW(fcntl(server, F_GETFL) & O_NONBLOCK);
    SHOW(recv(client, &byte, 1, 0));
    SHOW(recv(server, &byte, 1, MSG_DONTWAIT));
    SHOW(polled(client, POLLIN, 0));
    SHOW(polled(client, POLLIN | POLLOUT, 0));
    SHOW(send(server, "x", 1, 0));
    SHOW(polled(client, POLLIN, LONG_MS));
    SHOW(recv(client, &byte, 1, 0));
    SHOW(byte);
    close_all();
}

static void data(void)
{
    struct sockaddr_storage from;
    socklen_t from_len = sizeof from;
    char buffer[64], second[8];
    struct iovec parts[3] = { { buffer, 3 }, { second, 0 }, { second, 4 } };
    struct msghdr message;

    section = "data";
    open_pair();
    memset(buffer, 0, sizeof buffer);
    SHOW(send(client, "hello, world", 12, 0));
    EVENTUALLY(waiting(server) == 12);
    SHOW(recv(server, buffer, 5, MSG_PEEK));
    SHOW(memcmp(buffer, "hello", 5));
    SHOW(waiting(server));
    SHOW(read(server, buffer, 7));
    SHOW(waiting(server));
    SHOW(polled(server, POLLIN | POLLOUT, 0));
    SHOW(recv(server, buffer, sizeof buffer, 0));
    SHOW(memcmp(buffer, "world", 5));
    SHOW(waiting(server));
    SHOW(polled(server, POLLIN | POLLOUT, 0));
    SHOW(recv(server, buffer, 1, MSG_DONTWAIT));
    SHOW(recv(server, buffer, 0, MSG_DONTWAIT));
    SHOW(send(client, nowhere, 0, 0));
    SHOW(send(client, nowhere, 5, 0));
    SHOW(write(client, "abcdefg", 7));
    SHOW(recv(server, buffer, 7, MSG_WAITALL));
    SHOW(writev(server, parts, 3));
    SHOW(recv(client, buffer, 7, MSG_WAITALL));
    SHOW(memcmp(buffer, "abc", 3));
    SHOW(writev(server, parts, 0));
    SHOW(writev(server, parts, minus_one));
    SHOW(writev(server, parts, too_many));
    SHOW(readv(server, parts, 0));
    SHOW(write(client, "0123456", 7));
    EVENTUALLY(waiting(server) == 7);
    memset(second, 0, sizeof second);
    SHOW(readv(server, parts, 3));
    SHOW(memcmp(buffer, "012", 3) || memcmp(second, "3456", 4));
    memset(&message, 0, sizeof message);
    message.msg_iov = parts;
    message.msg_iovlen = 3;
    SHOW(sendmsg(client, &message, MSG_NOSIGNAL));
    EVENTUALLY(waiting(server) == 7);
    message.msg_name = &from;
    message.msg_namelen = sizeof from;
    message.msg_control = second;
    SHOW(recvmsg(server, &message, 0));
    SHOW(message.msg_namelen);
    SHOW(message.msg_controllen);
    SHOW(message.msg_flags);
    message.msg_iovlen = 1025;
    SHOW(sendmsg(client, &message, 0));
    SHOW(sendto(client, "to", 2, 0, WHERE));
    SHOW(recvfrom(server, buffer, 2, MSG_WAITALL, (struct sockaddr *)&from, &from_len));
    SHOW(from_len);
    SHOW(recv(server, buffer, 1, MSG_DONTWAIT | MSG_OOB));
    SHOW(connect(client, WHERE));
    SHOW(listen(client, 1));
    SHOW(bind(client, WHERE));
    SHOW(accept(client, NULL, NULL));
    SHOW(shutdown(client, 7));
    close_all();
}

static void a_lot(void)
{
    enum { LOT = 3 * 1000 * 1000 };
    static unsigned char out[LOT], in[LOT];
    size_t sent = 0, got = 0;

    section = "a lot";
    open_pair();
    for (size_t i = 0; i < LOT; i++)
        out[i] = (unsigned char)(i * 11 + i / 509);
    SHOW(fcntl(client, F_SETFL, O_RDWR | O_NONBLOCK));
    SHOW(fcntl(server, F_SETFL, O_RDWR | O_NONBLOCK));
    while (got < LOT) {
        struct pollfd fds[2] = { { client, sent < LOT ? POLLOUT : 0, 0 }, { server, POLLIN, 0 } };
        ssize_t n;

        if (poll(fds, 2, LONG_MS) <= 0)
            break;
        n = sent < LOT ? send(client, out + sent, LOT - sent, MSG_NOSIGNAL) : 0;
        sent += n > 0 ? (size_t)n : 0;
        n = recv(server, in + got, LOT - got, 0);
        if (n == 0)
            break;
        got += n > 0 ? (size_t)n : 0;
    }
    SHOW(got);
    SHOW(memcmp(out, in, LOT));
    SHOW(recv(server, in, 1, 0));
    close_all();
}

static void ends(void)
{
    char buffer[16];
    int on = 1;

    section = "ends";
    open_pair();
    SHOW(send(client, "last", 4, 0));
    SHOW(shutdown(client, SHUT_WR));
    SHOW(send(client, "x", 1, MSG_NOSIGNAL));
    SHOW(recv(server, buffer, sizeof buffer, 0));
    SHOW(recv(server, buffer, sizeof buffer, 0));
    SHOW(recv(server, buffer, sizeof buffer, 0));
    SHOW(polled(server, POLLIN, LONG_MS));
    SHOW(polled(server, POLLIN | POLLRDHUP, LONG_MS));
    SHOW(send(server, "back", 4, 0));
    SHOW(recv(client, buffer, 4, MSG_WAITALL));
    SHOW(shutdown(server, SHUT_WR));
    SHOW(recv(client, buffer, 4, 0));
    close_all();

    section = "ends, closed";
    open_pair();
    SHOW(send(client, "left", 4, 0));
    SHOW(close(client));
    client = dup(server);
    SHOW(recv(server, buffer, 4, MSG_WAITALL));
    SHOW(recv(server, buffer, 4, 0));
    EVENTUALLY(send(server, "x", 1, MSG_NOSIGNAL) == -1);
    SHOW(send(server, "x", 1, MSG_NOSIGNAL));
    close_all();

    section = "ends, shut for reading";
    open_pair();
    SHOW(shutdown(server, SHUT_RD));
    SHOW(recv(server, buffer, 4, 0));
    SHOW(send(server, "on", 2, 0));
    SHOW(recv(client, buffer, 2, MSG_WAITALL));
    close_all();

    section = "ends, reset";
    open_pair();
    {
        struct linger now = { 1, 0 };

        SHOW(setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof now));
        SHOW(close(client));
        client = dup(server);
        SHOW(polled(server, POLLIN, LONG_MS) & (POLLIN | POLLERR));
        SHOW(recv(server, buffer, 4, 0));
        SHOW(recv(server, buffer, 4, 0));
        SHOW(send(server, "x", 1, MSG_NOSIGNAL));
        SHOW(ioctl(server, FIONBIO, &on));
    }
    close_all();
}

static void options(void)
{
    struct timeval time = { 3, 250000 };
    struct linger linger = { 1, 9 };
    socklen_t len = sizeof time;
    char byte = 0;

    section = "options";
    open_pair();
    SHOW(option(server, IPPROTO_TCP, TCP_NODELAY));
    SHOW(set_option(server, IPPROTO_TCP, TCP_NODELAY, 1));
    SHOW(option(server, IPPROTO_TCP, TCP_NODELAY));
    SHOW(set_option(server, IPPROTO_TCP, TCP_NODELAY, 0));
    SHOW(option(server, IPPROTO_TCP, TCP_NODELAY));
    SHOW(set_option(server, SOL_SOCKET, SO_KEEPALIVE, 1));
    SHOW(option(server, SOL_SOCKET, SO_KEEPALIVE));
    SHOW(set_option(server, IPPROTO_TCP, TCP_KEEPINTVL, 9));
    SHOW(option(server, IPPROTO_TCP, TCP_KEEPINTVL));
    SHOW(set_option(server, IPPROTO_TCP, TCP_KEEPINTVL, -1));
    SHOW(set_option(server, SOL_SOCKET, SO_PRIORITY, 3));
    SHOW(option(server, SOL_SOCKET, SO_PRIORITY));
    SHOW(option(server, SOL_SOCKET, 4711));
    SHOW(option(server, 4711, 1));
    SHOW(set_option(server, SOL_SOCKET, SO_TYPE, 1));
    SHOW(setsockopt(server, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    linger.l_linger = 0;
    len = sizeof linger;
    SHOW(getsockopt(server, SOL_SOCKET, SO_LINGER, &linger, &len));
    SHOW(linger.l_onoff * 100 + linger.l_linger);
    linger.l_onoff = 0;
    SHOW(setsockopt(server, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    SHOW(setsockopt(server, SOL_SOCKET, SO_LINGER, &linger, 4));
    SHOW(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    memset(&time, 0, sizeof time);
    len = sizeof time;
    SHOW(getsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &time, &len));
    SHOW(time.tv_sec * 1000 + time.tv_usec / 1000);
    SHOW(len);
    time.tv_sec = 0;
    time.tv_usec = 20000;
    SHOW(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    SHOW(recv(server, &byte, 1, 0));
    time.tv_usec = 5000000;
    SHOW(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    SHOW(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &time, 3));
    close_all();
}

static void copies(void)
{
    char byte = 0;
    int other;

    section = "copies";
    open_pair();
    other = dup(server);
    SHOW(other >= 0);
    SHOW(fcntl(other, F_GETFD));
    SHOW(dup2(server, server) == server);
    SHOW(dup3(server, server, 0));
    SHOW(dup3(server, 99, 1));
    SHOW(dup2(server, -1));
    SHOW(dup2(-1, 99));
    SHOW(dup3(server, 99, O_CLOEXEC));
    SHOW(fcntl(99, F_GETFD));
    SHOW(fcntl(server, F_DUPFD, -1));
    SHOW(fcntl(server, F_SETFL, O_RDWR | O_NONBLOCK));
    SHOW((fcntl(99, F_GETFL) & O_NONBLOCK) != 0);
    SHOW(recv(99, &byte, 1, 0));
    SHOW(close(server));
    SHOW(send(client, "c", 1, 0));
    SHOW(polled(99, POLLIN, LONG_MS));
    SHOW(recv(other, &byte, 1, 0));
    SHOW(close(99));
    SHOW(close(other));
    SHOW(recv(client, &byte, 1, 0));
    server = dup(client);
    close_all();
}

static void waits(void)
{
    struct epoll_event event, events[4];
    struct timeval none = { 0, 0 };
    struct timespec moment = { 0, 1000000 };
    fd_set readable, writable;
    int most, epfd = epoll_create1(0);
    char byte = 0;

    section = "waits";
    open_pair();
    most = (client > server ? client : server) + 1;
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    event.data.u64 = 0x123456789abcdef0;
    SHOW(epoll_ctl(epfd, EPOLL_CTL_ADD, server, &event));
    SHOW(epoll_ctl(epfd, EPOLL_CTL_ADD, server, &event));
    SHOW(epoll_ctl(epfd, EPOLL_CTL_MOD, client, &event));
    SHOW(epoll_ctl(epfd, EPOLL_CTL_ADD, server, NULL));
    SHOW(epoll_wait(epfd, events, 4, 0));
    SHOW(epoll_wait(epfd, events, 0, 0));
    SHOW(send(client, "e", 1, 0));
    SHOW(epoll_wait(epfd, events, 4, LONG_MS));
    SHOW(events[0].events);
    SHOW(events[0].data.u64 == 0x123456789abcdef0);
    SHOW(epoll_pwait(epfd, events, 4, LONG_MS, NULL));
    event.events = EPOLLIN | EPOLLOUT | EPOLLONESHOT;
    SHOW(epoll_ctl(epfd, EPOLL_CTL_MOD, server, &event));
    SHOW(epoll_wait(epfd, events, 4, LONG_MS));
    SHOW(events[0].events);
    SHOW(epoll_wait(epfd, events, 4, 0));
    event.events = EPOLLIN | EPOLLET;
    SHOW(epoll_ctl(epfd, EPOLL_CTL_MOD, server, &event));
    SHOW(epoll_wait(epfd, events, 4, LONG_MS));
    SHOW(epoll_wait(epfd, events, 4, 0));
    FD_ZERO(&readable);
    FD_SET(client, &readable);
    FD_SET(server, &readable);
    writable = readable;
    SHOW(select(most, &readable, &writable, NULL, NULL));
    SHOW(FD_ISSET(server, &readable) != 0);
    SHOW(FD_ISSET(client, &readable) != 0);
    SHOW(FD_ISSET(client, &writable) != 0);
    SHOW(recv(server, &byte, 1, 0));
    FD_ZERO(&readable);
    FD_SET(server, &readable);
    SHOW(select(most, &readable, NULL, NULL, &none));
    SHOW(FD_ISSET(server, &readable) != 0);
    FD_SET(server, &readable);
    SHOW(pselect(most, &readable, NULL, NULL, &moment, NULL));
    SHOW(select(-1, NULL, NULL, NULL, NULL));
    SHOW(polled(-1, POLLIN, 0));
    SHOW(polled(1000, POLLIN, 0));
    SHOW(poll(nowhere, 1, 0));
    SHOW(epoll_ctl(epfd, EPOLL_CTL_DEL, server, NULL));
    SHOW(epoll_ctl(epfd, EPOLL_CTL_DEL, server, NULL));
    SHOW(close(epfd));
    SHOW(epoll_wait(epfd, events, 4, 0));
    close_all();
}

static void files(void)
{
    char name[] = "/tmp/eversock-twin-XXXXXX";
    char text[100000], back[100000];
    off_t at = 10;
    int file = mkstemp(name), ends_of_pipe[2];

    section = "files";
    open_pair();
    unlink(name);
    memset(text, 'f', sizeof text);
    SHOW(write(file, text, sizeof text));
    SHOW(lseek(file, 90000, SEEK_SET));
    SHOW(sendfile(client, file, NULL, 50000));
    SHOW(lseek(file, 0, SEEK_CUR));
    SHOW(recv(server, back, 10000, MSG_WAITALL));
    SHOW(sendfile(client, file, &at, 20000));
    SHOW(at);
    SHOW(lseek(file, 0, SEEK_CUR));
    SHOW(recv(server, back, 20000, MSG_WAITALL));
    SHOW(memcmp(text, back, 20000));
    SHOW(sendfile(client, file, NULL, 10));
    at = -1;
    SHOW(sendfile(client, file, &at, 10));
    SHOW(sendfile(client, -1, NULL, 10));
    SHOW(pipe(ends_of_pipe));
    SHOW(sendfile(client, server, NULL, 10));
    SHOW(close(ends_of_pipe[0]));
    SHOW(close(ends_of_pipe[1]));
    SHOW(close(file));
    close_all();
}

static void others(void)
{
    int pair[2], udp;
    char byte = 0;

    section = "other descriptors";
    SHOW(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    SHOW(send(pair[0], "u", 1, 0));
    SHOW(waiting(pair[1]));
    SHOW(polled(pair[1], POLLIN | POLLOUT, LONG_MS));
    SHOW(recv(pair[1], &byte, 1, 0));
    SHOW(option(pair[0], SOL_SOCKET, SO_DOMAIN));
    SHOW(close(pair[0]));
    SHOW(read(pair[1], &byte, 1));
    SHOW(write(pair[1], "u", 1));
    SHOW(close(pair[1]));
    udp = socket(AF_INET, SOCK_DGRAM, 0);
    SHOW(option(udp, SOL_SOCKET, SO_TYPE));
    SHOW(listen(udp, 1));
    SHOW(close(udp));
    SHOW(accept(-1, NULL, NULL));
    SHOW(send(-1, "x", 1, 0));
    SHOW(fcntl(-1, F_GETFL));
}

int main(void)
{
    alarm(100);
    signal(SIGPIPE, SIG_IGN);
    fresh();
    listening();
    refused();
    without_blocking();
    data();
    a_lot();
    ends();
    options();
    copies();
    waits();
    files();
    others();
    return 0;
}
