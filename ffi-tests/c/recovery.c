/* The peer's process is killed: the callback is asked, says no, and the program gets one error. */
#include "test.h"

struct asked {
    int count;
    uint64_t epoch;
    int complete;
};

static int say_no(const evs_fault *fault, void *userdata)
{
    struct asked *asked = userdata;

    asked->epoch = fault->epoch;
    asked->complete = fault->size == sizeof *fault && strlen(fault->session) == 32 &&
                      strlen(fault->cause) > 0 && fault->peer != NULL &&
                      fault->peer->sa_family == AF_INET &&
                      fault->peer_len == sizeof(struct sockaddr_in);
    __atomic_add_fetch(&asked->count, 1, __ATOMIC_SEQ_CST);
    return EVS_GIVE_UP;
}

static void with_mode(int mode, int with_callback)
{
    static struct asked asked;
    int tell[2];
    struct pair pair;
    struct evs_info info;
    evs_config *config;
    char byte = 0;
    pid_t child;
    ssize_t n;

    memset(&asked, 0, sizeof asked);
    CHECK(pipe(tell) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(TEST_SECONDS_MAX);
        config = config_of(mode);
        listen_with(&pair, config);
        CHECK(write(tell[1], &pair.addr, sizeof pair.addr) == (ssize_t)sizeof pair.addr);
        pair.server = evs_accept(pair.listener, NULL, NULL);
        CHECK(pair.server >= 0);
        recv_all(pair.server, &byte, 1);
        send_all(pair.server, "r", 1);
        for (;;)
            pause();
    }
    CHECK(read(tell[0], &pair.addr, sizeof pair.addr) == (ssize_t)sizeof pair.addr);
    CHECK(close(tell[0]) == 0 && close(tell[1]) == 0);
    config = config_of(mode);
    if (with_callback)
        CHECK_STATUS(evs_config_set_recovery(config, say_no, &asked), 0);
    else
        CHECK_STATUS(evs_config_set_policy(config, EVS_POLICY_NEVER), 0);
    pair.client = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    CHECK(evs_connect(pair.client, (struct sockaddr *)&pair.addr, sizeof pair.addr) == 0);
    send_all(pair.client, "q", 1);
    recv_all(pair.client, &byte, 1);
    CHECK(byte == 'r');
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(waitpid(child, NULL, 0) == child);
    n = evs_recv(pair.client, &byte, 1, 0);
    CHECK(n == -1 && (errno == ECONNRESET || errno == ECONNABORTED));
    CHECK(__atomic_load_n(&asked.count, __ATOMIC_SEQ_CST) == with_callback);
    CHECK(!with_callback || (asked.epoch == 1 && asked.complete));
    CHECK_STATUS(evs_session_info(pair.client, &info, sizeof info), 0);
    CHECK(info.state == EVS_STATE_FAILED && info.written == 1 && strlen(info.last_error) > 0);
    CHECK(evs_close(pair.client) == 0);
    evs_config_free(config);
}

int main(void)
{
    begin();
    with_mode(EVS_MODE_DIRECT, 1);
    with_mode(EVS_MODE_DIRECT, 0);
    with_mode(EVS_MODE_PUMPED, 1);
    with_mode(EVS_MODE_PUMPED, 0);
    return 0;
}
