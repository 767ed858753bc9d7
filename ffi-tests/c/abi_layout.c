/* The structures that cross the border, byte by byte. */
#define EVERSOCK_DEDUP
#define EVERSOCK_CONTROLLER
#define EVERSOCK_SPOOL
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

_Static_assert(sizeof(struct evs_weights) == 56, "struct evs_weights has another size");
AT(struct evs_weights, rtt_min, 0);
AT(struct evs_weights, rtt, 8);
AT(struct evs_weights, loss, 16);
AT(struct evs_weights, rate, 24);
AT(struct evs_weights, link, 32);
AT(struct evs_weights, hops, 40);
AT(struct evs_weights, mtu, 48);

_Static_assert(sizeof(struct evs_pool_options) == 64, "struct evs_pool_options has another size");
AT(struct evs_pool_options, service, 0);
AT(struct evs_pool_options, tag, 8);
AT(struct evs_pool_options, application, 16);
AT(struct evs_pool_options, device, 24);
AT(struct evs_pool_options, source, 32);
AT(struct evs_pool_options, management, 40);
AT(struct evs_pool_options, source_len, 48);
AT(struct evs_pool_options, timeout_ms, 52);
AT(struct evs_pool_options, flags, 56);
AT(struct evs_pool_options, reserved, 60);

_Static_assert(sizeof(struct evs_pool_row) == 520, "struct evs_pool_row has another size");
AT(struct evs_pool_row, management, 0);
AT(struct evs_pool_row, epoch, 8);
AT(struct evs_pool_row, boot, 16);
AT(struct evs_pool_row, rtt_min_us, 24);
AT(struct evs_pool_row, rtt_us, 32);
AT(struct evs_pool_row, loss_ppm, 40);
AT(struct evs_pool_row, rate_bps, 48);
AT(struct evs_pool_row, link_mbps, 56);
AT(struct evs_pool_row, hops, 64);
AT(struct evs_pool_row, mtu, 68);
AT(struct evs_pool_row, references, 72);
AT(struct evs_pool_row, state, 76);
AT(struct evs_pool_row, why, 80);
AT(struct evs_pool_row, reserved, 84);
AT(struct evs_pool_row, server, 88);
AT(struct evs_pool_row, session, 104);
AT(struct evs_pool_row, address, 120);
AT(struct evs_pool_row, application, 184);
AT(struct evs_pool_row, requested, 248);

_Static_assert(sizeof(struct evs_pool_counts) == 232, "struct evs_pool_counts has another size");
AT(struct evs_pool_counts, sessions, 0);
AT(struct evs_pool_counts, opens, 8);
AT(struct evs_pool_counts, sessions_opened, 16);
AT(struct evs_pool_counts, sessions_saved, 24);
AT(struct evs_pool_counts, late_merges, 32);
AT(struct evs_pool_counts, query_hits, 40);
AT(struct evs_pool_counts, forged, 48);
AT(struct evs_pool_counts, migrations, 56);
AT(struct evs_pool_counts, migrations_failed, 64);
AT(struct evs_pool_counts, failovers, 72);
AT(struct evs_pool_counts, resets_by_boot, 80);
AT(struct evs_pool_counts, goaways, 88);
AT(struct evs_pool_counts, misdirected, 96);
AT(struct evs_pool_counts, refused, 104);

_Static_assert(sizeof(struct evs_accepted) == 360, "struct evs_accepted has another size");
AT(struct evs_accepted, peer, 0);
AT(struct evs_accepted, requested, 128);
AT(struct evs_accepted, peer_len, 256);
AT(struct evs_accepted, requested_len, 260);
AT(struct evs_accepted, has_client_key, 264);
AT(struct evs_accepted, is_shared, 268);
AT(struct evs_accepted, client_key, 272);
AT(struct evs_accepted, session, 304);
AT(struct evs_accepted, service, 320);

_Static_assert(sizeof(struct evs_controller_outcome) == 40, "struct evs_controller_outcome has another size");
AT(struct evs_controller_outcome, answer, 0);
AT(struct evs_controller_outcome, answer_len, 8);
AT(struct evs_controller_outcome, text, 16);
AT(struct evs_controller_outcome, seq, 24);
AT(struct evs_controller_outcome, outcome, 32);
AT(struct evs_controller_outcome, after_ms, 36);

_Static_assert(sizeof(struct evs_device_event) == 32, "struct evs_device_event has another size");
AT(struct evs_device_event, controller, 0);
AT(struct evs_device_event, text, 8);
AT(struct evs_device_event, number, 16);
AT(struct evs_device_event, kind, 24);
AT(struct evs_device_event, reserved, 28);

_Static_assert(sizeof(struct evs_device_functions) == 24, "struct evs_device_functions has another size");
AT(struct evs_device_functions, request, 0);
AT(struct evs_device_functions, event, 8);
AT(struct evs_device_functions, user, 16);

_Static_assert(sizeof(struct evs_spool_outcome) == 64, "struct evs_spool_outcome has another size");
AT(struct evs_spool_outcome, lsn, 0);
AT(struct evs_spool_outcome, answer, 8);
AT(struct evs_spool_outcome, answer_len, 16);
AT(struct evs_spool_outcome, text, 24);
AT(struct evs_spool_outcome, owner, 32);
AT(struct evs_spool_outcome, retry_after_ms, 40);
AT(struct evs_spool_outcome, code, 48);
AT(struct evs_spool_outcome, reason, 52);
AT(struct evs_spool_outcome, refusal, 56);
AT(struct evs_spool_outcome, reserved, 60);

_Static_assert(sizeof(struct evs_spool_config) == 32, "struct evs_spool_config has another size");
AT(struct evs_spool_config, session, 0);
AT(struct evs_spool_config, bytes_in_flight_max, 8);
AT(struct evs_spool_config, in_flight_max, 16);
AT(struct evs_spool_config, back_off_first_ms, 20);
AT(struct evs_spool_config, back_off_max_ms, 24);
AT(struct evs_spool_config, no_retry, 28);

_Static_assert(sizeof(struct evs_spool_task) == 56, "struct evs_spool_task has another size");
AT(struct evs_spool_task, id, 0);
AT(struct evs_spool_task, key, 16);
AT(struct evs_spool_task, key_len, 24);
AT(struct evs_spool_task, payload, 32);
AT(struct evs_spool_task, payload_len, 40);
AT(struct evs_spool_task, deadline_ms, 48);
AT(struct evs_spool_task, kind, 52);

_Static_assert(sizeof(struct evs_spool_item) == 72, "struct evs_spool_item has another size");
AT(struct evs_spool_item, id, 0);
AT(struct evs_spool_item, key, 16);
AT(struct evs_spool_item, key_len, 24);
AT(struct evs_spool_item, payload, 32);
AT(struct evs_spool_item, payload_len, 40);
AT(struct evs_spool_item, lsn, 48);
AT(struct evs_spool_item, accepted_ms, 56);
AT(struct evs_spool_item, kind, 64);
AT(struct evs_spool_item, reserved, 68);

_Static_assert(sizeof(struct evs_spool_backend_config) == 72, "struct evs_spool_backend_config has another size");
AT(struct evs_spool_backend_config, execute, 0);
AT(struct evs_spool_backend_config, ready, 8);
AT(struct evs_spool_backend_config, wants_switch, 16);
AT(struct evs_spool_backend_config, seen_epoch, 24);
AT(struct evs_spool_backend_config, raise_epoch, 32);
AT(struct evs_spool_backend_config, user, 40);
AT(struct evs_spool_backend_config, epochs, 48);
AT(struct evs_spool_backend_config, session, 56);
AT(struct evs_spool_backend_config, promise, 64);
AT(struct evs_spool_backend_config, workers, 68);

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
