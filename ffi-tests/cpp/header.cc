// The header in C++, twice, with its functions called.
#include "eversock.h"
#include "eversock.h"

#include <cstddef>
#include <cstring>
#include <memory>
#include <type_traits>

static_assert(std::is_standard_layout<evs_info>::value, "evs_info is a C structure");
static_assert(std::is_trivially_copyable<evs_fault>::value, "evs_fault is a C structure");
static_assert(offsetof(evs_info, last_error) + 128 == sizeof(evs_info), "no padding at the end");
static_assert(EVS_AT_LEAST_VERSION(0, 1, 0), "an old header");

struct Free {
    void operator()(evs_config *config) const { evs_config_free(config); }
};

#ifdef EVERSOCK_DEDUP
static_assert(std::is_standard_layout<evs_pool_row>::value, "evs_pool_row is a C structure");
static_assert(std::is_trivially_copyable<evs_accepted>::value, "evs_accepted is a C structure");
static_assert(EVS_ROW_DEAD == 4 && EVS_WHY_MISDIRECTED == 10, "the constants are numbers");

struct FreePool {
    void operator()(evs_pool *pool) const { evs_pool_free(pool); }
};

static int pools()
{
    std::unique_ptr<evs_pool, FreePool> pool(evs_pool_new(nullptr));
    evs_pool_counts counts;
    return pool && evs_pool_metrics(pool.get(), &counts, sizeof counts) == 0 ? 0 : 4;
}
#else
static int pools() { return 0; }
#endif

#ifdef EVERSOCK_SPOOL
static_assert(std::is_standard_layout<evs_spool_outcome>::value, "a C structure");
static_assert(std::is_trivially_copyable<evs_spool_backend_config>::value, "a C structure");
static_assert(EVS_SPOOL_REJECTED == 6 && EVS_SPOOL_PURGE == 7, "the constants are numbers");

static int spool()
{
    unsigned char id[16] = {};
    return evs_spool_id_random(id) == 0 && *evs_spool_error() == '\0' ? 0 : 5;
}
#else
static int spool() { return 0; }
#endif

int main()
{
    if (pools() != 0 || spool() != 0)
        return 4;
    std::unique_ptr<evs_config, Free> config(evs_config_new());
    if (!config || evs_config_set_mode(config.get(), EVS_MODE_DIRECT) != 0)
        return 1;
    if (std::strlen(evs_version()) < 5 || evs_version_num() != EVS_VERSION_NUM)
        return 2;
    int fd = evs_socket_with(config.get(), AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || evs_fcntl(fd, 1 /* F_GETFD */) != 1)
        return 3;
    return evs_close(fd);
}
