// SPDX-License-Identifier: MIT
#include "thread_time.h"

#include <sys/resource.h>
#include <unistd.h>

#include <string_view>

namespace ublk_runner {

OccupiedTime::Usage OccupiedTime::usage() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  const auto time = [](const timeval& t) {
    return std::chrono::seconds(t.tv_sec) + std::chrono::microseconds(t.tv_usec);
  };
  return {time(usage.ru_utime) + time(usage.ru_stime), usage.ru_nvcsw};
}

std::optional<OccupiedTime::Nanoseconds> OccupiedTime::of(Nanoseconds duration) {
  ++pieces_;
  if (duration < significant_) return duration;
  const Usage now = usage();
  const bool slept = now.sleeps != last_.sleeps && !slept_elsewhere_;
  const Nanoseconds cpu = (now.cpu - last_.cpu) / pieces_;
  last_ = now;
  pieces_ = 0;
  slept_elsewhere_ = false;
  if (slept) return duration;
  if (cpu >= significant_) return cpu;
  return std::nullopt;
}

bool wants_cpu(int stat_fd) {
  char text[128];
  const ssize_t n = pread(stat_fd, text, sizeof(text), 0);
  if (n <= 0) return false;
  // proc(5): the state follows the name, which may have any characters.
  const std::string_view stat(text, static_cast<size_t>(n));
  const size_t end_of_name = stat.rfind(')');
  return end_of_name != std::string_view::npos && stat.substr(end_of_name).starts_with(") R");
}

}  // namespace ublk_runner
