/* glibc compat for AOSP code (bionic-isms); -include'd on every compile */
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <features.h>
#include <sys/types.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <stdint.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#ifndef SIZE_T_MAX
#define SIZE_T_MAX SIZE_MAX
#endif
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096
#endif
#ifdef __cplusplus
#include <memory>
#include <string>
#include <limits>
#include <functional>
#include <algorithm>
#include <atomic>
#include <mutex>
#include <condition_variable>
#include <optional>
#include <vector>
#include <map>
#include <set>
#include <unordered_map>
#include <bitset>
#include <array>
#include <deque>
#include <queue>
#include <thread>
#include <chrono>
#include <variant>
#endif
#ifndef __unused
#define __unused __attribute__((__unused__))
#endif
#ifndef TEMP_FAILURE_RETRY
#define TEMP_FAILURE_RETRY(exp) ({ __typeof__(exp) _rc; do { _rc = (exp); } while (_rc == -1 && errno == EINTR); _rc; })
#endif
#ifdef __cplusplus
extern "C" {
#endif
size_t strlcpy(char *dst, const char *src, size_t siz);
/* glibc's POSIX-shaped strerror_r, hidden from its headers by _GNU_SOURCE */
int __xpg_strerror_r(int errnum, char *buf, size_t len);
#ifdef __cplusplus
}
#endif
