// SPDX-License-Identifier: MIT
// Opens that succeed, and those that must not.
#include <fcntl.h>
#include <handler_instance.h>
#include <option_value.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <ublk/unique_fd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>

#include "check.h"
#include "opener.h"
#include "process_state.h"
#include "temporary_folder.h"

namespace ublk_check {

using ublk_runner::DeviceConfig;
using ublk_runner::HandlerInstance;

namespace {

// Several times, since what is made once and kept is no leak; nor is what grows up to a bound, as
// libraries' caches do.
constexpr int kWarmUps = 3;
constexpr int kRepeats = 50;
constexpr int kRounds = 3;
constexpr size_t kSlack = 4096;  // for texts of our own

void check_leaks(const Reporter& report, Opener& opener, const DeviceConfig& device,
                 const std::string& what) {
  report.doing(what);
  std::optional<std::string> error;
  for (int i = 0; i < kWarmUps; ++i) error = opener.try_open(device);
  std::string left;
  for (int round = 0; round == 0 || (round < kRounds && !left.empty()); ++round) {
    const ProcessState before = ProcessState::now();
    for (int i = 0; i < kRepeats; ++i) error = opener.try_open(device);
    left = left_behind_for_good(before, kSlack);
  }
  const std::string end = error ? "a failed open (\"" + *error + "\")" : "an open and close";
  if (!left.empty())
    report.finding(end + " leaves something behind, after " + std::to_string(kRepeats) +
                   " times: " + left + "; with " + what);
  if (error && (*error == "open: " || *error == "open: Success"))
    report.finding("a failed open has no text for the user, with " + what);
}

// Something that is there, and no file. Not one of the system's: a handler may remove what it gets.
std::string make_socket(const TemporaryFolder& folder) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = folder.path() + "/socket";
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const ublk::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    throw std::system_error(errno, std::generic_category(), path);
  return path;
}

// Options that are of the right type and that a handler may refuse nevertheless.
void check_variants(const Reporter& report, Opener& opener, const DeviceConfig& device) {
  const ublk_handler& handler = opener.handler();
  const auto check = [&](const ublk_option& option, const std::string& value) {
    DeviceConfig variant = device;
    variant.options[option.name] = {value, {}};
    check_leaks(report, opener, variant, std::string(option.name) + " = " + value);
  };
  const TemporaryFolder folder;
  const std::string socket = make_socket(folder);
  for (uint32_t i = 0; i < handler.nr_options; ++i) {
    const ublk_option& option = handler.options[i];
    if (option.type == UBLK_OPTION_PATH)
      for (const std::string& path : {folder.path() + "/nowhere/disk", folder.path(), socket})
        check(option, path);
    if (option.type == UBLK_OPTION_CHOICE)
      for (const std::string_view word : ublk_runner::choice_words(option))
        check(option, std::string(word));
    if (option.type == UBLK_OPTION_STRING) check(option, "ublk-handler-check");
  }
  DeviceConfig read_only = device;
  read_only.read_only = true;
  check_leaks(report, opener, read_only, "read_only = true");
}

// The descriptor above which `count` more can't be opened.
rlim_t limit_for(unsigned count) {
  rlim_t limit = 0;
  for (unsigned free = 0; free < count; ++limit)
    if (fcntl(static_cast<int>(limit), F_GETFD) < 0) ++free;
  return limit;
}

// Every place where an open needs one more descriptor is made to fail.
void check_few_descriptors(const Reporter& report, Opener& opener, const DeviceConfig& device) {
  rlimit usual{};
  getrlimit(RLIMIT_NOFILE, &usual);
  constexpr unsigned kMost = 32;
  for (unsigned count = 0; count < kMost; ++count) {
    const std::string what = std::to_string(count) + " descriptors left to open";
    report.doing(what);
    const ProcessState before = ProcessState::now();
    const rlimit few{limit_for(count), usual.rlim_max};
    setrlimit(RLIMIT_NOFILE, &few);
    const std::optional<std::string> error = opener.try_open(device);
    setrlimit(RLIMIT_NOFILE, &usual);
    ProcessState after = ProcessState::now();
    after.heap = after.maps = 0;
    const std::string left = left_behind(before, after, 0);
    if (!left.empty())
      report.finding(
          std::string(error ? "a failed open (\"" + *error + "\")" : "an open and close") +
          " leaves something behind: " + left + "; with " + what);
    if (!error) return;
  }
}

}  // namespace

void check_open(Context& context) {
  Opener opener(context.library());
  const DeviceConfig device = context.device();
  if (const auto error = opener.try_open(device)) throw std::runtime_error(*error);
  check_leaks(context.report(), opener, device, "the given options");
  check_variants(context.report(), opener, device);
  // UBSan itself needs descriptors, and finds what is not there without.
  if (!kSanitized) check_few_descriptors(context.report(), opener, device);
  context.serve();
}

}  // namespace ublk_check
