// SPDX-License-Identifier: MIT
//
// The memory handler: a sparse RAM disk.

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <ublk/handler.hpp>

#include "memory_guard.h"
#include "shared_segment.h"
#include "sparse_memory.h"

namespace {

using memory::MemoryGuard;
using memory::SharedSegment;
using memory::SparseMemory;

constexpr uint32_t kBlockSize = 512;
// Both are done while the queue waits: some 4 ms at the most.
constexpr uint32_t kMaxDiscard = 64u << 20;
constexpr uint32_t kMaxWriteZeroes = 16u << 20;

class Memory final : public ublk::Handler {
 public:
  static constexpr const char* kName = "memory";
  static constexpr const char* kSummary =
      "sparse RAM disk, gone when the runner ends unless it persists";
  static constexpr ublk_model kModel = UBLK_MODEL_INLINE;
  static constexpr ublk_option kOptions[] = {
      ublk::size_option("size",
                        "Size of the device, a multiple of 512 bytes; memory is taken as blocks "
                        "are written.",
                        {.required = true, .minimum = 4096}),
      ublk::size_option("keep_free",
                        "Memory to leave to the rest of the system: a write that would need more "
                        "fails with ENOSPC. 0: no limit.",
                        {.default_value = "128M"}),
      ublk::bool_option("persist",
                        "Keeps the data in named shared memory, which outlives the runner but not "
                        "the machine.",
                        {.default_value = "false"}),
  };

  explicit Memory(const ublk::OpenArgs& args)
      : size_(checked(args.number("size"))), guard_(args.number("keep_free")) {
    if (args.boolean("persist")) {
      segment_.emplace(std::string("ublk-memory-") + args.device_name(), args.recovering());
      memory_.emplace(size_, *segment_);
    } else {
      memory_.emplace(size_);
    }
  }

  void geometry(ublk_geometry& geometry) override {
    geometry.size = size_;
    geometry.logical_block_size = kBlockSize;
    geometry.physical_block_size = SparseMemory::kPageSize;
    geometry.discard_granularity = SparseMemory::kPageSize;
    geometry.max_discard_size = kMaxDiscard;
    geometry.max_write_zeroes_size = kMaxWriteZeroes;
    if (!segment_) geometry.flags |= UBLK_GEOMETRY_VOLATILE;
  }

  int read(ublk::Io& io) override {
    memory_->read(io.offset(), io.data(), io.length());
    return io.length();
  }

  int write(ublk::Io& io) override {
    if (!may_write(io)) return -ENOSPC;
    memory_->write(io.offset(), io.data(), io.length());
    return io.length();
  }

  int discard(ublk::Io& io) override {
    memory_->discard(io.offset(), io.length());
    return 0;
  }

  int write_zeroes(ublk::Io& io) override {
    if (!io.no_unmap()) return discard(io);
    if (!may_write(io)) return -ENOSPC;
    memory_->fill_zeroes(io.offset(), io.length());
    return 0;
  }

 private:
  static uint64_t checked(uint64_t size) {
    if (size % kBlockSize == 0) return size;
    throw std::invalid_argument("size is " + std::to_string(size) +
                                " bytes, expected a multiple of " + std::to_string(kBlockSize));
  }

  bool may_write(const ublk::Io& io) {
    return guard_.may_take(memory_->missing_pages(io.offset(), io.length()) *
                           SparseMemory::kPageSize);
  }

  const uint64_t size_;
  std::optional<SharedSegment> segment_;
  std::optional<SparseMemory> memory_;
  MemoryGuard guard_;
};

}  // namespace

UBLK_HANDLER(Memory)
