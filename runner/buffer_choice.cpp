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

bool moves_data(const ublk_handler& handler) { return handler.flags & UBLK_HANDLER_MOVES_DATA; }

bool has(uint64_t features, BufferMode mode) {
  const uint64_t flag = buffer_mode_flag(mode);
  return (features & flag) == flag;
}

const char* requirement(BufferMode mode) {
  return mode == BufferMode::kUserCopy ? "UBLK_F_USER_COPY, Linux 6.5"
                                       : "UBLK_F_NEED_GET_DATA, Linux 6.0";
}

BufferChoice forced(BufferMode mode, uint64_t features) {
  if (!has(features, mode))
    throw std::runtime_error(std::string("buffer = ") + buffer_mode_name(mode) +
                             ": this kernel can't (" + requirement(mode) + ")");
  return {.mode = mode, .reason = "configured", .charge = nullptr};
}

BufferChoice automatic(const ublk_handler& handler, uint64_t features, size_t copy_bytes,
                       ublk::BufferPool& pool) {
  if (moves_data(handler) && has(features, BufferMode::kUserCopy))
    return {.mode = BufferMode::kUserCopy, .reason = "the handler moves data itself", .charge = {}};
  if (handler.alloc_io_buffer != nullptr)
    return {.mode = BufferMode::kCopy, .reason = "the handler has its own buffers", .charge = {}};
  try {
    auto charge =
        std::make_unique<ublk::BufferPool::Charge>(pool, copy_bytes, pool.stats().budget / 2);
    return {.mode = BufferMode::kCopy,
            .reason = format_size(copy_bytes) + " of buffer_memory at most",
            .charge = std::move(charge)};
  } catch (const ublk::Error&) {
    const BufferMode mode = has(features, BufferMode::kGetData)    ? BufferMode::kGetData
                            : has(features, BufferMode::kUserCopy) ? BufferMode::kUserCopy
                                                                   : BufferMode::kCopy;
    return {.mode = mode,
            .reason =
                "copy needs up to " + format_size(copy_bytes) + ", more than buffer_memory allows",
            .charge = nullptr};
  }
}

}  // namespace

uint64_t buffer_mode_flag(BufferMode mode) {
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

const char* buffer_mode_name(BufferMode mode) {
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

BufferChoice choose_buffer_mode(BufferOption option, const ublk_handler& handler, uint64_t features,
                                size_t copy_bytes, ublk::BufferPool& pool) {
  switch (option) {
    case BufferOption::kCopy:
      return forced(BufferMode::kCopy, features);
    case BufferOption::kGetData:
      return forced(BufferMode::kGetData, features);
    case BufferOption::kUserCopy:
      return forced(BufferMode::kUserCopy, features);
    case BufferOption::kAuto:
      break;
  }
  return automatic(handler, features, copy_bytes, pool);
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
