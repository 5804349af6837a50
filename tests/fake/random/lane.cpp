// SPDX-License-Identifier: MIT
#include "lane.h"

#include <ublk/error.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace fake {

using ublk::Operation;
using ublk::abi::kSectorSize;

Lane::Lane(uint64_t first_sector, uint32_t sectors, uint64_t seed,
           std::vector<const Disturbance*> disturbances, const Failed& failed)
    : first_sector_(first_sector),
      sectors_(sectors),
      disturbances_(std::move(disturbances)),
      failed_(failed),
      random_(seed),
      model_(size_t{sectors} * kSectorSize),
      known_(sectors, true),
      data_(model_.size()) {}

void Lane::forget() {
  std::fill(model_.begin(), model_.end(), std::byte{0});
  std::fill(known_.begin(), known_.end(), true);
}

void Lane::choose() {
  const auto count = static_cast<uint32_t>(1 + random_() % sectors_);
  io_ = {.sector = first_sector_ + random_() % (sectors_ - count + 1),
         .sectors = count,
         .data = data_.data()};
  const auto dice = random_() % 20;
  if (dice < 9) return;
  io_.op = dice < 17   ? Operation::kWrite
           : dice < 18 ? Operation::kDiscard
           : dice < 19 ? Operation::kWriteZeroes
                       : Operation::kFlush;
  if (io_.op == Operation::kFlush) io_ = {.op = Operation::kFlush};
}

void Lane::submit(Disk& disk) {
  choose();
  if (io_.op == Operation::kWrite) {
    uint64_t value = random_();
    for (size_t at = 0; at < bytes(); at += sizeof(value), value += 0x9e3779b97f4a7c15)
      std::memcpy(data_.data() + at, &value, sizeof(value));
  }
  before_.clear();
  for (const Disturbance* disturbance : disturbances_) before_.push_back(disturbance->now());
  expected_.store(0, std::memory_order_relaxed);
  busy_.store(true, std::memory_order_release);
  disk.submit(io_, [this](int result) { ended(result); });
}

void Lane::ended(int result) {
  bool disturbed = false;
  for (size_t i = 0; i < before_.size(); ++i)
    disturbed = disturbed || disturbances_[i]->since(before_[i]);
  if (!busy_.load(std::memory_order_relaxed)) {
    failed_(to_string(io_) + " ends twice");
    return;
  }
  if (!is_allowed(result, disturbed))
    failed_(to_string(io_) + " ends with " + std::to_string(result) + " in place of " +
            std::to_string(expected_.load(std::memory_order_relaxed)));
  else if (result == 0 && io_.op == Operation::kRead)
    compare();
  else if (io_.op != Operation::kRead && io_.op != Operation::kFlush)
    remember(result == 0);
  busy_.store(false, std::memory_order_release);
}

bool Lane::is_allowed(int result, bool disturbed) const {
  const int expected = expected_.load(std::memory_order_relaxed);
  if (result == expected) return true;
  return disturbed && (result == 0 || result == -EIO || result == -EREMOTEIO);
}

void Lane::compare() const {
  for (size_t sector = 0; sector < io_.sectors; ++sector) {
    if (!known_[first() + sector]) continue;
    if (std::memcmp(model_.data() + (first() + sector) * kSectorSize,
                    data_.data() + sector * kSectorSize, kSectorSize) == 0)
      continue;
    failed_(to_string(io_) + " differs in sector " + std::to_string(io_.sector + sector));
    return;
  }
}

void Lane::remember(bool known) {
  std::byte* const part = model_.data() + first() * kSectorSize;
  if (io_.op == Operation::kWrite)
    std::memcpy(part, data_.data(), bytes());
  else
    std::memset(part, 0, bytes());
  std::fill_n(known_.begin() + static_cast<std::ptrdiff_t>(first()), io_.sectors, known);
}

}  // namespace fake
