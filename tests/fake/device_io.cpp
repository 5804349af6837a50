// SPDX-License-Identifier: MIT
// The I/O of a device: requests to tags, tags to the server and back.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "device.h"

namespace fake {

namespace abi = ublk::abi;

using abi::DeviceState;
using ublk::Operation;

namespace {

// What is left of an errno after its way through the block layer's status codes.
int block_error(int result) {
  switch (result) {
    case -EOPNOTSUPP:
    case -ETIMEDOUT:
    case -ENOSPC:
    case -ENOLINK:
    case -EREMOTEIO:
    case -EBADE:
    case -ENODATA:
    case -EILSEQ:
    case -ENOMEM:
    case -EBUSY:
    case -EAGAIN:
    case -EOVERFLOW:
    case -ENODEV:
    case -EINVAL:
    case -ETIME:
    case -ETOOMANYREFS:
      return result;
    default:
      return -EIO;
  }
}

}  // namespace

// ------------------------------------------------------------- the block layer --

int Device::check_request(const BlockRequest& request) const {
  const Io& io = request.io;
  const abi::ParamBasic& basic = params_.basic;
  if (stopping_ || disk_ == nullptr) return -EIO;
  if (state() == DeviceState::kFailIo) return -EREMOTEIO;
  if (canceling_ && !has(abi::kFlagUserRecovery)) return -EIO;
  if (io.op == Operation::kFlush) return 0;
  const uint64_t block = (uint64_t{1} << basic.logical_bs_shift) / abi::kSectorSize;
  if (io.sectors == 0 || io.sector % block != 0 || io.sectors % block != 0) return -EINVAL;
  if (io.sector > disk_->sectors() || io.sectors > disk_->sectors() - io.sector) return -EIO;
  const bool can_discard = (params_.types & abi::kParamDiscard) != 0;
  uint32_t limit = basic.max_sectors;
  if (io.op == Operation::kDiscard) limit = can_discard ? params_.discard.max_discard_sectors : 0;
  if (io.op == Operation::kWriteZeroes)
    limit = can_discard ? params_.discard.max_write_zeroes_sectors : 0;
  if (limit == 0) return -EOPNOTSUPP;
  if (io.sectors > limit) return -EINVAL;
  if (io.op != Operation::kRead && (basic.attrs & abi::kAttrReadOnly) != 0) return -EPERM;
  if ((io.flags & abi::kIoFlagFua) != 0 && (basic.attrs & abi::kAttrFua) == 0) return -EOPNOTSUPP;
  return 0;
}

void Device::submit(std::unique_ptr<BlockRequest> request) {
  if (const int error = check_request(*request); error != 0) {
    request->done(error);
    return;
  }
  // Without a volatile cache the block layer has nothing to flush.
  if (request->io.op == Operation::kFlush && (params_.basic.attrs & abi::kAttrVolatileCache) == 0) {
    request->done(0);
    return;
  }
  const int wanted = request->io.queue;
  const size_t queue = (wanted == Io::kAnyQueue ? next_queue_++ : wanted) % queues_.size();
  queues_[queue].waiting.push_back(std::move(request));
  dispatch(static_cast<uint16_t>(queue));
}

void Device::dispatch(uint16_t number) {
  if (state() != DeviceState::kLive || canceling_) return;
  Queue& queue = queues_[number];
  while (!queue.waiting.empty() && !queue.idle.empty()) {
    const uint16_t tag = take_idle(queue);
    queue.tags[tag].state = Tag::State::kServer;
    queue.tags[tag].request = std::move(queue.waiting.front());
    queue.waiting.pop_front();
    ++queue.in_flight;
    hand_out(number, tag);
  }
  bring_tags(queue);
}

uint16_t Device::take_idle(Queue& queue) const {
  const auto taken = guard_ == nullptr ? queue.idle.end() - 1 : queue.idle.begin();
  const uint16_t tag = *taken;
  queue.idle.erase(taken);
  return tag;
}

void Device::hand_out(uint16_t queue, uint16_t number) {
  Tag& tag = queues_[queue].tags[number];
  if (guard_ != nullptr) guard_->open(guard_slot(queue, number));
  tag.last = tag.request->io;
  const Io& io = tag.request->io;
  const bool flush = io.op == Operation::kFlush;
  uint32_t flags = io.flags;
  // No thread but the server's could register memory in its ring: it always fails.
  if (has(abi::kFlagAutoBufReg) && tag.request->has_data()) {
    if ((tag.registration & abi::kAutoBufRegFallback) == 0)
      violations_.push_back("device " + std::to_string(info_.dev_id) +
                            ": no fallback for a request whose data can't be registered");
    flags |= abi::kIoFlagNeedRegBuf;
  }
  node_->descriptor(queue, number) = {.op_flags = static_cast<uint32_t>(io.op) | flags,
                                      .nr_sectors = flush ? 0 : io.sectors,
                                      .start_sector = flush ? UINT64_MAX : io.sector,
                                      .addr = tag.address};
  tag.wants_buffer = io.op == Operation::kWrite && has(abi::kFlagNeedGetData);
  if (!tag.wants_buffer) give_data(queue, number);
  if (has(abi::kFlagBatchIo)) {
    queues_[queue].handed.push_back(number);
    return;
  }
  loop_.answer(*std::exchange(tag.command, nullptr),
               tag.wants_buffer ? abi::kIoResNeedGetData : abi::kIoResOk);
}

void Device::give_data(uint16_t queue, uint16_t number) {
  const Tag& tag = queues_[queue].tags[number];
  const BlockRequest& request = *tag.request;
  if (request.io.op != Operation::kWrite) return;
  if (has(abi::kFlagUserCopy))
    node_->put_data(queue, number, request.io.data, request.bytes());
  else
    std::memcpy(pointer_to<std::byte>(tag.address), request.io.data, request.bytes());
}

// ------------------------------------------------------------ the server's commands --

void Device::handle_io(Command& command) {
  int error = 0;
  const abi::IoCmd& io = command.io;
  if (command.is_batch() || has(abi::kFlagBatchIo)) {
    error = handle_batch(command);
  } else if (io.q_id >= queues_.size() || io.tag >= info_.queue_depth) {
    error = -EINVAL;
  } else if (command.io_op() == abi::IoOp::kFetchReq) {
    error = fetch(command);
  } else if (command.io_op() == abi::IoOp::kCommitAndFetchReq) {
    error = commit(command);
  } else if (command.io_op() == abi::IoOp::kNeedGetData && has(abi::kFlagNeedGetData)) {
    error = get_data(command);
  } else if (command.io_op() == abi::IoOp::kRegisterIoBuf) {
    error = register_data(command);
  } else if (command.io_op() == abi::IoOp::kUnregisterIoBuf) {
    error = unregister_data(command);
  } else {
    error = -EOPNOTSUPP;
  }
  if (error != 0) loop_.answer(command, error);
}

int Device::fetch(Command& command) {
  Queue& queue = queues_[command.io.q_id];
  Tag& tag = queue.tags[command.io.tag];
  if (canceling_) return -ENODEV;
  if (tag.state != Tag::State::kUnfetched)
    return all_fetched() || !has(abi::kFlagPerIoDaemon) ? -EBUSY : -EINVAL;
  if (const int error = check_address(command.io.addr, tag); error != 0) return error;
  if (queue.daemon == 0 || has(abi::kFlagPerIoDaemon)) queue.daemon = command.thread;
  if (queue.daemon != command.thread) return -EINVAL;
  tag.daemon = command.thread;
  tag_idle(queue, command.io, command.registration, &command);
  try_start();
  return 0;
}

int Device::commit(Command& command) {
  const uint16_t number = command.io.q_id;
  Queue& queue = queues_[number];
  Tag& tag = queue.tags[command.io.tag];
  if (tag.daemon != command.thread) return -EINVAL;
  if (release_orphan(tag)) return -ENODEV;
  if (tag.state != Tag::State::kServer) return -EBUSY;
  if (tag.wants_buffer) return -EINVAL;  // its data must be fetched first, even to fail it
  if (const int error = check_address(command.io.addr, tag); error != 0) return error;
  // The kernel would end the request only when it is unregistered.
  if (std::exchange(tag.buffer_index, -1) >= 0)
    violations_.push_back("device " + std::to_string(info_.dev_id) + ": tag " +
                          std::to_string(command.io.tag) + " is committed while it is registered");
  const int result = end_result(*tag.request, command.io, command.data);
  auto request = std::move(tag.request);
  --queue.in_flight;
  tag_idle(queue, command.io, command.registration, &command);
  end_request(number, std::move(request), result);
  return 0;
}

int Device::get_data(Command& command) {
  Tag& tag = queues_[command.io.q_id].tags[command.io.tag];
  if (tag.daemon != command.thread || command.io.addr == 0) return -EINVAL;
  if (release_orphan(tag)) return -ENODEV;
  if (tag.state != Tag::State::kServer) return -EBUSY;
  if (!tag.wants_buffer) return -EINVAL;
  tag.wants_buffer = false;
  tag.address = command.io.addr;
  Io& io = tag.request->io;
  const Io::Lost lost = std::exchange(io.lost, Io::Lost::kNone);
  if (lost == Io::Lost::kAll) {
    put_back(command);
    return 0;
  }
  abi::IoDesc& descriptor = node_->descriptor(command.io.q_id, command.io.tag);
  descriptor.addr = tag.address;
  if (lost == Io::Lost::kHalf)
    descriptor.nr_sectors = io.sectors / 2;
  else
    give_data(command.io.q_id, command.io.tag);
  loop_.answer(command, 0);
  return 0;
}

// The request waits once more, and the command is answered by the tag's next one.
void Device::put_back(Command& command) {
  Queue& queue = queues_[command.io.q_id];
  Tag& tag = queue.tags[command.io.tag];
  queue.waiting.push_back(std::move(tag.request));
  --queue.in_flight;
  tag_idle(queue, command.io, command.registration, &command);
  dispatch(command.io.q_id);
}

int Device::register_data(Command& command) {
  constexpr uint64_t kSlots = 16384;
  Tag& tag = queues_[command.io.q_id].tags[command.io.tag];
  if (tag.state == Tag::State::kOrphaned) return -ENODEV;
  if (tag.state != Tag::State::kServer) return -EBUSY;
  if (!has(abi::kFlagSupportZeroCopy) || command.io.addr >= kSlots) return -EINVAL;
  if (!tag.request->has_data()) return -EINVAL;
  if (!registers_) return -ENOMEM;
  if (!command.port->buffer_slots().insert(command.io.addr).second) return -EBUSY;
  tag.buffer_index = static_cast<int>(command.io.addr);
  loop_.answer(command, 0);
  return 0;
}

int Device::unregister_data(Command& command) {
  Tag& tag = queues_[command.io.q_id].tags[command.io.tag];
  if (!has(abi::kFlagSupportZeroCopy) || command.port->buffer_slots().erase(command.io.addr) == 0)
    return -EINVAL;
  if (tag.buffer_index != static_cast<int>(command.io.addr))
    violations_.push_back("device " + std::to_string(info_.dev_id) + ": tag " +
                          std::to_string(command.io.tag) + " unregisters the data of another");
  tag.buffer_index = -1;
  loop_.answer(command, 0);
  return 0;
}

bool Device::release_orphan(Tag& tag) {
  if (tag.state != Tag::State::kOrphaned) return false;
  tag.state = Tag::State::kUnfetched;
  tag.buffer_index = -1;
  return true;
}

int Device::check_address(uint64_t address, const Tag& tag) const {
  const bool given = address != 0;
  if (has(abi::kFlagUserCopy)) return given ? -EINVAL : 0;
  // In get-data mode only a read's commit needs one, even that of a failed read.
  const bool optional = has(abi::kFlagNeedGetData) &&
                        (tag.request == nullptr || tag.request->io.op != Operation::kRead);
  return given || optional ? 0 : -EINVAL;
}

void Device::tag_idle(Queue& queue, const abi::IoCmd& io, uint64_t registration, Command* command) {
  Tag& tag = queue.tags[io.tag];
  if (canceling_) {
    tag.state = Tag::State::kUnfetched;
    if (command != nullptr) loop_.answer(*command, -ENODEV);
    return;
  }
  tag.state = Tag::State::kIdle;
  tag.command = command;
  tag.address = io.addr;
  tag.registration = registration;
  queue.idle.push_back(io.tag);
  if (guard_ != nullptr && !has(abi::kFlagUserCopy) && !has(abi::kFlagNeedGetData))
    guard_->close(guard_slot(io.q_id, io.tag), io.addr, info_.max_io_buf_bytes, tag.last);
}

// The request's result; moves a read's data.
int Device::end_result(const BlockRequest& request, const abi::IoCmd& io,
                       const std::vector<std::byte>& data) {
  const int result = io.result;
  if (result < 0) return block_error(result);
  if (!request.has_data()) return 0;
  if (static_cast<size_t>(result) != request.bytes()) {
    violations_.push_back("device " + std::to_string(info_.dev_id) + ": a result of " +
                          std::to_string(result) + " for a request of " +
                          std::to_string(request.bytes()) + " bytes");
    return -EIO;
  }
  if (request.io.op != Operation::kRead) return 0;
  if (has(abi::kFlagUserCopy))
    node_->get_data(io.q_id, io.tag, request.io.data, request.bytes());
  else
    std::memcpy(request.io.data, data.data(), request.bytes());
  return 0;
}

// The last step of an I/O command: `done` may do anything.
void Device::end_request(uint16_t queue, std::unique_ptr<BlockRequest> request, int result) {
  dispatch(queue);
  request->done(result);
  check_drained();
}

void Device::refuse_io(Command& command, int error) {
  if (command.is_batch()) {
    loop_.answer(command, -error);
    return;
  }
  const bool commits = command.io_op() == abi::IoOp::kCommitAndFetchReq;
  const abi::IoCmd io = command.io;
  loop_.answer(command, -error);
  if (!commits || io.q_id >= queues_.size() || io.tag >= info_.queue_depth) return;
  Queue& queue = queues_[io.q_id];
  Tag& tag = queue.tags[io.tag];
  if (release_orphan(tag) || tag.state != Tag::State::kServer) return;
  tag.state = Tag::State::kUnfetched;
  --queue.in_flight;
  end_request(io.q_id, std::move(tag.request), -EIO);
}

}  // namespace fake
