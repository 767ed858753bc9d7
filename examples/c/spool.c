/*
 * A pair of servers behind a front: the main one is killed, and no write is refused.
 *
 *     spool
 *
 * All are in one process here, and would be on machines of their own: two servers that share their
 * storage, the front with its spool, and the sender. The sender writes notes, loses the main server,
 * goes on writing, and finds all notes at the new one.
 */
#define _POSIX_C_SOURCE 200809L
#define EVERSOCK_SPOOL
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "eversock.h"

#define NOTES_MAX 64
#define WRITES 20

/* The storage of both servers: a note under each key. */
static struct {
    pthread_mutex_t lock;
    char keys[NOTES_MAX][16];
    size_t count;
} storage = { .lock = PTHREAD_MUTEX_INITIALIZER, .count = 0 };

static void die(const char *what)
{
    fprintf(stderr, "spool: %s: %s\n", what, evs_spool_error());
    exit(EXIT_FAILURE);
}

/* Stores a note; one that is there already stays as it is, so that it may come twice. */
static int put(const evs_spool_item *item)
{
    char key[16] = "";

    if (item->key_len >= sizeof key || storage.count == NOTES_MAX)
        return -1;
    memcpy(key, item->key, item->key_len);
    for (size_t i = 0; i < storage.count; i++)
        if (strcmp(storage.keys[i], key) == 0)
            return 0;
    memcpy(storage.keys[storage.count++], key, sizeof key);
    return 0;
}

/* What a server does with requests; on several threads of the library. */
static int execute(void *user, uint64_t epoch, const evs_spool_item *const *items, size_t count,
                   evs_spool_results *results)
{
    int status = 0;

    (void)user;
    (void)epoch;
    pthread_mutex_lock(&storage.lock);
    for (size_t i = 0; i < count && status == 0; i++) {
        char answer[16] = "";

        /* Right before each effect: somebody else may be the main server by now. */
        if (evs_spool_may_go_on(results) != 0)
            status = i == 0 ? -ESTALE : -EIO;
        else if (items[i]->kind == EVS_SPOOL_WRITE && put(items[i]) != 0)
            evs_spool_result_refused(results, i, 1, "no room for the note");
        else {
            if (items[i]->kind == EVS_SPOOL_READ)
                snprintf(answer, sizeof answer, "%zu", storage.count);
            evs_spool_result_done(results, i, answer, strlen(answer), 0);
        }
    }
    pthread_mutex_unlock(&storage.lock);
    return status;
}

static evs_spool_backend *serve(const char *folder, char addr[64])
{
    evs_spool_backend_config config;
    evs_spool_backend *backend;

    memset(&config, 0, sizeof config);
    config.execute = execute;
    config.epochs = folder; /* one for both, as the storage is */
    config.promise = EVS_SPOOL_IDEMPOTENT;
    backend = evs_spool_backend_serve("127.0.0.1:0", &config, sizeof config);
    if (backend == NULL || evs_spool_backend_addr(backend, addr, 64) < 0)
        die("serve");
    return backend;
}

/* Impatient enough for an example: a main that is silent for two seconds is gone. */
static evs_spool_front *start(const char *folder, const char *one, const char *other)
{
    char text[1024];
    evs_spool_front *front;

    snprintf(text, sizeof text,
             "dir = \"spool\"\n"
             "[[socket]]\nlisten = \"127.0.0.1:0\"\n"
             "[[pair]]\nname = \"notes\"\n"
             "probe-every = \"100ms\"\nconfirm = \"200ms\"\nlease = \"2s\"\n"
             "[[pair.server]]\nclass = \"idempotent\"\nurl = \"eversock://%s\"\ngrace = \"500ms\"\n"
             "[[pair.server]]\nclass = \"idempotent\"\nurl = \"eversock://%s\"\ngrace = \"500ms\"\n",
             one, other);
    front = evs_spool_front_start_text(text, folder);
    if (front == NULL)
        die("front");
    return front;
}

/* Waits until this server is the main one. */
static void await_main(const evs_spool_front *front, int server)
{
    const struct timespec pause = { 0, 20000000 };
    char json[4096], holder[16];

    snprintf(holder, sizeof holder, "\"holder\":%d", server);
    for (int i = 0; i < 1500; i++) {
        if (evs_spool_front_status(front, "notes", json, sizeof json) < 0)
            die("status");
        if (strstr(json, "\"state\":\"normal\"") && strstr(json, holder)
            && !strstr(json, "\"epoch\":0,"))
            return;
        nanosleep(&pause, NULL);
    }
    fprintf(stderr, "spool: no main server: %s\n", json);
    exit(EXIT_FAILURE);
}

static evs_spool_outcome ask(evs_spool *spool, int kind, const char *key)
{
    evs_spool_outcome outcome;
    evs_spool_task task;

    memset(&task, 0, sizeof task);
    evs_spool_id_random(task.id); /* keep it: under the same id nothing happens twice */
    task.kind = (uint32_t)kind;
    task.key = key;
    task.key_len = strlen(key);
    task.deadline_ms = 30000;
    if (evs_spool_request(spool, &task, sizeof task, &outcome, sizeof outcome) != 0)
        die("request");
    return outcome;
}

/* Writes a note; whether it was spooled. */
static int write_note(evs_spool *spool, int number)
{
    char key[16];
    evs_spool_outcome outcome;
    int code;

    snprintf(key, sizeof key, "note %d", number);
    outcome = ask(spool, EVS_SPOOL_WRITE, key);
    code = outcome.code;
    if (code != EVS_SPOOL_APPLIED && code != EVS_SPOOL_SPOOLED) {
        fprintf(stderr, "spool: %s: %d %s\n", key, code, outcome.text);
        exit(EXIT_FAILURE);
    }
    evs_spool_outcome_free(&outcome);
    return code == EVS_SPOOL_SPOOLED;
}

int main(void)
{
    char folder[] = "/tmp/evs-spool-XXXXXX", one[64], other[64], addr[64], command[64];
    evs_spool_backend *servers[2];
    evs_spool_front *front;
    evs_spool_outcome outcome;
    evs_spool *spool;
    int spooled = 0;

    if (mkdtemp(folder) == NULL)
        return perror("spool"), EXIT_FAILURE;
    servers[0] = serve(folder, one);
    servers[1] = serve(folder, other);
    front = start(folder, one, other);
    if (evs_spool_front_addr(front, 0, addr, sizeof addr) < 0)
        die("address");
    spool = evs_spool_connect(addr, "notes", NULL, 0);
    if (spool == NULL)
        die("connect");
    await_main(front, 0);
    printf("a note is %s\n", write_note(spool, 0) ? "spooled" : "applied");

    evs_spool_backend_close(servers[0]);
    printf("the main server is killed\n");
    for (int i = 1; i <= WRITES; i++)
        spooled += write_note(spool, i);
    printf("%d writes acknowledged, %d of them spooled\n", WRITES, spooled);

    /* A read waits for the writes of its key alone: let all of them come home first. */
    await_main(front, 1);
    outcome = ask(spool, EVS_SPOOL_READ, "all");
    if (outcome.code != EVS_SPOOL_APPLIED)
        die("read");
    printf("the new main server has %.*s notes\n", (int)outcome.answer_len,
           (const char *)outcome.answer);
    evs_spool_outcome_free(&outcome);
    evs_spool_close(spool);
    evs_spool_front_close(front);
    evs_spool_backend_close(servers[1]);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
