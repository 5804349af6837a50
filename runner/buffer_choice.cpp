// SPDX-License-Identifier: MIT
#include "buffer_choice.h"

#include <ublk/error.h>

#include <stdexcept>
#include <utility>

#include "option_value.h"

namespace ublk_runner {

namespace {

namespace abi = ublk::abi;
using ublk::BufferMode;
using ublk::ZeroCopy;

bool moves_data(const ublk_handler& handler) { return handler.flags & UBLK_HANDLER_MOVES_DATA; }

uint64_t mode_flag(BufferMode mode) {
  switch (mode) {
    case BufferMode::kGetData:
      return abi::kFlagNeedGetData;
    case BufferMode::kUserCopy:
      return abi::kFlagUserCopy;
    case BufferMode::kCopy:
      break;
  }
  return 0;
}

const char* mode_name(BufferMode mode) {
  switch (mode) {
    case BufferMode::kGetData:
      return "get-data";
    case BufferMode::kUserCopy:
      return "user-copy";
    case BufferMode::kCopy:
      break;
  }
  return "copy";
}

bool has(uint64_t features, uint64_t flags) { return (features & flags) == flags; }

uint64_t zero_copy_flags(ZeroCopy kind) {
  switch (kind) {
    case ZeroCopy::kAutomatic:
      return abi::kFlagAutoBufReg | abi::kFlagUserCopy;
    case ZeroCopy::kExplicit:
      return abi::kFlagSupportZeroCopy | abi::kFlagUserCopy;
    case ZeroCopy::kNone:
      break;
  }
  return 0;
}

// The best of the kernel's.
ZeroCopy offered_zero_copy(uint64_t features) {
  for (const ZeroCopy kind : {ZeroCopy::kAutomatic, ZeroCopy::kExplicit})
    if (has(features, zero_copy_flags(kind))) return kind;
  return ZeroCopy::kNone;
}

const char* requirement(BufferMode mode) {
  return mode == BufferMode::kUserCopy ? "UBLK_F_USER_COPY, Linux 6.5"
                                       : "UBLK_F_NEED_GET_DATA, Linux 6.0";
}

BufferChoice chosen(BufferMode mode, std::string reason) {
  return {
      .mode = mode, .zero_copy = ZeroCopy::kNone, .reason = std::move(reason), .charge = nullptr};
}

BufferChoice forced(BufferMode mode, uint64_t features) {
  if (!has(features, mode_flag(mode)))
    throw std::runtime_error(std::string("buffer = ") + mode_name(mode) + ": this kernel can't (" +
                             requirement(mode) + ")");
  return chosen(mode, "configured");
}

BufferChoice automatic(const BufferNeeds& needs, ublk::BufferPool& pool) {
  const bool has_user_copy = has(needs.features, abi::kFlagUserCopy);
  if (moves_data(needs.handler) && has_user_copy)
    return chosen(BufferMode::kUserCopy, "the handler moves data itself");
  if (needs.handler.alloc_io_buffer != nullptr)
    return chosen(BufferMode::kCopy, "the handler has its own buffers");
  try {
    auto charge =
        std::make_unique<ublk::BufferPool::Charge>(pool, needs.copy_bytes, pool.stats().budget / 2);
    return {.mode = BufferMode::kCopy,
            .zero_copy = ZeroCopy::kNone,
            .reason = format_size(needs.copy_bytes) + " of buffer_memory at most",
            .charge = std::move(charge)};
  } catch (const ublk::Error&) {
    const BufferMode mode = has(needs.features, abi::kFlagNeedGetData) ? BufferMode::kGetData
                            : has_user_copy                            ? BufferMode::kUserCopy
                                                                       : BufferMode::kCopy;
    return chosen(mode, "copy needs up to " + format_size(needs.copy_bytes) +
                            ", more than buffer_memory allows");
  }
}

// nullptr: it can be had; else why not.
const char* obstacle_to_zero_copy(BufferOption option, const BufferNeeds& needs) {
  if (!needs.handler_can_zero_copy) return "the handler can't, with these options";
  if (offered_zero_copy(needs.features) == ZeroCopy::kNone)
    return "this kernel can't (UBLK_F_SUPPORT_ZERO_COPY, Linux 6.15)";
  if (option != BufferOption::kAuto && option != BufferOption::kUserCopy)
    return "expected buffer = auto or user-copy beside it";
  return nullptr;
}

}  // namespace

uint64_t buffer_flags(const BufferChoice& choice) {
  return mode_flag(choice.mode) | zero_copy_flags(choice.zero_copy);
}

const char* buffer_name(const BufferChoice& choice) {
  switch (choice.zero_copy) {
    case ZeroCopy::kAutomatic:
      return "zero-copy";
    case ZeroCopy::kExplicit:
      return "explicit zero-copy";
    case ZeroCopy::kNone:
      break;
  }
  return mode_name(choice.mode);
}

BufferChoice choose_buffer_mode(BufferOption option, ZeroCopyOption zero_copy,
                                const BufferNeeds& needs, ublk::BufferPool& pool) {
  const bool automatic_too = zero_copy == ZeroCopyOption::kAuto && option == BufferOption::kAuto;
  if (zero_copy == ZeroCopyOption::kOn || automatic_too) {
    const char* obstacle = obstacle_to_zero_copy(option, needs);
    if (obstacle == nullptr) {
      const bool configured = zero_copy == ZeroCopyOption::kOn;
      BufferChoice choice =
          chosen(BufferMode::kUserCopy, configured ? "configured" : "the handler can");
      choice.zero_copy = offered_zero_copy(needs.features);
      return choice;
    }
    if (zero_copy == ZeroCopyOption::kOn)
      throw std::runtime_error(std::string("zero_copy = on: ") + obstacle);
  }
  switch (option) {
    case BufferOption::kCopy:
      return forced(BufferMode::kCopy, needs.features);
    case BufferOption::kGetData:
      return forced(BufferMode::kGetData, needs.features);
    case BufferOption::kUserCopy:
      return forced(BufferMode::kUserCopy, needs.features);
    case BufferOption::kAuto:
      break;
  }
  return automatic(needs, pool);
}

std::shared_ptr<ublk::BufferPool::Device> pool_share(BufferMode mode, const ublk_handler& handler,
                                                     ublk::BufferPool& pool, size_t max_io_size) {
  if (mode == BufferMode::kCopy) return nullptr;
  if (mode == BufferMode::kUserCopy && moves_data(handler)) return nullptr;
  try {
    return std::make_shared<ublk::BufferPool::Device>(pool, max_io_size);
  } catch (const ublk::Error& e) {
    throw std::runtime_error(std::string("buffer_memory is too small: ") + e.what());
  }
}

}  // namespace ublk_runner
