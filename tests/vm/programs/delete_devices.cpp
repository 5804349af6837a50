// SPDX-License-Identifier: MIT
// Deletes every ublk device of the system, whoever made it: cleans up after a killed server.
#include <ublk/control.h>
#include <ublk/error.h>

#include <cstdio>
#include <filesystem>
#include <string>

int main() {
  int status = 0;
  try {
    ublk::Control control;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator("/sys/class/ublk-char", none)) {
      const uint32_t id = std::stoul(entry.path().filename().string().substr(5));
      try {
        control.stop(id);
        control.del(id);
      } catch (const ublk::Error& e) {
        std::fprintf(stderr, "%s\n", e.what());
        status = 1;
      }
    }
  } catch (const ublk::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return status;
}
