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

// The words of the key "buffer", in their order.
enum class BufferOption : uint8_t { kAuto, kCopy, kGetData, kUserCopy };

struct BufferChoice {
  ublk::BufferMode mode = ublk::BufferMode::kCopy;
  std::string reason;                                // for the log
  std::unique_ptr<ublk::BufferPool::Charge> charge;  // copy mode, chosen by us: its worst case
};

// `features`: the kernel's, abi::kFlag*. `copy_bytes`: what copy mode needs at worst, a buffer for
// each tag. Throws std::runtime_error if the kernel lacks the mode that is asked for.
//
// Automatic: user-copy for a handler that moves data itself; copy, which is the cheapest, for one
// that has its own buffers, and for the others as long as half of the pool is left for devices that
// need it; else get-data, where a read costs no more than in copy mode. Control thread: two devices
// at a time would count on the same half.
BufferChoice choose_buffer_mode(BufferOption option, const ublk_handler& handler, uint64_t features,
                                size_t copy_bytes, ublk::BufferPool& pool);

// The device's share of the pool, where its mode needs one; else nullptr. Throws
// std::runtime_error: buffer_memory is too small.
std::shared_ptr<ublk::BufferPool::Device> pool_share(ublk::BufferMode mode,
                                                     const ublk_handler& handler,
                                                     ublk::BufferPool& pool, size_t max_io_size);

// The flag that asks the kernel for the mode; 0: none is needed.
uint64_t buffer_mode_flag(ublk::BufferMode mode);
const char* buffer_mode_name(ublk::BufferMode mode);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_BUFFER_CHOICE_H
