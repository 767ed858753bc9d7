/* Controller sync: two controllers and a device, all of them written in C. */
#define EVERSOCK_CONTROLLER
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>

#define DEADLINE_MS 60000
#define TEXT_BYTES 4096

/* -1 or NULL with this errno, and a text that has this word in it. */
#define CHECK_NULL(call, error, word)                                       \
    do {                                                                    \
        errno = 0;                                                          \
        if ((call) != NULL || errno != (error))                             \
            fail(__FILE__, __LINE__, #call " does not give " #error);       \
        if (strstr(evs_controller_error(), word) == NULL)                   \
            fail(__FILE__, __LINE__, evs_controller_error());               \
    } while (0)

static void a_while(void)
{
    const struct timespec pause = { 0, 20 * 1000 * 1000 };

    nanosleep(&pause, NULL);
}

/* What the callbacks of a request were told. */
struct told {
    atomic_int outcome;
    char answer[64];
    size_t answer_len;
    evs_controller *controller;
    evs_device *device;
};

static void done(void *user, const evs_controller_outcome *outcome)
{
    struct told *told = user;

    told->answer_len = outcome->answer_len < sizeof told->answer ? outcome->answer_len : 0;
    memcpy(told->answer, outcome->answer, told->answer_len);
    CHECK(outcome->text != NULL);
    if (told->controller != NULL)
        CHECK_STATUS(evs_controller_close(told->controller), -EDEADLK);
    if (told->device != NULL) {
        CHECK_STATUS(evs_device_close(told->device), -EDEADLK);
        CHECK_STATUS(evs_device_deregister(told->device), -EDEADLK);
    }
    atomic_store(&told->outcome, outcome->outcome);
}

static int wait_for(struct told *told)
{
    for (long long end = now_ms() + DEADLINE_MS; now_ms() < end; a_while())
        if (atomic_load(&told->outcome) != 0)
            return atomic_exchange(&told->outcome, 0);
    fail(__FILE__, __LINE__, "no outcome");
    return 0;
}

/* A device that answers in capitals, but nothing to what is empty. */
struct lamp {
    _Atomic(evs_device *) device;
    atomic_int registered;
    atomic_int ended;
    atomic_int requests;
};

static void request(void *user, const void *payload, size_t len, evs_device_answer *answer)
{
    struct lamp *lamp = user;
    char text[64];

    atomic_fetch_add(&lamp->requests, 1);
    CHECK_STATUS(evs_device_close(atomic_load(&lamp->device)), -EDEADLK);
    CHECK_STATUS(evs_device_deregister(atomic_load(&lamp->device)), -EDEADLK);
    CHECK_STATUS(evs_device_answer_done(NULL, "", 0), -EFAULT);
    CHECK_STATUS(evs_device_answer_done(answer, NULL, 1), -EFAULT);
    CHECK_STATUS(evs_device_answer_done(answer, "", (256 << 10) + 1), -EMSGSIZE);
    CHECK_STATUS(evs_device_answer_refused(answer, NULL), -EFAULT);
    CHECK_STATUS(evs_device_answer_refused(answer, "\xff"), -EILSEQ);
    if (len == 0)
        return;
    if (len > sizeof text) {
        CHECK_STATUS(evs_device_answer_refused(answer, "too long"), 0);
        return;
    }
    for (size_t i = 0; i < len; i++) {
        char c = ((const char *)payload)[i];
        text[i] = (char)(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    }
    CHECK_STATUS(evs_device_answer_done(answer, text, len), 0);
}

static void happened(void *user, const evs_device_event *event)
{
    struct lamp *lamp = user;

    CHECK(event->controller != NULL && event->text != NULL);
    if (event->kind == EVS_DEVICE_REGISTERED) {
        CHECK(event->controller[0] != '\0' && event->number > 0);
        atomic_fetch_add(&lamp->registered, 1);
    }
    if (event->kind == EVS_DEVICE_DEREGISTERED)
        atomic_fetch_add(&lamp->ended, 1);
}

static evs_controller *start(const char *name, const char *other, const char *listen,
                             const char *partner, const char *folder)
{
    char text[TEXT_BYTES];
    evs_controller *controller;

    snprintf(text, sizeof text,
             "name = \"%s\"\n[door]\nlisten = \"127.0.0.1:0\"\ninsecure = true\n"
             "[partner-door]\n%s%s%s\ninsecure = true\n"
             "[[partner]]\nname = \"%s\"\n%s%s%s\ndial = \"%s\"\n"
             "[[dispatch]]\ndefault = true\npartition = \"north\"\n"
             "[link]\nping = \"200ms\"\nsilence = \"10s\"\nretry-most = \"500ms\"\n"
             "[store]\ndir = \"%s\"\n"
             "[policy]\nlease = \"60s\"\nhandshake = \"500ms\"\n",
             name, listen ? "listen = \"" : "", listen ? listen : "", listen ? "\"" : "", other,
             partner ? "addrs = \"" : "", partner ? partner : "", partner ? "\"" : "",
             partner ? "always" : "never", name);
    controller = evs_controller_start_text(text, folder);
    if (controller == NULL)
        fail(__FILE__, __LINE__, evs_controller_error());
    return controller;
}

static evs_device *start_device(struct lamp *lamp, const char *north, const char *south)
{
    const evs_device_functions functions = { request, happened, lamp };
    char text[TEXT_BYTES];
    evs_device *device;

    snprintf(text, sizeof text,
             "[device]\nname = \"lamp\"\nbase = \"100ms\"\nbase-all = \"300ms\"\ncap = \"1s\"\n"
             "attempt-every = \"200ms\"\nattempt-burst = 100\nstart-within = \"0s\"\n"
             "handshake-min = \"100ms\"\ngrace = \"2s\"\n"
             "[device.home]\nname = \"north\"\naddrs = \"%s\"\n"
             "[[device.backup]]\nname = \"south\"\naddrs = \"%s\"\n",
             north, south);
    device = evs_device_start_text(text, ".", &functions, sizeof functions);
    if (device == NULL)
        fail(__FILE__, __LINE__, evs_controller_error());
    atomic_store(&lamp->device, device);
    return device;
}

/* Waits until this controller serves the device. */
static void wait_until_at(const evs_device *device, const char *wanted)
{
    char who[65];
    uint64_t counter = 0;

    for (long long end = now_ms() + DEADLINE_MS; now_ms() < end; a_while()) {
        CHECK(evs_device_state(device, who, sizeof who, &counter) > 0);
        if (strcmp(who, wanted) == 0) {
            CHECK(counter > 0);
            return;
        }
    }
    fail(__FILE__, __LINE__, wanted);
}

/* Waits until a controller says this of itself, or of the device. */
static void wait_for_text(const evs_controller *controller, const char *device, const char *word)
{
    static char json[1 << 16];

    for (long long end = now_ms() + DEADLINE_MS; now_ms() < end; a_while()) {
        int length = device != NULL ? evs_controller_find(controller, device, json, sizeof json)
                                    : evs_controller_status(controller, json, sizeof json);
        if (length > 0 && strstr(json, word) != NULL)
            return;
    }
    fprintf(stderr, "%s\n", json);
    fail(__FILE__, __LINE__, word);
}

static void nonsense(const char *folder)
{
    struct told told = { 0 };
    char text[64];

    CHECK_NULL(evs_controller_start(NULL), EFAULT, "address");
    CHECK_NULL(evs_controller_start("/nonexistent/c.toml"), ENOENT, "cannot be read");
    CHECK_NULL(evs_controller_start_text("nome = 1", folder), EINVAL, "unknown key `nome`");
    CHECK_NULL(evs_controller_start_text("nome = 1", folder), EINVAL, "`door`: no device");
    CHECK_NULL(evs_controller_start_text("\xff", folder), EILSEQ, "");
    CHECK_NULL(evs_device_start(NULL, NULL, 0), EFAULT, "address");
    CHECK_NULL(evs_device_start_text("x = 1", folder, NULL, 0), EINVAL, "unknown key `x`");
    CHECK_STATUS(evs_controller_addr(NULL, 0, text, sizeof text), -EFAULT);
    CHECK_STATUS(evs_controller_status(NULL, NULL, 0), -EFAULT);
    CHECK_STATUS(evs_controller_find(NULL, "x", NULL, 0), -EFAULT);
    CHECK_STATUS(evs_controller_order(NULL, EVS_CONTROLLER_FAIL_BACK, NULL, NULL, NULL, 0), -EFAULT);
    CHECK_STATUS(evs_controller_parameters(NULL, NULL, NULL, 0), -EFAULT);
    CHECK_STATUS(evs_controller_set_parameters(NULL, "", NULL), -EFAULT);
    CHECK_STATUS(evs_controller_request(NULL, "x", "", 0, 1, done, &told), -EFAULT);
    CHECK_STATUS(evs_controller_close(NULL), 0);
    CHECK_STATUS(evs_device_state(NULL, NULL, 0, NULL), -EFAULT);
    CHECK_STATUS(evs_device_set_busy(NULL, 1), -EFAULT);
    CHECK_STATUS(evs_device_request(NULL, "x", "", 0, 1, done, &told), -EFAULT);
    CHECK_STATUS(evs_device_deregister(NULL), -EFAULT);
    CHECK_STATUS(evs_device_close(NULL), 0);
}

static void orders(evs_controller *controller)
{
    const char *devices[] = { "lamp" };
    struct told told = { 0 };
    uint64_t generation = 0;
    char text[256];

    CHECK_STATUS(evs_controller_order(controller, 99, NULL, NULL, NULL, 0), -EINVAL);
    CHECK_STATUS(evs_controller_order(controller, EVS_CONTROLLER_MOVE, NULL, NULL, NULL, 0), -EINVAL);
    CHECK_STATUS(evs_controller_order(controller, EVS_CONTROLLER_FAIL_BACK, NULL, "x", NULL, 0),
                 -EINVAL);
    CHECK_STATUS(evs_controller_order(controller, EVS_CONTROLLER_PAUSE, NULL, NULL, devices, 1),
                 -EINVAL);
    CHECK_STATUS(evs_controller_order(controller, EVS_CONTROLLER_MOVE, NULL, "x", NULL, 1), -EFAULT);
    CHECK_STATUS(evs_controller_order(controller, EVS_CONTROLLER_MOVE, NULL, "x", devices, 513),
                 -EINVAL);
    CHECK_STATUS(evs_controller_order(controller, EVS_CONTROLLER_FAIL_BACK, "nobody", NULL, NULL, 0),
                 -ENOENT);
    CHECK_STATUS(evs_controller_order(controller, EVS_CONTROLLER_RESYNC, NULL, "nobody", NULL, 0),
                 -ENOENT);
    CHECK_STATUS(evs_controller_order(controller, EVS_CONTROLLER_FAIL_BACK, "a b", NULL, NULL, 0),
                 -EINVAL);
    CHECK_STATUS(evs_controller_find(controller, "nobody", NULL, 0), -ENOENT);
    CHECK_STATUS(evs_controller_find(controller, "a b", NULL, 0), -EINVAL);
    CHECK_STATUS(evs_controller_request(controller, "lamp", "", 0, 0, done, &told), -EINVAL);
    CHECK_STATUS(evs_controller_request(controller, "lamp", "", 0, 300001, done, &told), -EINVAL);
    CHECK_STATUS(evs_controller_request(controller, "lamp", "", (256 << 10) + 1, 1, done, &told),
                 -EMSGSIZE);
    CHECK_STATUS(evs_controller_request(controller, "lamp", NULL, 1, 1, done, &told), -EFAULT);
    CHECK_STATUS(evs_controller_request(controller, "lamp", "", 0, 1, NULL, NULL), -EFAULT);
    CHECK_STATUS(evs_controller_set_parameters(controller, "nonsense = 1", &generation), -EINVAL);
    CHECK(strstr(evs_controller_error(), "nonsense") != NULL && generation == 0);
    CHECK_STATUS(evs_controller_set_parameters(controller, "pace = 20\n", &generation), 0);
    CHECK(generation > 0);
    CHECK(evs_controller_parameters(controller, &generation, text, sizeof text) == 10);
    CHECK(strcmp(text, "pace = 20\n") == 0 && generation > 0);
}

/* A child has no threads that could serve anybody. */
static void in_a_child(evs_controller *controller, evs_device *device)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        int wrong = evs_controller_status(controller, NULL, 0) != -ESHUTDOWN
            || evs_device_state(device, NULL, 0, NULL) != -ESHUTDOWN
            || evs_controller_close(controller) != 0 || evs_device_close(device) != 0;
        _exit(wrong);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

int main(void)
{
    char folder[] = "/tmp/evs-controller-XXXXXX", command[128];
    char north_door[64], south_door[64], south_partner[64];
    struct lamp lamp = { 0 };
    struct told told = { 0 };
    evs_controller *north, *south;
    evs_device *device;

    begin();
    CHECK(mkdtemp(folder) != NULL);
    nonsense(folder);

    south = start("south", "north", "127.0.0.1:0", NULL, folder);
    CHECK(evs_controller_addr(south, 0, south_door, sizeof south_door) > 0);
    CHECK(evs_controller_addr(south, 1, south_partner, sizeof south_partner) > 0);
    north = start("north", "south", NULL, south_partner, folder);
    CHECK(evs_controller_addr(north, 0, north_door, sizeof north_door) > 0);
    CHECK_STATUS(evs_controller_addr(north, 1, NULL, 0), -ENOENT);
    wait_for_text(north, NULL, "\"state\":\"up\"");
    orders(north);

    device = start_device(&lamp, north_door, south_door);
    wait_until_at(device, "north");
    wait_for_text(south, "lamp", "\"owner\":\"north\"");
    in_a_child(north, device);

    /* Through the other controller, which passes it on. */
    told.controller = south;
    CHECK_STATUS(evs_controller_request(south, "lamp", "light", 5, DEADLINE_MS, done, &told), 0);
    CHECK(wait_for(&told) == EVS_CONTROLLER_DONE);
    CHECK(told.answer_len == 5 && memcmp(told.answer, "LIGHT", 5) == 0);
    told.controller = NULL;
    CHECK_STATUS(evs_controller_request(north, "lamp", NULL, 0, DEADLINE_MS, done, &told), 0);
    CHECK(wait_for(&told) == EVS_CONTROLLER_REFUSED);
    CHECK_STATUS(evs_controller_request(north, "nobody", NULL, 0, DEADLINE_MS, done, &told), 0);
    CHECK(wait_for(&told) == EVS_CONTROLLER_UNKNOWN);
    told.device = device;
    CHECK_STATUS(evs_device_request(device, "lamp", "self", 4, DEADLINE_MS, done, &told), 0);
    CHECK(wait_for(&told) == EVS_CONTROLLER_DONE);
    CHECK(told.answer_len == 4 && memcmp(told.answer, "SELF", 4) == 0);
    told.device = NULL;

    /* It goes where it is told to, unless it is busy; then the controller goes. */
    CHECK_STATUS(evs_device_set_busy(device, 1), 0);
    CHECK_STATUS(evs_device_set_busy(device, 0), 0);
    CHECK_STATUS(evs_controller_order(north, EVS_CONTROLLER_MOVE, "north", "south", NULL, 0), 0);
    wait_until_at(device, "south");
    wait_for_text(north, "lamp", "\"owner\":\"south\"");
    CHECK_STATUS(evs_controller_order(south, EVS_CONTROLLER_FAIL_BACK, NULL, NULL, NULL, 0), 0);
    wait_until_at(device, "north");
    CHECK_STATUS(evs_controller_close(north), 0);
    wait_until_at(device, "south");
    CHECK_STATUS(evs_controller_request(south, "lamp", "on", 2, DEADLINE_MS, done, &told), 0);
    CHECK(wait_for(&told) == EVS_CONTROLLER_DONE);

    CHECK_STATUS(evs_device_deregister(device), 0);
    CHECK(evs_device_state(device, NULL, 0, NULL) == EVS_DEVICE_ENDED);
    CHECK_STATUS(evs_device_close(device), 0);
    CHECK(atomic_load(&lamp.registered) >= 4 && atomic_load(&lamp.requests) >= 4);
    CHECK(atomic_load(&lamp.ended) == 1);
    CHECK_STATUS(evs_controller_close(south), 0);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    CHECK(system(command) == 0);
    return 0;
}
