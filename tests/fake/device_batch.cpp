// SPDX-License-Identifier: MIT
// The commands of a device with kFlagBatchIo.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "device.h"
#include "ring_port.h"

namespace fake {

namespace abi = ublk::abi;

using abi::IoOp;

namespace {

// The commit of one element in the form of a COMMIT_AND_FETCH_REQ.
abi::IoCmd as_io(uint16_t queue, const abi::BatchElement& element) {
  return {.q_id = queue, .tag = element.tag, .result = element.result, .addr = element.buf_addr};
}

uint64_t registration(const abi::BatchIo& batch, const abi::BatchElement& element) {
  const bool falls_back = (batch.flags & abi::kBatchAutoBufRegFallback) != 0;
  return element.buf_index | (falls_back ? abi::kAutoBufRegFallback : 0);
}

}  // namespace

int Device::handle_batch(Command& command) {
  const abi::BatchIo& batch = command.batch;
  if (!has(abi::kFlagBatchIo) || !command.is_batch()) return -EOPNOTSUPP;
  if (batch.q_id >= queues_.size()) return -EINVAL;
  if (command.io_op() == IoOp::kFetchIoCmds)
    return batch.elem_bytes == abi::kBatchTagBytes && batch.flags == 0 ? fetch_many(command)
                                                                       : -EINVAL;
  if (batch.nr_elem > info_.queue_depth) return -E2BIG;
  const bool copies = !has(abi::kFlagUserCopy);
  const bool addresses = (batch.flags & abi::kBatchHasBufAddr) != 0;
  const bool falls_back = (batch.flags & abi::kBatchAutoBufRegFallback) != 0;
  if (addresses != copies || (falls_back && !has(abi::kFlagAutoBufReg))) return -EINVAL;
  if (batch.elem_bytes != (addresses ? sizeof(abi::BatchElement) : 8)) return -EINVAL;
  return command.io_op() == IoOp::kPrepIoCmds ? prepare(command) : commit_many(command);
}

// All or nothing.
int Device::prepare(Command& command) {
  Queue& queue = queues_[command.batch.q_id];
  if (canceling_) return -ENODEV;
  for (const Command::Element& item : command.elements) {
    if (item.element.tag >= info_.queue_depth) return -EINVAL;
    const Tag& tag = queue.tags[item.element.tag];
    if (tag.state != Tag::State::kUnfetched) return -EINVAL;
    if (const int error = check_address(item.element.buf_addr, tag); error != 0) return error;
  }
  for (const Command::Element& item : command.elements)
    tag_idle(queue, as_io(command.batch.q_id, item.element),
             registration(command.batch, item.element), nullptr);
  loop_.answer(command, 0);
  try_start();
  return 0;
}

int Device::fetch_many(Command& command) {
  Queue& queue = queues_[command.batch.q_id];
  if (canceling_ || queue.fetch != nullptr) return canceling_ ? -ENODEV : -EBUSY;
  queue.fetch = &command;
  bring_tags(queue);
  return 0;
}

void Device::bring_tags(Queue& queue) {
  while (queue.fetch != nullptr && !queue.handed.empty()) {
    const auto buffer = queue.fetch->port->take_buffer(*queue.fetch->buffers);
    if (!buffer) {
      loop_.answer(*std::exchange(queue.fetch, nullptr), -ENOBUFS);
      return;
    }
    const size_t room = std::min<size_t>(abi::kBatchMaxTags, buffer->bytes / sizeof(uint16_t));
    const size_t count = std::min(room, queue.handed.size());
    for (size_t i = 0; i < count; ++i) {
      std::memcpy(buffer->data + i * sizeof(uint16_t), &queue.handed.front(), sizeof(uint16_t));
      queue.handed.pop_front();
    }
    loop_.answer_more(*queue.fetch, static_cast<int>(count * sizeof(uint16_t)),
                      IORING_CQE_F_BUFFER | static_cast<uint32_t>(buffer->id)
                                                << IORING_CQE_BUFFER_SHIFT);
  }
}

// Ends with the first element that is wrong; those before it are taken.
int Device::commit_many(Command& command) {
  // The answer gives the command back.
  const uint16_t number = command.batch.q_id;
  const std::vector<Command::Element> elements = std::exchange(command.elements, {});
  std::vector<std::pair<std::unique_ptr<BlockRequest>, int>> ended;
  int error = 0;
  int taken = 0;
  Queue& queue = queues_[number];
  for (const Command::Element& item : elements) {
    const abi::BatchElement& element = item.element;
    error = element.tag < info_.queue_depth ? 0 : -EINVAL;
    Tag* tag = error == 0 ? &queue.tags[element.tag] : nullptr;
    if (error == 0 && release_orphan(*tag)) {
      ++taken;
      continue;
    }
    if (error == 0 && tag->state != Tag::State::kServer) error = -EBUSY;
    if (error == 0) error = check_address(element.buf_addr, *tag);
    if (error != 0) break;
    const abi::IoCmd io = as_io(number, element);
    const int result = end_result(*tag->request, io, item.data);
    ended.emplace_back(std::move(tag->request), result);
    --queue.in_flight;
    tag_idle(queue, io, registration(command.batch, element), nullptr);
    ++taken;
  }
  // The queue's FETCH has ended already, and this may be the last that it waits for.
  if (canceling_) command.port->forget_targets();
  loop_.answer(command, taken != 0 ? taken * command.batch.elem_bytes : error);
  for (auto& [request, result] : ended) end_request(number, std::move(request), result);
  return 0;
}

// The device stops, or gives up its queues. The server has not heard of what is not brought.
void Device::abort_batch(Queue& queue) {
  for (const uint16_t number : std::exchange(queue.handed, {})) {
    Tag& tag = queue.tags[number];
    tag.state = Tag::State::kUnfetched;
    --queue.in_flight;
    queue.waiting.push_front(std::move(tag.request));
  }
  if (queue.fetch != nullptr) loop_.answer(*std::exchange(queue.fetch, nullptr), -ENODEV);
}

}  // namespace fake
