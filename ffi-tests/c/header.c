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
    return chosen(constants[0]);
}
