/* client WHAT PORT: one thing that programs do with a connection to an echo server. */
#define _GNU_SOURCE
#include "waits.h"
#include <fcntl.h>
#include <linux/close_range.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

extern char **environ;
static int fd, port;

static _Atomic int reader;

static void *read_for_ever(void *unused) {
    char buf[16];
    (void)unused;
    reader = (int)syscall(SYS_gettid);
    for (;;) {
        CHECK(read(fd, buf, sizeof buf) >= 0);
    }
    return NULL;
}

/* Waits until the reader sleeps in the kernel for input. */
static void wait_asleep(void) {
    char path[64];
    long call = -1;
    for (int tries = 0; call != SYS_recvfrom; tries++) {
        CHECK(tries < 20000);
        usleep(1000);
        snprintf(path, sizeof path, "/proc/self/task/%d/syscall", reader);
        FILE *file = fopen(path, "r");
        if (file == NULL || fscanf(file, "%ld", &call) != 1) {
            call = -1;
        }
        if (file != NULL) {
            fclose(file);
        }
    }
}

/* A blocked reader is cancelled, and the socket is as good as before. */
static void cancel(void) {
    pthread_t thread;
    void *result;
    fd = connected(port);
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_create(&thread, NULL, read_for_ever, NULL) == 0);
        CHECK(pthread_cancel(thread) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    }
    /* Once more while it sleeps for certain. */
    reader = 0;
    CHECK(pthread_create(&thread, NULL, read_for_ever, NULL) == 0);
    wait_asleep();
    CHECK(pthread_cancel(thread) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    put(fd, "still there");
    expect(fd, "still there");
    cut();
    put(fd, "and again");
    expect(fd, "and again");
}

/* A child that shares our memory closes and duplicates; nothing changes here. */
static void vforked(void) {
    fd = connected(port);
    put(fd, "before");
    expect(fd, "before");
    for (int i = 0; i < 3; i++) {
        pid_t child = vfork();
        if (child == 0) {
            dup2(fd, 20);
            close(fd);
            close_range(3, ~0U, 0);
            execl("/bin/true", "true", (char *)NULL);
            _exit(127);
        }
        int status;
        CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    }
    CHECK(fcntl(20, F_GETFD) < 0 && errno == EBADF);
    put(fd, "after");
    expect(fd, "after");
    cut();
    put(fd, "and again");
    expect(fd, "and again");
}

/* dup, dup2 over a live socket, fcntl: one session under several numbers, ended by the last. */
static void numbers(void) {
    fd = connected(port);
    int second = dup(fd), third = fcntl(fd, F_DUPFD_CLOEXEC, 50);
    CHECK(second >= 0 && third >= 50 && fcntl(third, F_GETFD) == FD_CLOEXEC);
    int other = connected(port);
    CHECK(dup2(fd, other) == other && dup2(fd, fd) == fd);
    CHECK(close(fd) == 0);
    cut();
    put(second, "one");
    expect(third, "one");
    put(other, "two");
    expect(second, "two");
    CHECK(close(second) == 0 && close(other) == 0);
    CHECK(dup3(third, third, 0) == -1 && errno == EINVAL);
    put(third, "three");
    expect(third, "three");
    int null = open("/dev/null", O_RDWR);
    CHECK(dup2(null, third) == third && write(third, "x", 1) == 1);
    CHECK(send(third, "x", 1, 0) == -1 && errno == ENOTSOCK);
}

/* A read time-out is one, although the connection is cut meanwhile. */
static void timed(void) {
    struct timeval quarter = {.tv_usec = 250000}, got;
    socklen_t len = sizeof got;
    char byte;
    /* Set before the connect: read back. */
    fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &quarter, sizeof quarter) == 0);
    struct sockaddr_in addr = loopback(port);
    CHECK(connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &got, &len) == 0 && got.tv_usec / 10000 == 25);
    CHECK(read(fd, &byte, 1) == -1 && errno == EAGAIN);
    cut();
    CHECK(read(fd, &byte, 1) == -1 && errno == EAGAIN);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &got, &len) == 0 && got.tv_usec / 10000 == 25);
    put(fd, "text");
    expect(fd, "text");
}

/* Options that were set before the connect hold on every later connection. */
static void options(void) {
    int on = 1, got = 0;
    socklen_t len = sizeof got;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0);
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){7}, sizeof(int)) == 0);
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    CHECK(ioctl(fd, FIONBIO, &on) == 0);
    struct sockaddr_in addr = loopback(port);
    CHECK(connect(fd, (struct sockaddr *)&addr, sizeof addr) == -1 && errno == EINPROGRESS);
    struct pollfd waits = {.fd = fd, .events = POLLOUT};
    CHECK(poll(&waits, 1, 20000) == 1 && waits.revents == POLLOUT);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &got, &len) == 0 && got == 0);
    for (int round = 0; round < 2; round++) {
        CHECK(getsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &got, &len) == 0 && got == 7);
        CHECK(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &got, &len) == 0 && got == 1);
        CHECK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &got, &len) == 0 && got == SOCK_STREAM);
        CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
        char byte;
        CHECK(read(fd, &byte, 1) == -1 && errno == EAGAIN);
        if (round == 0) {
            cut();
        }
    }
    int off = 0;
    CHECK(ioctl(fd, FIONBIO, &off) == 0);
    put(fd, "text");
    CHECK(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 20000) == 1);
    CHECK(ioctl(fd, FIONREAD, &got) == 0 && got >= 1 && got <= 4);
    expect(fd, "text");
}

/* A refused connect tells so once, in the ways of a non-blocking program. */
static void refused(void) {
    int got = 0;
    socklen_t len = sizeof got;
    /* A port that nobody listens on: bound, and not listening. */
    int holder = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in addr = loopback(0);
    socklen_t addr_len = sizeof addr;
    CHECK(bind(holder, (struct sockaddr *)&addr, sizeof addr) == 0);
    CHECK(getsockname(holder, (struct sockaddr *)&addr, &addr_len) == 0);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (struct sockaddr *)&addr, sizeof addr) == -1 && errno == ECONNREFUSED);
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(connect(fd, (struct sockaddr *)&addr, sizeof addr) == -1 && errno == EINPROGRESS);
    struct pollfd waits = {.fd = fd, .events = POLLOUT};
    CHECK(poll(&waits, 1, 20000) == 1 && (waits.revents & POLLERR) != 0);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &got, &len) == 0 && got == ECONNREFUSED);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &got, &len) == 0 && got == 0);
    close(fd);
}

static volatile int interrupted;

static void on_alarm(int signal) {
    int before = errno;
    (void)signal;
    /* The main program is inside read() of this very descriptor. */
    CHECK(write(fd, "from the handler", 16) == 16);
    interrupted = 1;
    errno = before;
}

/* A signal handler writes to the descriptor whose reader it interrupts. */
static void handler(void) {
    fd = connected(port);
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval soon = {.it_value.tv_usec = 50000};
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    expect(fd, "from the handler");
    CHECK(interrupted);
    cut();
    put(fd, "text");
    expect(fd, "text");
}

static void nothing(int signal) { (void)signal; }

static void eintr(void) {
    char byte;
    fd = connected(port);
    struct sigaction action = {.sa_handler = nothing};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval soon = {.it_value.tv_usec = 50000};
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CHECK(read(fd, &byte, 1) == -1 && errno == EINTR);
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CHECK(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1) == -1 && errno == EINTR);
}

/* A close-all loop of a daemon takes nothing that the library needs. */
static void close_all(void) {
    int keep = connected(port);
    put(keep, "before");
    expect(keep, "before");
    fd = dup2(keep, 3) == 3 ? 3 : -1;
    CHECK(fd == 3 || keep == 3);
    fd = 3;
    if (keep != 3) {
        close(keep);
    }
    CHECK(close_range(4, ~0U, 0) == 0);
    put(fd, "after");
    expect(fd, "after");
    cut();
    put(fd, "and again");
    expect(fd, "and again");
}

/* Closes every number from 3 on but one, as a daemon does that knows of no close_range. */
static void close_one_by_one(int but) {
    for (int number = 3; number < 1024; number++) {
        if (number != but) {
            close(number);
        }
    }
}

/* Opens as many files as there is room for below 1024, and looks that only we have written there. */
static void fill_and_look(int write_on) {
    char path[] = "/tmp/eversock-test-XXXXXX";
    struct stat first, now;
    int file = mkstemp(path), last = file;
    CHECK(file >= 0 && unlink(path) == 0 && fstat(file, &first) == 0);
    for (int next = file; next >= 0 && next < 1023;) {
        next = fcntl(file, F_DUPFD, next + 1);
        last = next > 0 && next < 1024 ? next : last;
    }
    CHECK(last > 600);
    cut();
    put(write_on, "among strangers");
    expect(write_on, "among strangers");
    CHECK(fstat(file, &now) == 0 && now.st_size == 0);
    for (int number = 3; number <= last; number++) {
        if (fstat(number, &now) == 0 && now.st_ino == first.st_ino && now.st_dev == first.st_dev) {
            CHECK(close(number) == 0);
        }
    }
}

/* A daemon that closes number after number keeps its session, and the library what it needs. */
static void close_loop(void) {
    fd = connected(port);
    put(fd, "before");
    expect(fd, "before");
    close_one_by_one(fd);
    put(fd, "after");
    expect(fd, "after");
    cut();
    put(fd, "and again");
    expect(fd, "and again");
    fill_and_look(fd);
    /* And when the loop has ended all sessions. */
    close_one_by_one(-1);
    CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
    int other = connected(port);
    put(other, "another");
    expect(other, "another");
    fill_and_look(other);
    close_one_by_one(other);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* The other end of the daemon's fork does it too, and goes on with the session. */
        close_one_by_one(other);
        cut();
        put(other, "in a child");
        expect(other, "in a child");
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* What the library has open is high, and no other file can be put there. */
static void engine_numbers(void) {
    char path[32];
    struct stat unused;
    int taken = 0, before[16];
    for (int number = 0; number < 16; number++) {
        before[number] = fstat(number, &unused) == 0;
    }
    fd = connected(port);
    for (int number = 0; number < 16; number++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", number);
        CHECK(number == fd || (access(path, F_OK) == 0) == before[number]);
    }
    int file = open("/dev/null", O_RDWR);
    for (int number = 512; number < 1024; number++) {
        if (fcntl(number, F_GETFD) >= 0) {
            taken++;
            CHECK(dup2(file, number) == -1 && errno == EBUSY);
            CHECK(dup3(file, number, O_CLOEXEC) == -1 && errno == EBUSY);
            CHECK(close(number) == -1 && errno == EBADF);
            CHECK(fcntl(number, F_GETFD) == FD_CLOEXEC);
        }
    }
    CHECK(taken > 0);
    cut();
    put(fd, "after");
    expect(fd, "after");
    /* The program's own files are closed there as anywhere, those that close on exec too. */
    for (int round = 0; round < 100; round++) {
        int high = fcntl(file, F_DUPFD_CLOEXEC, 512);
        CHECK(high >= 512 && dup2(file, high) == high && close(high) == 0);
        if (round % 10 == 0) {
            int other = connected(port);
            put(other, "x");
            expect(other, "x");
            CHECK(close(other) == 0);
        }
    }
}

/* stdio over a socket. */
static void stream(void) {
    char line[64];
    fd = connected(port);
    FILE *file = fdopen(fd, "r+");
    CHECK(file != NULL && fileno(file) == fd);
    CHECK(setvbuf(file, NULL, _IOLBF, BUFSIZ) == 0);
    for (int round = 0; round < 3; round++) {
        CHECK(fprintf(file, "line %d\n", round) == 7 && fflush(file) == 0);
        CHECK(fgets(line, sizeof line, file) != NULL && line[5] == '0' + round);
        if (round == 1) {
            cut();
        }
    }
    CHECK(fclose(file) == 0);
    CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
}

/* sendfile, splice both ways, and messages by the dozen. */
static void files(void) {
    char path[] = "/tmp/eversock-test-XXXXXX", back[64];
    int file = mkstemp(path), pipes[2], rounds = 0;
    CHECK(file >= 0 && unlink(path) == 0 && write(file, "0123456789", 10) == 10);
    CHECK(pipe(pipes) == 0);
    fd = connected(port);
    do {
        off_t offset = 2;
        CHECK(sendfile(fd, file, &offset, 5) == 5 && offset == 7);
        expect(fd, "23456");
        CHECK(lseek(file, 7, SEEK_SET) == 7);
        CHECK(sendfile(fd, file, NULL, 100) == 3 && lseek(file, 0, SEEK_CUR) == 10);
        expect(fd, "789");
        CHECK(write(pipes[1], "through a pipe", 14) == 14);
        CHECK(splice(pipes[0], NULL, fd, NULL, 100, 0) == 14);
        CHECK(splice(fd, NULL, pipes[1], NULL, 14, 0) > 0);
        CHECK(read(pipes[0], back, 1) == 1 && back[0] == 't');
        ssize_t rest = read(pipes[0], back, sizeof back);
        CHECK(rest >= 0);
        for (ssize_t got = rest + 1; got < 14; got++) {
            CHECK(read(fd, back, 1) == 1);
        }
        struct iovec parts[2] = {{"one", 3}, {"two", 3}};
        struct mmsghdr messages[2] = {
            {.msg_hdr = {.msg_iov = parts, .msg_iovlen = 1}},
            {.msg_hdr = {.msg_iov = parts + 1, .msg_iovlen = 1}},
        };
        CHECK(sendmmsg(fd, messages, 2, 0) == 2 && messages[1].msg_len == 3);
        expect(fd, "onetwo");
        CHECK(writev(fd, parts, 2) == 6);
        expect(fd, "onetwo");
        CHECK(syscall(SYS_write, fd, "raw", 3) == 3);
        expect(fd, "raw");
        if (rounds == 0) {
            cut();
        }
    } while (rounds++ == 0);
    CHECK(syscall(SYS_close, fd) == 0 && close(fd) == -1 && errno == EBADF);
}

/* Edge-triggered epoll that was set up before the connect; nested; across a cut. */
static void early(void) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP};
    struct epoll_event nest = {.events = EPOLLIN}, out;
    int set = epoll_create1(0), outer = epoll_create1(0);
    event.data.u64 = 0xdeadbeefcafeULL;
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
    nest.data.fd = set;
    CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, set, &nest) == 0);
    /* An unconnected socket hangs; that was told, and is over. */
    CHECK(epoll_wait(set, &out, 1, 0) == 1 && (out.events & EPOLLHUP) != 0);
    struct sockaddr_in addr = loopback(port);
    CHECK(connect(fd, (struct sockaddr *)&addr, sizeof addr) == -1 && errno == EINPROGRESS);
    do {
        CHECK(epoll_wait(set, &out, 1, 20000) == 1);
        CHECK(out.data.u64 == 0xdeadbeefcafeULL && (out.events & (EPOLLHUP | EPOLLERR)) == 0);
    } while ((out.events & EPOLLOUT) == 0);
    for (int round = 0; round < 2; round++) {
        char byte;
        ssize_t n;
        put(fd, "e");
        /* What carries no payload for us may make it readable too. */
        do {
            CHECK(epoll_wait(outer, &out, 1, 20000) == 1 && out.data.fd == set);
            CHECK(epoll_wait(set, &out, 1, 20000) >= 0);
            CHECK(out.data.u64 == 0xdeadbeefcafeULL && (out.events & (EPOLLHUP | EPOLLERR)) == 0);
            n = read(fd, &byte, 1);
            CHECK(n == 1 || (n == -1 && errno == EAGAIN));
        } while (n < 1);
        CHECK(byte == 'e');
        if (round == 0) {
            cut();
        }
    }
    CHECK(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL) == 0);
    CHECK(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL) == -1 && errno == ENOENT);
}

/* A descriptor just below FD_SETSIZE, with select. */
static void high(void) {
    int low = connected(port);
    fd = dup2(low, 1023);
    CHECK(fd == 1023);
    close(low);
    for (int round = 0; round < 2; round++) {
        fd_set in, out;
        struct timeval limit = {.tv_sec = 20};
        FD_ZERO(&in);
        FD_ZERO(&out);
        FD_SET(fd, &out);
        CHECK(select(1024, NULL, &out, NULL, &limit) == 1 && FD_ISSET(fd, &out));
        put(fd, "high");
        FD_SET(fd, &in);
        CHECK(select(1024, &in, NULL, NULL, &limit) == 1 && FD_ISSET(fd, &in));
        CHECK(limit.tv_sec < 20);
        expect(fd, "high");
        if (round == 0) {
            cut();
        }
    }
}

/* errno is kept by calls that succeed, and nothing is ours that has no rule. */
static void foreign(void) {
    int pair[2];
    char byte;
    fd = connected(port);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    errno = 4711;
    put(fd, "x");
    expect(fd, "x");
    CHECK(write(pair[0], "y", 1) == 1 && read(pair[1], &byte, 1) == 1 && byte == 'y');
    CHECK(errno == 4711);
    CHECK(close(pair[0]) == 0 && errno == 4711);
    CHECK(read(pair[1], &byte, 1) == 0);
    CHECK(syscall(SYS_getpid) == getpid());
    CHECK(syscall(SYS_io_uring_setup, 8, NULL) == -1 && errno == ENOSYS);
}

/* A child made by posix_spawn does not get the middle of a session for a descriptor. */
static void spawned(void) {
    pid_t child;
    int status;
    char check[64];
    fd = connected(port);
    put(fd, "before");
    expect(fd, "before");
    snprintf(check, sizeof check, "test ! -e /proc/self/fd/%d", fd);
    char *argv[] = {"sh", "-c", check, NULL};
    CHECK(posix_spawn(&child, "/bin/sh", NULL, NULL, argv, environ) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(fcntl(fd, F_GETFD) == 0);
    /* One that gets it by name writes to it like the parent; actions that nobody uses do nothing. */
    posix_spawn_file_actions_t actions;
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, fd, 1) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, fd, 9) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, 2, 8) == 0);
    CHECK(posix_spawn_file_actions_destroy(&actions) == 0);
    put(fd, "between");
    expect(fd, "between");
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, fd, 1) == 0);
    char *say[] = {"printf", "from the child", NULL};
    CHECK(posix_spawnp(&child, "printf", &actions, NULL, say, environ) == 0);
    CHECK(posix_spawn_file_actions_destroy(&actions) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    expect(fd, "from the child");
    char *wrong[] = {"nothing", NULL};
    CHECK(execv("/nonexistent/program", wrong) == -1 && errno == ENOENT);
    CHECK(fcntl(fd, F_GETFD) == 0);
    put(fd, "after");
    expect(fd, "after");
}

/* What was written arrives although the program ends by _exit at once. */
static void quick_end(void) {
    char block[65536];
    memset(block, 'x', sizeof block);
    fd = connected(port);
    for (int i = 0; i < 32; i++) {
        for (size_t done = 0; done < sizeof block;) {
            ssize_t n = write(fd, block + done, sizeof block - done);
            CHECK(n > 0);
            done += (size_t)n;
        }
    }
    _exit(0);
}

enum { ECHO_BYTES = 6 << 20 };

static char pattern(size_t at) { return (char)(at * 2654435761u >> 13); }

static void *write_all(void *unused) {
    char block[16384];
    (void)unused;
    for (size_t done = 0; done < ECHO_BYTES;) {
        size_t len = sizeof block;
        for (size_t i = 0; i < len; i++) {
            block[i] = pattern(done + i);
        }
        ssize_t n = write(fd, block, len);
        CHECK(n > 0);
        done += (size_t)n;
    }
    CHECK(shutdown(fd, SHUT_WR) == 0);
    return NULL;
}

/* Megabytes out and back, then the end. */
static void exchange(void) {
    char buf[65536];
    pthread_t writer;
    size_t got = 0;
    ssize_t n;
    CHECK(pthread_create(&writer, NULL, write_all, NULL) == 0);
    while ((n = read(fd, buf, sizeof buf)) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            CHECK(buf[i] == pattern(got + (size_t)i));
        }
        got += (size_t)n;
    }
    CHECK(n == 0 && got == ECHO_BYTES);
    CHECK(pthread_join(writer, NULL) == 0);
}

static void echoes(void) {
    fd = connected(port);
    exchange();
}

/* Many small writes, and at once another program, which does not have the session. */
static void execs_in_a_burst(void) {
    fd = connected(port);
    CHECK(fcntl(fd, F_SETFD, FD_CLOEXEC) == 0);
    /* Less than makes the peer send an ACK, to which the kernel would answer with a reset. */
    for (int i = 0; i < 3000; i++) {
        CHECK(write(fd, "0123456789abcdef", 16) == 16);
    }
    execl("/bin/echo", "echo", "done", (char *)NULL);
}

/* Megabytes to one who has nothing to say; returns when all were written and both ends said so. */
static void pours(void) {
    char none;
    fd = connected(port);
    write_all(NULL);
    CHECK(read(fd, &none, 1) == 0);
    printf("%d\n", ECHO_BYTES);
}

/* The same behind a greeting that is said back. */
static void greeted(void) {
    fd = connected(port);
    expect(fd, "hello\n");
    put(fd, "hello\n");
    exchange();
}

static void *sleep_in_recvmsg(void *unused) {
    char buf[16];
    struct iovec part = {buf, sizeof buf};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    for (;;) {
        CHECK(recvmsg(fd, &message, 0) >= 0);
    }
    return unused;
}

static void *sleep_in_poll(void *unused) {
    for (;;) {
        CHECK(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1) >= 0);
    }
    return unused;
}

static void *sleep_in_epoll(void *unused) {
    struct epoll_event event = {.events = EPOLLIN};
    int set = epoll_create1(0);
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
    for (;;) {
        CHECK(epoll_wait(set, &event, 1, -1) >= 0);
    }
    return unused;
}

static void *sleep_in_accept(void *unused) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in addr = loopback(0);
    CHECK(bind(listener, (struct sockaddr *)&addr, sizeof addr) == 0 && listen(listener, 4) == 0);
    for (;;) {
        CHECK(accept(listener, NULL, NULL) >= 0);
    }
    return unused;
}

/* Whatever call a thread is cancelled in, the session is as good as before. */
static void cancel_waits(void) {
    void *(*const waits[])(void *) = {sleep_in_recvmsg, sleep_in_poll, sleep_in_epoll,
                                      sleep_in_accept};
    fd = connected(port);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof waits / sizeof *waits; i++) {
            pthread_t thread;
            void *result;
            CHECK(pthread_create(&thread, NULL, waits[i], NULL) == 0);
            /* At once, and when it is likely to sleep: each moment must do. */
            usleep(round * 5000u);
            CHECK(pthread_cancel(thread) == 0);
            CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
            put(fd, "still there");
            expect(fd, "still there");
        }
        cut();
    }
    put(fd, "and again");
    expect(fd, "and again");
}

/* Every kind of registration is kept across cuts, on a duplicate too, and no cut is seen. */
static void sets(void) {
    static const uint32_t kinds[] = {EPOLLIN, EPOLLIN | EPOLLET, EPOLLIN | EPOLLONESHOT,
                                     EPOLLIN | EPOLLEXCLUSIVE};
    fd = connected(port);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct epoll_event event = {.events = kinds[i], .data.u64 = 77 + i}, out;
        int set = epoll_create1(0), second = dup(fd);
        CHECK(second >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, i % 2 ? fd : second, &event) == 0);
        for (int round = 0; round < 3; round++) {
            char byte;
            ssize_t n;
            put(fd, "s");
            do {
                CHECK(epoll_wait(set, &out, 1, 20000) == 1);
                CHECK(out.data.u64 == 77 + i && out.events == EPOLLIN);
                n = recv(fd, &byte, 1, MSG_DONTWAIT);
                CHECK(n == 1 || (n == -1 && errno == EAGAIN));
                if (kinds[i] & EPOLLONESHOT) {
                    CHECK(epoll_wait(set, &out, 1, 0) == 0);
                    CHECK(epoll_ctl(set, EPOLL_CTL_MOD, i % 2 ? fd : second, &event) == 0);
                }
            } while (n < 1);
            CHECK(byte == 's');
            cut();
        }
        CHECK(epoll_ctl(set, EPOLL_CTL_DEL, i % 2 ? fd : second, NULL) == 0);
        close(second);
        close(set);
    }
}

static void *read_one(void *at) {
    CHECK(read(fd, at, 1) == 1);
    return NULL;
}

/* A reader that sleeps while the connection is cut gets what comes afterwards. */
static void blocked(void) {
    pthread_t thread;
    char byte = 0;
    fd = connected(port);
    CHECK(pthread_create(&thread, NULL, read_one, &byte) == 0);
    cut();
    cut();
    put(fd, "b");
    CHECK(pthread_join(thread, NULL) == 0 && byte == 'b');
}

/* A stream made before the connect goes by way of the session too; fclose and freopen end it. */
static void early_stream(void) {
    char line[64];
    struct sockaddr_in addr = loopback(port);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    FILE *file = fdopen(fd, "r+");
    CHECK(file != NULL && connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0);
    for (int round = 0; round < 3; round++) {
        CHECK(fprintf(file, "line %d\n", round) == 7 && fflush(file) == 0);
        CHECK(fgets(line, sizeof line, file) != NULL && line[5] == '0' + round);
        cut();
    }
    int other = dup(fd);
    CHECK(fclose(file) == 0 && fcntl(fd, F_GETFD) == -1 && errno == EBADF);
    put(other, "other");
    expect(other, "other");
    /* libc's own stream over a number that is ours: reopened, it is not ours any more. */
    fd = other;
    cut();
    int in = dup(0);
    CHECK(in >= 0 && dup2(other, 0) == 0);
    CHECK(freopen("/dev/null", "r", stdin) == stdin && getchar() == EOF);
    CHECK(recv(0, line, 1, 0) == -1 && errno == ENOTSOCK);
    CHECK(dup2(in, 0) == 0);
    put(other, "other");
    expect(other, "other");
}

/* close(2) as no library sees it. */
static void close_unseen(int number) {
    long result;
#if defined(__x86_64__)
    __asm__ volatile("syscall" : "=a"(result) : "a"((long)SYS_close), "D"((long)number)
                     : "rcx", "r11", "memory");
#else
    register long call __asm__("x8") = SYS_close;
    register long arg __asm__("x0") = number;
    __asm__ volatile("svc 0" : "+r"(arg) : "r"(call) : "memory");
    result = arg;
#endif
    CHECK(result == 0);
}

/* A number that was closed past the library is what the program makes of it next. */
static void closed_unseen(void) {
    int pair[2];
    char byte;
    for (int round = 0; round < 4; round++) {
        fd = connected(port);
        put(fd, "x");
        expect(fd, "x");
        close_unseen(fd);
        if (round == 0) {
            CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pair[0] == fd);
        } else if (round == 1) {
            CHECK(pipe(pair) == 0 && pair[0] == fd);
            int swap = pair[0];
            pair[0] = pair[1];
            pair[1] = swap;
        } else if (round == 2) {
            pair[0] = pair[1] = open("/dev/zero", O_RDWR);
            CHECK(pair[0] == fd);
        } else {
            /* Another session under the same number. */
            CHECK(connected(port) == fd);
            put(fd, "z");
            expect(fd, "z");
            cut();
            put(fd, "z");
            expect(fd, "z");
            close(fd);
            break;
        }
        CHECK(write(pair[0], "y", 1) == 1 && read(pair[1], &byte, 1) == 1);
        CHECK(close(pair[0]) == 0 && (pair[0] == pair[1] || close(pair[1]) == 0));
    }
}

static ssize_t send_number(int through, int number) {
    char control[CMSG_SPACE(sizeof number)] = {0}, byte = 'n';
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof number);
    memcpy(CMSG_DATA(header), &number, sizeof number);
    return sendmsg(through, &message, 0);
}

static int receive_number(int through) {
    int number = -1;
    char control[CMSG_SPACE(sizeof number)], byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    CHECK(recvmsg(through, &message, 0) == 1);
    memcpy(&number, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof number);
    return number;
}

/* A descriptor that is sent to another process works there; one that cannot be sent says so. */
static void sent(void) {
    int pair[2], status;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pid_t child = fork();
    if (child == 0) {
        close(pair[0]);
        int got = receive_number(pair[1]);
        for (int round = 0; round < 3; round++) {
            put(got, "from afar");
            expect(got, "from afar");
            cut();
        }
        close(got);
        _exit(0);
    }
    fd = connected(port);
    int second = dup(fd);
    CHECK(send_number(pair[0], fd) == -1 && errno == EOPNOTSUPP);
    close(second);
    put(fd, "here");
    expect(fd, "here");
    CHECK(send_number(pair[0], fd) == 1);
    CHECK(close(fd) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* MSG_TRUNC takes bytes and drops them. */
static void discards(void) {
    fd = connected(port);
    put(fd, "0123456789");
    CHECK(recv(fd, NULL, 4, MSG_TRUNC | MSG_WAITALL) == 4);
    expect(fd, "456");
    CHECK(recv(fd, NULL, 100, MSG_TRUNC | MSG_PEEK) == 3);
    CHECK(recv(fd, NULL, 100, MSG_TRUNC) == 3);
    CHECK(recv(fd, NULL, 100, MSG_TRUNC | MSG_DONTWAIT) == -1 && errno == EAGAIN);
}

/* system and popen give their programs nothing of ours, and leave it as it was. */
static void commands(void) {
    char command[128], line[16];
    fd = connected(port);
    snprintf(command, sizeof command, "test ! -e /proc/self/fd/%d", fd);
    CHECK(system(command) == 0);
    snprintf(command, sizeof command, "test -e /proc/self/fd/%d || echo none", fd);
    FILE *out = popen(command, "r");
    CHECK(out != NULL && fgets(line, sizeof line, out) != NULL && strcmp(line, "none\n") == 0);
    CHECK(pclose(out) == 0 && fcntl(fd, F_GETFD) == 0);
    cut();
    put(fd, "after");
    expect(fd, "after");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } all[] = {
        {"cancel", cancel},     {"vforked", vforked}, {"numbers", numbers}, {"timed", timed},
        {"options", options},   {"refused", refused}, {"handler", handler}, {"eintr", eintr},
        {"close_all", close_all}, {"stream", stream}, {"files", files},     {"early", early},
        {"high", high},         {"foreign", foreign}, {"spawned", spawned},
        {"quick_end", quick_end}, {"echoes", echoes}, {"greeted", greeted}, {"pours", pours},
        {"execs_in_a_burst", execs_in_a_burst},
        {"cancel_waits", cancel_waits}, {"sets", sets}, {"blocked", blocked},
        {"early_stream", early_stream}, {"closed_unseen", closed_unseen}, {"sent", sent},
        {"discards", discards}, {"commands", commands},
        {"close_loop", close_loop}, {"engine_numbers", engine_numbers},
    };
    CHECK(argc == 3);
    setvbuf(stdin, NULL, _IONBF, 0);
    port = atoi(argv[2]);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(argv[1], all[i].name) == 0) {
            all[i].run();
            printf("done\n");
            return 0;
        }
    }
    fprintf(stderr, "no such thing: %s\n", argv[1]);
    return 2;
}
