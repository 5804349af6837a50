// SPDX-License-Identifier: MIT
//
// The runner with one null device on the in-process driver, for callgrind: it serves so many reads
// of 4096 bytes, DEPTH at a time, and ends. What it takes with twice as many, less what it takes
// with so many, is the cost of the reads alone.
//
//   valgrind --tool=callgrind --separate-threads=yes --fair-sched=yes
//       count_instructions HANDLER_DIR READS DEPTH BUFFER_MODE [statistics]
//
// instructions.py runs it and takes out what is the driver's.
#include <config.h>
#include <glib.h>
#include <liburing.h>
#include <log.h>
#include <runner.h>
#include <sched.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "fake/driver.h"

// Valgrind 3.19 runs one thread at a time and does not know that io_uring_enter may block: all
// others would wait for ever. So whoever waits, asks and yields. These replace liburing's, and are
// not counted.
extern "C" {

// Returns when nothing more comes, as after a sleep with a driver that is done meanwhile: so the
// thread finds as many completions in a turn as can be there.
int io_uring_submit_and_wait(io_uring* ring, unsigned wait_for) {
  int rc = io_uring_submit_and_get_events(ring);
  unsigned ready = io_uring_cq_ready(ring);
  for (unsigned quiet = 0; rc >= 0 && (ready < wait_for || quiet < 3);) {
    sched_yield();
    rc = io_uring_get_events(ring);
    const unsigned now = io_uring_cq_ready(ring);
    quiet = now == ready ? quiet + 1 : 0;
    ready = now;
  }
  return rc;
}

int __io_uring_get_cqe(io_uring* ring, io_uring_cqe** cqe, unsigned submit, unsigned wait_for,
                       sigset_t*) {
  if (submit != 0) io_uring_submit(ring);
  while (io_uring_cq_ready(ring) < wait_for) {
    sched_yield();
    io_uring_get_events(ring);
  }
  unsigned head;
  *cqe = nullptr;
  io_uring_for_each_cqe(ring, head, *cqe) break;
  return *cqe == nullptr ? -EAGAIN : 0;
}

}  // extern "C"

namespace {

using namespace ublk_runner;

constexpr uint32_t kSectors = 8;

// Keeps `depth` reads under way. On the driver's thread, but for start() and wait().
class Reads {
 public:
  Reads(std::shared_ptr<fake::Disk> disk, uint64_t count)
      : disk_(std::move(disk)),
        unsubmitted_(count),
        unended_(count),
        data_(size_t{kSectors} * 512) {}

  void start(unsigned depth) {
    for (unsigned i = 0; i < depth; ++i) submit();
  }
  bool wait() { return ended_.get_future().get(); }

 private:
  void submit() {
    if (unsubmitted_.fetch_sub(1) <= 0) return;
    disk_->submit({.op = ublk::Operation::kRead, .sectors = kSectors, .data = data_.data()},
                  [this](int result) {
                    all_good_ = all_good_ && result == 0;
                    if (--unended_ == 0)
                      ended_.set_value(all_good_);
                    else
                      submit();
                  });
  }

  const std::shared_ptr<fake::Disk> disk_;
  std::atomic<int64_t> unsubmitted_;
  int64_t unended_;
  bool all_good_ = true;
  std::vector<std::byte> data_;  // zeroes over zeroes, so all may share it
  std::promise<bool> ended_;
};

BufferOption buffer_option(std::string_view word) {
  if (word == "copy") return BufferOption::kCopy;
  if (word == "get-data") return BufferOption::kGetData;
  if (word == "user-copy") return BufferOption::kUserCopy;
  throw std::invalid_argument("unknown buffer mode");
}

Config configuration(const char* buffer_mode, bool statistics) {
  Config config;
  config.statistics = statistics;
  config.io_threads = 1;
  DeviceConfig device;
  device.name = "null";
  device.handler = "null";
  device.buffer = buffer_option(buffer_mode);
  // The in-process driver looks at each commit as soon as it is there, so none could carry two.
  device.batch_io = BatchOption::kOff;
  config.devices.push_back(std::move(device));
  return config;
}

void run(const std::string& handler_dir, uint64_t reads, unsigned depth, const Config& config) {
  fake::Driver driver;
  RunnerOptions options;
  options.handler_dir = handler_dir;
  char folder[] = "/tmp/count-instructions-XXXXXX";
  if (mkdtemp(folder) == nullptr) throw std::runtime_error("mkdtemp");
  options.link_dir = folder;
  options.driver = &driver;
  Runner runner(options);

  bool done = false;
  StartSummary summary;
  runner.start(config, [&](StartSummary s) {
    summary = std::move(s);
    done = true;
  });
  while (!done) g_main_context_iteration(nullptr, TRUE);
  if (!summary.failed.empty()) throw std::runtime_error(summary.failed.front().cause);

  bool good = false;
  {  // The device can't go while this has its disk open.
    Reads io(driver.disk(0), reads);
    io.start(depth);
    good = io.wait();
  }

  done = false;
  runner.stop([&] { done = true; });
  while (!done) g_main_context_iteration(nullptr, TRUE);
  rmdir(folder);
  if (!good) throw std::runtime_error("a read has failed");
}

}  // namespace

int main(int argc, char** argv) {
  const bool statistics = argc == 6 && std::string_view(argv[5]) == "statistics";
  if (argc != 5 && !statistics) {
    std::fprintf(stderr,
                 "usage: count_instructions HANDLER_DIR READS DEPTH BUFFER_MODE [statistics]\n");
    return 2;
  }
  try {
    set_log_level(LogLevel::kWarning);
    run(argv[1], std::strtoull(argv[2], nullptr, 10), std::strtoul(argv[3], nullptr, 10),
        configuration(argv[4], statistics));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "count_instructions: %s\n", e.what());
    return 1;
  }
  return 0;
}
