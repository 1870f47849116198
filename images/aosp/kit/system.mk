# How AOSP's code is compiled here, static x86_64 glibc with clang and libstdc++: flags, and the headers of its
# system libraries. Who includes this sets KIT (this folder), SRC (AOSP 14's platform sources) and SYSTEM (the
# folder with what Makefile beside this makes), and may add to INC.
HERE := $(patsubst %/,%,$(dir $(abspath $(firstword $(MAKEFILE_LIST)))))
C    := $(SRC)/system/core
CC   := clang
CXX  := clang++
AIDL := aidl
OPT  := -O2
DEF  := -DNDEBUG -UDEBUG -fno-strict-aliasing -DXP_UNIX -DBINDER_WITH_KERNEL_IPC -D__INTRODUCED_IN\(x\)= -D__assert\(a,b,c\)=abort\(\)
INC   = -I$(SRC)/system/libbase/include -I$(SRC)/system/logging/liblog/include -I$(C)/libcutils/include -I$(C)/libutils/include \
        -I$(C)/libsystem/include -I$(C)/libprocessgroup/include -I$(C)/include -I$(SRC)/external/fmtlib/include -I$(KIT)/shim -idirafter /usr/include/android
# No path of the machine that builds gets into the programs: equal sources make equal images.
MAP   = $(foreach folder,$(SRC) $(NATIVE) $(KIT) $(BINDER) $(HERE) $(SYSTEM) $(AOSP),-ffile-prefix-map=$(folder)=aosp)
# Sections let the linker drop what a program does not use: the programs live in the guest's RAM.
COMMON = $(OPT) -w $(MAP) -ffunction-sections -fdata-sections $(DEF) $(OWN) $(INC)
CFLAGS = $(COMMON) -include $(KIT)/compat.h
CXXFLAGS = $(COMMON) -std=gnu++20
LDFLAGS := -static -Wl,--gc-sections -s
LIBS    := -lpthread

# The C++ half of compat.h costs more to parse than most AOSP files: once is enough.
PCH      = $(SYSTEM)/o/compat.pch

# compile(objects' folder, sources' folder, more flags): C++.
define compile
$(1)/%.o: $(2)/%.cpp $(GENERATED) ; @mkdir -p $$(@D); $$(CXX) $$(CXXFLAGS) -include-pch $$(PCH) $(3) -c $$< -o $$@
endef

# AIDL is that of Debian 12 (AOSP 10). What its output lacks against AOSP 14's: std::optional for @nullable,
# and libbinder's newer name of this macro.
MODERNISE := sed -i 's/^IMPLEMENT_META_INTERFACE(/DO_NOT_DIRECTLY_USE_ME_IMPLEMENT_META_INTERFACE(/; s/::std::unique_ptr</::std::optional</g'
.SECONDARY:
