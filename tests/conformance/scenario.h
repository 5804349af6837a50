// SPDX-License-Identifier: MIT
// What each scenario starts with and must leave behind.
#ifndef UBLK_TESTS_CONFORMANCE_SCENARIO_H
#define UBLK_TESTS_CONFORMANCE_SCENARIO_H

#include <gtest/gtest.h>
#include <ublk/control.h>
#include <ublk/device.h>
#include <ublk/error.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <utility>

#include "rig.h"
#include "support/raw_server.h"

namespace conformance {

namespace abi = ublk::abi;
using namespace std::chrono_literals;
using abi::DeviceState;
using abi::IoOp;
using test::RawServer;
using ublk::Command;
using ublk::Operation;
using Answer = RawServer::Answer;

inline constexpr size_t kBytes = 1 << 20;
// When something that must end soon counts as hung.
inline constexpr std::chrono::seconds kHung{60};

inline ublk::DeviceSpec spec_of(uint16_t depth = 2, uint64_t flags = 0, uint32_t attrs = 0) {
  constexpr uint32_t kMaxIoBytes = 64 << 10;
  ublk::DeviceSpec spec;
  spec.info.nr_hw_queues = 1;
  spec.info.queue_depth = depth;
  spec.info.max_io_buf_bytes = kMaxIoBytes;
  spec.info.dev_id = abi::kAnyDeviceId;
  spec.info.flags = flags | abi::kFlagNoAutoPartScan;  // where there is no such flag: see start()
  spec.params.types = abi::kParamBasic | abi::kParamDiscard;
  spec.params.basic.attrs = attrs;
  spec.params.basic.logical_bs_shift = 9;
  spec.params.basic.physical_bs_shift = 12;
  spec.params.basic.max_sectors = kMaxIoBytes / abi::kSectorSize;
  spec.params.basic.dev_sectors = kBytes / abi::kSectorSize;
  spec.params.discard.discard_granularity = 4096;
  spec.params.discard.max_discard_sectors = 1 << 16;
  spec.params.discard.max_write_zeroes_sectors = 1 << 16;
  spec.params.discard.max_discard_segments = 1;
  return spec;
}

class Scenario : public ::testing::Test {
 protected:
  void SetUp() override {
    rig_ = make_rig();
    if (const std::string missing = rig_->missing(); !missing.empty()) GTEST_SKIP() << missing;
    control_ = std::make_unique<ublk::Control>(rig_->driver());
    features_ = control_->features();
  }
  void TearDown() override {
    control_.reset();
    for (const std::string& complaint : rig_->complaints()) ADD_FAILURE() << complaint;
  }

  Rig& rig() { return *rig_; }
  ublk::Control& control() { return *control_; }
  bool has(uint64_t feature) const { return (features_ & feature) == feature; }

  // 0 or -errno.
  int run(Command command, std::chrono::milliseconds deadline = kHung) {
    try {
      control_->run(std::move(command), deadline);
      return 0;
    } catch (const ublk::Error& e) {
      return -e.error();
    }
  }
  int add_result(const ublk::DeviceSpec& spec) { return run(Command::add(spec.info)); }

  // Adds a device and does not open it.
  abi::DevInfo add(const ublk::DeviceSpec& spec) {
    const abi::DevInfo info = control_->add(spec.info);
    control_->set_params(info.dev_id, spec.params);
    return info;
  }
  // START_DEV or END_USER_RECOVERY, while `server` answers the partition scan of kernels that can't
  // be told to leave it.
  int start(RawServer& server, Command command) {
    int ended = 1;
    control_->submit(std::move(command), kHung,
                     [&ended](int result, const Command&) { ended = result; });
    while (ended == 1) {
      control_->dispatch();
      const auto answer = server.poll(2ms);
      if (answer && answer->result == 0)
        server.commit(answer->tag,
                      static_cast<int>(server.descriptor(answer->tag).nr_sectors * 512));
    }
    return ended;
  }
  int start(RawServer& server, uint32_t id) { return start(server, Command::start(id, getpid())); }

  DeviceState state(uint32_t id) { return static_cast<DeviceState>(control_->info(id).state); }
  // What a server's death leaves comes a moment after it.
  DeviceState state_after(uint32_t id, DeviceState before) {
    const auto end = std::chrono::steady_clock::now() + kHung;
    while (state(id) == before && std::chrono::steady_clock::now() < end) {
    }
    return state(id);
  }
  // START_USER_RECOVERY is refused until the kernel has let go of the dead server.
  int start_recovery(uint32_t id) {
    const auto end = std::chrono::steady_clock::now() + kHung;
    int result = -EBUSY;
    while (result == -EBUSY && std::chrono::steady_clock::now() < end)
      result = run(Command::start_recovery(id));
    return result;
  }

  // The server after one that has died: the kernel lets go of the device a moment later.
  std::unique_ptr<RawServer> next_server(const abi::DevInfo& info) {
    const auto end = std::chrono::steady_clock::now() + kHung;
    for (;;) try {
        return std::make_unique<RawServer>(rig_->driver(), info);
      } catch (const ublk::Error& e) {
        if (e.error() != EBUSY || std::chrono::steady_clock::now() > end) throw;
      }
  }

  std::unique_ptr<Disk> open_disk(uint32_t id) { return rig_->open_disk(id); }

 private:
  std::unique_ptr<Rig> rig_;
  std::unique_ptr<ublk::Control> control_;
  uint64_t features_ = 0;
};

}  // namespace conformance

#endif  // UBLK_TESTS_CONFORMANCE_SCENARIO_H
