/*
 * Sends words to an echo server and prints what comes back.
 *
 *     echo_client ADDRESS PORT [WORD]...
 *
 * With an hour to find the server again when the connection is lost, and a word about each loss.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eversock.h"

static int die(const char *what)
{
    fprintf(stderr, "echo_client: %s: %s\n", what, evs_strerror(errno));
    return EXIT_FAILURE;
}

/* Asked at each fault, on a thread of its own. */
static int lost(const evs_fault *fault, void *userdata)
{
    fprintf(stderr, "%s: connection %d lost (%s), dialling again\n", (const char *)userdata,
            (int)fault->epoch, fault->cause);
    return EVS_CONTINUE;
}

static int say(int fd, const char *word, int is_last)
{
    char line[4096];
    size_t len = (size_t)snprintf(line, sizeof line, "%s%c", word, is_last ? '\n' : ' ');
    size_t at = 0;

    if (len >= sizeof line) {
        errno = EMSGSIZE;
        return die("word");
    }
    if (evs_send(fd, line, len, MSG_NOSIGNAL) != (ssize_t)len)
        return die("send");
    while (at < len) {
        ssize_t got = evs_recv(fd, line + at, len - at, 0);

        if (got <= 0) {
            errno = got == 0 ? ECONNRESET : errno;
            return die("recv");
        }
        at += (size_t)got;
    }
    fwrite(line, 1, len, stdout);
    return 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_in addr;
    evs_config *config;
    int fd, result = 0;

    if (argc < 3) {
        fprintf(stderr, "usage: echo_client ADDRESS PORT [WORD]...\n");
        return EXIT_FAILURE;
    }
    memset(&addr, 0, sizeof addr);
    addr.sin_family = AF_INET;
    addr.sin_port = htons((unsigned short)atoi(argv[2]));
    if (inet_pton(AF_INET, argv[1], &addr.sin_addr) != 1) {
        errno = EINVAL;
        return die(argv[1]);
    }
    config = evs_config_new();
    if (config == NULL)
        return die("config");
    evs_config_set_grace(config, 3600 * 1000);
    evs_config_set_recovery(config, lost, argv[0]);
    fd = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    evs_config_free(config);
    if (fd < 0)
        return die("socket");
    if (evs_connect(fd, (struct sockaddr *)&addr, sizeof addr) < 0)
        return die("connect");
    for (int i = 3; i < argc && result == 0; i++)
        result = say(fd, argv[i], i + 1 == argc);
    if (evs_close(fd) < 0)
        return die("close");
    return result;
}
