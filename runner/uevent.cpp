// SPDX-License-Identifier: MIT
#include "uevent.h"

#include <fcntl.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <filesystem>
#include <string_view>

namespace ublk_runner {

namespace {

namespace fs = std::filesystem;

// A synthetic event: Documentation/ABI/testing/sysfs-uevent of the kernel.
void send_change(const fs::path& device) {
  constexpr std::string_view kAction = "change";
  const ublk::UniqueFd fd(open((device / "uevent").c_str(), O_WRONLY | O_CLOEXEC));
  if (fd) static_cast<void>(!write(fd.get(), kAction.data(), kAction.size()));
}

}  // namespace

void announce_to_udev(const std::string& node) {
  const std::string name = fs::path(node).filename().string();
  const fs::path disk = fs::path("/sys/class/block") / name;
  send_change(disk);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(disk, error))
    if (entry.path().filename().string().starts_with(name + 'p')) send_change(entry.path());
}

}  // namespace ublk_runner
