// SPDX-License-Identifier: MIT
#include "thread_time.h"

#include <sys/resource.h>
#include <unistd.h>

#include <string_view>
#include <utility>

namespace ublk_runner {

namespace {

// The kernel is not asked about so many pieces after one that did not wait: a system call is a good
// part of such a piece. It is if one takes that many times what is significant.
constexpr unsigned kUnasked = 7;
constexpr int kSurelyAsked = 16;

}  // namespace

long WaitingTime::sleeps() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

void WaitingTime::begin() {
  is_known_ = in_doubt_;
  if (in_doubt_) sleeps_ = sleeps();
}

std::optional<WaitingTime::Nanoseconds> WaitingTime::of(Nanoseconds duration) {
  if (duration < significant_) return duration;
  if (unasked_ != 0 && duration < kSurelyAsked * significant_) {
    --unasked_;
    return significant_ / 2;
  }
  const long before = std::exchange(sleeps_, sleeps());
  if (!std::exchange(is_known_, true)) {
    in_doubt_ = true;
    return std::nullopt;
  }
  in_doubt_ = before != sleeps_;
  unasked_ = in_doubt_ ? 0 : kUnasked;
  return in_doubt_ ? duration : significant_ / 2;
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
