// SPDX-License-Identifier: MIT
// A device's life; its I/O is in device_io.cpp.
#include "device.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "device_limits.h"

namespace fake {

namespace abi = ublk::abi;

using abi::DeviceState;

Device::Device(Loop& loop, std::vector<std::string>& violations, std::shared_ptr<NodeFile> node,
               const abi::DevInfo& info, bool registers, GuardedBuffers* guard)
    : loop_(loop),
      violations_(violations),
      registers_(registers),
      guard_(guard),
      info_(info),
      node_(std::move(node)),
      queues_(info.nr_hw_queues) {
  for (Queue& queue : queues_) queue.tags.resize(info.queue_depth);
}

// ------------------------------------------------------------- parameters, size --

int Device::set_params(const abi::Params& params, uint64_t features) {
  if (disk_ != nullptr) return -EACCES;
  params_ = params;
  const int result = settle_params(params_, info_, features);
  if (result < 0) params_ = {};
  return result;
}

int Device::update_size(uint64_t sectors) {
  if (disk_ == nullptr) return -ENODEV;
  params_.basic.dev_sectors = sectors;
  disk_->sectors_.store(sectors, std::memory_order_relaxed);
  return 0;
}

// -------------------------------------------------------------------- start --

bool Device::all_fetched() const {
  const auto fetched = [](const Tag& tag) { return tag.state != Tag::State::kUnfetched; };
  return std::all_of(queues_.begin(), queues_.end(), [&](const Queue& queue) {
    return std::all_of(queue.tags.begin(), queue.tags.end(), fetched);
  });
}

void Device::start(Command& command) {
  starters_.push_back(&command);
  try_start();
}

void Device::try_start() {
  if (starters_.empty() || !all_fetched()) return;
  for (Command* command : std::exchange(starters_, {})) finish_start(*command);
}

int Device::start_error(const Command& command) const {
  // 6.12 believes what it is told.
  if (has(abi::kFlagBufRegOffDaemon) && static_cast<pid_t>(command.control.data) != server_)
    return -EINVAL;
  if (command.control_op() == abi::ControlOp::kEndUserRecovery && !has(abi::kFlagUserRecovery))
    return -EINVAL;
  if (command.control_op() == abi::ControlOp::kEndUserRecovery)
    return state() == DeviceState::kQuiesced || state() == DeviceState::kFailIo ? 0 : -EBUSY;
  if ((params_.types & abi::kParamBasic) == 0) return -EINVAL;
  return disk_ == nullptr && left_disk_.expired() ? 0 : -EEXIST;
}

void Device::finish_start(Command& command) {
  if (const int error = start_error(command); error != 0) {
    loop_.answer(command, error);
    return;
  }
  set_state(DeviceState::kLive);
  info_.ublksrv_pid = server_;
  if (command.control_op() == abi::ControlOp::kStartDev) {
    make_disk(command);
    return;
  }
  loop_.answer(command, 0);
  for (uint16_t queue = 0; queue < info_.nr_hw_queues; ++queue) dispatch(queue);
}

// As the kernel, START_DEV looks for partitions before it returns: the server must serve already.
void Device::make_disk(Command& starter) {
  disk_ = std::make_shared<Disk>(loop_, *this, params_.basic.dev_sectors);
  constexpr uint64_t kScanned = 8;
  const auto sectors = static_cast<uint32_t>(std::min(kScanned, params_.basic.dev_sectors));
  if (has(abi::kFlagNoAutoPartScan) || sectors == 0) {
    loop_.answer(starter, 0);
    return;
  }
  const auto data = std::make_shared<std::vector<std::byte>>(sectors * abi::kSectorSize);
  const Io scan = {.sectors = sectors, .data = data->data()};
  scanner_ = &starter;
  const auto scanned = [this, data](int) {
    if (scanner_ != nullptr) loop_.answer(*std::exchange(scanner_, nullptr), 0);
  };
  submit(std::unique_ptr<BlockRequest>(new BlockRequest{scan, scanned, nullptr}));
}

bool Device::interrupt(const RingPort& port, uint64_t user_data) {
  for (std::vector<Command*>* waiting : {&starters_, &removal_waiters_}) {
    const auto found = std::find_if(waiting->begin(), waiting->end(), [&](const Command* command) {
      return command->port == &port && command->user_data == user_data;
    });
    if (found == waiting->end()) continue;
    loop_.answer(**found, -EINTR);
    waiting->erase(found);
    return true;
  }
  return false;
}

void Device::interrupt_all() {
  for (std::vector<Command*>* waiting : {&starters_, &removal_waiters_})
    for (Command* command : std::exchange(*waiting, {})) loop_.answer(*command, -EINTR);
  if (scanner_ != nullptr) loop_.answer(*std::exchange(scanner_, nullptr), -EINTR);
}

// --------------------------------------------------------------------- stop --

void Device::stop(std::function<void()> stopped) {
  if (disk_ == nullptr) {
    canceling_ = true;
    abort_idle();
    stopped();
    return;
  }
  stopping_ = true;
  stop_waiters_.push_back(std::move(stopped));
  if (state() != DeviceState::kLive || canceling_) fail_waiting(-EIO);
  check_drained();
}

void Device::check_drained() {
  if (!stopping_) return;
  for (const Queue& queue : queues_)
    if (queue.in_flight != 0 || !queue.waiting.empty()) return;
  stopping_ = false;
  drop_disk();
  canceling_ = true;
  abort_idle();
  for (const auto& stopped : std::exchange(stop_waiters_, {})) stopped();
}

void Device::drop_disk() {
  disk_->device_ = nullptr;
  left_disk_ = disk_;
  disk_.reset();
  set_state(DeviceState::kDead);
  info_.ublksrv_pid = -1;
}

int Device::try_stop_allowed() const {
  if (disk_ == nullptr) return -ENODEV;
  // One reference is the device's own.
  return disk_.use_count() == 1 ? 0 : -EBUSY;
}

void Device::answer_removal() {
  for (Command* command : std::exchange(removal_waiters_, {})) loop_.answer(*command, 0);
}

void Device::abort_idle() {
  for (Queue& queue : queues_) {
    for (const uint16_t number : std::exchange(queue.idle, {})) {
      Tag& tag = queue.tags[number];
      if (guard_ != nullptr)
        guard_->open(guard_slot(static_cast<uint16_t>(&queue - queues_.data()), number));
      tag.state = Tag::State::kUnfetched;
      if (tag.command != nullptr) loop_.answer(*std::exchange(tag.command, nullptr), -ENODEV);
    }
    abort_batch(queue);
  }
}

void Device::cancel_queues() {
  canceling_ = true;
  abort_idle();
}

void Device::kill() {
  cancel_queues();
  take_back_requests(Tag::State::kOrphaned, has(abi::kFlagUserRecoveryReissue) && !stopping_);
  check_drained();
}

void Device::fail_waiting(int result) {
  std::deque<std::unique_ptr<BlockRequest>> failed;
  for (Queue& queue : queues_) {
    std::move(queue.waiting.begin(), queue.waiting.end(), std::back_inserter(failed));
    queue.waiting.clear();
  }
  for (const auto& request : failed) request->done(result);
}

// ------------------------------------------------------------ server and recovery --

ublk::UniqueFd Device::open() {
  if (deleted_) {
    errno = ENOENT;
    return {};
  }
  ublk::UniqueFd fd = node_->open();
  if (fd) server_ = getpid();
  return fd;
}

void Device::released() {
  server_ = 0;
  reset_queues();
  if (disk_ == nullptr) return;
  if (stopping_ || !has(abi::kFlagUserRecovery)) {
    take_back_requests(Tag::State::kUnfetched, false);
    fail_waiting(-EIO);
    if (stopping_)
      check_drained();
    else
      drop_disk();
    canceling_ = false;
    return;
  }
  const bool fail_io = has(abi::kFlagUserRecoveryFailIo);
  set_state(fail_io ? DeviceState::kFailIo : DeviceState::kQuiesced);
  take_back_requests(Tag::State::kUnfetched, has(abi::kFlagUserRecoveryReissue));
  if (fail_io) fail_waiting(-EREMOTEIO);
}

// The commands of idle tags ended with the server's ring.
void Device::reset_queues() {
  canceling_ = false;
  for (Queue& queue : queues_) {
    queue.daemon = 0;
    for (const uint16_t number : std::exchange(queue.idle, {})) {
      Tag& tag = queue.tags[number];
      tag.state = Tag::State::kUnfetched;
      if (tag.command != nullptr) loop_.forget(*std::exchange(tag.command, nullptr));
    }
    for (Tag& tag : queue.tags)
      if (tag.state == Tag::State::kOrphaned) tag.state = Tag::State::kUnfetched;
    if (queue.fetch != nullptr) loop_.forget(*std::exchange(queue.fetch, nullptr));
    queue.handed.clear();
  }
}

// What the dead server had not completed.
void Device::take_back_requests(Tag::State left, bool reissue) {
  std::vector<std::unique_ptr<BlockRequest>> failed;
  for (Queue& queue : queues_) {
    for (Tag& tag : queue.tags) {
      if (tag.state != Tag::State::kServer) continue;
      tag.state = left;
      if (left == Tag::State::kUnfetched) tag.buffer_index = -1;
      --queue.in_flight;
      if (reissue)
        queue.waiting.push_front(std::move(tag.request));
      else
        failed.push_back(std::move(tag.request));
    }
  }
  for (const auto& request : failed) request->done(-EIO);
}

int Device::start_recovery() {
  if (!has(abi::kFlagUserRecovery)) return -EINVAL;
  if (opened() || (state() != DeviceState::kQuiesced && state() != DeviceState::kFailIo))
    return -EBUSY;
  return 0;
}

int Device::quiesce() {
  if (!has(abi::kFlagQuiesce)) return -EOPNOTSUPP;
  if (disk_ == nullptr) return -ENODEV;
  if (state() == DeviceState::kLive) cancel_queues();
  return 0;
}

}  // namespace fake
