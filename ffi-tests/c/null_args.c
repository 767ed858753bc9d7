/* NULL and nonsense everywhere: the right error, never a crash. */
#include "test.h"

#include <limits.h>

static void descriptors_that_are_not_there(void)
{
    struct sockaddr_in addr = loopback(1);
    socklen_t len = sizeof addr;
    struct iovec part = { &addr, 1 };
    struct msghdr message;
    struct epoll_event event;
    struct evs_info info;
    char byte = 0;
    int bad[] = { -1, 1023, INT_MAX, INT_MIN };

    memset(&message, 0, sizeof message);
    memset(&event, 0, sizeof event);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int fd = bad[i];
        struct sockaddr *any = (struct sockaddr *)&addr;

        CHECK(evs_is_virtual(fd) == 0);
        CHECK_FAILS(evs_bind(fd, any, len), EBADF);
        CHECK_FAILS(evs_connect(fd, any, len), EBADF);
        CHECK_FAILS(evs_listen(fd, 1), EBADF);
        CHECK_FAILS(evs_accept(fd, NULL, NULL), EBADF);
        CHECK_FAILS(evs_accept4(fd, NULL, NULL, 0), EBADF);
        CHECK_FAILS(evs_shutdown(fd, SHUT_WR), EBADF);
        CHECK_FAILS(evs_close(fd), EBADF);
        CHECK_FAILS(evs_dup(fd), EBADF);
        CHECK_FAILS(evs_dup2(fd, 7), EBADF);
        CHECK_FAILS(evs_dup2(fd, fd), EBADF);
        CHECK_FAILS(evs_dup3(fd, 7, 0), EBADF);
        CHECK_FAILS(evs_getsockname(fd, any, &len), EBADF);
        CHECK_FAILS(evs_getpeername(fd, any, &len), EBADF);
        CHECK_FAILS(evs_send(fd, "x", 1, 0), EBADF);
        CHECK_FAILS(evs_recv(fd, &byte, 1, 0), EBADF);
        CHECK_FAILS(evs_sendto(fd, "x", 1, 0, NULL, 0), EBADF);
        CHECK_FAILS(evs_recvfrom(fd, &byte, 1, 0, NULL, NULL), EBADF);
        CHECK_FAILS(evs_sendmsg(fd, &message, 0), EBADF);
        CHECK_FAILS(evs_recvmsg(fd, &message, 0), EBADF);
        CHECK_FAILS(evs_read(fd, &byte, 1), EBADF);
        CHECK_FAILS(evs_write(fd, "x", 1), EBADF);
        CHECK_FAILS(evs_readv(fd, &part, 1), EBADF);
        CHECK_FAILS(evs_writev(fd, &part, 1), EBADF);
        CHECK_FAILS(evs_sendfile(fd, 0, NULL, 1), EBADF);
        CHECK_FAILS(evs_getsockopt(fd, SOL_SOCKET, SO_TYPE, &byte, &len), EBADF);
        CHECK_FAILS(evs_setsockopt(fd, SOL_SOCKET, SO_TYPE, &byte, 1), EBADF);
        CHECK_FAILS(evs_fcntl(fd, F_GETFL), EBADF);
        CHECK_FAILS(evs_ioctl(fd, FIONREAD, &bad[0]), EBADF);
        CHECK_FAILS(evs_epoll_ctl(fd, EPOLL_CTL_ADD, 0, &event), EBADF);
        CHECK_FAILS(evs_epoll_wait(fd, &event, 1, 0), EBADF);
        CHECK_STATUS(evs_session_info(fd, &info, sizeof info), -EBADF);
        CHECK_STATUS(evs_wait_attached(fd, 0), -EBADF);
        CHECK_STATUS(evs_pump(fd), -EBADF);
        CHECK_STATUS(evs_redial(fd), -EBADF);
    }
}

static void a_fresh_socket(int mode)
{
    evs_config *config = config_of(mode);
    int fd = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    struct sockaddr_storage addr;
    struct sockaddr_in in = loopback(1);
    socklen_t len = sizeof addr;
    socklen_t negative = (socklen_t)-1;
    struct evs_info info;
    int value = 0;

    CHECK(fd >= 0);
    memset(&addr, 0, sizeof addr);
    CHECK_FAILS(evs_bind(fd, NULL, sizeof in), EFAULT);
    CHECK_FAILS(evs_bind(fd, (struct sockaddr *)&in, 0), EINVAL);
    CHECK_FAILS(evs_bind(fd, (struct sockaddr *)&in, 1), EINVAL);
    CHECK_FAILS(evs_bind(fd, (struct sockaddr *)&in, negative), EINVAL);
    CHECK_FAILS(evs_connect(fd, NULL, sizeof in), EFAULT);
    CHECK_FAILS(evs_connect(fd, (struct sockaddr *)&in, 3), EINVAL);
    CHECK_FAILS(evs_connect(fd, (struct sockaddr *)&in, 4096), EINVAL);
    in.sin_family = AF_UNIX;
    CHECK_FAILS(evs_connect(fd, (struct sockaddr *)&in, sizeof in), EAFNOSUPPORT);
    in.sin_family = AF_INET6;
    CHECK_FAILS(evs_connect(fd, (struct sockaddr *)&in, sizeof in), EAFNOSUPPORT);
    CHECK_FAILS(evs_getsockname(fd, NULL, &len), EFAULT);
    CHECK_FAILS(evs_getsockname(fd, (struct sockaddr *)&addr, NULL), EFAULT);
    CHECK_FAILS(evs_getsockname(fd, (struct sockaddr *)&addr, &negative), EINVAL);
    CHECK_FAILS(evs_getpeername(fd, (struct sockaddr *)&addr, &len), ENOTCONN);
    CHECK_FAILS(evs_getsockopt(fd, SOL_SOCKET, SO_TYPE, NULL, &len), EFAULT);
    CHECK_FAILS(evs_getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, NULL), EFAULT);
    CHECK_FAILS(evs_getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &negative), EINVAL);
    CHECK_FAILS(evs_setsockopt(fd, SOL_SOCKET, SO_RCVBUF, NULL, sizeof value), EFAULT);
    CHECK_FAILS(evs_setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, 1), EINVAL);
    CHECK_FAILS(evs_setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, negative), EINVAL);
    CHECK_FAILS(evs_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, NULL, 0), EINVAL);
    CHECK_FAILS(evs_ioctl(fd, FIONBIO, NULL), EFAULT);
    CHECK_FAILS(evs_fcntl(fd, 4711, 0), EINVAL);
    CHECK_FAILS(evs_fcntl(fd, F_DUPFD, -1), EINVAL);
    CHECK_FAILS(evs_dup3(fd, fd, 0), EINVAL);
    CHECK_FAILS(evs_dup3(fd, 500, O_APPEND), EINVAL);
    CHECK_FAILS(evs_dup2(fd, -1), EBADF);
    CHECK_FAILS(evs_accept4(fd, NULL, NULL, 0), EINVAL);
    CHECK_FAILS(evs_shutdown(fd, 3), EINVAL);
    CHECK_FAILS(evs_send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_STATUS(evs_session_info(fd, NULL, sizeof info), -EFAULT);
    CHECK_STATUS(evs_session_info(fd, &info, 0), -EINVAL);
    CHECK_STATUS(evs_session_info(fd, &info, SIZE_MAX), -EINVAL);
    CHECK_STATUS(evs_session_info(fd, &info, sizeof info), 0);
    CHECK(info.state == EVS_STATE_FRESH && info.mode == mode && info.role == EVS_ROLE_NONE);
    CHECK_STATUS(evs_wait_attached(fd, 0), -ENOTCONN);
    CHECK(evs_close(fd) == 0);
    CHECK_FAILS(evs_close(fd), EBADF);
    evs_config_free(config);
}

static void a_connected_socket(int mode)
{
    evs_config *config = config_of(mode);
    struct pair pair = pair_of(config);
    struct sockaddr_storage addr;
    socklen_t len = sizeof addr;
    socklen_t negative = (socklen_t)-1;
    struct iovec *many = calloc(1025, sizeof *many);
    struct iovec part = { NULL, 1 };
    struct iovec huge[2] = { { &addr, SIZE_MAX }, { &addr, 1 } };
    struct msghdr message;
    int fd = pair.client;
    char byte = 0;

    CHECK(many != NULL);
    memset(&message, 0, sizeof message);
    CHECK_FAILS(evs_connect(fd, (struct sockaddr *)&pair.addr, sizeof pair.addr), EISCONN);
    CHECK_FAILS(evs_send(fd, NULL, 1, 0), EFAULT);
    CHECK_FAILS(evs_recv(fd, NULL, 1, MSG_DONTWAIT), EFAULT);
    CHECK_FAILS(evs_write(fd, (const void *)8, 1), EFAULT);
    CHECK_FAILS(evs_read(fd, NULL, 1), EFAULT);
    CHECK_FAILS(evs_sendto(fd, "x", 1, 0, (struct sockaddr *)&addr, negative), EINVAL);
    CHECK_FAILS(evs_recvfrom(fd, &byte, 1, MSG_DONTWAIT, (struct sockaddr *)&addr, NULL), EFAULT);
    CHECK_FAILS(evs_recvfrom(fd, &byte, 1, MSG_DONTWAIT, (struct sockaddr *)&addr, &negative),
                EINVAL);
    CHECK_FAILS(evs_recvfrom(fd, &byte, 1, MSG_DONTWAIT, (struct sockaddr *)&addr, &len), EAGAIN);
    CHECK_FAILS(evs_sendmsg(fd, NULL, 0), EFAULT);
    CHECK_FAILS(evs_recvmsg(fd, NULL, MSG_DONTWAIT), EFAULT);
    message.msg_iov = NULL;
    message.msg_iovlen = 1;
    CHECK_FAILS(evs_sendmsg(fd, &message, 0), EFAULT);
    CHECK_FAILS(evs_recvmsg(fd, &message, MSG_DONTWAIT), EFAULT);
    message.msg_iov = many;
    message.msg_iovlen = 1025;
    CHECK_FAILS(evs_sendmsg(fd, &message, 0), EMSGSIZE);
    CHECK_FAILS(evs_recvmsg(fd, &message, MSG_DONTWAIT), EMSGSIZE);
    CHECK_FAILS(evs_writev(fd, many, 1025), EINVAL);
    CHECK_FAILS(evs_readv(fd, many, 1025), EINVAL);
    CHECK_FAILS(evs_writev(fd, many, -1), EINVAL);
    CHECK_FAILS(evs_readv(fd, many, INT_MIN), EINVAL);
    CHECK_FAILS(evs_writev(fd, NULL, 1), EFAULT);
    CHECK_FAILS(evs_readv(fd, NULL, 1), EFAULT);
    CHECK_FAILS(evs_writev(fd, &part, 1), EFAULT);
    CHECK_FAILS(evs_readv(fd, &part, 1), EFAULT);
    CHECK_FAILS(evs_writev(fd, huge, 2), EINVAL);
    CHECK(evs_writev(fd, many, 1024) == 0);
    CHECK(evs_writev(fd, NULL, 0) == 0);
    CHECK(evs_readv(fd, NULL, 0) == 0);
    CHECK_FAILS(evs_sendfile(fd, -1, NULL, 1), EBADF);
    CHECK_FAILS(evs_sendfile(fd, fd, NULL, 1), EINVAL);
    CHECK_FAILS(evs_ioctl(fd, FIONREAD, NULL), EFAULT);
    CHECK_FAILS(evs_ioctl(fd, FIONBIO, NULL), EFAULT);
    CHECK_FAILS(evs_accept(fd, NULL, NULL), EINVAL);
    CHECK_FAILS(evs_listen(fd, 1), EINVAL);
    CHECK_FAILS(evs_bind(fd, (struct sockaddr *)&pair.addr, sizeof pair.addr), EINVAL);
    CHECK_FAILS(evs_shutdown(fd, -1), EINVAL);

    /* A listener. */
    CHECK_FAILS(evs_accept(pair.listener, (struct sockaddr *)&addr, NULL), EFAULT);
    CHECK_FAILS(evs_accept(pair.listener, (struct sockaddr *)&addr, &negative), EINVAL);
    CHECK_FAILS(evs_accept(pair.listener, (struct sockaddr *)8, &len), EFAULT);
    CHECK_FAILS(evs_accept4(pair.listener, NULL, NULL, 4711), EINVAL);
    CHECK_FAILS(evs_send(pair.listener, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_FAILS(evs_recv(pair.listener, &byte, 1, 0), ENOTCONN);
    CHECK_STATUS(evs_pump(pair.listener), -ENOTCONN);

    /* After all that the session is as it was. */
    send_all(fd, "y", 1);
    recv_all(pair.server, &byte, 1);
    CHECK(byte == 'y');
    pair_end(&pair);
    free(many);
    evs_config_free(config);
}

static void waits(void)
{
    evs_config *config = config_of(EVS_MODE_DIRECT);
    int fd = evs_socket_with(config, AF_INET, SOCK_STREAM, 0);
    struct pollfd entry = { -1, POLLIN, 0 };
    struct epoll_event event;
    struct timespec odd = { 0, 1000000000 };
    struct timeval negative = { -1, 0 };
    fd_set set;
    int epfd = epoll_create1(EPOLL_CLOEXEC);

    CHECK(fd >= 0 && epfd >= 0);
    memset(&event, 0, sizeof event);
    FD_ZERO(&set);
    CHECK_FAILS(evs_poll(NULL, 1, 0), EFAULT);
    CHECK_FAILS(evs_poll(&entry, (nfds_t)-1, 0), EINVAL);
    CHECK(evs_poll(NULL, 0, 0) == 0);
    CHECK(evs_poll(&entry, 1, 0) == 0 && entry.revents == 0);
    entry.fd = 1023;
    CHECK(evs_poll(&entry, 1, -1) == 1 && entry.revents == POLLNVAL);
    CHECK_FAILS(evs_ppoll(&entry, 1, &odd, NULL), EINVAL);
    CHECK_FAILS(evs_select(-1, NULL, NULL, NULL, NULL), EINVAL);
    CHECK_FAILS(evs_select(0, NULL, NULL, NULL, &negative), EINVAL);
    CHECK_FAILS(evs_pselect(0, NULL, NULL, NULL, &odd, NULL), EINVAL);
    FD_SET(1000, &set);
    CHECK_FAILS(evs_select(1001, &set, NULL, NULL, NULL), EBADF);
    CHECK_FAILS(evs_epoll_ctl(epfd, EPOLL_CTL_ADD, fd, NULL), EFAULT);
    CHECK_FAILS(evs_epoll_ctl(epfd, 4711, fd, &event), EINVAL);
    CHECK_FAILS(evs_epoll_ctl(epfd, EPOLL_CTL_MOD, fd, &event), ENOENT);
    CHECK_FAILS(evs_epoll_ctl(epfd, EPOLL_CTL_DEL, fd, NULL), ENOENT);
    CHECK_FAILS(evs_epoll_ctl(-1, EPOLL_CTL_ADD, fd, &event), EBADF);
    CHECK_FAILS(evs_epoll_ctl(0, EPOLL_CTL_ADD, fd, &event), EINVAL);
    CHECK_FAILS(evs_epoll_ctl(fd, EPOLL_CTL_ADD, fd, &event), EINVAL);
    CHECK(evs_epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) == 0);
    CHECK_FAILS(evs_epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event), EEXIST);
    CHECK_FAILS(evs_epoll_wait(epfd, NULL, 1, 0), EFAULT);
    CHECK_FAILS(evs_epoll_wait(epfd, &event, 0, 0), EINVAL);
    CHECK_FAILS(evs_epoll_wait(epfd, &event, -1, 0), EINVAL);
    CHECK_FAILS(evs_epoll_wait(epfd, &event, INT_MAX, 0), EINVAL);
    CHECK_FAILS(evs_epoll_wait(0, &event, 1, 0), EINVAL);
    CHECK(evs_close(epfd) == 0);
    CHECK(evs_close(fd) == 0);
    evs_config_free(config);
}

static void configurations(void)
{
    evs_config *config = evs_config_new();
    struct sockaddr_in addr = loopback(1);
    unsigned char key[EVS_KEY_BYTES] = { 1 };

    CHECK(config != NULL);
    evs_config_free(NULL);
    CHECK_STATUS(evs_config_set_mode(NULL, 0), -EFAULT);
    CHECK_STATUS(evs_config_set_mode(config, 2), -EINVAL);
    CHECK_STATUS(evs_config_set_mode(config, -1), -EINVAL);
    CHECK_STATUS(evs_config_set_policy(NULL, 0), -EFAULT);
    CHECK_STATUS(evs_config_set_policy(config, 3), -EINVAL);
    CHECK_STATUS(evs_config_set_policy(config, EVS_POLICY_ASK_OUTSIDE), 0);
    CHECK_STATUS(evs_config_set_recovery(NULL, NULL, NULL), -EFAULT);
    CHECK_STATUS(evs_config_set_recovery(config, NULL, NULL), 0);
    CHECK_STATUS(evs_config_set_line_up(NULL, "true"), -EFAULT);
    CHECK_STATUS(evs_config_set_line_up(config, "\xff"), -EILSEQ);
    CHECK_STATUS(evs_config_set_line_up(config, "true"), 0);
    CHECK_STATUS(evs_config_set_line_up(config, NULL), 0);
    CHECK_STATUS(evs_config_set_redial_limit(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_set_redial_limit(config, UINT32_MAX), 0);
    CHECK_STATUS(evs_config_set_grace(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_set_grace(config, UINT64_MAX), -EINVAL);
    CHECK_STATUS(evs_config_set_grace(config, 0), 0);
    CHECK_STATUS(evs_config_set_grace_after_close(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_set_grace_after_close(config, UINT64_MAX), -EINVAL);
    CHECK_STATUS(evs_config_set_back_off(NULL, 1, 2), -EFAULT);
    CHECK_STATUS(evs_config_set_back_off(config, 2, 1), -EINVAL);
    CHECK_STATUS(evs_config_set_back_off(config, 0, 0), -EINVAL);
    CHECK_STATUS(evs_config_set_back_off(config, 1, 1), 0);
    CHECK_STATUS(evs_config_set_connect_timeout(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_set_connect_timeout(config, 0), -EINVAL);
    CHECK_STATUS(evs_config_set_key(NULL, key, sizeof key), -EFAULT);
    CHECK_STATUS(evs_config_set_key(config, NULL, sizeof key), -EFAULT);
    CHECK_STATUS(evs_config_set_key(config, key, sizeof key - 1), -EINVAL);
    CHECK_STATUS(evs_config_set_key(config, key, 0), -EINVAL);
    CHECK_STATUS(evs_config_set_key(config, key, sizeof key), 0);
    CHECK_STATUS(evs_config_set_key(config, NULL, 0), 0);
    CHECK_STATUS(evs_config_set_sealed(NULL, EVS_SEALED_ALWAYS), -EFAULT);
    CHECK_STATUS(evs_config_set_sealed(config, 3), -EINVAL);
    CHECK_STATUS(evs_config_set_sealed(config, -1), -EINVAL);
    CHECK_STATUS(evs_config_set_sealed(config, EVS_SEALED_NEVER), 0);
    CHECK_STATUS(evs_config_set_identity(NULL, key, sizeof key), -EFAULT);
    CHECK_STATUS(evs_config_set_identity(config, NULL, sizeof key), -EFAULT);
    CHECK_STATUS(evs_config_set_identity(config, key, sizeof key + 1), -EINVAL);
    CHECK_STATUS(evs_config_set_identity(config, NULL, 0), 0);
    CHECK_STATUS(evs_config_set_server_key(NULL, key, sizeof key), -EFAULT);
    CHECK_STATUS(evs_config_set_server_key(config, NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_set_server_key(config, key, 0), -EINVAL);
    CHECK_STATUS(evs_config_set_server_key(config, NULL, 0), 0);
    CHECK_STATUS(evs_config_add_allowed_client(NULL, key, sizeof key), -EFAULT);
    CHECK_STATUS(evs_config_add_allowed_client(config, NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_add_allowed_client(config, key, 31), -EINVAL);
    CHECK_STATUS(evs_config_add_allowed_client(config, NULL, 0), 0);
    CHECK_STATUS(evs_config_set_known_peers(NULL, "known", 0), -EFAULT);
    CHECK_STATUS(evs_config_set_known_peers(config, "known", 2), -EINVAL);
    CHECK_STATUS(evs_config_set_known_peers(config, "known", -1), -EINVAL);
    CHECK_STATUS(evs_config_set_known_peers(config, "", 0), -EINVAL);
    CHECK_STATUS(evs_config_set_known_peers(config, "\xff", 1), 0);
    CHECK_STATUS(evs_config_set_known_peers(config, "known", 0), 0);
    CHECK_STATUS(evs_config_set_known_peers(config, NULL, 0), 0);
    CHECK_STATUS(evs_config_set_sessions_max(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_set_sessions_max(config, UINT32_MAX), 0);
    CHECK_STATUS(evs_config_set_sessions_max(config, 0), 0);
    CHECK_STATUS(evs_config_set_memory_max(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_set_memory_max(config, UINT64_MAX), 0);
    CHECK_STATUS(evs_config_set_memory_max(config, 0), 0);
    CHECK_STATUS(evs_config_set_handshakes_per_source(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_set_handshakes_per_source(config, 0), 0);
    CHECK_STATUS(evs_config_set_handshakes_per_source(config, UINT32_MAX), 0);
    CHECK_STATUS(evs_config_set_window(NULL, 16384, 16384), -EFAULT);
    CHECK_STATUS(evs_config_set_window(config, 16383, 16384), -EINVAL);
    CHECK_STATUS(evs_config_set_window(config, 32768, 16384), -EINVAL);
    CHECK_STATUS(evs_config_set_window(config, 16384, 268435457), -EINVAL);
    CHECK_STATUS(evs_config_set_window(config, 16384, 268435456), 0);
    CHECK_STATUS(evs_config_set_linger(NULL, 0), -EFAULT);
    CHECK_STATUS(evs_config_set_linger(config, 0), 0);
    CHECK_STATUS(evs_config_set_keepalive(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_set_keepalive(config, 0), -EINVAL);
    CHECK_STATUS(evs_config_set_probe_after(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_config_set_probe_after(config, 0), -EINVAL);
    CHECK_STATUS(evs_config_add_peer(NULL, (struct sockaddr *)&addr, sizeof addr), -EFAULT);
    CHECK_STATUS(evs_config_add_peer(config, NULL, sizeof addr), -EFAULT);
    CHECK_STATUS(evs_config_add_peer(config, (struct sockaddr *)&addr, 3), -EINVAL);
    CHECK_STATUS(evs_config_add_peer(config, (struct sockaddr *)&addr, sizeof addr), 0);
    addr.sin_family = AF_UNIX;
    CHECK_STATUS(evs_config_add_peer(config, (struct sockaddr *)&addr, sizeof addr),
                 -EAFNOSUPPORT);
    CHECK_FAILS(evs_socket_with(NULL, AF_INET, SOCK_STREAM, 0), EFAULT);
    CHECK_STATUS(evs_set_default_config(config), 0);
    CHECK_STATUS(evs_set_default_config(NULL), 0);
    evs_config_free(config);
}

static void words(void)
{
    int numbers[] = { 0, EPROTO, -EPROTO, EACCES, ENOTRECOVERABLE, INT_MAX, INT_MIN, 4711 };

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        CHECK(evs_strerror(numbers[i]) != NULL && strlen(evs_strerror(numbers[i])) > 5);
    CHECK(strstr(evs_strerror(-EPROTO), "eversock protocol") != NULL);
    CHECK(strstr(evs_strerror(EACCES), "key") != NULL);
}

int main(void)
{
    begin();
    words();
    configurations();
    descriptors_that_are_not_there();
    waits();
    a_fresh_socket(EVS_MODE_PUMPED);
    a_fresh_socket(EVS_MODE_DIRECT);
    a_connected_socket(EVS_MODE_PUMPED);
    a_connected_socket(EVS_MODE_DIRECT);
    CHECK_STATUS(evs_network_changed(), 0);
    return 0;
}
