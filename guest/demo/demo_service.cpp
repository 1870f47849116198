// demo_service NAME: registers bindervm.demo.IDemo under NAME and serves it until killed.

#include <bindervm/demo/BnDemo.h>
#include <binder/IPCThreadState.h>
#include <binder/IServiceManager.h>
#include <binder/ProcessState.h>
#include <utils/String16.h>

#include <cstdio>
#include <unistd.h>

using android::IPCThreadState;
using android::ProcessState;
using android::sp;
using android::status_t;
using android::String16;
using android::binder::Status;

class Demo : public bindervm::demo::BnDemo {
public:
    Status echo(const std::string& text, std::string* reply) override {
        *reply = text;
        return Status::ok();
    }

    Status add(int32_t a, int32_t b, int32_t* sum) override {
        if (__builtin_add_overflow(a, b, sum)) {
            return Status::fromExceptionCode(Status::EX_ILLEGAL_ARGUMENT, "the sum does not fit in 32 bits");
        }
        return Status::ok();
    }

    Status sum(const std::vector<uint8_t>& bytes, int32_t* total) override {
        *total = 0;
        for (uint8_t byte : bytes) *total += byte; // a transaction is under 1 MiB: no overflow
        return Status::ok();
    }

    Status die() override {
        printf("demo_service[%d]: asked to die by pid %d\n", getpid(),
               IPCThreadState::self()->getCallingPid());
        fflush(stdout);
        _exit(0);
    }
};

int main(int argc, char** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: demo_service NAME\n");
        return 2;
    }
    const char* name = argv[1];
    status_t status = android::defaultServiceManager()->addService(String16(name), sp<Demo>::make());
    if (status != android::OK) {
        fprintf(stderr, "demo_service: cannot register '%s': %s\n", name,
                android::statusToString(status).c_str());
        return 1;
    }
    printf("demo_service[%d]: serving '%s'\n", getpid(), name);
    fflush(stdout);
    ProcessState::self()->startThreadPool();
    IPCThreadState::self()->joinThreadPool();
    return 0;
}
