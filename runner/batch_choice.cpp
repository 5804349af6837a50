// SPDX-License-Identifier: MIT
#include "batch_choice.h"

#include <ublk/abi.h>

#include <stdexcept>
#include <string>

namespace ublk_runner {

namespace abi = ublk::abi;

// nullptr: it can be had; else why not.
static const char* obstacle(const BufferChoice& buffers, uint32_t queue_depth, uint64_t features) {
  if ((features & abi::kFlagBatchIo) == 0) return "this kernel can't (UBLK_F_BATCH_IO, Linux 7.0)";
  if (buffers.mode == ublk::BufferMode::kGetData)
    return "the kernel can't in get-data mode, expected another \"buffer\"";
  // No kernel has the one without the other.
  if (buffers.zero_copy == ublk::ZeroCopy::kExplicit)
    return "not with zero copy on a kernel without UBLK_F_AUTO_BUF_REG, Linux 6.16";
  // The kernel refuses to add such a device.
  if (queue_depth < 2) return "expected a queue_depth of 2 or more";
  return nullptr;
}

uint64_t choose_batch_flag(BatchOption option, const BufferChoice& buffers, uint32_t queue_depth,
                           uint64_t features) {
  if (option == BatchOption::kOff) return 0;
  const char* why_not = obstacle(buffers, queue_depth, features);
  if (why_not == nullptr) return abi::kFlagBatchIo;
  if (option == BatchOption::kOn)
    throw std::runtime_error(std::string("batch_io = on: ") + why_not);
  return 0;
}

}  // namespace ublk_runner
