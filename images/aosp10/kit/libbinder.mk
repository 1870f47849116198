# Flags with which AOSP 10's libbinder, and what uses it, is compiled. Who includes this sets what system.mk
# wants, NATIVE (AOSP 10's frameworks/native), and AOSP: the folder with what Makefile beside this makes.
include $(KIT)/system.mk
B      := $(NATIVE)/libs/binder
OWN    := -fno-access-control -I$(BINDER)/shim
INC    += -I$(AOSP)/gen -I$(B)/include -I$(NATIVE)/libs/binderthreadstate/include -I$(NATIVE)/include -I$(NATIVE)/libs/nativebase/include
LIBBINDER = $(AOSP)/libbinder10.a $(SYSTEM)/libcore.a
