/*
 * A device of two controllers: its home goes, and the other one takes it over.
 *
 *     cargo build --release --features controller && make -C examples/c controller_device
 *     ./controller_device
 *
 * All are in one process here, and would be on machines of their own. What a file says of a
 * controller and of a device is in examples/controller.toml and examples/device.toml.
 */
#define _DEFAULT_SOURCE
#define EVERSOCK_CONTROLLER
#include "eversock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_MS 60000

static void quit(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, evs_controller_error());
    exit(1);
}

/* The device does what it is asked: here it says it louder. */
static void on_request(void *user, const void *payload, size_t len, evs_device_answer *answer)
{
    char text[64];
    int count = snprintf(text, sizeof text, "%.*s!", (int)len, (const char *)payload);

    (void)user;
    if (count < 0 || (size_t)count >= sizeof text)
        evs_device_answer_refused(answer, "it is too long");
    else
        evs_device_answer_done(answer, text, (size_t)count);
}

static void on_outcome(void *user, const evs_controller_outcome *outcome)
{
    atomic_int *done = user;

    if (outcome->outcome == EVS_CONTROLLER_DONE)
        printf("lamp is asked by south: %.*s\n", (int)outcome->answer_len,
               (const char *)outcome->answer);
    else
        printf("lamp does not answer: %s\n", outcome->text);
    atomic_store(done, 1);
}

static evs_controller *controller(const char *folder, const char *format, ...)
{
    char text[2048];
    va_list arguments;
    evs_controller *made;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    made = evs_controller_start_text(text, folder);
    if (made == NULL)
        quit("a controller");
    return made;
}

/* Waits until this controller serves the device. */
static void wait_until_at(const evs_device *lamp, const char *wanted)
{
    char who[65];

    for (int waited = 0; waited < PATIENCE_MS; waited += 20) {
        if (evs_device_state(lamp, who, sizeof who, NULL) < 0)
            quit("the state of lamp");
        if (strcmp(who, wanted) == 0)
            return;
        usleep(20 * 1000);
    }
    quit(wanted);
}

/* Waits until this controller knows where the device is. */
static void wait_until_known(const evs_controller *controller, const char *owner)
{
    char json[1024];

    for (int waited = 0; waited < PATIENCE_MS; waited += 20) {
        if (evs_controller_find(controller, "lamp", json, sizeof json) > 0
            && strstr(json, owner) != NULL)
            return;
        usleep(20 * 1000);
    }
    quit(owner);
}

int main(void)
{
    char folder[] = "/tmp/controller-device-XXXXXX", door[2][64], partner[64], text[1024];
    const evs_device_functions functions = { on_request, NULL, NULL };
    atomic_int done = 0;
    evs_controller *north, *south;
    evs_device *lamp;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (mkdtemp(folder) == NULL)
        quit("a folder");
    south = controller(folder,
                       "name = \"south\"\n[door]\nlisten = \"127.0.0.1:0\"\n"
                       "insecure = true\n"
                       "[partner-door]\nlisten = \"127.0.0.1:0\"\ninsecure = true\n"
                       "[[partner]]\nname = \"north\"\n"
                       "[[dispatch]]\nprefix = \"lamp\"\npartition = \"north\"\n"
                       "[policy]\nhandshake = \"500ms\"\n[store]\ndir = \"south\"\n");
    if (evs_controller_addr(south, 0, door[1], sizeof door[1]) < 0
        || evs_controller_addr(south, 1, partner, sizeof partner) < 0)
        quit("the addresses of south");
    north = controller(folder,
                       "name = \"north\"\n[door]\nlisten = \"127.0.0.1:0\"\n"
                       "insecure = true\n"
                       "[partner-door]\ninsecure = true\n"
                       "[[partner]]\nname = \"south\"\naddrs = \"%s\"\n"
                       "[policy]\nhandshake = \"500ms\"\n[store]\ndir = \"north\"\n",
                       partner);
    if (evs_controller_addr(north, 0, door[0], sizeof door[0]) < 0)
        quit("the address of north");

    snprintf(text, sizeof text,
             "[device]\nname = \"lamp\"\nstart-within = \"0s\"\nhandshake-min = \"100ms\"\n"
             "[device.home]\nname = \"north\"\naddrs = \"%s\"\n"
             "[[device.backup]]\nname = \"south\"\naddrs = \"%s\"\n",
             door[0], door[1]);
    lamp = evs_device_start_text(text, folder, &functions, sizeof functions);
    if (lamp == NULL)
        quit("lamp");
    wait_until_at(lamp, "north");
    printf("north serves lamp\n");

    /* South does not have it, and passes the request on. */
    wait_until_known(south, "\"north\"");
    if (evs_controller_request(south, "lamp", "on", 2, PATIENCE_MS, on_outcome, &done) < 0)
        quit("a request");
    while (!atomic_load(&done))
        usleep(1000);

    evs_controller_close(north);
    wait_until_at(lamp, "south");
    printf("south serves lamp, since north has gone\n");
    evs_device_close(lamp);
    evs_controller_close(south);
    snprintf(text, sizeof text, "rm -rf %s", folder);
    return system(text) == 0 ? 0 : 1;
}
