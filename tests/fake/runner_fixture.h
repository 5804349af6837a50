// SPDX-License-Identifier: MIT
// A runner on the in-process driver, with the handlers that were built for it.
#ifndef UBLK_TESTS_FAKE_RUNNER_FIXTURE_H
#define UBLK_TESTS_FAKE_RUNNER_FIXTURE_H

#include <runner.h>

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "fixture.h"
#include "support/eventually.h"
#include "support/test_data.h"

namespace fake {

using ublk_runner::Config;
using ublk_runner::DeviceConfig;
using ublk_runner::Runner;
using ublk_runner::StartSummary;

using Options = std::vector<std::pair<std::string, std::string>>;

// What tests of every handler and every way of data are done for.
struct Shape {
  const char* name;
  const char* handler;
  Options options;
};
struct Mode {
  const char* name;
  ublk_runner::BufferOption option;
  ublk_runner::BatchOption batch_io = ublk_runner::BatchOption::kOff;
};
inline constexpr Mode kModes[] = {
    {"Copy", ublk_runner::BufferOption::kCopy},
    {"GetData", ublk_runner::BufferOption::kGetData},
    {"UserCopy", ublk_runner::BufferOption::kUserCopy},
    {"CopyBatch", ublk_runner::BufferOption::kCopy, ublk_runner::BatchOption::kOn},
    {"UserCopyBatch", ublk_runner::BufferOption::kUserCopy, ublk_runner::BatchOption::kOn},
};
// Of a test that is done for both.
inline std::string name_of_both(const auto& param_info) {
  return std::string(std::get<0>(param_info.param).name) + std::get<1>(param_info.param).name;
}
inline std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }
inline std::ostream& operator<<(std::ostream& out, const Mode& mode) { return out << mode.name; }

class RunnerTest : public FakeTest {
 protected:
  void TearDown() override {
    if (runner_) stop();
    FakeTest::TearDown();
  }

  DeviceConfig& add(const std::string& name, const std::string& handler, const Options& options) {
    DeviceConfig device;
    device.name = name;
    device.handler = handler;
    device.queue_depth = 32;
    device.max_io_size = 64 << 10;
    const ublk_runner::Location here = {.file = "test", .line = 1};
    // What is saved for the next runner.
    device.settings = {{"handler", {handler, here}},
                       {"queue_depth", {"32", here}},
                       {"max_io_size", {"64K", here}}};
    for (const auto& [key, value] : options) {
      device.options[key] = {value, here};
      device.settings[key] = device.options[key];
    }
    config_.devices.push_back(std::move(device));
    return config_.devices.back();
  }

  // One of two queues, on two threads, whose requests have to wait for buffers.
  void add(const Shape& shape, const Mode& mode) {
    Options options = shape.options;
    for (auto& [key, value] : options)
      if (key == "path") value = dir_ + "/disk";
    DeviceConfig& device = add("disk", shape.handler, options);
    device.queues = 2;
    device.buffer = mode.option;
    device.batch_io = mode.batch_io;
    config_.io_threads = 2;
    config_.buffer_memory = 1 << 20;
  }

  void make_runner() {
    ublk_runner::RunnerOptions options;
    options.handler_dir = UBLK_TEST_HANDLERS;
    options.link_dir = dir_ + "/ublk";
    options.driver = &driver();
    options.users = [users = users_, look = while_looking_](const std::string&) {
      if (look) look();
      return users;
    };
    options.state_dir = state_dir_;
    options.open_limit = open_limit_;
    runner_ = std::make_unique<Runner>(options);
  }

  StartSummary start() {
    make_runner();
    StartSummary summary;
    bool done = false;
    runner_->start(config_, [&](StartSummary s) {
      summary = std::move(s);
      done = true;
    });
    iterate_until(done);
    return summary;
  }

  void stop() {
    bool done = false;
    runner_->stop([&] { done = true; });
    iterate_until(done);
    runner_.reset();
  }

  static void iterate_until(const bool& done) {
    while (!done) g_main_context_iteration(nullptr, TRUE);
  }

  // As test::eventually(), while this thread is the runner's control thread.
  static bool eventually(const std::function<bool()>& condition) {
    return test::eventually(condition, kHung, [] {
      if (g_main_context_iteration(nullptr, FALSE) == 0) test::sleep_a_moment();
    });
  }

  // For ManagedDevice::restart().
  static std::function<void(DeviceConfig&)> to(const DeviceConfig& wanted) {
    return [wanted](DeviceConfig& config) { config = wanted; };
  }

  // Runs a task of the runner to its end, and gives what it has thrown; empty: nothing.
  std::string error_of_task(ublk_runner::Task<> task) {
    std::string error;
    bool done = false;
    ublk_runner::TaskSet tasks;
    const auto run = [](ublk_runner::Task<> inner, std::string& text,
                        bool& ended) -> ublk_runner::Task<> {
      try {
        co_await inner;
      } catch (const std::exception& e) {
        text = e.what();
      }
      ended = true;
    };
    tasks.start(run(std::move(task), error, done));
    iterate_until(done);
    return error;
  }

  const test::TempDir folder_;
  const std::string dir_ = folder_.path();
  std::vector<ublk_runner::DeviceUser> users_;  // of each disk, as the machine tells of them
  std::function<void()> while_looking_;         // by a job, for each disk
  std::string state_dir_;                       // empty: the devices end with the runner
  std::chrono::milliseconds open_limit_ = kHung;
  Config config_;
  std::unique_ptr<Runner> runner_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_RUNNER_FIXTURE_H
