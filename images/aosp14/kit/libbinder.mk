# Flags with which AOSP 14's libbinder, and what uses it, is compiled. Who includes this sets what system.mk
# wants, and AOSP: the folder with what Makefile beside this makes.
include $(KIT)/system.mk
NATIVE := $(SRC)/frameworks/native
B      := $(NATIVE)/libs/binder
INC    += -Igen/include -I$(AOSP)/gen/include -I$(B)/include -I$(B)/ndk/include_cpp -I$(B)/ndk/include_ndk -I$(B)/ndk/include_platform \
          -I$(B)/include_rpc_unstable -I$(SRC)/libnativehelper/include_jni
LIBBINDER = $(AOSP)/libbinder14.a $(SYSTEM)/libcore.a
