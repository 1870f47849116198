// Service managers of AOSP 14: method codes and signatures, as facts
// (frameworks/native, libs/binder/aidl/android/os).
package android.os;

interface IServiceManager {
    @nullable IBinder getService(String name) = 0;
    @nullable IBinder checkService(String name) = 1;
    void addService(String name, IBinder service, boolean allowIsolated, int dumpPriority) = 2;
    String[] listServices(int dumpPriority) = 3;
    void registerForNotifications(String name, IServiceCallback callback) = 4;
    void unregisterForNotifications(String name, IServiceCallback callback) = 5;
    boolean isDeclared(String name) = 6;
    String[] getDeclaredInstances(String iface) = 7;
    @nullable String updatableViaApex(String name) = 8;
    String[] getUpdatableNames(String apexName) = 9;
    @nullable ConnectionInfo getConnectionInfo(String name) = 10;
    void registerClientCallback(String name, IBinder service, IClientCallback callback) = 11;
    void tryUnregisterService(String name, IBinder service) = 12;
    ServiceDebugInfo[] getServiceDebugInfo() = 13;
}

interface IServiceCallback {
    void onRegistration(String name, IBinder binder) = 0;
}

interface IClientCallback {
    void onClients(IBinder registered, boolean hasClients) = 0;
}

parcelable ConnectionInfo {
    String ipAddress;
    int port;
}

parcelable ServiceDebugInfo {
    String name;
    int debugPid;
}
