/* facts WHAT PORT: what preloads are known to get wrong, one thing each, with a connection to an echo
 * server. */
#define _GNU_SOURCE
#include "waits.h"
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

static int fd, port;

static int waited(pid_t child) {
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return status;
}

static void *connects(void *addr) {
    int other = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(other, addr, sizeof(struct sockaddr_in)) == 0);
    return (void *)(intptr_t)other;
}

/* Flags of numbers, and those of the file, are what the program has set, whatever is swapped. */
static void flags(void) {
    fd = connected(port);
    int second = fcntl(fd, F_DUPFD_CLOEXEC, 60), third = dup(fd);
    CHECK(second >= 60 && third >= 0);
    CHECK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0);
    CHECK(fcntl(third, F_SETFD, FD_CLOEXEC) == 0 && fcntl(third, F_SETFD, 0) == 0);
    for (int round = 0; round < 3; round++) {
        CHECK(fcntl(fd, F_GETFD) == 0 && fcntl(second, F_GETFD) == FD_CLOEXEC);
        CHECK(fcntl(third, F_GETFD) == 0);
        CHECK((fcntl(third, F_GETFL) & (O_NONBLOCK | O_ACCMODE)) == (O_NONBLOCK | O_RDWR));
        cut();
        put(fd, "x");
        CHECK(poll(&(struct pollfd){.fd = second, .events = POLLIN}, 1, 20000) == 1);
        CHECK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) == 0);
        expect(third, "x");
        CHECK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0);
    }
    /* What is accepted has the flags that accept4 says, and no others, neither the listener's. */
    static const int all[] = {0, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_NONBLOCK | SOCK_CLOEXEC};
    struct sockaddr_in addr = loopback(0);
    socklen_t len = sizeof addr;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(listener, (struct sockaddr *)&addr, len) == 0 && listen(listener, 4) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&addr, &len) == 0);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        pthread_t thread;
        void *other;
        CHECK(pthread_create(&thread, NULL, connects, &addr) == 0);
        int got = accept4(listener, NULL, NULL, all[i]);
        CHECK(got >= 0 && pthread_join(thread, &other) == 0);
        CHECK(fcntl(got, F_GETFD) == (all[i] & SOCK_CLOEXEC ? FD_CLOEXEC : 0));
        CHECK((fcntl(got, F_GETFL) & O_NONBLOCK) == (all[i] & SOCK_NONBLOCK ? O_NONBLOCK : 0));
        CHECK(close(got) == 0 && close((int)(intptr_t)other) == 0);
    }
    CHECK(accept4(listener, NULL, NULL, 1) == -1 && errno == EINVAL);
}

static void *uses_all(void *unused) {
    char byte;
    fd_set in;
    struct timeval limit = {.tv_sec = 20};
    struct epoll_event event = {.events = EPOLLIN};
    int own = connected(port), set = epoll_create1(0);
    put(own, "a");
    CHECK(poll(&(struct pollfd){.fd = own, .events = POLLIN}, 1, 20000) == 1);
    expect(own, "a");
    cut();
    put(own, "b");
    FD_ZERO(&in);
    FD_SET(own, &in);
    CHECK(select(own + 1, &in, NULL, NULL, &limit) == 1);
    expect(own, "b");
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, own, &event) == 0);
    put(own, "c");
    do {
        CHECK(epoll_wait(set, &event, 1, 20000) == 1);
    } while (recv(own, &byte, 1, MSG_DONTWAIT) != 1);
    CHECK(close(own) == 0 && close(set) == 0);
    return unused;
}

/* A thread with the least stack that there can be, and room for its printf. */
static void small_stack(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    long least = sysconf(_SC_THREAD_STACK_MIN);
    least = least < PTHREAD_STACK_MIN ? PTHREAD_STACK_MIN : least;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, (size_t)least + 16384) == 0);
    for (int round = 0; round < 2; round++) {
        CHECK(pthread_create(&thread, &attributes, uses_all, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
}

/* Calls with a length that the compiler cannot know go by other names; too long a one aborts. */
static void fortified(void) {
    char small[8];
    struct pollfd one[1];
    volatile size_t len = 5;
    fd = connected(port);
    for (int round = 0; round < 2; round++) {
        volatile nfds_t count = 1;
        put(fd, "12345");
        one[0] = (struct pollfd){.fd = fd, .events = POLLIN};
        CHECK(poll(one, count, 20000) == 1);
        one[0] = (struct pollfd){.fd = fd, .events = POLLIN};
        CHECK(ppoll(one, count, &(struct timespec){.tv_sec = 20}, NULL) == 1);
        CHECK(recv(fd, small, len, MSG_WAITALL) == 5);
        put(fd, "12345");
        CHECK(recvfrom(fd, small, len, MSG_WAITALL, NULL, NULL) == 5);
        put(fd, "1");
        CHECK(read(fd, small, len) == 1);
        cut();
    }
#ifdef _FORTIFY_SOURCE
    put(fd, "0123456789abcdef");
    for (int which = 0; which < 3; which++) {
        pid_t child = fork();
        if (child == 0) {
            len = 16;
            close(2);
            open("/dev/null", O_WRONLY);
            volatile nfds_t many = 2;
            if (which == 0) {
                (void)!read(fd, small, len);
            } else if (which == 1) {
                (void)!recv(fd, small, len, 0);
            } else {
                (void)!poll(one, many, 0);
            }
            _exit(0);
        }
        int status = waited(child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
#endif
}

/* A child that no handler of fork knows of closes and duplicates, and its parent keeps all. */
static void forked_unseen(void) {
    fd = connected(port);
    put(fd, "before");
    expect(fd, "before");
    pid_t child = _Fork();
    if (child == 0) {
        int other = dup(fd);
        close(fd);
        close(other);
        close_range(3, ~0U, 0);
        execl("/bin/true", "true", (char *)NULL);
        _exit(127);
    }
    CHECK(waited(child) == 0);
    put(fd, "after");
    expect(fd, "after");
    cut();
    put(fd, "and again");
    expect(fd, "and again");
}

/* A connect that is a send. */
static void fast_open(void) {
    struct sockaddr_in addr = loopback(port);
    struct sockaddr *to = (struct sockaddr *)&addr;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(sendto(fd, "first", 5, MSG_FASTOPEN, to, sizeof addr) == 5);
    expect(fd, "first");
    cut();
    put(fd, "second");
    expect(fd, "second");
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    struct iovec part = {"third", 5};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_name = &addr,
                             .msg_namelen = sizeof addr};
    CHECK(sendmsg(fd, &message, MSG_FASTOPEN) == 5);
    expect(fd, "third");
    cut();
    put(fd, "fourth");
    expect(fd, "fourth");
}

static _Atomic int reads;

static void *reads_once(void *unused) {
    char byte;
    (void)unused;
    reads = (int)syscall(SYS_gettid);
    ssize_t n = read(fd, &byte, 1);
    return (void *)(intptr_t)(n == -1 ? errno : 0);
}

static void nothing(int signal) { (void)signal; }

static int sleeps(int thread) {
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
    FILE *file = fopen(path, "r");
    CHECK(file != NULL && fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
    fclose(file);
    return state == 'S';
}

/* As the JDK closes: another file is put over the number, and whoever sleeps on it gets a signal. */
static void closed_by_dup(void) {
    struct sigaction action = {.sa_handler = nothing};
    pthread_t thread;
    void *error;
    int pair[2];
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && close(pair[1]) == 0);
    fd = connected(port);
    put(fd, "x");
    expect(fd, "x");
    CHECK(pthread_create(&thread, NULL, reads_once, NULL) == 0);
    while (reads == 0 || !sleeps(reads)) {
        sched_yield();
    }
    CHECK(dup2(pair[0], fd) == fd);
    CHECK(pthread_kill(thread, SIGUSR2) == 0);
    CHECK(pthread_join(thread, &error) == 0);
    CHECK((intptr_t)error == EINTR || (intptr_t)error == EBADF || (intptr_t)error == 0);
    char byte;
    CHECK(read(fd, &byte, 1) == 0 && close(fd) == 0);
}

/* Calls with wrong or odd arguments answer as the kernel does. */
static void odd(void) {
    static struct iovec many[1025];
    static char block[1025];
    struct sockaddr_in addr = loopback(1), seen;
    socklen_t len = sizeof seen;
    char buf[16];
    int on = 1;
    fd = connected(port);
    int unused = fcntl(fd, F_DUPFD, 200);
    CHECK(unused >= 200 && close(unused) == 0 && close(unused) == -1 && errno == EBADF);
    CHECK(dup2(unused, unused) == -1 && errno == EBADF && dup2(-1, fd) == -1 && errno == EBADF);
    CHECK(dup3(fd, fd, 0) == -1 && errno == EINVAL && dup3(fd, unused, 1) == -1 && errno == EINVAL);
    CHECK(dup2(fd, INT_MAX) == -1 && errno == EBADF);
    CHECK(read(fd, buf, 0) == 0 && write(fd, buf, 0) == 0 && send(fd, buf, 0, 0) == 0);
    for (size_t i = 0; i < 1025; i++) {
        many[i] = (struct iovec){block + i, 1};
    }
    struct msghdr message = {.msg_iov = many, .msg_iovlen = 1025};
    CHECK(writev(fd, many, 1025) == -1 && errno == EINVAL);
    CHECK(readv(fd, many, 1025) == -1 && errno == EINVAL);
    CHECK(sendmsg(fd, &message, 0) == -1 && errno == EMSGSIZE);
    CHECK(recvmsg(fd, &message, 0) == -1 && errno == EMSGSIZE);
    CHECK(pread(fd, buf, 1, 0) == -1 && errno == ESPIPE);
    CHECK(lseek(fd, 0, SEEK_CUR) == -1 && errno == ESPIPE);
    /* An address in a send is nothing to a connection, and a receive gives none. */
    CHECK(sendto(fd, "to", 2, 0, (struct sockaddr *)&addr, sizeof addr) == 2);
    memset(&seen, 0x55, sizeof seen);
    CHECK(recvfrom(fd, buf, 2, MSG_WAITALL, (struct sockaddr *)&seen, &len) == 2 && len == 0);
    CHECK(seen.sin_family == 0x5555);
    CHECK(send(fd, "o", 1, MSG_OOB) == -1 && errno == EOPNOTSUPP);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) == -1);
    CHECK(setsockopt(fd, IPPROTO_TCP, 31 /* TCP_ULP */, "tls", 3) == -1);
    CHECK(setsockopt(fd, IPPROTO_TCP, 19 /* TCP_REPAIR */, &on, sizeof on) == -1);
    CHECK(listen(fd, 1) == -1 && accept(fd, NULL, NULL) == -1 && errno == EINVAL);
    /* epoll */
    struct epoll_event event = {.events = EPOLLIN};
    int set = epoll_create1(0);
    CHECK(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event) == -1 && errno == ENOENT);
    CHECK(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL) == -1 && errno == ENOENT);
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == -1 && errno == EEXIST);
    CHECK(epoll_wait(set, &event, 0, 0) == -1 && errno == EINVAL);
    CHECK(epoll_wait(set, &event, 1, 1) == 0);
    event.events = EPOLLIN | EPOLLEXCLUSIVE;
    CHECK(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event) == -1 && errno == EINVAL);
    struct sigaction action = {.sa_handler = nothing};
    struct itimerval soon = {.it_value.tv_usec = 50000};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CHECK(epoll_wait(set, &event, 1, -1) == -1 && errno == EINTR);
    close(set);
    /* A time below a millisecond is one, and is used up. */
    fd_set in, except;
    struct timeval limit = {.tv_usec = 700};
    struct timespec before, after;
    FD_ZERO(&in);
    FD_ZERO(&except);
    FD_SET(fd, &in);
    FD_SET(fd, &except);
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK(select(fd + 1, &in, NULL, &except, &limit) == 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    CHECK((after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec >= 700000);
    CHECK(limit.tv_sec == 0 && limit.tv_usec == 0 && !FD_ISSET(fd, &in) && !FD_ISSET(fd, &except));
    /* More descriptors than a stack should hold; those that are not there are passed over. */
    static struct pollfd crowd[60000];
    size_t most = (size_t)sysconf(_SC_OPEN_MAX) / 2;
    most = most < sizeof crowd / sizeof *crowd ? most : sizeof crowd / sizeof *crowd;
    for (size_t i = 0; i < most; i++) {
        crowd[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    }
    crowd[most - 1].fd = fd;
    put(fd, "z");
    CHECK(poll(crowd, most, 20000) == 1 && crowd[most - 1].revents == POLLIN);
    CHECK(crowd[0].revents == 0);
    expect(fd, "z");
    /* A stream without a number is closed as ever. */
    char *text;
    size_t size;
    FILE *memory = open_memstream(&text, &size);
    CHECK(memory != NULL && fprintf(memory, "text") == 4 && fclose(memory) == 0 && size == 4);
    free(text);
}

static void same_names(struct sockaddr_in first[2], int is_first) {
    struct sockaddr_in now[2];
    socklen_t len = sizeof *now;
    CHECK(getsockname(fd, (struct sockaddr *)&now[0], &len) == 0 && len == sizeof *now);
    CHECK(getpeername(fd, (struct sockaddr *)&now[1], &len) == 0 && len == sizeof *now);
    if (is_first) {
        memcpy(first, now, sizeof now);
        CHECK(ntohs(now[1].sin_port) == port);
    }
    CHECK(memcmp(first, now, sizeof now) == 0);
}

/* A session's addresses are those that it began with; a short buffer is cut off and told so. */
static void names(void) {
    struct sockaddr_in first[2], cut_off;
    fd = connected(port);
    same_names(first, 1);
    for (int round = 0; round < 3; round++) {
        cut();
        put(fd, "x");
        expect(fd, "x");
        same_names(first, 0);
    }
    socklen_t len = 4;
    memset(&cut_off, 0x55, sizeof cut_off);
    CHECK(getpeername(fd, (struct sockaddr *)&cut_off, &len) == 0 && len == sizeof cut_off);
    CHECK(memcmp(&cut_off, &first[1], 4) == 0 && cut_off.sin_addr.s_addr == 0x55555555);
}

/* What comes through a socket of another kind comes once, also when it is only looked at. */
static void rights(void) {
    int pair[2], pipes[2];
    fd = connected(port);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(pipes) == 0);
    for (int round = 0; round < 3; round++) {
        char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 'n';
        struct iovec part = {&byte, 1};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                                 .msg_controllen = sizeof control};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &pipes[1], sizeof(int));
        CHECK(sendmsg(pair[0], &message, 0) == 1);
        int free_one = dup(0), free_two = dup(0);
        CHECK(close(free_one) == 0 && close(free_two) == 0);
        memset(control, 0, sizeof control);
        CHECK(recvmsg(pair[1], &message, 0) == 1 && CMSG_FIRSTHDR(&message) != NULL);
        int got;
        memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof got);
        CHECK(got == free_one && fcntl(free_two, F_GETFD) == -1);
    }
    put(fd, "x");
    expect(fd, "x");
}

/* The library's own lines must not come through the session that is the standard error output. */
static void told(void) {
    fd = connected(port);
    CHECK(dup2(fd, 2) == 2);
    for (int round = 0; round < 3; round++) {
        cut();
        CHECK(write(2, "to the peer", 11) == 11);
        expect(fd, "to the peer");
    }
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } all[] = {
        {"flags", flags}, {"small_stack", small_stack}, {"fortified", fortified},
        {"forked_unseen", forked_unseen}, {"fast_open", fast_open},
        {"closed_by_dup", closed_by_dup}, {"odd", odd}, {"names", names}, {"rights", rights},
        {"told", told},
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
