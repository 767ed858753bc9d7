/* forks: an echo server with a child per connection; prints its port. It runs until it is killed.
 * With "at N" it listens nowhere: number N is a listener already, as inetd's "wait" has it. With
 * "ask N" it looks at its address first, as such programs do.
 * With "prefork" three processes accept, and serve their clients one after the other.
 * With "count" it echoes nothing and prints how many bytes each client has sent before its
 * end, or "broken" if there was no end. */
#include "waits.h"
#include <signal.h>

int main(int argc, char **argv) {
    int asks = argc > 2 && strcmp(argv[1], "ask") == 0;
    int inherited = argc > 2 && (asks || strcmp(argv[1], "at") == 0);
    int listener = inherited ? atoi(argv[2]) : listening();
    if (asks) {
        struct sockaddr_in addr;
        socklen_t len = sizeof addr;
        CHECK(getsockname(listener, (struct sockaddr *)&addr, &len) == 0);
    }
    argc -= 2 * inherited;
    argv += 2 * inherited;
    int prefork = argc > 1 && strcmp(argv[1], "prefork") == 0;
    if (prefork && fork() != 0) {
        (void)!fork();
    }
    argc -= prefork;
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            continue;
        }
        if (prefork || fork() == 0) {
            char buf[65536];
            size_t total = 0;
            ssize_t n;
            if (!prefork) {
                close(listener);
            }
            while ((n = read(fd, buf, sizeof buf)) > 0) {
                total += (size_t)n;
                for (ssize_t done = 0; argc == 1 && done < n;) {
                    ssize_t m = write(fd, buf + done, (size_t)(n - done));
                    CHECK(m > 0);
                    done += m;
                }
            }
            if (argc > 1 && n == 0) {
                printf("%zu\n", total);
            } else if (argc > 1) {
                printf("broken\n");
            }
            fflush(stdout);
            close(fd);
            if (prefork) {
                continue;
            }
            _exit(n == 0 ? 0 : 1);
        }
        close(fd);
    }
}
