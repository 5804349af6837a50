// SPDX-License-Identifier: MIT
#include "clocks.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <ctime>

namespace test {

static std::atomic<time_t> wall_offset{0};
static std::atomic<time_t> boot_offset{0};

void shift_wall_clock(std::chrono::seconds by) { wall_offset += by.count(); }
void shift_boot_clock(std::chrono::seconds by) { boot_offset += by.count(); }

}  // namespace test

// In place of libc's, for the program and its libraries.
extern "C" __attribute__((visibility("default"))) int clock_gettime(clockid_t clock,
                                                                    timespec* time) noexcept {
  const auto rc = static_cast<int>(syscall(SYS_clock_gettime, clock, time));
  if (rc != 0) return rc;
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
    time->tv_sec += test::wall_offset.load(std::memory_order_relaxed);
  if (clock == CLOCK_BOOTTIME) time->tv_sec += test::boot_offset.load(std::memory_order_relaxed);
  return rc;
}
