// SPDX-License-Identifier: MIT
// Devices with saved state, and one that a dead server has left for a runner.
#ifndef UBLK_TESTS_FAKE_ADOPT_FIXTURE_H
#define UBLK_TESTS_FAKE_ADOPT_FIXTURE_H

#include <sys/stat.h>
#include <ublk/control.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "runner_fixture.h"
#include "support/raw_server.h"

namespace fake {

class RunnerRecoveryTest : public RunnerTest {
 protected:
  void TearDown() override {
    // A device with saved state would be left to the next runner.
    while (runner_ && !runner_->devices().empty())
      ASSERT_EQ(error_of_task(runner_->remove(runner_->devices().front()->name(), true)), "");
    RunnerTest::TearDown();
  }

  DeviceConfig& add_file(const std::string& name, const Options& more = {}) {
    Options options = {{"path", dir_ + '/' + name}, {"size", "8M"}, {"create", "true"}};
    options.insert(options.end(), more.begin(), more.end());
    return add(name, "file", options);
  }
};

// A device that a server has left which was killed, and what is saved of it.
class AdoptTest : public RunnerRecoveryTest {
 protected:
  static constexpr uint64_t kCookie = 0x123456789abcdef;

  void SetUp() override {
    RunnerRecoveryTest::SetUp();
    if (IsSkipped()) return;
    state_dir_ = dir_ + "/state";
  }

  // The parameters that a runner gives a device of `config_`.
  ublk::abi::Params params_of_device() {
    state_dir_.clear();
    EXPECT_TRUE(start().failed.empty());
    ublk::Control control(driver());
    const ublk::abi::Params params = control.params(0);
    stop();
    state_dir_ = dir_ + "/state";
    return params;
  }

  // Adds a device, whose server then dies with a read of its first block.
  void leave_device(uint64_t flags = ublk::abi::kFlagUserRecovery |
                                     ublk::abi::kFlagUserRecoveryReissue,
                    uint16_t queues = 1) {
    const ublk::abi::Params params = params_of_device();
    ublk::Control control(driver());
    ublk::abi::DevInfo info{};
    info.nr_hw_queues = queues;
    info.queue_depth = 32;
    info.max_io_buf_bytes = 64 << 10;
    info.dev_id = ublk::abi::kAnyDeviceId;
    info.flags = flags | ublk::abi::kFlagNoAutoPartScan;
    info.ublksrv_flags = kCookie;
    info = control.add(info);
    id_ = info.dev_id;
    control.set_params(id_, params);
    test::RawServer server(driver(), info);
    server.fetch_all();
    for (uint16_t queue = 1; queue < queues; ++queue)
      for (uint16_t tag = 0; tag < info.queue_depth; ++tag)
        server.command(ublk::abi::IoOp::kFetchReq,
                       {.q_id = queue, .tag = tag, .result = 0, .addr = server.address(tag)});
    control.start(id_, getpid());
    in_flight_ = std::async(std::launch::async, [disk = driver().disk(id_), this]() mutable {
      const auto open = std::move(disk);  // not kept by the future
      return open->read(0, 1, data_.data());
    });
    while (server.wait().result != 0) continue;
  }

  void save(const std::string& name, uint64_t cookie, const std::string& version = "1") {
    mkdir(state_dir_.c_str(), 0700);
    const std::string file = state_dir_ + '/' + name + ".json";
    std::ofstream out(file);
    out << R"({"version": )" << version << R"(, "name": ")" << name << R"(", "id": )" << id_
        << R"(, "cookie": )" << cookie
        << R"(, "settings": {"handler": "file", "size": "8M", "queue_depth": "32", )"
        << R"("max_io_size": "64K", "path": ")" << dir_ << '/' << name << R"("}})";
    out.close();
    chmod(file.c_str(), 0600);
  }

  // Puts a text before another one of what is saved.
  void insert_saved(const std::string& before, const std::string& inserted) {
    const std::string file = state_dir_ + "/disk.json";
    std::string text = saved_text();
    text.insert(text.find(before), inserted);
    std::ofstream(file) << text;
  }

  std::string saved_text() const {
    std::ifstream in(state_dir_ + "/disk.json");
    return {std::istreambuf_iterator<char>(in), {}};
  }

  // The device waits on, and its storage is not served a second time beside it.
  void expect_left_alone() {
    const std::string saved = saved_text();
    const StartSummary summary = start();
    EXPECT_EQ(summary.started, 0u);
    ASSERT_FALSE(summary.failed.empty());
    EXPECT_NE(summary.failed.back().cause.find("was not taken over"), std::string::npos)
        << summary.failed.back().cause;
    EXPECT_EQ(kernel_state(), ublk::abi::DeviceState::kQuiesced);
    EXPECT_EQ(saved_text(), saved);
    delete_device();
    EXPECT_EQ(in_flight_.get(), -EIO);
  }

  ublk::abi::DeviceState kernel_state() {
    ublk::Control control(driver());
    return static_cast<ublk::abi::DeviceState>(control.info(id_).state);
  }

  void delete_device() {
    ublk::Control control(driver());
    control.stop(id_);
    control.del(id_);
  }

  uint32_t id_ = 0;
  std::future<int> in_flight_;
  std::vector<std::byte> data_ = std::vector<std::byte>(512);
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_ADOPT_FIXTURE_H
