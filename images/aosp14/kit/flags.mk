# Flags with which AOSP 14's libbinder, and what uses it, is compiled: SRC, KIT and AOSP (the folder with
# the kit's products) are set by whoever includes this.
FN   := $(SRC)/frameworks/native
B    := $(FN)/libs/binder
C    := $(SRC)/system/core
CC   := clang
CXX  := clang++
AIDL := aidl
OPT  := -O2
DEF  := -DNDEBUG -UDEBUG -fno-strict-aliasing -DXP_UNIX -DBINDER_WITH_KERNEL_IPC -D__INTRODUCED_IN\(x\)= -D__assert\(a,b,c\)=abort\(\)
INC  := -Igen/include -Igen/ndkinclude -I$(AOSP)/gen/include -I$(B)/include -I$(B)/ndk/include_cpp -I$(B)/ndk/include_ndk -I$(B)/ndk/include_platform -I$(B)/include_rpc_unstable \
        -I$(SRC)/system/libbase/include -I$(SRC)/system/logging/liblog/include -I$(C)/libcutils/include -I$(C)/libutils/include \
        -I$(C)/libsystem/include -I$(C)/libprocessgroup/include -I$(C)/include -I$(SRC)/external/fmtlib/include -I$(SRC)/libnativehelper/include_jni -I$(KIT)/shim -idirafter /usr/include/android
# No path of the machine that builds gets into the programs: equal sources make equal images.
MAP      := -ffile-prefix-map=$(SRC)=aosp -ffile-prefix-map=$(KIT)=kit -ffile-prefix-map=$(HERE)=demo
# Sections let the linker drop what a program does not use: the programs live in the guest's RAM.
COMMON   := $(OPT) -w $(MAP) -ffunction-sections -fdata-sections $(DEF) $(INC)
CFLAGS   := $(COMMON) -include $(KIT)/compat.h
CXXFLAGS := $(COMMON) -std=gnu++20
LDFLAGS  := -static -Wl,--gc-sections -s
LIBS     := -lpthread

# The C++ half of compat.h costs more to parse than most AOSP files: once is enough.
PCH      := $(AOSP)/o/compat.pch

# AIDL is that of Debian 12 (AOSP 10). What its output lacks against AOSP 14's: std::optional for @nullable,
# and libbinder's newer name of this macro.
MODERNISE := sed -i 's/^IMPLEMENT_META_INTERFACE(/DO_NOT_DIRECTLY_USE_ME_IMPLEMENT_META_INTERFACE(/; s/::std::unique_ptr</::std::optional</g'
