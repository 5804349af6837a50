// SPDX-License-Identifier: MIT
//
// How a device's data gets to its handler and back: which of the library's buffer modes.
#ifndef UBLK_RUNNER_BUFFER_CHOICE_H
#define UBLK_RUNNER_BUFFER_CHOICE_H

#include <ublk/buffer_pool.h>
#include <ublk/handler.h>
#include <ublk/queue.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace ublk_runner {

// The words of the keys "buffer" and "zero_copy", in their order.
enum class BufferOption : uint8_t { kAuto, kCopy, kGetData, kUserCopy };
enum class ZeroCopyOption : uint8_t { kAuto, kOn, kOff };

struct BufferNeeds {
  const ublk_handler& handler;
  bool handler_can_zero_copy;  // UBLK_GEOMETRY_ZERO_COPY
  uint64_t features;           // the kernel's, abi::kFlag*
  size_t copy_bytes;           // what copy mode needs at worst, a buffer for each tag
};

struct BufferChoice {
  ublk::BufferMode mode = ublk::BufferMode::kCopy;
  ublk::ZeroCopy zero_copy = ublk::ZeroCopy::kNone;
  std::string reason;                                // for the log
  std::unique_ptr<ublk::BufferPool::Charge> charge;  // copy mode, chosen by us: its worst case
};

// Throws std::runtime_error if the kernel or the handler lacks what is asked for.
//
// Automatic: zero copy for a handler that can, by the kernel's own registration or else by
// commands, with user-copy for what can't be registered; user-copy for a handler that moves data
// itself; copy, which is the cheapest, for one that has its own buffers, and for the others as long
// as half of the pool is left for devices that need it; else get-data, where a read costs no more
// than in copy mode. Control thread: two devices at a time would count on the same half.
BufferChoice choose_buffer_mode(BufferOption option, ZeroCopyOption zero_copy,
                                const BufferNeeds& needs, ublk::BufferPool& pool);

// The device's share of the pool, where its mode needs one; else nullptr. Throws
// std::runtime_error: buffer_memory is too small.
std::shared_ptr<ublk::BufferPool::Device> pool_share(ublk::BufferMode mode,
                                                     const ublk_handler& handler,
                                                     ublk::BufferPool& pool, size_t max_io_size);

// The flags that ask the kernel for it.
uint64_t buffer_flags(const BufferChoice& choice);
const char* buffer_name(const BufferChoice& choice);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_BUFFER_CHOICE_H
