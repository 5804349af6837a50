// SPDX-License-Identifier: MIT
//
// What a scenario runs on: a ublk driver, and what a user of its disks sees. Two programs are made
// of the scenarios: one with the in-process driver, one with the running kernel's. What they expect
// is written once.
#ifndef UBLK_TESTS_CONFORMANCE_RIG_H
#define UBLK_TESTS_CONFORMANCE_RIG_H

#include <ublk/abi.h>
#include <ublk/driver.h>
#include <ublk/request.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace conformance {

// One request of a user, past all caches; in sectors, but multiples of the block size.
struct Io {
  ublk::Operation op = ublk::Operation::kRead;
  uint64_t sector = 0;
  uint32_t sectors = 1;
  std::byte* data = nullptr;  // of a read or write
  bool fua = false;
};

// An open disk. Any thread.
class Disk {
 public:
  virtual ~Disk() = default;
  // Waits for the result: 0 or -errno.
  virtual int run(const Io& io) = 0;
  virtual uint64_t sectors() = 0;
};

// A request that runs beside the scenario. It ends before its Disk.
class Pending {
 public:
  Pending(Disk& disk, const Io& io)
      : task_([&disk, io] { return disk.run(io); }), result_(task_.get_future()) {
    thread_ = std::jthread([this] { task_(); });
  }
  // nullopt: it does not end.
  std::optional<int> result(std::chrono::milliseconds within = std::chrono::seconds(60)) {
    if (result_.wait_for(within) != std::future_status::ready) return std::nullopt;
    return result_.get();
  }
  bool ended() const {
    return result_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }

 private:
  std::packaged_task<int()> task_;
  std::future<int> result_;
  std::jthread thread_;
};

// What the real driver does other than the scenarios expect, which is why they leave it out there.
// The in-process driver has none of them.
struct KernelBug {
  const char* name;
  const char* kernels;  // a prefix of uname -r each, with spaces between
};

class Rig {
 public:
  virtual ~Rig() = default;
  virtual ublk::Driver& driver() = 0;
  // What is missing to run any scenario; empty: nothing.
  virtual std::string missing() = 0;
  // nullptr: the device has no disk.
  virtual std::unique_ptr<Disk> open_disk(uint32_t id) = 0;
  virtual unsigned cpus() const = 0;
  virtual bool has(const KernelBug& bug) const = 0;
  // What a scenario has left behind or done wrong; empty: nothing.
  virtual std::vector<std::string> complaints() = 0;
};

// The program's own.
std::unique_ptr<Rig> make_rig();

}  // namespace conformance

#endif  // UBLK_TESTS_CONFORMANCE_RIG_H
