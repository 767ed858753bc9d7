/* hands HOW LIBRARY PROGRAM ARGUMENT..: makes a listener on loopback, prints its port, and becomes a
 * program that has it, with LIBRARY preloaded ("" for none).
 * HOW: a number to have it at, or "systemd": number 3, and the environment that says so. */
#include "waits.h"

int main(int argc, char **argv) {
    char pid[16];
    CHECK(argc > 3);
    int systemd = strcmp(argv[1], "systemd") == 0;
    int listener = listening(), number = systemd ? 3 : atoi(argv[1]);
    if (listener != number) {
        CHECK(dup2(listener, number) == number && close(listener) == 0);
    }
    if (systemd) {
        snprintf(pid, sizeof pid, "%d", getpid());
        CHECK(setenv("LISTEN_PID", pid, 1) == 0 && setenv("LISTEN_FDS", "1", 1) == 0);
    }
    if (argv[2][0] != 0) {
        CHECK(setenv("LD_PRELOAD", argv[2], 1) == 0);
    }
    execvp(argv[3], argv + 3);
    CHECK(!"execvp");
}
