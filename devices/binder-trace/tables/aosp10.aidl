// The service manager of AOSP 10, which is written by hand: method codes and signatures, as facts
// (frameworks/native, libs/binder/IServiceManager.cpp and cmds/servicemanager).
package android.os;

@NoStatus
interface IServiceManager {
    @nullable IBinder getService(String name) = 0;
    @nullable IBinder checkService(String name) = 1;
    int addService(String name, IBinder service, int allowIsolated, int dumpPriority) = 2;
    String listServices(int index, int dumpPriority) = 3;
}
