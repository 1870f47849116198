// demo_client NAME [CALLS]   calls every method of the service once, then add() CALLS times more
// demo_client NAME --watch   waits until the service dies
// demo_client NAME --die     makes the service die in the middle of a call
//
// Exit status: 0 all as expected, 1 a call failed or gave a wrong result, 2 usage,
// 3 no service of that name after five seconds.

#include <bindervm/demo/IDemo.h>
#include <binder/IServiceManager.h>
#include <binder/ProcessState.h>
#include <utils/String16.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <thread>

using android::IBinder;
using android::interface_cast;
using android::ProcessState;
using android::sp;
using android::status_t;
using android::String16;
using android::wp;
using android::binder::Status;
using bindervm::demo::IDemo;
using Clock = std::chrono::steady_clock;

static sp<IBinder> find(const char* name) {
    auto deadline = Clock::now() + std::chrono::seconds(5);
    for (;;) {
        sp<IBinder> found = android::defaultServiceManager()->checkService(String16(name));
        if (found != nullptr || Clock::now() >= deadline) return found;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

// Prints what a call gave; true if that is what it should give.
static bool report(const char* call, const Status& status, bool right, const std::string& result) {
    if (!status.isOk()) {
        printf("  %-24s FAILED: %s\n", call, status.toString8().c_str());
        return false;
    }
    printf("  %-24s = %s%s\n", call, result.c_str(), right ? "" : "   WRONG");
    return right;
}

static int callEveryMethod(const char* name, const sp<IBinder>& binder, long calls) {
    sp<IDemo> demo = interface_cast<IDemo>(binder);
    bool right = true;
    printf("demo_client[%d]: calling '%s'\n", getpid(), name);

    Status ping = Status::fromStatusT(binder->pingBinder());
    right &= report("ping()", ping, true, "alive");

    std::string text;
    Status echo = demo->echo("hello, binder", &text);
    right &= report("echo(\"hello, binder\")", echo, text == "hello, binder", '"' + text + '"');

    int32_t sum = 0;
    Status add = demo->add(40, 2, &sum);
    right &= report("add(40, 2)", add, sum == 42, std::to_string(sum));

    Status overflow = demo->add(INT32_MAX, 1, &sum);
    bool refused = overflow.exceptionCode() == Status::EX_ILLEGAL_ARGUMENT;
    printf("  %-24s = %s%s\n", "add(2147483647, 1)", overflow.toString8().c_str(), refused ? "" : "   WRONG");
    right &= refused;

    std::vector<uint8_t> bytes(1000);
    for (size_t i = 0; i < bytes.size(); i++) bytes[i] = i % 251;
    int32_t expected = 0;
    for (uint8_t byte : bytes) expected += byte;
    Status total = demo->sum(bytes, &sum);
    right &= report("sum(1000 bytes)", total, sum == expected, std::to_string(sum));

    auto start = Clock::now();
    for (long i = 0; i < calls; i++) {
        int32_t a = static_cast<int32_t>(i);
        Status status = demo->add(a, 1, &sum);
        if (!status.isOk() || sum != a + 1) {
            return report("add(i, 1)", status, false, std::to_string(sum)), 1;
        }
    }
    if (calls > 0) {
        auto spent = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
        std::string what = "add(i, 1) x " + std::to_string(calls);
        printf("  %-24s = all right, %.1f us each\n", what.c_str(), spent / calls);
    }
    return right ? 0 : 1;
}

class Obituary : public IBinder::DeathRecipient {
public:
    std::promise<void> died;
    void binderDied(const wp<IBinder>&) override { died.set_value(); }
};

static int watch(const char* name, const sp<IBinder>& binder) {
    sp<Obituary> obituary = sp<Obituary>::make();
    ProcessState::self()->startThreadPool(); // the notice arrives on a pool thread
    status_t status = binder->linkToDeath(obituary);
    if (status != android::OK) {
        fprintf(stderr, "demo_client: cannot watch '%s': %s\n", name,
                android::statusToString(status).c_str());
        return 1;
    }
    printf("demo_client[%d]: watching '%s'\n", getpid(), name);
    fflush(stdout);
    obituary->died.get_future().wait();
    printf("demo_client[%d]: '%s' died\n", getpid(), name);
    fflush(stdout);
    return 0;
}

static int kill(const char* name, const sp<IBinder>& binder) {
    status_t status = interface_cast<IDemo>(binder)->die().transactionError();
    printf("demo_client[%d]: die() of '%s' = %s\n", getpid(), name, android::statusToString(status).c_str());
    return status == android::DEAD_OBJECT ? 0 : 1;
}

static int usage() {
    fprintf(stderr, "usage: demo_client NAME [CALLS | --watch | --die]\n");
    return 2;
}

int main(int argc, char** argv) {
    if (argc != 2 && argc != 3) return usage();
    const char* name = argv[1];
    const char* what = argc == 3 ? argv[2] : "0";
    bool wantsWatch = strcmp(what, "--watch") == 0;
    bool wantsDeath = strcmp(what, "--die") == 0;
    char* end = nullptr;
    long calls = strtol(what, &end, 10);
    if (!wantsWatch && !wantsDeath && (end == what || *end != '\0' || calls < 0 || calls > INT32_MAX)) {
        return usage();
    }

    sp<IBinder> binder = find(name);
    if (binder == nullptr) {
        fprintf(stderr, "demo_client: no service named '%s'\n", name);
        return 3;
    }
    int status = wantsWatch ? watch(name, binder)
            : wantsDeath    ? kill(name, binder)
                            : callEveryMethod(name, binder, calls);
    fflush(stdout);
    // Skips the destructors of libbinder's globals, which race with its pool threads.
    _exit(status);
}
