// SPDX-License-Identifier: MIT
#include "service_manager.h"

#include <systemd/sd-daemon.h>

#include <algorithm>
#include <cinttypes>
#include <ctime>

namespace ublk_runner {

ServiceManager::ServiceManager(const MainContext& context) : context_(context) {
  uint64_t microseconds = 0;
  if (sd_watchdog_enabled(0, &microseconds) <= 0) return;
  watchdog_ = std::max(Milliseconds(microseconds / 1000 / 2), Milliseconds(1));
  keep_watchdog_quiet();
}

void ServiceManager::keep_watchdog_quiet() {
  sd_notify(0, "WATCHDOG=1");
  next_ = context_.after(watchdog_, [this] { keep_watchdog_quiet(); });
}

void ServiceManager::ready(const std::string& status) const {
  sd_notifyf(0, "READY=1\nSTATUS=%s", status.c_str());
}

void ServiceManager::reloading() const {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\nSTATUS=reading the configuration",
             uint64_t{1'000'000} * static_cast<uint64_t>(now.tv_sec) +
                 static_cast<uint64_t>(now.tv_nsec) / 1000);
}

void ServiceManager::stopping() const { sd_notify(0, "STOPPING=1\nSTATUS=stopping"); }

}  // namespace ublk_runner
