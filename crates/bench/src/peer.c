/* One end of a conversation, written as any plain C program would be: it knows nothing of eversock.
 * Like `child.rs` it does what its standard input says, one line at a time, and answers each line
 * with one: `peer server` or `peer HOST:PORT`; `open`, `ping COUNT BYTES`, `echo BYTES`,
 * `write COUNT BYTES`, `read BYTES`, `pin CPU`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int listener = -1, conn = -1;
static struct sockaddr_in to;

static void check(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(1);
    }
}

static long long now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* User and system time of all threads. */
static long long cpu_ns(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000LL +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000LL;
}

static void send_all(const char *data, size_t len) {
    while (len > 0) {
        ssize_t n = send(conn, data, len, 0);
        check(n > 0, "send");
        data += n;
        len -= (size_t)n;
    }
}

static void recv_all(char *data, size_t len) {
    while (len > 0) {
        ssize_t n = recv(conn, data, len, 0);
        check(n > 0, "recv");
        data += n;
        len -= (size_t)n;
    }
}

static void write_all(const char *data, size_t len) {
    while (len > 0) {
        ssize_t n = write(conn, data, len);
        check(n > 0, "write");
        data += n;
        len -= (size_t)n;
    }
}

static void hang_up(void) {
    close(conn);
    conn = -1;
}

static void open_conn(void) {
    int on = 1;
    if (listener >= 0) {
        conn = accept(listener, NULL, NULL);
        check(conn >= 0, "accept");
    } else {
        conn = socket(AF_INET, SOCK_STREAM, 0);
        check(conn >= 0, "socket");
        check(connect(conn, (struct sockaddr *)&to, sizeof to) == 0, "connect");
    }
    check(setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0, "setsockopt");
    printf("\n");
}

static int by_length(const void *a, const void *b) {
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

/* Round trips after a warm-up: the median, the 99th percentile and the 99.9th. */
static void ping(size_t count, size_t bytes) {
    char *buf = calloc(1, bytes);
    long long *times = malloc(count * sizeof *times);
    check(buf && times && count > 0, "ping");
    for (size_t round = 0; round < count + count / 8; round++) {
        long long began = now_ns();
        send_all(buf, bytes);
        recv_all(buf, bytes);
        times[round % count] = now_ns() - began;
    }
    hang_up();
    qsort(times, count, sizeof *times, by_length);
    printf("%lld %lld %lld\n", times[count / 2], times[count * 99 / 100],
           times[count * 999 / 1000]);
    free(times);
    free(buf);
}

static void echo(size_t bytes) {
    char *buf = malloc(bytes);
    ssize_t n;
    check(buf != NULL, "echo");
    while ((n = recv(conn, buf, bytes, 0)) > 0)
        send_all(buf, (size_t)n);
    check(n == 0, "recv");
    hang_up();
    printf("\n");
    free(buf);
}

/* One way after a warm-up, timed until the reader has said that it has all. */
static void write_many(size_t count, size_t bytes) {
    char *buf = malloc(bytes), done;
    check(buf != NULL, "write");
    memset(buf, 0x5A, bytes);
    for (size_t i = 0; i < count / 8; i++)
        write_all(buf, bytes);
    long long began = now_ns(), cpu = cpu_ns();
    for (size_t i = 0; i < count; i++)
        write_all(buf, bytes);
    check(shutdown(conn, SHUT_WR) == 0, "shutdown");
    recv_all(&done, 1);
    printf("%lld %lld\n", now_ns() - began, cpu_ns() - cpu);
    hang_up();
    free(buf);
}

static void read_many(size_t bytes) {
    char *buf = malloc(bytes);
    long long cpu = cpu_ns(), total = 0;
    ssize_t n;
    check(buf != NULL, "read");
    while ((n = read(conn, buf, bytes)) > 0)
        total += n;
    check(n == 0, "read");
    write_all(".", 1);
    printf("%lld %lld\n", cpu_ns() - cpu, total);
    hang_up();
    free(buf);
}

/* Keeps all threads, also those that a preload has started, on one processor. */
static void pin(size_t cpu) {
    cpu_set_t set;
    struct dirent *entry;
    DIR *tasks = opendir("/proc/self/task");
    check(tasks != NULL, "opendir");
    CPU_ZERO(&set);
    CPU_SET(cpu % (size_t)sysconf(_SC_NPROCESSORS_ONLN), &set);
    while ((entry = readdir(tasks)) != NULL) {
        int task = atoi(entry->d_name);
        if (task > 0)
            sched_setaffinity(task, sizeof set, &set);
    }
    closedir(tasks);
    printf("\n");
}

int main(int argc, char **argv) {
    char line[256], word[32];
    check(argc == 2, "usage: peer server | peer HOST:PORT");
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (strcmp(argv[1], "server") == 0) {
        socklen_t len = sizeof to;
        listener = socket(AF_INET, SOCK_STREAM, 0);
        check(listener >= 0, "socket");
        check(bind(listener, (struct sockaddr *)&to, sizeof to) == 0, "bind");
        check(listen(listener, 16) == 0, "listen");
        check(getsockname(listener, (struct sockaddr *)&to, &len) == 0, "getsockname");
        printf("127.0.0.1:%d\n", ntohs(to.sin_port));
    } else {
        const char *port = strrchr(argv[1], ':');
        to.sin_port = htons((unsigned short)atoi(port ? port + 1 : argv[1]));
    }
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        size_t a = 0, b = 0;
        if (sscanf(line, "%31s %zu %zu", word, &a, &b) < 1)
            continue;
        if (strcmp(word, "open") == 0)
            open_conn();
        else if (strcmp(word, "ping") == 0)
            ping(a, b);
        else if (strcmp(word, "echo") == 0)
            echo(a);
        else if (strcmp(word, "write") == 0)
            write_many(a, b);
        else if (strcmp(word, "read") == 0)
            read_many(a);
        else if (strcmp(word, "pin") == 0)
            pin(a);
        else
            check(0, word);
        fflush(stdout);
    }
    return 0;
}
