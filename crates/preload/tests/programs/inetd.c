/* inetd HOW: a server that runs /bin/cat for each connection, with the connection for its standard
 * input and output; prints its port. It runs until it is killed.
 * HOW: execl, execve, execlp, execle, fexecve, execveat, spawn (posix_spawn), fails (tries programs that are not there or cannot be run,
 * first), retries (fails over and over while bytes come), beside (cat beside a program that has the
 * connection too and never reads), slowly (a program that ends its output at once, reads slowly and
 * prints how many bytes came), counts (the child itself prints the number of bytes when 48,000
 * have come), spoke (the child has used the connection before), vfork. */
#define _GNU_SOURCE
#include "waits.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const char *how;
static char *cat[] = {"cat", NULL};
static char *environment[] = {"A=b", NULL};

static int is(const char *what) { return strcmp(how, what) == 0; }

/* The session is not over then: who has written it has gone without an end. */
static void count(int fd) {
    char buf[4096];
    size_t got = 0;
    while (got < 48000) {
        ssize_t n = read(fd, buf, sizeof buf);
        CHECK(n > 0);
        got += (size_t)n;
    }
    printf("%zu\n", got);
    fflush(stdout);
    /* An exit would wait for the peer, which does not come again. */
    raise(SIGKILL);
}

static void run(int fd) {
    if (is("counts")) {
        count(fd);
    }
    if (is("spoke")) {
        put(fd, "hello\n");
        expect(fd, "hello\n");
    }
    if (is("fails") || is("retries")) {
        char path[] = "/tmp/eversock-noexec-XXXXXX";
        int file = mkstemp(path);
        CHECK(file >= 0 && write(file, "\x7f" "ELF", 4) == 4 && fchmod(file, 0755) == 0);
        close(file);
        CHECK(execl("/nonexistent/cat", "cat", (char *)NULL) == -1 && errno == ENOENT);
        CHECK(dup2(fd, 0) == 0 && dup2(fd, 1) == 1);
        for (int i = is("retries") ? 20 : 1; i > 0; i--) {
            CHECK(execv(path, cat) == -1 && errno == ENOEXEC);
        }
        unlink(path);
        if (is("fails")) {
            /* As good as before. */
            put(fd, "hello\n");
            expect(0, "hello\n");
        }
    }
    if (is("slowly")) {
        CHECK(dup2(1, 9) == 9);
    }
    CHECK(dup2(fd, 0) == 0 && dup2(fd, 1) == 1);
    close(fd);
    if (is("execl") || is("spoke") || is("fails") || is("retries")) {
        execl("/bin/cat", "cat", "-", (char *)NULL);
    } else if (is("slowly")) {
        execl("/proc/self/exe", "inetd", "reads", (char *)NULL);
    } else if (is("beside")) {
        if (fork() == 0) {
            execl("/bin/sleep", "sleep", "4", (char *)NULL);
        }
        execl("/bin/cat", "cat", "-", (char *)NULL);
    } else if (is("execve")) {
        execve("/bin/cat", cat, environment);
    } else if (is("execlp")) {
        execlp("cat", "cat", (char *)NULL);
    } else if (is("fexecve")) {
        int file = open("/bin/cat", O_RDONLY | O_CLOEXEC);
        CHECK(file >= 0);
        fexecve(file, cat, environment);
    } else if (is("execveat")) {
        int folder = open("/bin", O_PATH | O_DIRECTORY | O_CLOEXEC);
        CHECK(folder >= 0);
        execveat(folder, "cat", cat, environment, 0);
    } else if (is("execle")) {
        /* More arguments than registers, and the environment behind them. */
        execle("/bin/sh", "sh", "-c", "test \"$1$2$3$4$5$6$7\" = 1234567 -a \"$A\" = b && exec cat",
               "sh", "1", "2", "3", "4", "5", "6", "7", (char *)NULL, environment);
    }
}

static __attribute__((noinline)) void by_vfork(int fd) {
    if (vfork() == 0) {
        dup2(fd, 0);
        dup2(fd, 1);
        close(fd);
        execv("/nonexistent/cat", cat);
        execv("/bin/cat", cat);
        _exit(127);
    }
}

/* As glib and systemd's libraries start programs. Who is careless does not destroy the actions. */
static void by_spawn(int fd) {
    posix_spawn_file_actions_t actions;
    pid_t child;
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, fd, 0) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, fd, 1) == 0);
    CHECK(posix_spawn_file_actions_addclose(&actions, fd) == 0);
    CHECK(posix_spawn(&child, "/nonexistent/cat", &actions, NULL, cat, environment) == ENOENT);
    CHECK(posix_spawnp(&child, "cat", &actions, NULL, cat, environment) == 0);
    CHECK(is("careless") || posix_spawn_file_actions_destroy(&actions) == 0);
}

static void read_slowly(void) {
    char buf[4096];
    size_t got = 0;
    ssize_t n;
    CHECK(shutdown(0, SHUT_WR) == 0);
    while ((n = read(0, buf, sizeof buf)) > 0) {
        got += (size_t)n;
        usleep(200);
    }
    dprintf(9, "%zd %zu\n", n, got);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    how = argv[1];
    if (is("reads")) {
        read_slowly();
        return 0;
    }
    int listener = listening();
    fcntl(listener, F_SETFD, FD_CLOEXEC);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            continue;
        }
        if (is("vfork")) {
            by_vfork(fd);
        } else if (is("spawn") || is("careless")) {
            by_spawn(fd);
        } else if (fork() == 0) {
            close(listener);
            run(fd);
            _exit(127);
        }
        close(fd);
    }
}
