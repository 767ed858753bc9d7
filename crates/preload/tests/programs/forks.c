/* forks: an echo server with a child per connection; prints its port. It runs until it is killed.
 * With an argument it echoes nothing and prints how many bytes each client has sent before its
 * end, or "broken" if there was no end. */
#include "waits.h"
#include <signal.h>

int main(int argc, char **argv) {
    int listener = listening();
    (void)argv;
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            continue;
        }
        if (fork() == 0) {
            char buf[65536];
            size_t total = 0;
            ssize_t n;
            close(listener);
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
            _exit(n == 0 ? 0 : 1);
        }
        close(fd);
    }
}
