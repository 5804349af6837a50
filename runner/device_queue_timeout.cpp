// SPDX-License-Identifier: MIT
#include "device_queue_timeout.h"

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <new>
#include <utility>

#include "log.h"
#include "turn_clock.h"

namespace ublk_runner {

namespace abi = ublk::abi;

namespace {

constexpr uint64_t kLooksInLimit = 4;
constexpr const char* kTooMany = "it is not failed yet, too many are";
constexpr uint64_t kOrphanInterval = 100'000'000;  // the memory that they hold may be wanted

const char* operation_name(uint8_t op) {
  const size_t operation = operation_index(op);
  return operation == kNoOperation ? "operation" : kOperations[operation].name;
}

}  // namespace

DeviceQueue::Timeouts::Timeouts(DeviceQueue& queue)
    : ublk_timer{},
      queue_(queue),
      limit_(static_cast<uint64_t>(queue.handler_.io_timeout.count())),
      seen_(queue.depth_),
      current_(queue.depth_) {}

void DeviceQueue::Timeouts::begin() {
  buffer_bytes_ = queue_.queue_->node().info().max_io_buf_bytes;
  fired = [](ublk_timer* timer) { static_cast<Timeouts*>(timer)->look(); };
  arm();
}

void DeviceQueue::Timeouts::end() { queue_.thread_.timers().cancel(*this); }

void DeviceQueue::Timeouts::arm() {
  uint64_t interval = limit_ / kLooksInLimit;
  if (!orphans_.empty() || !claimed_.empty()) interval = std::min(interval, kOrphanInterval);
  queue_.thread_.timers().set(*this, interval, this);
}

// ----------------------------------------------------------------------- look --

void DeviceQueue::Timeouts::look() {
  now_ = monotonic_nanoseconds();
  ++looks_;
  if (queue_.queue_ != nullptr && queue_.queue_->in_flight() != queue_.nr_held_) {
    look_at_tags();
    if (queue_.handler_.workers != nullptr) look_at_workers();
  }
  fail_claimed();
  arm();
  // The queue may be closed, and gone, with the last one.
  release_answered();
}

void DeviceQueue::Timeouts::look_at_tags() {
  for (uint16_t number = 0; number < queue_.depth_; ++number) {
    Tag& tag = queue_.tag_for(number);
    const uint32_t awaited = tag.awaited.load(std::memory_order_acquire);
    if (tag.waiting) {
      if (!is_too_long(number, Place::kBuffer, tag.submissions)) continue;
      const bool fails = queue_.handler_.fails_late_requests;
      tell(number, Place::kBuffer, fails ? "it fails" : "it goes on");
      if (fails) fail_waiting(tag);
    } else if (awaited != 0 && (awaited & Tag::kTooLate) == 0 &&
               is_too_long(number, Place::kHandler, static_cast<uint16_t>(awaited))) {
      exceeded_by_handler(tag, number, static_cast<uint16_t>(awaited));
    }
  }
}

// Of the device's queued items those that are of this queue.
void DeviceQueue::Timeouts::look_at_workers() {
  const bool fails = queue_.handler_.fails_late_requests;
  std::vector<uint16_t> exceeded;
  WorkerPool::ItemList failed = queue_.handler_.workers->drop_queued([&](WorkerPool::Item& item) {
    const Tag& tag = static_cast<Tag&>(item);
    if (tag.queue != &queue_) return false;
    const uint16_t number = tag.request.tag;
    if (!is_too_long(number, Place::kWorker, tag.submissions)) return false;
    exceeded.push_back(number);
    return fails;
  });
  for (const uint16_t number : exceeded)
    tell(number, Place::kWorker, fails ? "it fails" : "it goes on");
  while (WorkerPool::Item* item = failed.pop()) {
    Tag& tag = static_cast<Tag&>(*item);
    tag.spoilt = true;  // the handler has not seen it
    fail(tag.whole);
  }
}

// True once, for a tag that was found there in each look since the limit; once more if it could not
// be failed then.
bool DeviceQueue::Timeouts::is_too_long(uint16_t number, Place place, uint16_t submission) {
  Seen& seen = seen_[number];
  const bool same = seen.look + 1 == looks_ && seen.place == place && seen.submission == submission;
  if (!same) seen = {looks_, now_, submission, place, false, false};
  seen.look = looks_;
  if (seen.postponed) return has_room();
  if (seen.told || now_ - seen.since < limit_) return false;
  seen.told = true;
  counters().exceeded.add(1);
  return true;
}

// From the descriptor, for another thread may have the rest.
void DeviceQueue::Timeouts::tell(uint16_t number, Place place, const char* consequence) {
  uint64_t skipped = 0;
  if (!complaints_.allow(skipped)) return;
  const abi::IoDesc& io = queue_.queue_->node().descriptors(queue_.index_)[number];
  constexpr const char* kWhere[] = {"", "waits for a buffer", "waits for a worker",
                                    "is not answered"};
  log(LogLevel::kWarning, queue_.handler_.device,
      "handler %s: %s of %" PRIu32 " bytes at sector %" PRIu64
      " %s for %.1f s, tag %u of queue %u: %s; %" PRIu64 " requests so far (%" PRIu64
      " more were not logged)",
      queue_.handler_.table.name, operation_name(static_cast<uint8_t>(io.op_flags & abi::kOpMask)),
      io.nr_sectors * abi::kSectorSize, io.start_sector, kWhere[static_cast<size_t>(place)],
      static_cast<double>(now_ - seen_[number].since) * 1e-9, number, queue_.index_, consequence,
      counters().exceeded.get(), skipped);
}

// ----------------------------------------------------------------------- fail --

// The tag's next request must not be taken for this one, whose submission may have the same number.
void DeviceQueue::Timeouts::fail(ublk::Request& request) {
  seen_[request.tag()].place = Place::kNone;
  counters().failures.add(1);
  request.complete(-ETIMEDOUT);
}

void DeviceQueue::Timeouts::fail_waiting(Tag& tag) {
  queue_.thread_.buffers().cancel(*queue_.waiter(tag.request.tag));
  tag.waiting = false;
  --queue_.nr_waiting_;
  fail(tag.whole);
}

void DeviceQueue::Timeouts::exceeded_by_handler(Tag& tag, uint16_t number, uint16_t submission) {
  const char* obstacle = nullptr;
  if (!queue_.handler_.fails_late_requests)
    obstacle = "it goes on";
  else if (queue_.zero_copy_ && tag.has_data && tag.request.buffer_index >= 0)
    obstacle = "it can't be failed, its memory is that of whoever uses the device";
  else if (!has_room())
    obstacle = kTooMany;
  seen_[number].postponed = obstacle == kTooMany;
  tell(number, Place::kHandler, obstacle != nullptr ? obstacle : "it fails");
  if (obstacle != nullptr) return;
  uint32_t expected = submission;
  // Sequentially consistent: see DataMove.
  if (tag.awaited.compare_exchange_strong(expected, submission | Tag::kTooLate,
                                          std::memory_order_seq_cst))
    claimed_.push_back(&tag);
}

std::vector<DeviceQueue::Tag*> DeviceQueue::Timeouts::take_claimed() {
  fail_claimed();
  return std::exchange(claimed_, {});
}

void DeviceQueue::Timeouts::fail_claimed() {
  const std::vector<Tag*> claimed = std::exchange(claimed_, {});
  for (Tag* tag : claimed) fail_claimed(*tag);
}

// What the handler has of the request stays as it is from here on.
void DeviceQueue::Timeouts::fail_claimed(Tag& tag) {
  const uint16_t number = queue_.number_of(tag);
  if (tag.moving.load(std::memory_order_seq_cst) != 0) {
    claimed_.push_back(&tag);
    return;
  }
  // Acquire: whoever has answered meanwhile does nothing with it any more.
  if (tag.awaited.load(std::memory_order_acquire) == 0) {
    counters().late_answers.add(1);
    tag.spoilt = true;
    fail(tag.whole);
    return;
  }
  try {
    put_aside(tag, number);
  } catch (const std::exception&) {
    // It is the handler's until there is memory, be it the handler's own.
    claimed_.push_back(&tag);
    return;
  }
  fail(tag.whole);
}

void DeviceQueue::Timeouts::put_aside(Tag& tag, uint16_t number) {
  orphans_.reserve(orphans_.size() + 1);
  Tag& stand_in = take_stand_in(number);
  std::byte* buffer = tag.whole.buffer();
  if (buffer != nullptr && queue_.mode_ == ublk::BufferMode::kCopy)
    queue_.queue_->replace_io_buffer(number, take_buffer(number));
  else if (buffer != nullptr)
    tag.whole.set_buffer(nullptr);
  orphans_.push_back({&tag, buffer});
  stand_in.spoilt = true;
  queue_.tags_[number].replaced = stand_in.is_stand_in;
  current_[number] = &stand_in;
}

// One that nobody has: the tag's first, or one that was made for it, or a new one.
DeviceQueue::Tag& DeviceQueue::Timeouts::take_stand_in(uint16_t number) {
  const auto is_idle = [this, number](const Tag& tag) {
    return &tag != &queue_.tag_for(number) &&
           std::none_of(orphans_.begin(), orphans_.end(),
                        [&tag](const Orphan& orphan) { return orphan.tag == &tag; });
  };
  if (is_idle(queue_.tags_[number])) return queue_.tags_[number];
  for (const AnonymousMemory& memory : stand_ins_) {
    Tag& tag = *reinterpret_cast<StandIn*>(memory.get());
    if (number_of(tag) == number && is_idle(tag)) return tag;
  }
  stand_ins_.emplace_back(sizeof(StandIn) + queue_.scratch_stride_);
  auto& made = *reinterpret_cast<StandIn*>(stand_ins_.back().get());
  made.is_stand_in = true;
  made.number = number;
  return made;
}

uint16_t DeviceQueue::Timeouts::number_of(const Tag& tag) {
  return static_cast<const StandIn&>(tag).number;
}

std::byte* DeviceQueue::Timeouts::scratch_of(const Tag& tag) {
  auto& stand_in = const_cast<StandIn&>(static_cast<const StandIn&>(tag));
  return reinterpret_cast<std::byte*>(&stand_in + 1);
}

// For the tag in copy mode. Throws std::exception: there is none.
std::byte* DeviceQueue::Timeouts::take_buffer(uint16_t number) {
  if (queue_.buffers_.get() == nullptr)
    return queue_.alloc_io_buffer(*queue_.queue_, number, buffer_bytes_);
  if (!queue_.spare_buffers_.empty()) {
    std::byte* buffer = queue_.spare_buffers_.back();
    queue_.spare_buffers_.pop_back();
    return buffer;
  }
  queue_.more_buffers_.emplace_back(buffer_bytes_);
  return queue_.more_buffers_.back().get();
}

// --------------------------------------------------------------------- orphans --

void DeviceQueue::Timeouts::cancel_orphans() {
  const ublk_handler& table = queue_.handler_.table;
  if (table.cancel == nullptr) return;
  for (const Orphan& orphan : orphans_)
    if (orphan.tag->awaited.load(std::memory_order_acquire) != 0)
      table.cancel(queue_.handler_.instance, &queue_, &orphan.tag->request);
}

void DeviceQueue::Timeouts::release_answered() {
  if (orphans_.empty()) return;
  std::erase_if(orphans_, [this](const Orphan& orphan) {
    // Acquire: whoever has answered it does nothing with it any more.
    if (orphan.tag->awaited.load(std::memory_order_acquire) != 0) return false;
    release(orphan);
    return true;
  });
  if (orphans_.empty() && queue_.queue_ == nullptr && queue_.life_ == Life::kServing)
    queue_.close_handler_queue();
}

void DeviceQueue::Timeouts::release(const Orphan& orphan) {
  counters().late_answers.add(1);
  if (orphan.buffer == nullptr) return;
  if (queue_.mode_ != ublk::BufferMode::kCopy)
    queue_.thread_.buffers().release(*queue_.handler_.buffers, orphan.buffer);
  else if (queue_.buffers_.get() != nullptr)
    queue_.spare_buffers_.push_back(orphan.buffer);
  else
    queue_.handler_.table.free_io_buffer(queue_.handler_.instance, &queue_,
                                         queue_.number_of(*orphan.tag), orphan.buffer,
                                         buffer_bytes_);
}

}  // namespace ublk_runner
