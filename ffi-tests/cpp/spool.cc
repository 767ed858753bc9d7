// Spool failover from C++: servers, front and sender behind their own destructors.
#define EVERSOCK_SPOOL
#include "eversock.h"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include <sys/stat.h>
#include <unistd.h>

static void check(bool holds, const char *what)
{
    if (!holds) {
        std::fprintf(stderr, "%s: %s\n", what, evs_spool_error());
        std::fflush(nullptr);
        _exit(1);
    }
}

struct Close {
    void operator()(evs_spool *spool) const { check(evs_spool_close(spool) == 0, "close"); }
    void operator()(evs_spool_front *front) const
    {
        check(evs_spool_front_close(front) == 0, "close of the front");
    }
    void operator()(evs_spool_backend *backend) const
    {
        check(evs_spool_backend_close(backend) == 0, "close of a backend");
    }
};

// A PUT by key, done twice, is as one done once: a server of class idempotent.
struct Store {
    std::mutex lock;
    std::map<std::string, std::string> values;

    static std::string text(const void *bytes, std::size_t len)
    {
        return len == 0 ? std::string() : std::string(static_cast<const char *>(bytes), len);
    }

    static int execute(void *user, std::uint64_t, const evs_spool_item *const *items,
                       std::size_t count, evs_spool_results *results) noexcept
    {
        Store &store = *static_cast<Store *>(user);
        std::lock_guard<std::mutex> guard(store.lock);
        for (std::size_t i = 0; i < count; i++) {
            const evs_spool_item &item = *items[i];
            std::string &value = store.values[text(item.key, item.key_len)];
            if (evs_spool_may_go_on(results) != 0)
                return i == 0 ? -ESTALE : -EIO;
            if (item.kind == EVS_SPOOL_WRITE)
                value = text(item.payload, item.payload_len);
            if (evs_spool_result_done(results, i, value.data(), value.size(), 0) != 0)
                return -EIO;
        }
        return 0;
    }
};

// A directory that goes with the test.
struct Folder {
    char path[32] = "/tmp/evs-spool-XXXXXX";
    Folder() { check(mkdtemp(path) != nullptr, "mkdtemp"); }
    ~Folder() { check(std::system(("rm -rf " + std::string(path)).c_str()) == 0, "rm"); }
};

static std::unique_ptr<evs_spool_backend, Close> serve(Store &store, const Folder &folder)
{
    evs_spool_backend_config config = {};
    config.execute = Store::execute;
    config.user = &store;
    config.epochs = folder.path;
    config.promise = EVS_SPOOL_IDEMPOTENT;
    std::unique_ptr<evs_spool_backend, Close> backend(
        evs_spool_backend_serve("127.0.0.1:0", &config, sizeof config));
    check(backend != nullptr, "serve");
    return backend;
}

static std::string address(const evs_spool_backend *backend)
{
    char text[64];
    check(evs_spool_backend_addr(backend, text, sizeof text) > 0, "the backend's address");
    return text;
}

struct Told {
    std::promise<std::pair<int, std::string>> told;

    static void tell(void *user, const evs_spool_outcome *outcome) noexcept
    {
        static_cast<Told *>(user)->told.set_value(
            std::make_pair(outcome->code, Store::text(outcome->answer, outcome->answer_len)));
    }
};

static std::pair<int, std::string> ask(evs_spool *spool, int kind, const std::string &payload)
{
    evs_spool_task task = {};
    check(evs_spool_id_random(task.id) == 0, "an id");
    task.kind = static_cast<std::uint32_t>(kind);
    task.key = "key";
    task.key_len = 3;
    task.payload = payload.data();
    task.payload_len = payload.size();
    task.deadline_ms = 60000;
    Told told;
    check(evs_spool_submit(spool, &task, sizeof task, Told::tell, &told) == 0, "submit");
    return told.told.get_future().get();
}

int main()
{
    alarm(100);
    Folder folder;
    Store store;
    std::unique_ptr<evs_spool_backend, Close> one = serve(store, folder);
    std::unique_ptr<evs_spool_backend, Close> other = serve(store, folder);
    const std::string server = "[[pair.server]]\nclass = \"idempotent\"\nurl = \"eversock://";
    const std::string text = "dir = \"spool\"\n[[socket]]\nlisten = \"127.0.0.1:0\"\n"
                             "[[pair]]\nname = \"values\"\nprobe-every = \"100ms\"\n"
                             + server + address(one.get()) + "\"\n"
                             + server + address(other.get()) + "\"\n";
    std::unique_ptr<evs_spool_front, Close> front(
        evs_spool_front_start_text(text.c_str(), folder.path));
    check(front != nullptr, "front");
    char addr[64];
    check(evs_spool_front_addr(front.get(), 0, addr, sizeof addr) > 0, "the front's address");
    std::unique_ptr<evs_spool, Close> spool(evs_spool_connect(addr, "values", nullptr, 0));
    check(spool != nullptr, "connect");

    // Spooled while there is no main server yet; the read comes behind it in any case.
    int code = ask(spool.get(), EVS_SPOOL_WRITE, "value").first;
    check(code == EVS_SPOOL_APPLIED || code == EVS_SPOOL_SPOOLED, "write");
    std::pair<int, std::string> read = ask(spool.get(), EVS_SPOOL_READ, "");
    check(read.first == EVS_SPOOL_APPLIED && read.second == "value", "read");
    return 0;
}
