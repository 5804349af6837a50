// SPDX-License-Identifier: MIT
//
// What handlers/null does, by a program that embeds libublk: what the way through the runner and
// the plugin interface costs is the difference to it.
//
//   linked_null [batch]
//
// One queue, 128 deep, copy mode. Prints the device's path when it can be used, and removes the
// device at SIGINT or SIGTERM.
#include <sched.h>
#include <ublk/control.h>
#include <ublk/device.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string_view>
#include <utility>

#include "common.h"
#include "serving.h"

namespace {

constexpr uint16_t kDepth = 128;
constexpr uint64_t kBytes = uint64_t{64} << 30;

class NullBackend final : public ublk::Backend {
 public:
  void submit(ublk::Request request) override {
    switch (request.op()) {
      case ublk::Operation::kRead: {
        // What one read has zeroed is still zero at the next, unless a write came in between.
        uint32_t& zeroes = zeroes_[request.tag()];
        if (zeroes < request.length()) {
          std::memset(request.buffer() + zeroes, 0, request.length() - zeroes);
          zeroes = request.length();
        }
        request.complete(static_cast<int>(request.length()));
        break;
      }
      case ublk::Operation::kWrite:
        zeroes_[request.tag()] = 0;
        request.complete(static_cast<int>(request.length()));
        break;
      case ublk::Operation::kDiscard:
      case ublk::Operation::kWriteZeroes:
      case ublk::Operation::kFlush:
        request.complete(0);
        break;
      default:
        request.complete(-EOPNOTSUPP);
    }
  }

 private:
  std::array<uint32_t, kDepth> zeroes_{};  // so many bytes at the start of the tag's buffer are 0
};

}  // namespace

int main(int argc, char** argv) {
  const bool batch = argc > 1 && std::string_view(argv[1]) == "batch";
  if (argc > (batch ? 2 : 1)) {
    std::fprintf(stderr, "usage: linked_null [batch]\n");
    return 2;
  }
  try {
    const StopSignals signals;
    const sched_param unused{};
    sched_setscheduler(0, SCHED_BATCH, &unused);  // as the runner's queue threads have it
    NullBackend backend;
    ublk::Control control;
    ublk::Device device(control,
                        plain_disk(kBytes, 1, kDepth, batch ? ublk::abi::kFlagBatchIo : 0));
    serve_until_signal(device, backend, signals);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "linked_null: %s\n", e.what());
    return 1;
  }
  return 0;
}
