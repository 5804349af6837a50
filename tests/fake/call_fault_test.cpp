// SPDX-License-Identifier: MIT
// The kernel refuses one of the calls by which a device is made: all is undone and the error says
// which it was, or the device does without.
#include <ublk/error.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "backends.h"
#include "ring_thread.h"
#include "runner_fixture.h"
#include "support/call_faults.h"

namespace fake {
namespace {

namespace abi = ublk::abi;

constexpr size_t kBytes = 1 << 20;

// What errors say of a call.
std::string told(const std::string& call) {
  return call == "io_uring_queue_init_params" ? "io_uring_setup" : call;
}

// What only makes things faster.
bool is_optional(const std::string& call) {
  static const std::set<std::string> calls = {
      "io_uring_register_ring_fd", "io_uring_register_files_sparse",
      "io_uring_register_files_update", "io_uring_register_buffers_sparse"};
  return calls.contains(call);
}

struct Holdings {
  long fds = 0;
  long threads = 0;  // but those for jobs, which end by themselves

  static Holdings now() {
    using std::filesystem::directory_iterator;
    Holdings found;
    found.fds = std::distance(directory_iterator("/proc/self/fd"), {});
    for (const auto& task : directory_iterator("/proc/self/task")) {
      std::string name;
      std::ifstream(task.path() / "comm") >> name;
      if (name != "ublk-jobs") ++found.threads;
    }
    return found;
  }
  bool is_within(const Holdings& other) const {
    return fds <= other.fds && threads <= other.threads;
  }
};

// `start` gives the error, or none, and leaves nothing. Refuses its calls one after the other.
void refuse_each(const std::function<std::string()>& start, int error) {
  ASSERT_EQ(start(), "");
  Holdings before = Holdings::now();
  std::set<std::string> refused;
  for (unsigned nth = 1; !testing::Test::HasFailure(); ++nth) {
    SCOPED_TRACE("call " + std::to_string(nth));
    test::CallFault fault(nth, error);
    const std::string text = start();
    const std::string call = fault.failed();
    if (call.empty()) break;
    refused.insert(call);
    SCOPED_TRACE(call);
    if (text.empty()) {
      EXPECT_TRUE(is_optional(call));
    } else {
      EXPECT_FALSE(is_optional(call)) << text;
      EXPECT_NE(text.find(told(call)), std::string::npos) << text;
      EXPECT_NE(text.find(ublk::errno_name(error)), std::string::npos) << text;
    }
    // A job may close its files, and the kernel list a thread, a moment longer than is waited for.
    Holdings after;
    test::eventually([&] { return (after = Holdings::now()).is_within(before); });
    EXPECT_LE(after.fds, before.fds);
    EXPECT_LE(after.threads, before.threads);
    before = {std::min(before.fds, after.fds), std::min(before.threads, after.threads)};
  }
  EXPECT_TRUE(refused.contains("mmap"));
  EXPECT_TRUE(refused.contains("io_uring_queue_init_params"));
}

struct Refusal {
  const char* name;
  int error;
  uint64_t flags;
};
std::ostream& operator<<(std::ostream& out, const Refusal& refusal) { return out << refusal.name; }

class CallFaultTest : public RunnerTest, public testing::WithParamInterface<Refusal> {};

TEST_P(CallFaultTest, ADeviceOfTheLibraryIsUndone) {
  const auto start = [&]() -> std::string {
    try {
      MemoryBackend memory(kBytes);
      ublk::Control control(driver());
      RingThread first;
      RingThread second;
      const ServedDevice device(control, device_spec(kBytes, 2, 8, 0, GetParam().flags), memory,
                                {&first, &second});
      std::vector<std::byte> data(512);
      EXPECT_EQ(driver().disk(device.id())->read(0, 1, data.data()), 0);
    } catch (const std::exception& e) {
      EXPECT_EQ(driver().nr_devices(), 0u);
      return e.what();
    }
    return "";
  };
  refuse_each(start, GetParam().error);
}

TEST_P(CallFaultTest, ADeviceOfTheRunnerIsUndone) {
  DeviceConfig& device = add("disk", "null", {{"size", "1M"}});
  device.queues = 2;
  config_.io_threads = 2;
  config_.buffer_memory = 1 << 20;
  if ((GetParam().flags & abi::kFlagBatchIo) != 0)
    device.batch_io = ublk_runner::BatchOption::kOn;
  else
    device.batch_io = ublk_runner::BatchOption::kOff;
  device.buffer = (GetParam().flags & abi::kFlagNeedGetData) != 0
                      ? ublk_runner::BufferOption::kGetData
                      : ublk_runner::BufferOption::kCopy;
  const auto begin = [&]() -> std::string {
    std::string text;
    try {
      const StartSummary summary = RunnerTest::start();
      if (!summary.failed.empty()) text = summary.failed.front().cause;
    } catch (const std::exception& e) {
      text = e.what();
    }
    if (runner_) stop();
    EXPECT_EQ(driver().nr_devices(), 0u);
    return text;
  };
  refuse_each(begin, GetParam().error);
}

INSTANTIATE_TEST_SUITE_P(, CallFaultTest,
                         testing::Values(Refusal{"ForWantOfMemory", ENOMEM, 0},
                                         Refusal{"ForWantOfDescriptors", EMFILE,
                                                 abi::kFlagNeedGetData},
                                         Refusal{"ForWantOfPermission", EPERM, abi::kFlagBatchIo}),
                         [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace fake
