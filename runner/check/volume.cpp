// SPDX-License-Identifier: MIT
#include "volume.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

namespace ublk_check {

namespace abi = ublk::abi;

using abi::kSectorSize;
using ublk::Operation;

namespace {

// What a READ's memory holds before: a handler that brings nothing is seen.
constexpr std::byte kUntouched{0xa5};

}  // namespace

Limits::Limits(const abi::Params& params)
    : block((1u << params.basic.logical_bs_shift) / kSectorSize),
      max(params.basic.max_sectors / block * block),
      max_discard(0),
      max_zeroes(0),
      granularity(block),
      chunk(params.basic.chunk_sectors),
      device(params.basic.dev_sectors),
      read_only((params.basic.attrs & abi::kAttrReadOnly) != 0),
      flush((params.basic.attrs & abi::kAttrVolatileCache) != 0),
      fua((params.basic.attrs & abi::kAttrFua) != 0) {
  if ((params.types & abi::kParamDiscard) == 0) return;
  max_discard = params.discard.max_discard_sectors / block * block;
  max_zeroes = params.discard.max_write_zeroes_sectors / block * block;
  granularity = std::max(block, params.discard.discard_granularity / kSectorSize);
}

uint32_t Limits::clip(uint64_t first, uint32_t sectors) const {
  if (chunk == 0) return sectors;
  return static_cast<uint32_t>(std::min<uint64_t>(sectors, chunk - first % chunk));
}

Volume::Volume(Context& context, const ServedHandler& served, uint64_t first, uint64_t sectors)
    : context_(context),
      served_(served),
      limits_(served.params()),
      first_(first),
      random_(context.subject().seed),
      model_(sectors * kSectorSize),
      known_(sectors),
      data_(size_t{limits_.max} * kSectorSize) {}

std::byte* Volume::model(uint64_t sector) {
  return model_.data() + (sector - first_) * kSectorSize;
}

uint64_t Volume::random_place(uint32_t sectors) {
  const uint64_t places = (known_.size() - sectors) / limits_.block + 1;
  return first_ + random_() % places * limits_.block;
}

int Volume::run(Operation op, uint64_t sector, uint32_t sectors, uint32_t flags) {
  return context_.run(
      served_,
      {.op = op, .sector = sector, .sectors = sectors, .data = data_.data(), .flags = flags});
}

void Volume::fill() {
  const uint64_t end = first_ + known_.size();
  const uint32_t step = limits_.read_only ? limits_.block : limits_.max;
  for (uint64_t at = first_; at < end;) {
    const uint32_t sectors =
        limits_.clip(at, static_cast<uint32_t>(std::min<uint64_t>(step, end - at)));
    if (limits_.read_only) {
      const fake::Io io = {.sector = at, .sectors = sectors, .data = model(at)};
      context_.must(served_, io);
      std::fill_n(known_.begin() + static_cast<std::ptrdiff_t>(at - first_), sectors, true);
    } else {
      write(at, sectors);
    }
    at += sectors;
  }
}

void Volume::write(uint64_t sector, uint32_t sectors, uint32_t flags) {
  const size_t bytes = size_t{sectors} * kSectorSize;
  for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
    const uint64_t value = random_();
    std::memcpy(data_.data() + at, &value, sizeof(value));
  }
  context_.must(served_, {.op = Operation::kWrite,
                          .sector = sector,
                          .sectors = sectors,
                          .data = data_.data(),
                          .flags = flags});
  std::memcpy(model(sector), data_.data(), bytes);
  std::fill_n(known_.begin() + static_cast<std::ptrdiff_t>(sector - first_), sectors, true);
}

void Volume::read(uint64_t sector, uint32_t sectors) {
  const fake::Io io = {.sector = sector, .sectors = sectors, .data = data_.data()};
  std::fill_n(data_.data(), size_t{sectors} * kSectorSize, kUntouched);
  context_.must(served_, io);
  if (context_.subject().keeps_data) compare(io);
}

void Volume::compare(const fake::Io& io) {
  for (uint32_t i = 0; i < io.sectors; ++i) {
    if (!known_[io.sector - first_ + i]) continue;
    const std::byte* expected = model(io.sector + i);
    const std::byte* got = data_.data() + size_t{i} * kSectorSize;
    const auto differs = std::mismatch(expected, expected + kSectorSize, got).first - expected;
    if (differs == kSectorSize) continue;
    char text[128];
    snprintf(text, sizeof(text),
             ": wrong data, at byte %zu of the request 0x%02x instead of 0x%02x",
             size_t{i} * kSectorSize + static_cast<size_t>(differs),
             static_cast<unsigned>(got[differs]), static_cast<unsigned>(expected[differs]));
    const uint64_t at = io.sector + i;
    throw std::runtime_error(
        to_string(io) + text +
        (at + limits_.block >= limits_.device ? " (the device's last block)" : ""));
  }
}

void Volume::read_all() {
  const uint64_t end = first_ + known_.size();
  for (uint64_t at = first_; at < end;) {
    const uint32_t sectors =
        limits_.clip(at, static_cast<uint32_t>(std::min<uint64_t>(limits_.max, end - at)));
    read(at, sectors);
    at += sectors;
  }
}

void Volume::discard(uint64_t sector, uint64_t sectors) {
  for (const uint64_t end = sector + sectors; sector < end;) {
    const uint32_t part = limits_.clip(
        sector, static_cast<uint32_t>(std::min<uint64_t>(limits_.max_discard, end - sector)));
    context_.must(served_, {.op = Operation::kDiscard, .sector = sector, .sectors = part});
    std::fill_n(known_.begin() + static_cast<std::ptrdiff_t>(sector - first_), part, false);
    sector += part;
  }
}

void Volume::write_zeroes(uint64_t sector, uint64_t sectors, uint32_t flags) {
  for (const uint64_t end = sector + sectors; sector < end;) {
    const uint32_t part = limits_.clip(
        sector, static_cast<uint32_t>(std::min<uint64_t>(limits_.max_zeroes, end - sector)));
    context_.must(
        served_,
        {.op = Operation::kWriteZeroes, .sector = sector, .sectors = part, .flags = flags});
    std::memset(model(sector), 0, size_t{part} * kSectorSize);
    std::fill_n(known_.begin() + static_cast<std::ptrdiff_t>(sector - first_), part, true);
    sector += part;
  }
}

}  // namespace ublk_check
