/* Sealed sessions, static keys, and who is refused. */
#include "test.h"

/* RFC 7748, 6.1: Alice and Bob. */
static const unsigned char alice[EVS_KEY_BYTES] = {
    0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
    0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a
};
static const unsigned char alice_public[EVS_KEY_BYTES] = {
    0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7, 0x5a,
    0x0d, 0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a
};
static const unsigned char bob[EVS_KEY_BYTES] = {
    0x5d, 0xab, 0x08, 0x7e, 0x62, 0x4a, 0x8a, 0x4b, 0x79, 0xe1, 0x7f, 0x8b, 0x83, 0x80, 0x0e, 0xe6,
    0x6f, 0x3b, 0xb1, 0x29, 0x26, 0x18, 0xb6, 0xfd, 0x1c, 0x2f, 0x8b, 0x27, 0xff, 0x88, 0xe0, 0xeb
};
static const unsigned char bob_public[EVS_KEY_BYTES] = {
    0xde, 0x9e, 0xdb, 0x7d, 0x7b, 0x7d, 0xc1, 0xb4, 0xd3, 0x5b, 0x61, 0xc2, 0xec, 0xe4, 0x35, 0x37,
    0x3f, 0x83, 0x43, 0xc8, 0x5b, 0x78, 0x67, 0x4d, 0xad, 0xfc, 0x7e, 0x14, 0x6f, 0x88, 0x2b, 0x4f
};

static evs_config *sealed(int mode)
{
    evs_config *config = config_of(mode);

    CHECK_STATUS(evs_config_set_sealed(config, EVS_SEALED_ALWAYS), 0);
    return config;
}

/* A listener of Bob's, who lets Alice in. */
static int listening(int mode, struct sockaddr_in *where)
{
    evs_config *config = sealed(mode);
    socklen_t len = sizeof *where;
    int listener;

    CHECK_STATUS(evs_config_set_identity(config, bob, sizeof bob), 0);
    CHECK_STATUS(evs_config_add_allowed_client(config, alice_public, sizeof alice_public), 0);
    listener = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    CHECK(listener >= 0);
    memset(where, 0, sizeof *where);
    where->sin_family = AF_INET;
    where->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(evs_bind(listener, (struct sockaddr *)where, sizeof *where) == 0);
    CHECK(evs_listen(listener, 8) == 0);
    CHECK(evs_getsockname(listener, (struct sockaddr *)where, &len) == 0);
    evs_config_free(config);
    return listener;
}

/* "HOST:PORT KEY" as the only line behind a comment; nothing with no key. */
static void list(const char *path, const struct sockaddr_in *where, const unsigned char *key)
{
    FILE *file = fopen(path, "w");

    CHECK(file != NULL);
    CHECK(fprintf(file, "# servers\n") > 0);
    if (key != NULL) {
        CHECK(fprintf(file, "127.0.0.1:%d ", ntohs(where->sin_port)) > 0);
        for (int i = 0; i < EVS_KEY_BYTES; i++)
            CHECK(fprintf(file, "%02x", key[i]) == 2);
        CHECK(fputc('\n', file) == '\n');
    }
    CHECK(fclose(file) == 0);
}

/* What a refused connect tells. */
static void refused(const evs_config *config, const struct sockaddr_in *where, const char *why)
{
    int client = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    struct evs_info info;

    CHECK_FAILS(evs_connect(client, (const struct sockaddr *)where, sizeof *where), EACCES);
    CHECK_STATUS(evs_session_info(client, &info, sizeof info), 0);
    if (strstr(info.last_error, why) == NULL) {
        fprintf(stderr, "told: %s\nnot: %s\n", info.last_error, why);
        CHECK(0);
    }
    CHECK(evs_close(client) == 0);
}

static void taken(const evs_config *config, const struct sockaddr_in *where, int listener)
{
    int client = evs_socket_with(config, AF_INET, SOCK_STREAM, 0), server;

    CHECK(evs_connect(client, (const struct sockaddr *)where, sizeof *where) == 0);
    server = evs_accept(listener, NULL, NULL);
    CHECK(server >= 0);
    CHECK(evs_close(client) == 0);
    CHECK(evs_close(server) == 0);
}

/* Alice knows Bob from a file, or does not. */
static void known_peers(int mode)
{
    char folder[] = "/tmp/evs-known-XXXXXX", path[64], place[80], line[128];
    struct sockaddr_in where;
    int listener = listening(mode, &where);
    evs_config *config = sealed(mode);
    FILE *file;

    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/known", folder);
    snprintf(place, sizeof place, "%s:2", path);
    CHECK_STATUS(evs_config_set_identity(config, alice, sizeof alice), 0);
    CHECK_STATUS(evs_config_set_known_peers(config, path, 0), 0);
    refused(config, &where, "is not known");
    CHECK(access(path, F_OK) != 0);
    list(path, &where, bob_public);
    taken(config, &where, listener);
    list(path, &where, alice_public);
    refused(config, &where, place);
    CHECK(chmod(path, 0666) == 0);
    refused(config, &where, path);
    CHECK(chmod(path, 0600) == 0);

    /* Believed the first time, and only then. The folder may change. */
    CHECK(chdir(folder) == 0);
    CHECK_STATUS(evs_config_set_known_peers(config, "known", 1), 0);
    CHECK(chdir("/") == 0);
    refused(config, &where, place);
    list(path, &where, NULL);
    taken(config, &where, listener);
    taken(config, &where, listener);
    file = fopen(path, "r");
    CHECK(file != NULL);
    CHECK(fgets(line, sizeof line, file) != NULL && strcmp(line, "# servers\n") == 0);
    CHECK(fgets(line, sizeof line, file) != NULL && strstr(line, "de9edb7d7b7dc1b4") != NULL);
    CHECK(fgets(line, sizeof line, file) == NULL);
    CHECK(fclose(file) == 0);

    /* A pinned key goes before the file. */
    list(path, &where, alice_public);
    CHECK_STATUS(evs_config_set_server_key(config, bob_public, sizeof bob_public), 0);
    taken(config, &where, listener);
    CHECK_STATUS(evs_config_set_server_key(config, NULL, 0), 0);
    refused(config, &where, place);
    CHECK(unlink(path) == 0 && rmdir(folder) == 0);
    CHECK(evs_close(listener) == 0);
    evs_config_free(config);
}

static void with_mode(int mode, size_t total)
{
    unsigned char *data = malloc(total), *back = malloc(total);
    struct sockaddr_in where;
    struct sockaddr *peer = (struct sockaddr *)&where;
    int listener = listening(mode, &where), client, server;
    evs_config *config = sealed(mode);

    CHECK(data != NULL && back != NULL);
    for (size_t i = 0; i < total; i++)
        data[i] = pattern(i);

    /* Nobody: no key of the server, no name, another server, a name that is not on the list. */
    client = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    CHECK_FAILS(evs_connect(client, peer, sizeof where), EACCES);
    CHECK(evs_close(client) == 0);
    CHECK_STATUS(evs_config_set_server_key(config, bob_public, sizeof bob_public), 0);
    client = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    CHECK_FAILS(evs_connect(client, peer, sizeof where), EACCES);
    CHECK(evs_close(client) == 0);
    CHECK_STATUS(evs_config_set_identity(config, bob, sizeof bob), 0);
    client = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    CHECK_FAILS(evs_connect(client, peer, sizeof where), EACCES);
    CHECK(evs_close(client) == 0);
    CHECK_STATUS(evs_config_set_identity(config, alice, sizeof alice), 0);
    CHECK_STATUS(evs_config_set_server_key(config, alice_public, sizeof alice_public), 0);
    client = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    CHECK_FAILS(evs_connect(client, peer, sizeof where), EACCES);
    CHECK(evs_close(client) == 0);

    CHECK_STATUS(evs_config_set_server_key(config, bob_public, sizeof bob_public), 0);
    client = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    CHECK(evs_connect(client, peer, sizeof where) == 0);
    server = evs_accept(listener, NULL, NULL);
    CHECK(server >= 0);
    send_all(client, data, total);
    recv_all(server, back, total);
    CHECK(memcmp(data, back, total) == 0);
    memset(back, 0, total);
    send_all(server, data, total);
    recv_all(client, back, total);
    CHECK(memcmp(data, back, total) == 0);
    CHECK(evs_close(client) == 0);
    CHECK(evs_close(server) == 0);
    CHECK(evs_close(listener) == 0);
    evs_config_free(config);
    free(data);
    free(back);
}

int main(int argc, char **argv)
{
    size_t total = argc > 1 ? (size_t)atol(argv[1]) : 100 * 1000;

    begin();
    with_mode(EVS_MODE_DIRECT, total);
    with_mode(EVS_MODE_PUMPED, total);
    known_peers(EVS_MODE_DIRECT);
    known_peers(EVS_MODE_PUMPED);
    return 0;
}
