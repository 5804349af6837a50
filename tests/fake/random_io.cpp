// SPDX-License-Identifier: MIT
#include "random_io.h"

#include <ublk/error.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <future>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

namespace fake {

using ublk::Operation;
using ublk::abi::kSectorSize;

// Kept by every request under way, so that a test may give up on one that hangs.
struct RandomIo::State {
  std::shared_ptr<Disk> disk;
  Options options;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::atomic<uint64_t> completed{0};
  std::atomic<unsigned> running{0};
  std::promise<void> end;
  std::future<void> ended{end.get_future()};
  mutable std::mutex error_mutex;
  std::string error;

  void failed(const std::string& what) {
    const std::lock_guard lock(error_mutex);
    if (error.empty()) error = "seed " + std::to_string(options.seed) + ": " + what;
  }
};

// One part of the disk with at most one request.
class RandomIo::Lane {
 public:
  Lane(State& state, unsigned number, uint64_t sectors, uint64_t requests)
      : state_(state),
        number_(number),
        first_sector_(number * sectors),
        left_(requests),
        random_(state.options.seed * 1000 + number),
        model_(sectors * kSectorSize),
        known_(sectors, state.options.blank),
        data_(std::min<uint64_t>(sectors, state.options.max_sectors) * kSectorSize) {}

  void next(const std::shared_ptr<State>& keep) {
    if (left_ == 0) {
      if (state_.running.fetch_sub(1) != 1) return;
      state_.disk.reset();
      state_.end.set_value();
      return;
    }
    --left_;
    choose();
    if (io_.op == Operation::kWrite) fill();
    state_.disk->submit(io_, [this, keep](int result) {
      check(result);
      state_.completed.fetch_add(1, std::memory_order_relaxed);
      next(keep);
    });
  }

 private:
  std::ptrdiff_t first_of_model() const {
    return static_cast<std::ptrdiff_t>(io_.sector - first_sector_);
  }
  std::byte* model() { return model_.data() + first_of_model() * kSectorSize; }
  size_t bytes() const { return size_t{io_.sectors} * kSectorSize; }

  void choose() {
    const Options& options = state_.options;
    const uint32_t block = options.block_sectors;
    const uint64_t lane_blocks = model_.size() / kSectorSize / block;
    const uint32_t blocks =
        1 + static_cast<uint32_t>(random_() % (data_.size() / kSectorSize / block));
    io_ = {.sector = first_sector_ + random_() % (lane_blocks - blocks + 1) * block,
           .sectors = blocks * block,
           .data = data_.data()};
    if (const uint64_t chunk = options.chunk_sectors; chunk != 0)
      io_.sectors =
          static_cast<uint32_t>(std::min<uint64_t>(io_.sectors, chunk - io_.sector % chunk));
    const auto dice = random_() % 100;
    io_.op = Operation::kRead;
    if (dice >= 45 && dice < 90)
      io_.op = Operation::kWrite;
    else if (dice >= 90 && dice < 94 && options.discards)
      io_.op = Operation::kDiscard;
    else if (dice >= 94 && dice < 98 && options.zeroing)
      io_.op = Operation::kWriteZeroes;
    else if (dice >= 98 && options.flushes)
      io_ = {.op = Operation::kFlush};
    if (io_.op == Operation::kWrite && options.fua && dice % 8 == 0)
      io_.flags = ublk::abi::kIoFlagFua;
  }

  void fill() {
    uint64_t value = random_();
    for (size_t at = 0; at < bytes(); at += sizeof(value)) {
      std::memcpy(data_.data() + at, &value, sizeof(value));
      value += 0x9e3779b97f4a7c15;
    }
  }

  void check(int result) {
    if (result != 0) {
      state_.failed(text() + " fails with " + ublk::errno_name(-result));
      return;
    }
    if (io_.op == Operation::kRead) compare();
    if (io_.op == Operation::kRead || io_.op == Operation::kFlush) return;
    if (io_.op == Operation::kWrite)
      std::memcpy(model(), data_.data(), bytes());
    else
      std::memset(model(), 0, bytes());
    const bool known = io_.op != Operation::kDiscard || state_.options.blank;
    std::fill_n(known_.begin() + first_of_model(), io_.sectors, known);
  }

  void compare() {
    if (!state_.options.compares) return;
    for (uint32_t sector = 0; sector < io_.sectors; ++sector) {
      if (!known_[first_of_model() + sector]) continue;
      const std::byte* expected = model() + sector * size_t{kSectorSize};
      const std::byte* read = data_.data() + sector * size_t{kSectorSize};
      const auto differs = std::mismatch(expected, expected + kSectorSize, read).first - expected;
      if (differs == kSectorSize) continue;
      state_.failed(text() + " differs from byte " +
                    std::to_string(sector * kSectorSize + differs));
      return;
    }
  }

  std::string text() const {
    return to_string(io_) + " (lane " + std::to_string(number_) + ", " + std::to_string(left_) +
           " requests before its end)";
  }

  State& state_;
  const unsigned number_;
  const uint64_t first_sector_;
  uint64_t left_;
  std::mt19937_64 random_;
  std::vector<std::byte> model_;
  std::vector<bool> known_;  // sectors
  std::vector<std::byte> data_;
  Io io_;
};

RandomIo::RandomIo(std::shared_ptr<Disk> disk, const Options& options)
    : state_(std::make_shared<State>()) {
  State& state = *state_;
  state.disk = std::move(disk);
  state.options = options;
  if (const char* seed = std::getenv("UBLK_FAKE_SEED"); seed != nullptr)
    state.options.seed = std::strtoull(seed, nullptr, 10);
  state.running = options.depth;
  const uint64_t used = options.sectors != 0 ? options.sectors : state.disk->sectors();
  uint64_t sectors = used / options.depth;
  sectors -= sectors % options.block_sectors;
  for (unsigned number = 0; number < options.depth; ++number) {
    const uint64_t share =
        options.requests / options.depth + (number < options.requests % options.depth ? 1 : 0);
    state.lanes.push_back(std::make_unique<Lane>(state, number, sectors, share));
  }
  for (const auto& lane : state.lanes) lane->next(state_);
}

RandomIo::~RandomIo() = default;

bool RandomIo::wait(std::chrono::milliseconds timeout) {
  return state_->ended.wait_for(timeout) == std::future_status::ready;
}

std::string RandomIo::error() const {
  const std::lock_guard lock(state_->error_mutex);
  return state_->error;
}

uint64_t RandomIo::completed() const { return state_->completed.load(std::memory_order_relaxed); }

}  // namespace fake
