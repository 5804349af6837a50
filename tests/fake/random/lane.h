// SPDX-License-Identifier: MIT
// A user with a part of a disk of its own, who knows what must be read there.
#ifndef UBLK_TESTS_FAKE_RANDOM_LANE_H
#define UBLK_TESTS_FAKE_RANDOM_LANE_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "fake/disk.h"

namespace fake {

// Times at which requests may end in more than one way: odd while it is one. One thread changes it.
class Disturbance {
 public:
  void begin() { count_.fetch_or(1, std::memory_order_acq_rel); }
  void end() {
    if ((now() & 1) != 0) count_.fetch_add(1, std::memory_order_acq_rel);
  }
  uint64_t now() const { return count_.load(std::memory_order_acquire); }
  // Whether it was one at any time since `before`.
  bool since(uint64_t before) const { return (before & 1) != 0 || now() != before; }

 private:
  std::atomic<uint64_t> count_{0};
};

// At most one request at a time, of one thread; it ends on the driver's.
class Lane {
 public:
  using Failed = std::function<void(const std::string& what)>;

  // `disturbances`: of the device and of all. Everything given must outlive the requests.
  Lane(uint64_t first_sector, uint32_t sectors, uint64_t seed,
       std::vector<const Disturbance*> disturbances, const Failed& failed);

  bool idle() const { return !busy_.load(std::memory_order_acquire); }
  // Only while it is idle.
  void submit(Disk& disk);
  void forget();  // the disk is a new one, all zero

  // The backend gives the request under way this result. Any thread.
  void expect(int result) { expected_.store(result, std::memory_order_relaxed); }

 private:
  void choose();
  void ended(int result);
  bool is_allowed(int result, bool disturbed) const;
  void compare() const;
  void remember(bool known);
  size_t first() const { return io_.sector - first_sector_; }
  size_t bytes() const { return size_t{io_.sectors} * ublk::abi::kSectorSize; }

  const uint64_t first_sector_;
  const uint32_t sectors_;
  const std::vector<const Disturbance*> disturbances_;
  const Failed& failed_;
  std::mt19937_64 random_;
  std::vector<std::byte> model_;
  std::vector<bool> known_;
  std::vector<std::byte> data_;
  Io io_;
  std::vector<uint64_t> before_;
  std::atomic<int> expected_{0};
  std::atomic<bool> busy_{false};
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_RANDOM_LANE_H
