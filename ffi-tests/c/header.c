/* The header alone, twice, with every macro used. */
#include "eversock.h"
#include "eversock.h"

#include <string.h>

#define AS_TEXT_2(x) #x
#define AS_TEXT(x) AS_TEXT_2(x)

#if !EVS_AT_LEAST_VERSION(0, 1, 0)
#error "an old header"
#endif
#if EVS_AT_LEAST_VERSION(200, 0, 0)
#error "EVS_AT_LEAST_VERSION does not compare"
#endif

/* Both must be usable by programs too. */
EVS_MUST_USE static int chosen(int what);
static int chosen(int what) { return what; }

#ifdef EVERSOCK_DEDUP
static int pools(void)
{
    const int constants[] = {
        EVS_ROW_WAITING, EVS_ROW_ACTIVE, EVS_ROW_RECOVERING, EVS_ROW_DRAINING, EVS_ROW_DEAD,
        EVS_WHY_SHARED, EVS_WHY_LATE_MERGE, EVS_WHY_FIRST, EVS_WHY_OTHER_SERVER, EVS_WHY_NO_KEY,
        EVS_WHY_PEER_DOES_NOT_SHARE, EVS_WHY_KEY_DIFFERS, EVS_WHY_OTHER_BOOT, EVS_WHY_GOING_AWAY,
        EVS_WHY_STREAM_LIMIT, EVS_WHY_MISDIRECTED
    };
    evs_pool *pool = evs_pool_new(NULL);
    evs_pool_row row;

    if (pool == NULL || evs_pool_rows(pool, &row, sizeof row, 1) != constants[0])
        return 1;
    return evs_pool_free(pool);
}
#else
static int pools(void) { return 0; }
#endif

#ifdef EVERSOCK_SPOOL
static int spool(void)
{
    const int constants[] = {
        EVS_SPOOL_WRITE, EVS_SPOOL_READ, EVS_SPOOL_DELETE, EVS_SPOOL_SEARCH, EVS_SPOOL_CUSTOM,
        EVS_SPOOL_APPLIED, EVS_SPOOL_SPOOLED, EVS_SPOOL_HELD, EVS_SPOOL_STALE,
        EVS_SPOOL_IN_DOUBT, EVS_SPOOL_REJECTED,
        EVS_SPOOL_REASON_NONE, EVS_SPOOL_REASON_FULL, EVS_SPOOL_REASON_HOLD_FULL,
        EVS_SPOOL_REASON_DEADLINE, EVS_SPOOL_REASON_UNAVAILABLE, EVS_SPOOL_REASON_CLOSING,
        EVS_SPOOL_REASON_MALFORMED, EVS_SPOOL_REASON_ID_REUSED, EVS_SPOOL_REASON_REFUSED,
        EVS_SPOOL_LEDGER, EVS_SPOOL_IDEMPOTENT, EVS_SPOOL_OPAQUE,
        EVS_SPOOL_SWITCH, EVS_SPOOL_SWITCH_NOW, EVS_SPOOL_SUSPECT, EVS_SPOOL_HOLD,
        EVS_SPOOL_RELEASE, EVS_SPOOL_RETRY, EVS_SPOOL_PURGE
    };
    const unsigned char zeros[16] = { 0 };
    unsigned char id[16] = { 0 };

    if (evs_spool_id_of_name("name", 4, id) != 0 || memcmp(id, zeros, sizeof id) == 0)
        return 1;
    return constants[11] + evs_spool_close(NULL);
}
#else
static int spool(void) { return 0; }
#endif

#ifdef EVERSOCK_CONTROLLER
static int controllers(void)
{
    const int constants[] = {
        EVS_CONTROLLER_DONE, EVS_CONTROLLER_UNKNOWN, EVS_CONTROLLER_NOT_HERE,
        EVS_CONTROLLER_UNREACHABLE, EVS_CONTROLLER_BUSY, EVS_CONTROLLER_TIMED_OUT,
        EVS_CONTROLLER_REFUSED,
        EVS_CONTROLLER_MOVE, EVS_CONTROLLER_FAIL_BACK, EVS_CONTROLLER_STOP_HAND_OVER,
        EVS_CONTROLLER_PAUSE, EVS_CONTROLLER_RESUME, EVS_CONTROLLER_MAINTENANCE,
        EVS_CONTROLLER_MAINTENANCE_END, EVS_CONTROLLER_RESYNC,
        EVS_DEVICE_SEEKING, EVS_DEVICE_HOME, EVS_DEVICE_BACKUP, EVS_DEVICE_PROBING,
        EVS_DEVICE_HANDING_OVER, EVS_DEVICE_ENDED,
        EVS_DEVICE_REGISTERED, EVS_DEVICE_FAILED, EVS_DEVICE_LOST, EVS_DEVICE_HANDED_OVER,
        EVS_DEVICE_HAND_OVER_FAILED, EVS_DEVICE_PARAMETERS, EVS_DEVICE_DEREGISTERED,
        EVS_DEVICE_NOTE
    };

    if (constants[0] != 1 || strlen(evs_controller_error()) != 0)
        return 1;
    return evs_controller_close(NULL) + evs_device_close(NULL);
}
#else
static int controllers(void) { return 0; }
#endif

int main(void)
{
    const int constants[] = {
        EVS_MODE_DIRECT, EVS_MODE_PUMPED,
        EVS_POLICY_AUTOMATIC, EVS_POLICY_NEVER, EVS_POLICY_ASK_OUTSIDE,
        EVS_GIVE_UP, EVS_CONTINUE, EVS_KEY_BYTES,
        EVS_STATE_FRESH, EVS_STATE_CONNECTING, EVS_STATE_ATTACHED, EVS_STATE_DETACHED,
        EVS_STATE_ASKING, EVS_STATE_LINGERING, EVS_STATE_CLOSED, EVS_STATE_FAILED,
        EVS_ROLE_NONE, EVS_ROLE_CLIENT, EVS_ROLE_SERVER
    };
    const char *version =
        AS_TEXT(EVS_VERSION_MAJOR) "." AS_TEXT(EVS_VERSION_MINOR) "." AS_TEXT(EVS_VERSION_PATCH);

    if (strcmp(version, evs_version()) != 0)
        return 1;
    if (evs_version_num() != EVS_VERSION_NUM)
        return 2;
    if (!EVS_AT_LEAST_VERSION(EVS_VERSION_MAJOR, EVS_VERSION_MINOR, EVS_VERSION_PATCH))
        return 3;
    if (pools() != 0)
        return 4;
    if (spool() != 0)
        return 5;
    if (controllers() != 0)
        return 6;
    return chosen(constants[0]);
}
