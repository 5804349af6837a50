// SPDX-License-Identifier: MIT
//
// The file handler on workers: many requests at once, and the same disk as on the ring.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "handler_host.h"
#include "test_data.h"

namespace {

using test::Bytes;
using test::Device;
using test::Options;
using test::pattern;
using test::Queue;
using test::TempDir;
using test::zeroes;

constexpr uint32_t kQueues = 2;
constexpr uint32_t kSlots = kQueues * Queue::kDepth;
constexpr uint32_t kPart = 64u << 10;  // of the disk, for each slot
constexpr size_t kSize = size_t{kSlots} * kPart;

class FileHandlerWorkers : public testing::TestWithParam<const char*> {
 protected:
  Options options(const std::string& io) const { return {{"path", path_}, {"io", io}}; }

  TempDir dir_{GetParam()};
  const std::string path_ = dir_.make_file("disk.img", kSize);
};

INSTANTIATE_TEST_SUITE_P(Folders, FileHandlerWorkers, testing::Values("/var/tmp", "/dev/shm"),
                         [](const auto& folder) {
                           return std::string(folder.param) == "/var/tmp" ? "Disk" : "Tmpfs";
                         });

// A request of one slot, in its part of the disk.
struct Step {
  ublk_op op;
  uint32_t flags;
  uint32_t first;  // byte of the part
  uint32_t length;
  uint32_t seed;
};

Step random_step(std::minstd_rand& random) {
  static constexpr struct {
    ublk_op op;
    uint32_t flags;
  } kKinds[] = {
      {UBLK_OP_READ, 0},
      {UBLK_OP_WRITE, 0},
      {UBLK_OP_WRITE, UBLK_REQUEST_FUA},
      {UBLK_OP_FLUSH, 0},
      {UBLK_OP_DISCARD, 0},
      {UBLK_OP_WRITE_ZEROES, 0},
      {UBLK_OP_WRITE_ZEROES, UBLK_REQUEST_NO_UNMAP | UBLK_REQUEST_FUA},
  };
  const auto& kind = kKinds[random() % std::size(kKinds)];
  if (kind.op == UBLK_OP_FLUSH) return {kind.op, 0, 0, 0, 0};
  const auto first = static_cast<uint32_t>(random() % (kPart / 512));
  const auto blocks = static_cast<uint32_t>(1 + random() % (kPart / 512 - first));
  return {kind.op, kind.flags, first * 512, blocks * 512, static_cast<uint32_t>(random())};
}

// One slot: a tag of a queue, and what its part of the disk holds.
class Slot {
 public:
  Slot(Device& disk, uint32_t index)
      : queue_(disk.queue(index % kQueues)),
        tag_(static_cast<uint16_t>(index / kQueues)),
        begin_(uint64_t{index} * kPart) {}

  void start(const Step& step) {
    step_ = step;
    if (step.op == UBLK_OP_WRITE)
      std::ranges::copy(pattern(step.length, step.seed), queue_.buffer(tag_).begin());
    const uint64_t offset = step.op == UBLK_OP_FLUSH ? 0 : begin_ + step.first;
    queue_.start(tag_, step.op, offset, step.length, step.flags);
  }

  void finish() {
    const bool has_data = step_.op == UBLK_OP_READ || step_.op == UBLK_OP_WRITE;
    ASSERT_EQ(queue_.finish(tag_), has_data ? static_cast<int>(step_.length) : 0)
        << "op " << step_.op << " at " << begin_ + step_.first << '+' << step_.length;
    const std::span held = std::span(data_).subspan(step_.first, step_.length);
    const std::span got = queue_.buffer(tag_).first(step_.length);
    if (step_.op == UBLK_OP_READ)
      EXPECT_TRUE(std::ranges::equal(got, held)) << begin_ + step_.first << '+' << step_.length;
    else if (step_.op == UBLK_OP_WRITE)
      std::ranges::copy(got, held.begin());
    else
      std::ranges::fill(held, std::byte{0});
  }

  const Bytes& data() const { return data_; }

 private:
  Queue& queue_;
  const uint16_t tag_;
  const uint64_t begin_;
  Step step_{};
  Bytes data_ = zeroes(kPart);
};

TEST_P(FileHandlerWorkers, ServesManyThreadsAtOnce) {
  Device disk("file", options("workers"), 0, kQueues);
  std::minstd_rand random(1);
  std::vector<Slot> slots;
  for (uint32_t i = 0; i < kSlots; ++i) slots.emplace_back(disk, i);
  for (int round = 0; round < 60; ++round) {
    for (Slot& slot : slots) slot.start(random_step(random));
    for (Slot& slot : slots) slot.finish();
    ASSERT_FALSE(HasFailure()) << "in round " << round;
  }
  disk.flush();
  Bytes expected;
  for (const Slot& slot : slots)
    expected.insert(expected.end(), slot.data().begin(), slot.data().end());
  EXPECT_TRUE(test::file_bytes(path_) == expected);
  EXPECT_EQ(disk.wrong_completions, 0u);
  EXPECT_TRUE(disk.log.empty()) << disk.log.front();
}

TEST_P(FileHandlerWorkers, IsChosenByTheInstance) {
  EXPECT_EQ(Device("file", {{"path", path_}}).geometry().model, uint32_t{UBLK_MODEL_RING});
  EXPECT_EQ(Device("file", options("ring")).geometry().model, uint32_t{UBLK_MODEL_RING});
  EXPECT_EQ(Device("file", options("workers")).geometry().model, uint32_t{UBLK_MODEL_WORKERS});
}

TEST_P(FileHandlerWorkers, ServesTheDiskOfTheRingAndBack) {
  Bytes expected = zeroes(kSize);
  uint32_t seed = 1;
  for (const char* io : {"ring", "workers", "ring", "workers"}) {
    Device disk("file", options(io));
    EXPECT_TRUE(disk.read(0, kSize) == expected) << "before " << io << ", " << seed;
    const Bytes data = pattern(kPart, seed);
    disk.write(kPart * seed, data);
    std::ranges::copy(data, expected.begin() + kPart * seed);
    ++seed;
  }
  EXPECT_TRUE(test::file_bytes(path_) == expected);
}

TEST_P(FileHandlerWorkers, IsTheSameDiskAsOnTheRing) {
  const ublk_geometry ring = Device("file", options("ring")).geometry();
  ublk_geometry workers = Device("file", options("workers")).geometry();
  workers.model = ring.model;
  workers.flags |= UBLK_GEOMETRY_ZERO_COPY;  // which takes a ring
  EXPECT_EQ(memcmp(&workers, &ring, sizeof(ring)), 0);
}

}  // namespace
