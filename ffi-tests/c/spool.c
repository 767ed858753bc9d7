/* Spool failover: a pair of servers, its front and its senders, all of them written in C. */
#define EVERSOCK_SPOOL
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>

#define DEADLINE_MS 60000
#define EFFECTS_MAX 512
#define TEXT_MAX 4096

#define ODD_REFUSED (EVS_SPOOL_CUSTOM + 1)
#define ODD_LATER (EVS_SPOOL_CUSTOM + 2)
#define ODD_LOST (EVS_SPOOL_CUSTOM + 3)
#define ODD_FENCED (EVS_SPOOL_CUSTOM + 4)

/* -1 or NULL with this errno, and a text that has this word in it. */
#define CHECK_NULL(call, error, word)                                       \
    do {                                                                    \
        errno = 0;                                                          \
        if ((call) != NULL || errno != (error))                             \
            fail(__FILE__, __LINE__, #call " does not give " #error);       \
        if (strstr(evs_spool_error(), word) == NULL)                        \
            fail(__FILE__, __LINE__, evs_spool_error());                    \
    } while (0)

/* What both servers share: notes, the ids of those that were written, and the highest epoch. One
 * lock around all is their transaction. */
struct disk {
    pthread_mutex_t lock;
    uint64_t epoch;
    unsigned char ids[EFFECTS_MAX][16];
    size_t effects;
    char text[TEXT_MAX];
    int odd;
};

struct server {
    struct disk *disk;
    evs_spool_backend *backend;
    atomic_int is_ready;
    char addr[64];
};

static int is_known(const struct disk *disk, const unsigned char id[16])
{
    for (size_t i = 0; i < disk->effects; i++)
        if (memcmp(disk->ids[i], id, 16) == 0)
            return 1;
    return 0;
}

/* The odd ones: each goes wrong in its own way when it first comes. */
static int odd(struct server *server, const evs_spool_item *item, size_t at,
               evs_spool_results *results)
{
    struct disk *disk = server->disk;
    uint64_t job = 7;

    switch (item->kind) {
    case ODD_REFUSED:
        CHECK_STATUS(evs_spool_result_refused(results, at, 77, "not today"), 0);
        return 0;
    case ODD_LATER:
        if (disk->odd++ == 0)
            CHECK_STATUS(evs_spool_result_later(results, at, 10), 0);
        else
            CHECK_STATUS(evs_spool_result_done(results, at, "late", 4, 0), 0);
        return 0;
    case ODD_LOST:
        /* No result at all: a ledger is asked again. */
        if (disk->odd++ > 0)
            CHECK_STATUS(evs_spool_result_done(results, at, "found", 5, 1), 0);
        return 0;
    case ODD_FENCED:
        if (disk->odd++ == 0)
            return -ESTALE;
        CHECK_STATUS(evs_spool_result_done(results, SIZE_MAX, "", 0, 0), -EINVAL);
        CHECK_STATUS(evs_spool_result_done(NULL, at, "", 0, 0), -EFAULT);
        CHECK_STATUS(evs_spool_result_done(results, at, NULL, 1, 0), -EFAULT);
        CHECK_STATUS(evs_spool_result_done(results, at, "", (32 << 20) + 1, 0), -EMSGSIZE);
        CHECK_STATUS(evs_spool_result_later(results, SIZE_MAX, 0), -EINVAL);
        CHECK_STATUS(evs_spool_result_refused(results, at, 0, "\xff"), -EILSEQ);
        CHECK_STATUS(evs_spool_may_go_on(NULL), -EFAULT);
        CHECK_STATUS(evs_spool_job(NULL, &job), -EFAULT);
        CHECK_STATUS(evs_spool_job(results, &job), -ENOENT);
        CHECK(job == 7);
        CHECK_STATUS(evs_spool_backend_close(server->backend), -EDEADLK);
        CHECK_STATUS(evs_spool_result_done(results, at, NULL, 0, 0), 0);
        return 0;
    default:
        return -EINVAL;
    }
}

static int execute(void *user, uint64_t epoch, const evs_spool_item *const *items, size_t count,
                   evs_spool_results *results)
{
    struct server *server = user;
    struct disk *disk = server->disk;
    int status = 0;

    CHECK(pthread_mutex_lock(&disk->lock) == 0);
    if (disk->epoch > epoch || evs_spool_may_go_on(results) != 0) {
        CHECK(pthread_mutex_unlock(&disk->lock) == 0);
        return -ESTALE;
    }
    for (size_t i = 0; i < count && status == 0; i++) {
        const evs_spool_item *item = items[i];

        CHECK(item->key_len == 5 && memcmp(item->key, "notes", 5) == 0 && item->reserved == 0);
        if (item->kind == EVS_SPOOL_READ) {
            CHECK(item->payload == NULL && item->payload_len == 0);
            CHECK_STATUS(evs_spool_result_done(results, i, disk->text, strlen(disk->text), 0), 0);
        } else if (item->kind != EVS_SPOOL_WRITE) {
            status = odd(server, item, i, results);
        } else if (is_known(disk, item->id)) {
            CHECK_STATUS(evs_spool_result_done(results, i, "written", 7, 1), 0);
        } else {
            CHECK(disk->effects < EFFECTS_MAX);
            CHECK(strlen(disk->text) + item->payload_len < TEXT_MAX);
            memcpy(disk->ids[disk->effects++], item->id, 16);
            strncat(disk->text, item->payload, item->payload_len);
            CHECK_STATUS(evs_spool_result_done(results, i, "written", 7, 0), 0);
        }
    }
    CHECK(pthread_mutex_unlock(&disk->lock) == 0);
    return status;
}

static int is_ready(void *user)
{
    return atomic_load(&((struct server *)user)->is_ready);
}

static int seen_epoch(void *user, uint64_t *epoch)
{
    struct disk *disk = ((struct server *)user)->disk;

    CHECK(pthread_mutex_lock(&disk->lock) == 0);
    *epoch = disk->epoch;
    CHECK(pthread_mutex_unlock(&disk->lock) == 0);
    return 0;
}

static int raise_epoch(void *user, uint64_t epoch, uint64_t *highest)
{
    struct disk *disk = ((struct server *)user)->disk;

    CHECK(pthread_mutex_lock(&disk->lock) == 0);
    if (epoch > disk->epoch)
        disk->epoch = epoch;
    *highest = disk->epoch;
    CHECK(pthread_mutex_unlock(&disk->lock) == 0);
    return 0;
}

static void serve(struct server *server, struct disk *disk)
{
    evs_spool_backend_config config;

    memset(&config, 0, sizeof config);
    config.execute = execute;
    config.ready = is_ready;
    config.seen_epoch = seen_epoch;
    config.raise_epoch = raise_epoch;
    config.user = server;
    config.promise = EVS_SPOOL_LEDGER;
    server->disk = disk;
    atomic_init(&server->is_ready, 1);
    server->backend = evs_spool_backend_serve("127.0.0.1:0", &config, sizeof config);
    CHECK(server->backend != NULL);
    CHECK(evs_spool_backend_addr(server->backend, server->addr, sizeof server->addr)
          == (int)strlen(server->addr));
    CHECK(strncmp(server->addr, "127.0.0.1:", 10) == 0);
}

static evs_spool_front *front_of(const char *folder, const char *class, const char *one,
                                 const char *other)
{
    char text[2048];

    CHECK(snprintf(text, sizeof text,
                   "dir = \"spool\"\n"
                   "[[socket]]\nlisten = \"127.0.0.1:0\"\n"
                   "[[pair]]\nname = \"notes\"\nprobe-every = \"100ms\"\nprobe-timeout = \"3s\"\n"
                   "confirm = \"200ms\"\nlease = \"4s\"\nflap-guard = \"1ms\"\n"
                   "[[pair.server]]\nurl = \"eversock://%s\"\nclass = \"%s\"\n"
                   "grace = \"300ms\"\n"
                   "[[pair.server]]\nurl = \"eversock://%s\"\nclass = \"%s\"\n"
                   "grace = \"300ms\"\n", one, class, other, class)
          < (int)sizeof text);
    return evs_spool_front_start_text(text, folder);
}

static evs_spool *sender_of(const evs_spool_front *front)
{
    char addr[64];
    evs_spool *spool;

    CHECK(evs_spool_front_addr(front, 0, addr, sizeof addr) == (int)strlen(addr));
    spool = evs_spool_connect(addr, "notes", NULL, 0);
    CHECK(spool != NULL);
    return spool;
}

static long long number_in(const char *json, const char *name)
{
    char member[64];
    const char *at;

    snprintf(member, sizeof member, "\"%s\":", name);
    at = strstr(json, member);
    CHECK(at != NULL);
    return atoll(at + strlen(member));
}

/* Waits until a server is the main one and nothing is left in the spool; gives which. */
static int await_normal(const evs_spool_front *front, int but)
{
    long long until = now_ms() + WAIT_MS_MAX * 2;
    struct timespec pause = { 0, 10000000 };
    char json[4096];

    for (;;) {
        int len = evs_spool_front_status(front, "notes", json, sizeof json);

        CHECK(len > 0 && (size_t)len == strlen(json));
        if (strstr(json, "\"state\":\"normal\"") != NULL && number_in(json, "epoch") > 0
            && number_in(json, "pending") == 0 && number_in(json, "holder") != but)
            return (int)number_in(json, "holder");
        if (now_ms() > until)
            fail(__FILE__, __LINE__, json);
        nanosleep(&pause, NULL);
    }
}

static evs_spool_task task_of(int kind, const char *payload)
{
    evs_spool_task task;

    memset(&task, 0, sizeof task);
    CHECK_STATUS(evs_spool_id_random(task.id), 0);
    task.kind = (uint32_t)kind;
    task.key = "notes";
    task.key_len = 5;
    task.payload = payload;
    task.payload_len = strlen(payload);
    task.deadline_ms = DEADLINE_MS;
    return task;
}

/* Asks; the outcome is the caller's to free. */
static evs_spool_outcome ask(evs_spool *spool, evs_spool_task task)
{
    evs_spool_outcome outcome;

    CHECK_STATUS(evs_spool_request(spool, &task, sizeof task, &outcome, sizeof outcome), 0);
    CHECK(outcome.text != NULL && outcome.reserved == 0);
    return outcome;
}

/* Asks, and frees; 1 if it was applied, 0 if it was spooled. */
static int acknowledged(evs_spool *spool, evs_spool_task task)
{
    evs_spool_outcome outcome = ask(spool, task);
    int code = outcome.code;

    CHECK(code == EVS_SPOOL_APPLIED || code == EVS_SPOOL_SPOOLED);
    CHECK(code == EVS_SPOOL_APPLIED ? outcome.answer_len == 7 : outcome.lsn > 0);
    CHECK_STATUS(evs_spool_outcome_free(&outcome), 0);
    return code == EVS_SPOOL_APPLIED;
}

static void check_read(evs_spool *spool, const char *wanted)
{
    evs_spool_outcome outcome = ask(spool, task_of(EVS_SPOOL_READ, ""));

    CHECK(outcome.code == EVS_SPOOL_APPLIED && outcome.answer_len == strlen(wanted));
    CHECK(memcmp(outcome.answer, wanted, outcome.answer_len) == 0);
    CHECK_STATUS(evs_spool_outcome_free(&outcome), 0);
    CHECK(outcome.answer == NULL && outcome.owner == NULL && *outcome.text == 0);
    CHECK_STATUS(evs_spool_outcome_free(&outcome), 0);
}

struct told {
    evs_spool *spool;
    atomic_int calls;
    atomic_int code;
};

static void tell(void *user, const evs_spool_outcome *outcome)
{
    struct told *told = user;
    evs_spool_task task = task_of(EVS_SPOOL_READ, "");
    evs_spool_outcome copy = *outcome, other;

    /* What would wait for this very thread says so. */
    CHECK_STATUS(evs_spool_request(told->spool, &task, sizeof task, &other, sizeof other),
                 -EDEADLK);
    CHECK(other.code == 0 && other.owner == NULL);
    CHECK_STATUS(evs_spool_fetch(told->spool, task.id, 1000, &other, sizeof other), -EDEADLK);
    CHECK_STATUS(evs_spool_close(told->spool), -EDEADLK);
    CHECK(outcome->text != NULL && outcome->owner == NULL);
    /* It is borrowed: there is nothing to free. */
    CHECK_STATUS(evs_spool_outcome_free(&copy), 0);
    atomic_store(&told->code, outcome->code);
    atomic_fetch_add(&told->calls, 1);
}

static void await_calls(struct told *told, int wanted)
{
    long long until = now_ms() + WAIT_MS_MAX * 2;
    struct timespec pause = { 0, 5000000 };

    while (atomic_load(&told->calls) < wanted) {
        CHECK(now_ms() < until);
        nanosleep(&pause, NULL);
    }
}

static void odd_backends(evs_spool *spool, struct disk *disk)
{
    evs_spool_outcome outcome = ask(spool, task_of(ODD_REFUSED, "x"));

    CHECK(outcome.code == EVS_SPOOL_REJECTED && outcome.reason == EVS_SPOOL_REASON_REFUSED);
    CHECK(outcome.refusal == 77 && strstr(outcome.text, "not today") != NULL);
    CHECK(outcome.retry_after_ms == 0 && outcome.answer == NULL);
    CHECK_STATUS(evs_spool_outcome_free(&outcome), 0);
    CHECK_STATUS(evs_spool_outcome_free(NULL), 0);
    for (int kind = ODD_LATER; kind <= ODD_FENCED; kind++) {
        disk->odd = 0;
        outcome = ask(spool, task_of(kind, "x"));
        /* What cannot be done at once may be spooled; it is done all the same. */
        CHECK(outcome.code == EVS_SPOOL_APPLIED || outcome.code == EVS_SPOOL_SPOOLED);
        CHECK_STATUS(evs_spool_outcome_free(&outcome), 0);
    }
}

struct errand {
    evs_spool *spool;
    int was_acknowledged;
};

/* Cancelled beforehand: what is no cancellation point is done whole, and none of it unwound. */
static void *ask_cancelled(void *argument)
{
    struct errand *errand = argument;

    pthread_cancel(pthread_self());
    acknowledged(errand->spool, task_of(EVS_SPOOL_WRITE, "c"));
    errand->was_acknowledged = 1;
    pthread_testcancel();
    return NULL;
}

static void cancelled(evs_spool *spool)
{
    struct errand errand = { spool, 0 };
    pthread_t thread;
    void *result;

    CHECK(pthread_create(&thread, NULL, ask_cancelled, &errand) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    CHECK(errand.was_acknowledged);
}

/* Handles are their parent's: a child is told, and does not wait for ever. */
static void forked(evs_spool *spool, struct server *server, evs_spool_front *front)
{
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        evs_spool_task task = task_of(EVS_SPOOL_WRITE, "child");
        evs_spool_outcome outcome;
        char text[64];

        CHECK_STATUS(evs_spool_request(spool, &task, sizeof task, &outcome, sizeof outcome),
                     -ESHUTDOWN);
        CHECK(strstr(evs_spool_error(), "fork") != NULL);
        CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, tell, NULL), -ESHUTDOWN);
        CHECK_STATUS(evs_spool_backend_addr(server->backend, text, sizeof text), -ESHUTDOWN);
        CHECK_STATUS(evs_spool_backend_ask_for_switch(server->backend), -ESHUTDOWN);
        CHECK_STATUS(evs_spool_front_addr(front, 0, text, sizeof text), -ESHUTDOWN);
        CHECK_STATUS(evs_spool_close(spool), 0);
        CHECK_STATUS(evs_spool_backend_close(server->backend), 0);
        CHECK_STATUS(evs_spool_front_close(front), 0);
        _exit(0);
    }
    reap(pid);
}

static void the_pair_changes_places(const char *folder, int writes)
{
    struct disk disk;
    struct server servers[2];
    struct told told = { NULL, 0, 0 };
    evs_spool_outcome outcome;
    evs_spool_task task;
    evs_spool_front *front;
    evs_spool *spool;
    unsigned char twice[16];
    int holder, spooled = 0;
    size_t effects;

    memset(&disk, 0, sizeof disk);
    CHECK(pthread_mutex_init(&disk.lock, NULL) == 0);
    serve(&servers[0], &disk);
    serve(&servers[1], &disk);
    front = front_of(folder, "ledger", servers[0].addr, servers[1].addr);
    CHECK(front != NULL);
    await_normal(front, -1);
    spool = sender_of(front);
    told.spool = spool;

    CHECK_STATUS(evs_spool_id_of_name("a name", 6, twice), 0);
    for (int i = 0; i < 2; i++) {
        task = task_of(EVS_SPOOL_WRITE, "1");
        memcpy(task.id, twice, 16);
        acknowledged(spool, task);
    }
    await_normal(front, -1);
    check_read(spool, "1");
    cancelled(spool);
    odd_backends(spool, &disk);
    task = task_of(EVS_SPOOL_WRITE, "s");
    CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, tell, &told), 0);
    await_calls(&told, 1);
    CHECK(atomic_load(&told.code) == EVS_SPOOL_APPLIED
          || atomic_load(&told.code) == EVS_SPOOL_SPOOLED);
    holder = await_normal(front, -1);
    check_read(spool, "1cs");
    forked(spool, &servers[holder], front);
    check_read(spool, "1cs");

    /* The main asks for the other one to take over. */
    CHECK_STATUS(evs_spool_backend_ask_for_switch(servers[holder].backend), 0);
    holder = await_normal(front, holder);

    /* It is killed, and the other one is not ready: nothing is refused, all of it lies in the
     * spool. */
    atomic_store(&servers[1 - holder].is_ready, 0);
    CHECK_STATUS(evs_spool_backend_close(servers[holder].backend), 0);
    CHECK(pthread_mutex_lock(&disk.lock) == 0);
    effects = disk.effects;
    CHECK(pthread_mutex_unlock(&disk.lock) == 0);
    for (int i = 0; i < writes; i++) {
        task = task_of(EVS_SPOOL_WRITE, "w");
        spooled += !acknowledged(spool, task);
    }
    CHECK(spooled == writes);
    CHECK_STATUS(evs_spool_fetch(spool, task.id, 30000, &outcome, sizeof outcome), 0);
    CHECK(outcome.code == EVS_SPOOL_HELD && outcome.lsn > 0);
    CHECK_STATUS(evs_spool_outcome_free(&outcome), 0);
    atomic_store(&servers[1 - holder].is_ready, 1);
    CHECK(await_normal(front, holder) == 1 - holder);
    CHECK(pthread_mutex_lock(&disk.lock) == 0);
    CHECK(disk.effects == effects + (size_t)writes);
    CHECK(pthread_mutex_unlock(&disk.lock) == 0);
    CHECK_STATUS(evs_spool_fetch(spool, task.id, 30000, &outcome, sizeof outcome), 0);
    CHECK(outcome.code == EVS_SPOOL_APPLIED);
    CHECK_STATUS(evs_spool_outcome_free(&outcome), 0);
    task = task_of(EVS_SPOOL_WRITE, "");
    CHECK_STATUS(evs_spool_fetch(spool, task.id, 30000, &outcome, sizeof outcome), -ENOENT);

    /* Nobody is left: a read waits until the sender is closed, and is told so then. */
    CHECK_STATUS(evs_spool_backend_close(servers[1 - holder].backend), 0);
    task = task_of(EVS_SPOOL_READ, "");
    CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, tell, &told), 0);
    CHECK_STATUS(evs_spool_close(spool), 0);
    CHECK(atomic_load(&told.calls) == 2);
    CHECK(atomic_load(&told.code) == EVS_SPOOL_IN_DOUBT
          || atomic_load(&told.code) == EVS_SPOOL_REJECTED);
    CHECK_STATUS(evs_spool_front_command(front, "notes", EVS_SPOOL_HOLD, NULL, 0), 0);
    CHECK_STATUS(evs_spool_front_command(front, "notes", EVS_SPOOL_RELEASE, NULL, 0), 0);
    CHECK_STATUS(evs_spool_front_close(front), 0);
    CHECK(pthread_mutex_destroy(&disk.lock) == 0);
}

static int refuses_all(void *user, uint64_t epoch, const evs_spool_item *const *items,
                       size_t count, evs_spool_results *results)
{
    (void)user, (void)epoch, (void)items;
    for (size_t i = 0; i < count; i++)
        CHECK_STATUS(evs_spool_result_refused(results, i, 1, NULL), 0);
    return 0;
}

static int no_epoch(void *user, uint64_t *epoch)
{
    (void)user, (void)epoch;
    return -ENODATA;
}

/* The library keeps the epoch of a server that keeps no ledger. */
static void epochs_in_a_directory(const char *folder)
{
    evs_spool_backend_config config;
    evs_spool_backend *backend;
    evs_spool_outcome outcome;
    evs_spool_front *front;
    evs_spool *spool;
    char addr[64], path[320], text[32] = "";
    int fd;

    memset(&config, 0, sizeof config);
    config.execute = refuses_all;
    config.epochs = folder;
    config.promise = EVS_SPOOL_IDEMPOTENT;
    config.workers = 1;
    backend = evs_spool_backend_serve("127.0.0.1:0", &config, sizeof config);
    CHECK(backend != NULL);
    CHECK(evs_spool_backend_addr(backend, addr, sizeof addr) > 0);
    snprintf(path, sizeof path, "%s/front", folder);
    CHECK(mkdir(path, 0700) == 0);
    front = front_of(path, "idempotent", addr, "127.0.0.1:1");
    CHECK(front != NULL);
    CHECK(await_normal(front, -1) == 0);
    spool = sender_of(front);
    outcome = ask(spool, task_of(EVS_SPOOL_WRITE, "x"));
    CHECK(outcome.code == EVS_SPOOL_REJECTED && outcome.refusal == 1);
    CHECK_STATUS(evs_spool_outcome_free(&outcome), 0);
    CHECK_STATUS(evs_spool_close(spool), 0);
    CHECK_STATUS(evs_spool_front_close(front), 0);
    CHECK_STATUS(evs_spool_backend_close(backend), 0);
    snprintf(path, sizeof path, "%s/epoch", folder);
    fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0 && atoll(text) > 0);
    CHECK(close(fd) == 0);
}

static void nonsense(evs_spool_front *front, evs_spool *spool)
{
    struct {
        evs_spool_task known;
        char more[8];
    } later;
    struct {
        evs_spool_config known;
        char more[8];
    } config;
    evs_spool_outcome outcome, zeros;
    evs_spool_backend_config server;
    evs_spool_backend *backend;
    evs_spool_task task = task_of(EVS_SPOOL_READ, "");
    unsigned char id[16];
    uint64_t lsn = 1;
    char text[64], small[4];

    memset(&zeros, 0, sizeof zeros);
    CHECK_STATUS(evs_spool_id_random(NULL), -EFAULT);
    CHECK_STATUS(evs_spool_id_of_name(NULL, 1, id), -EFAULT);
    CHECK_STATUS(evs_spool_id_of_name("x", 1, NULL), -EFAULT);
    CHECK_STATUS(evs_spool_id_of_name("x", SIZE_MAX, id), -EINVAL);
    CHECK_STATUS(evs_spool_id_of_name(NULL, 0, id), 0);

    memset(&config, 0, sizeof config);
    CHECK_NULL(evs_spool_connect(NULL, "notes", NULL, 0), EFAULT, "");
    CHECK_NULL(evs_spool_connect("127.0.0.1:1", NULL, NULL, 0), EFAULT, "");
    CHECK_NULL(evs_spool_connect("", "notes", NULL, 0), EINVAL, "HOST:PORT");
    CHECK_NULL(evs_spool_connect("127.0.0.1:1", "no name", NULL, 0), EINVAL, "no name");
    CHECK_NULL(evs_spool_connect("127.0.0.1:1", "\xff", NULL, 0), EILSEQ, "");
    CHECK_NULL(evs_spool_connect("127.0.0.1:1", "notes", &config.known, 0), EINVAL, "");
    config.more[7] = 1;
    CHECK_NULL(evs_spool_connect("127.0.0.1:1", "notes", &config.known, sizeof config), E2BIG, "");
    config.more[7] = 0;
    config.known.no_retry = 2;
    CHECK_NULL(evs_spool_connect("127.0.0.1:1", "notes", &config.known, sizeof config), EINVAL,
               "no_retry");
    config.known.no_retry = 1;
    CHECK_NULL(evs_spool_connect("127.0.0.1:1, 127.0.0.1:2", "notes", &config.known,
                                 sizeof config), ENOTCONN, "127.0.0.1:2");

    CHECK_STATUS(evs_spool_request(NULL, &task, sizeof task, &outcome, sizeof outcome), -EFAULT);
    CHECK(memcmp(&outcome, &zeros, sizeof zeros) == 0);
    CHECK_STATUS(evs_spool_request(spool, NULL, sizeof task, &outcome, sizeof outcome), -EFAULT);
    CHECK_STATUS(evs_spool_request(spool, &task, 0, &outcome, sizeof outcome), -EINVAL);
    CHECK_STATUS(evs_spool_request(spool, &task, sizeof task, NULL, sizeof outcome), -EFAULT);
    CHECK_STATUS(evs_spool_request(spool, &task, sizeof task, &outcome, 32), -EINVAL);
    CHECK_STATUS(evs_spool_request(spool, &task, 16, &outcome, sizeof outcome), -EINVAL);
    CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, NULL, NULL), -EFAULT);
    CHECK_STATUS(evs_spool_submit(NULL, &task, sizeof task, tell, NULL), -EFAULT);
    memset(&later, 0, sizeof later);
    later.known = task;
    later.more[0] = 1;
    CHECK_STATUS(evs_spool_submit(spool, &later.known, sizeof later, tell, NULL), -E2BIG);
    task.key_len = 4097;
    CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, tell, NULL), -EMSGSIZE);
    CHECK(strstr(evs_spool_error(), "4097") != NULL);
    task.key_len = 5;
    task.payload_len = (32 << 20) + 1;
    CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, tell, NULL), -EMSGSIZE);
    task.payload_len = 0;
    task.key = NULL;
    CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, tell, NULL), -EFAULT);
    task.key = "notes";
    task.kind = 5;
    CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, tell, NULL), -EINVAL);
    task.kind = EVS_SPOOL_READ;
    task.deadline_ms = 0;
    CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, tell, NULL), -EINVAL);
    task.deadline_ms = 86400001;
    CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, tell, NULL), -EINVAL);
    task.deadline_ms = 1000;
    memset(task.id, 0, 16);
    CHECK_STATUS(evs_spool_submit(spool, &task, sizeof task, tell, NULL), -EINVAL);
    CHECK(strstr(evs_spool_error(), "evs_spool_id_random") != NULL);
    CHECK_STATUS(evs_spool_fetch(spool, task.id, 1000, &outcome, sizeof outcome), -EINVAL);
    CHECK_STATUS(evs_spool_fetch(spool, NULL, 1000, &outcome, sizeof outcome), -EFAULT);
    CHECK_STATUS(evs_spool_fetch(NULL, id, 1000, &outcome, sizeof outcome), -EFAULT);
    CHECK_STATUS(evs_spool_fetch(spool, id, 1000, NULL, sizeof outcome), -EFAULT);
    CHECK_STATUS(evs_spool_close(NULL), 0);
    CHECK(*evs_spool_error() == 0);

    memset(&server, 0, sizeof server);
    CHECK_NULL(evs_spool_backend_serve("127.0.0.1:0", NULL, sizeof server), EFAULT, "");
    CHECK_NULL(evs_spool_backend_serve("127.0.0.1:0", &server, sizeof server), EFAULT, "execute");
    server.execute = refuses_all;
    CHECK_NULL(evs_spool_backend_serve("127.0.0.1:0", &server, sizeof server), EINVAL, "promise");
    server.promise = EVS_SPOOL_OPAQUE;
    CHECK_NULL(evs_spool_backend_serve("127.0.0.1:0", &server, sizeof server), EINVAL, "epochs");
    server.epochs = "/nowhere/at/all";
    CHECK_NULL(evs_spool_backend_serve("127.0.0.1:0", &server, sizeof server), ENOENT, "");
    server.promise = EVS_SPOOL_LEDGER;
    CHECK_NULL(evs_spool_backend_serve("127.0.0.1:0", &server, sizeof server), EINVAL, "ledger");
    server.epochs = NULL;
    server.seen_epoch = no_epoch;
    CHECK_NULL(evs_spool_backend_serve("127.0.0.1:0", &server, sizeof server), EINVAL, "epochs");
    server.raise_epoch = raise_epoch;
    CHECK_NULL(evs_spool_backend_serve(NULL, &server, sizeof server), EFAULT, "");
    CHECK_NULL(evs_spool_backend_serve("nonsense", &server, sizeof server), EINVAL, "HOST:PORT");
    CHECK_NULL(evs_spool_backend_serve("127.0.0.1:0", &server, 0), EINVAL, "");
    server.workers = 5000;
    CHECK_NULL(evs_spool_backend_serve("127.0.0.1:0", &server, sizeof server), EINVAL, "workers");
    server.workers = 0;
    errno = 0;
    backend = evs_spool_backend_serve("127.0.0.1:0", &server, sizeof server);
    CHECK(backend == NULL && errno != 0 && strstr(evs_spool_error(), "seen_epoch") != NULL);
    CHECK_STATUS(evs_spool_backend_close(NULL), 0);
    CHECK_STATUS(evs_spool_backend_ask_for_switch(NULL), -EFAULT);
    CHECK_STATUS(evs_spool_backend_addr(NULL, text, sizeof text), -EFAULT);

    CHECK_NULL(evs_spool_front_start(NULL), EFAULT, "");
    CHECK_NULL(evs_spool_front_start("/nowhere/at/all.toml"), ENOENT, "/nowhere/at/all.toml");
    CHECK_NULL(evs_spool_front_start_text("dir = 7", "/tmp"), EINVAL, ":1");
    CHECK_NULL(evs_spool_front_start_text("", NULL), EFAULT, "");
    CHECK(evs_spool_front_addr(front, 0, small, sizeof small) > (int)sizeof small);
    CHECK(strcmp(small, "127") == 0);
    CHECK_STATUS(evs_spool_front_addr(front, 1, text, sizeof text), -ENOENT);
    CHECK_STATUS(evs_spool_front_addr(NULL, 0, text, sizeof text), -EFAULT);
    CHECK_STATUS(evs_spool_front_addr(front, 0, NULL, 8), -EFAULT);
    CHECK(evs_spool_front_status(front, "notes", NULL, 0) > 100);
    CHECK_STATUS(evs_spool_front_status(front, "others", text, sizeof text), -ENOENT);
    CHECK_STATUS(evs_spool_front_status(front, NULL, text, sizeof text), -EFAULT);
    CHECK_STATUS(evs_spool_front_status(NULL, "notes", text, sizeof text), -EFAULT);
    CHECK_STATUS(evs_spool_front_command(NULL, "notes", EVS_SPOOL_HOLD, NULL, 0), -EFAULT);
    CHECK_STATUS(evs_spool_front_command(front, NULL, EVS_SPOOL_HOLD, NULL, 0), -EFAULT);
    CHECK_STATUS(evs_spool_front_command(front, "others", EVS_SPOOL_HOLD, NULL, 0), -EAGAIN);
    CHECK_STATUS(evs_spool_front_command(front, "notes", 0, NULL, 0), -EINVAL);
    CHECK_STATUS(evs_spool_front_command(front, "notes", EVS_SPOOL_HOLD, &lsn, 1), -EINVAL);
    CHECK_STATUS(evs_spool_front_command(front, "notes", EVS_SPOOL_RETRY, NULL, 0), -EINVAL);
    CHECK_STATUS(evs_spool_front_command(front, "notes", EVS_SPOOL_PURGE, NULL, 1), -EFAULT);
    CHECK_STATUS(evs_spool_front_command(front, "notes", EVS_SPOOL_PURGE, &lsn, 5000), -EINVAL);
    CHECK_STATUS(evs_spool_front_command(front, "notes", EVS_SPOOL_SWITCH, NULL, 0), -EAGAIN);
    CHECK(strlen(evs_spool_error()) > 10);
    CHECK_STATUS(evs_spool_front_close(NULL), 0);
}

static void null_and_nonsense(const char *folder)
{
    evs_spool_front *front = front_of(folder, "ledger", "127.0.0.1:1", "127.0.0.1:2");
    evs_spool_task task = task_of(EVS_SPOOL_WRITE, "x");
    evs_spool_outcome outcome;
    evs_spool *spool;

    CHECK(front != NULL);
    spool = sender_of(front);
    nonsense(front, spool);
    CHECK_STATUS(evs_spool_front_close(front), 0);
    /* Now there is nobody to ask. */
    CHECK_STATUS(evs_spool_fetch(spool, task.id, 50, &outcome, sizeof outcome), -ETIMEDOUT);
    task.deadline_ms = 50;
    outcome = ask(spool, task);
    CHECK(outcome.code == EVS_SPOOL_IN_DOUBT
          || (outcome.code == EVS_SPOOL_REJECTED && outcome.reason == EVS_SPOOL_REASON_DEADLINE));
    CHECK_STATUS(evs_spool_outcome_free(&outcome), 0);
    CHECK_STATUS(evs_spool_close(spool), 0);
}

/* An empty directory below another, which goes with the test. */
static const char *folder_in(const char *base, const char *name)
{
    static char path[256];

    snprintf(path, sizeof path, "%s/%s", base, name);
    CHECK(mkdir(path, 0700) == 0);
    return path;
}

int main(int argc, char **argv)
{
    char base[] = "/tmp/evs-spool-XXXXXX", command[64];
    pid_t pid;

    (void)argv;
    CHECK(mkdtemp(base) != NULL);
    /* What fails exits at once; whoever waits for it tidies up. */
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        begin();
        null_and_nonsense(folder_in(base, "nonsense"));
        epochs_in_a_directory(folder_in(base, "epochs"));
        the_pair_changes_places(folder_in(base, "pair"), argc > 1 ? 20 : 100);
        exit(0);
    }
    alarm(TEST_SECONDS_MAX + 10);
    CHECK(waitpid(pid, &argc, 0) == pid);
    snprintf(command, sizeof command, "rm -rf %s", base);
    CHECK(system(command) == 0);
    CHECK(WIFEXITED(argc) && WEXITSTATUS(argc) == 0);
    return 0;
}
