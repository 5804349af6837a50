// SPDX-License-Identifier: MIT
// Request descriptors of a hostile or broken kernel: no handler sees what handler.h forbids, and
// each request ends with a result.
#include <cerrno>
#include <cstring>

#include "input.h"
#include "served_queue.h"

namespace {

using fuzz::ServedQueue;

int check_request(ublk_request& request) {
  using ublk::abi::kSectorSize;
  constexpr uint64_t kBytes = ServedQueue::kSectors * kSectorSize;
  constexpr uint32_t kBlock = ServedQueue::kBlockSectors * kSectorSize;
  const bool has_data = request.op == UBLK_OP_READ || request.op == UBLK_OP_WRITE;
  fuzz::require(request.tag < ServedQueue::kDepth, "the tag is one of the queue's");
  fuzz::require(request.op <= UBLK_OP_WRITE_ZEROES && request.op != 4, "the operation is offered");
  fuzz::require((request.buffer != nullptr) == has_data, "data has a buffer");
  if (request.op == UBLK_OP_FLUSH) {
    fuzz::require(request.offset == 0 && request.length == 0, "a flush has no range");
    return 0;
  }
  fuzz::require(
      request.length != 0 && request.length <= kBytes && request.offset <= kBytes - request.length,
      "inside the device");
  fuzz::require(request.offset % kBlock == 0 && request.length % kBlock == 0, "whole blocks");
  if (!has_data) return 0;
  fuzz::require(request.length <= ServedQueue::kMaxSectors * kSectorSize, "not past the buffer");
  if (request.op == UBLK_OP_READ) std::memset(request.buffer, 0, request.length);
  return static_cast<int>(request.length);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto& queue = *new ServedQueue();
  queue.set_handler(check_request);
  fuzz::Input input(data, size);
  for (int i = 0; i < 16 && input.left() != 0; ++i) {
    const auto tag = static_cast<uint16_t>(input.take<uint8_t>() % ServedQueue::kDepth);
    const auto request = input.take<fuzz::abi::IoDesc>();
    fuzz::require(fuzz::is_result(request, queue.run(tag, request)), "the result is one");
  }
  return 0;
}
