// SPDX-License-Identifier: MIT
#include "random_io.h"

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
        data_(std::min<uint64_t>(sectors, state.options.max_sectors) * kSectorSize) {}

  void next(const std::shared_ptr<State>& keep) {
    if (left_ == 0) {
      if (state_.running.fetch_sub(1) == 1) state_.end.set_value();
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
  std::byte* model() { return model_.data() + (io_.sector - first_sector_) * kSectorSize; }
  size_t bytes() const { return size_t{io_.sectors} * kSectorSize; }

  void choose() {
    const uint64_t lane_sectors = model_.size() / kSectorSize;
    io_.sectors = 1 + static_cast<uint32_t>(random_() % (data_.size() / kSectorSize));
    io_.sector = first_sector_ + random_() % (lane_sectors - io_.sectors + 1);
    io_.data = data_.data();
    const auto dice = random_() % 100;
    if (dice < 45 || (dice >= 90 && !state_.options.zeroing))
      io_.op = Operation::kRead;
    else if (dice < 90)
      io_.op = Operation::kWrite;
    else
      io_.op = dice < 95 ? Operation::kDiscard : Operation::kWriteZeroes;
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
      state_.failed(text() + " ended with " + std::to_string(result));
    } else if (io_.op == Operation::kWrite) {
      std::memcpy(model(), data_.data(), bytes());
    } else if (io_.op != Operation::kRead) {
      std::memset(model(), 0, bytes());
    } else if (std::memcmp(model(), data_.data(), bytes()) != 0) {
      const auto differs = std::mismatch(model(), model() + bytes(), data_.data()).first - model();
      state_.failed(text() + " differs from byte " + std::to_string(differs));
    }
  }

  std::string text() const {
    return "lane " + std::to_string(number_) + ", " + std::to_string(left_) +
           " requests before its end: operation " + std::to_string(static_cast<int>(io_.op)) +
           " of " + std::to_string(io_.sectors) + " sectors at " + std::to_string(io_.sector);
  }

  State& state_;
  const unsigned number_;
  const uint64_t first_sector_;
  uint64_t left_;
  std::mt19937_64 random_;
  std::vector<std::byte> model_;
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
  const uint64_t sectors = state.disk->sectors() / options.depth;
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
