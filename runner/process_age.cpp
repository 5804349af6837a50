// SPDX-License-Identifier: MIT
#include "process_age.h"

#include <unistd.h>

#include <ctime>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace ublk_runner {

namespace {

constexpr size_t kStartTime = 22 - 3;  // of proc(5)'s fields, after "pid (name) "

}  // namespace

Milliseconds process_age() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');  // the name may hold spaces and parentheses
  if (name_end == std::string::npos) return Milliseconds{0};
  std::istringstream rest(line.substr(name_end + 1));
  const std::vector<std::string> fields{std::istream_iterator<std::string>(rest), {}};
  if (fields.size() <= kStartTime) return Milliseconds{0};
  const int64_t started = std::stoll(fields[kStartTime]) * 1000 / sysconf(_SC_CLK_TCK);
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return Milliseconds{int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000 - started};
}

}  // namespace ublk_runner
