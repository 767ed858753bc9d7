/* The structures that cross the border, byte by byte. */
#include "test.h"

#include <stddef.h>

#define AT(type, member, offset) \
    _Static_assert(offsetof(type, member) == (offset), #type "." #member " has moved")

_Static_assert(sizeof(struct evs_info) == 280, "struct evs_info has another size");
AT(struct evs_info, local_id, 0);
AT(struct evs_info, epoch, 8);
AT(struct evs_info, written, 16);
AT(struct evs_info, acked, 24);
AT(struct evs_info, received, 32);
AT(struct evs_info, consumed, 40);
AT(struct evs_info, log_used, 48);
AT(struct evs_info, window, 56);
AT(struct evs_info, resumes, 64);
AT(struct evs_info, replayed, 72);
AT(struct evs_info, next_try_ms, 80);
AT(struct evs_info, detached_ms, 88);
AT(struct evs_info, state, 96);
AT(struct evs_info, role, 100);
AT(struct evs_info, mode, 104);
AT(struct evs_info, reserved, 108);
AT(struct evs_info, session, 112);
AT(struct evs_info, last_error, 152);

_Static_assert(sizeof(struct evs_fault) == 56, "struct evs_fault has another size");
AT(struct evs_fault, size, 0);
AT(struct evs_fault, local_id, 8);
AT(struct evs_fault, epoch, 16);
AT(struct evs_fault, session, 24);
AT(struct evs_fault, cause, 32);
AT(struct evs_fault, peer, 40);
AT(struct evs_fault, peer_len, 48);
AT(struct evs_fault, reserved, 52);

/* A program of another version: it knows fewer members, or more. */
static void sizes(void)
{
    struct {
        struct evs_info info;
        unsigned char more[64];
    } later;
    unsigned char earlier[24];
    evs_config *config = config_of(EVS_MODE_DIRECT);
    struct pair pair = pair_of(config);
    char byte;

    send_all(pair.client, "abc", 3);
    recv_all(pair.server, &byte, 1);
    memset(&later, 0xaa, sizeof later);
    CHECK_STATUS(evs_session_info(pair.client, &later.info, sizeof later), 0);
    CHECK(later.info.written == 3 && later.info.role == EVS_ROLE_CLIENT);
    CHECK(later.info.state == EVS_STATE_ATTACHED && later.info.mode == EVS_MODE_DIRECT);
    CHECK(strlen(later.info.session) == 32 && later.info.epoch == 1);
    CHECK(later.info.detached_ms == -1 && later.info.next_try_ms == -1);
    for (size_t i = 0; i < sizeof later.more; i++)
        CHECK(later.more[i] == 0);
    memset(earlier, 0xaa, sizeof earlier);
    CHECK_STATUS(evs_session_info(pair.client, (struct evs_info *)(void *)earlier, 20), 0);
    CHECK(earlier[16] == 3 && earlier[20] == 0xaa && earlier[23] == 0xaa);
    pair_end(&pair);
    evs_config_free(config);
}

int main(void)
{
    begin();
    sizes();
    return 0;
}
