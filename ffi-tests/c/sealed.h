/* Before eversock_posix.h: all sockets of the program are sealed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "eversock.h"

__attribute__((constructor)) static void seal_all(void)
{
    evs_config *config = evs_config_new();

    evs_config_set_mode(config, EVS_MODE_DIRECT);
    evs_config_set_sealed(config, EVS_SEALED_ALWAYS);
    evs_set_default_config(config);
    evs_config_free(config);
}
