// SPDX-License-Identifier: MIT
//
// Whether a device's requests are fetched and committed many at a time.
#ifndef UBLK_RUNNER_BATCH_CHOICE_H
#define UBLK_RUNNER_BATCH_CHOICE_H

#include <cstdint>

#include "buffer_choice.h"

namespace ublk_runner {

// The words of the key "batch_io", in their order.
enum class BatchOption : uint8_t { kAuto, kOn, kOff };

// kFlagBatchIo, or 0. Automatic: wherever it is possible. `features`: the kernel's, abi::kFlag*.
// Throws std::runtime_error if it is asked for and is not.
uint64_t choose_batch_flag(BatchOption option, const BufferChoice& buffers, uint32_t queue_depth,
                           uint64_t features);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_BATCH_CHOICE_H
