/* linked PORT: a program with eversock in it. A session of its own within the process, and a plain
 * connection to a server that knows nothing of eversock. */
#include "waits.h"
#include <eversock.h>

int main(int argc, char **argv) {
    CHECK(argc == 2);
    struct sockaddr_in addr = loopback(0);
    socklen_t len = sizeof addr;
    char got[16];
    int listener = evs_socket(AF_INET, SOCK_STREAM, 0);
    CHECK(evs_bind(listener, (struct sockaddr *)&addr, len) == 0 && evs_listen(listener, 4) == 0);
    CHECK(evs_getsockname(listener, (struct sockaddr *)&addr, &len) == 0);
    int client = evs_socket(AF_INET, SOCK_STREAM, 0);
    CHECK(evs_connect(client, (struct sockaddr *)&addr, len) == 0);
    int server = evs_accept(listener, NULL, NULL);
    CHECK(server >= 0 && evs_is_virtual(server) && evs_is_virtual(client));
    CHECK(evs_write(client, "text", 4) == 4);
    CHECK(evs_recv(server, got, 4, MSG_WAITALL) == 4 && memcmp(got, "text", 4) == 0);
    CHECK(evs_close(client) == 0 && evs_close(server) == 0 && evs_close(listener) == 0);
    int plain = connected(atoi(argv[1]));
    CHECK(!evs_is_virtual(plain));
    put(plain, "plain");
    expect(plain, "plain");
    return 0;
}
