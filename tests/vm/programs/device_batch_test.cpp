// SPDX-License-Identifier: MIT
// Devices on the real driver whose commands come in batches.
#include <gtest/gtest.h>
#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "device_io.h"
#include "served_device.h"
#include "user_copy_backend.h"

namespace {

using ublk::Request;

bool has_batch_io() { return has_feature(ublk::abi::kFlagBatchIo); }

TEST(Device, BatchServesEveryKindOfRequest) {
  if (!has_batch_io()) GTEST_SKIP() << "needs Linux 7.0";
  for (const uint64_t flags : {uint64_t{0}, ublk::abi::kFlagUserCopy}) {
    UserCopyBackend user_copy(4 << 20);
    RecordingBackend copy(4 << 20);
    ublk::Backend& backend = flags == 0 ? static_cast<ublk::Backend&>(copy) : user_copy;
    ublk::Control control;
    ServedDevice device(
        control, with_flag(device_spec(4 << 20, 2, 64), ublk::abi::kFlagBatchIo | flags), backend);
    ASSERT_NE(device.device().info().flags & ublk::abi::kFlagBatchIo, 0u);
    exercise(device.path(), 4 << 20, 400);
  }
}

class FloodingBackend : public RecordingBackend {
 public:
  using RecordingBackend::RecordingBackend;
  void submit(Request request) override {
    RecordingBackend::submit(std::move(request));
    served = true;
  }
  bool served = false;
};

// The kernel takes a buffer for new tags, finds no room for the CQE that would say which, and ends
// the fetch. It must be found again: there are 256. The next request is likely to come while the
// ring is busy with what fills its completion queue.
TEST(Device, BatchSurvivesAFullCompletionQueue) {
  if (!has_batch_io()) GTEST_SKIP() << "needs Linux 7.0";
  constexpr unsigned kEntries = 256;
  constexpr size_t kBytes = 4 << 20;
  FloodingBackend backend(kBytes);
  unsigned turns = 0;
  ublk::Control control;
  ublk::Device device(control, with_flag(device_spec(kBytes), ublk::abi::kFlagBatchIo));
  ServingThread thread({device.node()}, backend, kEntries, [&backend, &turns](ublk::Ring& ring) {
    if (!std::exchange(backend.served, false) || ++turns % 3 != 0) return;
    for (unsigned i = 0; i < kEntries + 10; ++i) {
      io_uring_sqe* sqe = ring.get_sqe();
      ASSERT_NE(sqe, nullptr);
      io_uring_prep_nop(sqe);
      sqe->user_data = 1;
    }
  });
  device.start();
  read_from_threads(device.block_path(), 2000);
  exercise(device.block_path(), kBytes, 200);
  device.stop();
}

}  // namespace
