// SPDX-License-Identifier: MIT
//
// How a DeviceQueue begins and ends, and what becomes of its requests while it is held.
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <stdexcept>
#include <string>
#include <utility>

#include "device_queue.h"
#include "device_queue_tag.h"
#include "device_queue_timeout.h"
#include "host.h"
#include "log.h"

namespace ublk_runner {

namespace {

constexpr size_t kScratchAlignment = 64;

constexpr size_t round_up(size_t size, size_t alignment) {
  return (size + alignment - 1) / alignment * alignment;
}

}  // namespace
// --------------------------------------------------------------------- life --

DeviceQueue::DeviceQueue(Handler handler, QueueThread& thread, uint16_t index, uint16_t depth,
                         const RequestRules& rules, DeviceQueueEvents events)
    : scratch_stride_(round_up(handler.table.request_private_size, kScratchAlignment)),
      memory_(depth * (sizeof(Tag) + scratch_stride_)),
      tags_(reinterpret_cast<Tag*>(memory_.get())),
      scratch_(memory_.get() + depth * sizeof(Tag)),
      submit_(handler.table.submit),
      instance_(handler.instance),
      rules_(rules),
      index_(index),
      depth_(depth),
      handler_(std::move(handler)),
      moves_data_(handler_.table.flags & UBLK_HANDLER_MOVES_DATA),
      thread_(thread),
      events_(std::move(events)),
      statistics_(handler_.statistics != nullptr ? handler_.statistics
                                                 : std::make_shared<QueueStatistics>(index, depth)),
      timeouts_(handler_.io_timeout.count() == 0 ? nullptr : std::make_unique<Timeouts>(*this)) {}

// Every request has been completed, so no Tag holds anything that would need its destructor.
DeviceQueue::~DeviceQueue() = default;

void DeviceQueue::open_handler_queue() {
  const ublk_handler& table = handler_.table;
  if (table.queue_open != nullptr) {
    clear_callback_error();
    if (const int rc = table.queue_open(handler_.instance, this, &handler_data_); rc != 0) {
      life_ = Life::kClosing;
      auto error = callback_error("queue_open", rc);
      handler_closed();
      throw error;
    }
  }
  life_ = Life::kServing;
}

// How the data of the device's requests gets here; memory for what waits.
void DeviceQueue::use_node(const std::shared_ptr<ublk::DeviceNode>& node) {
  mode_ = ublk::buffer_mode(node->info());
  copies_ = mode_ == ublk::BufferMode::kUserCopy && !moves_data_;
  uses_pool_ = handler_.buffers != nullptr && (mode_ == ublk::BufferMode::kGetData || copies_);
  tag_buffer_flag_ = mode_ == ublk::BufferMode::kCopy ? uint32_t{UBLK_REQUEST_TAG_BUFFER} : 0;
  zero_copy_ = handler_.zero_copy && ublk::zero_copy(node->info()) != ublk::ZeroCopy::kNone;
  if (moves_data_ || zero_copy_) node_ = node;
  if (handler_.buffers != nullptr) waiters_ = AnonymousMemory(depth_ * sizeof(BufferWaiter));
}

void DeviceQueue::open(std::shared_ptr<ublk::DeviceNode> node, std::shared_ptr<void> alive) {
  alive_ = std::move(alive);
  try {
    open_handler_queue();
  } catch (...) {
    events_.released();
    throw;
  }
  try {
    use_node(node);
    queue_ = &thread_.ring().attach(std::move(node), index_, *this);
    if (timeouts_ != nullptr) timeouts_->begin();
  } catch (...) {
    node_.reset();
    events_.released();
    close_handler_queue();
    throw;
  }
}

void DeviceQueue::take_over(DeviceQueue& predecessor, std::shared_ptr<void> alive) {
  alive_ = std::move(alive);
  open_handler_queue();
  try {
    if (predecessor.queue_ == nullptr)
      throw std::runtime_error("the kernel has released queue " + std::to_string(index_));
    use_node(predecessor.queue_->shared_node());
  } catch (...) {
    node_.reset();
    close_handler_queue();
    throw;
  }
  queue_ = std::exchange(predecessor.queue_, nullptr);
  queue_->set_backend(*this);
  take_over_statistics(predecessor);
  buffers_ = std::move(predecessor.buffers_);
  more_buffers_ = std::move(predecessor.more_buffers_);
  spare_buffers_ = std::move(predecessor.spare_buffers_);
  if (timeouts_ != nullptr) timeouts_->begin();
  hold();
  predecessor.take_held([this](Tag& held) {
    Tag& tag = tag_for(held.whole.tag());
    tag.queue = this;
    tag.whole = std::move(held.whole);
    give_back_copy(tag);
    set_aside(tag);
  });
  // This handler knows nothing of what is in the tags' buffers.
  for (uint16_t tag = 0; tag < depth_; ++tag) tags_[tag].spoilt = true;
  predecessor.node_.reset();
  predecessor.close_handler_queue();
}

void DeviceQueue::failed(ublk::Queue&, uint16_t tag, int error) { events_.failed(tag, error); }

void DeviceQueue::stopped(ublk::Queue&) {
  use_statistics(false);
  queue_ = nullptr;
  if (zero_copy_)
    log(LogLevel::kDebug, handler_.device,
        "queue %u: %" PRIu64 " requests with zero copy, %" PRIu64 " fell back to a copy", index_,
        nr_registered_, nr_fallen_back_);
  // A handler that has not answered may still move data, with this descriptor.
  const bool close = life_ == Life::kServing;
  if (close) node_.reset();
  if (timeouts_ != nullptr && !close) timeouts_->end();
  // Once that has answered what it was too late for, the queue is closed.
  const bool busy = timeouts_ != nullptr && timeouts_->nr_orphans() != 0;
  if (close && busy) timeouts_->cancel_orphans();
  events_.released();
  // An abandoned queue may be gone by now, with its handler.
  if (close && !busy) close_handler_queue();
}

void DeviceQueue::close_handler_queue() {
  life_ = Life::kClosing;
  const ublk_handler& table = handler_.table;
  const int rc =
      table.queue_close == nullptr ? 0 : table.queue_close(handler_.instance, this, handler_data_);
  if (rc != UBLK_PENDING) handler_closed();
}

void DeviceQueue::handler_closed() {
  if (life_ != Life::kClosing) return;
  life_ = Life::kClosed;
  if (timeouts_ != nullptr) timeouts_->end();
  if (const unsigned left = thread_.timers().cancel_all(static_cast<ublk_queue*>(this)); left != 0)
    log(LogLevel::kWarning, handler_.device, "%s has left %u timers of queue %u set",
        handler_.table.name, left, index_);
  // With it this object may go, at the end of this function.
  const std::shared_ptr<void> alive = std::move(alive_);
  events_.closed();
}

// ------------------------------------------------------------------- holding --

void DeviceQueue::set_intake(Intake intake) {
  intake_ = intake;
  dispatches_all_ = intake == Intake::kOpen && statistics() == nullptr;
}

void DeviceQueue::hold() {
  set_intake(Intake::kHeld);
  hold_waiting();
}

void DeviceQueue::set_aside(Tag& tag) {
  if (intake_ == Intake::kRefused) {
    tag.whole.complete(-EIO);
    return;
  }
  tag.next_held = nullptr;
  *last_held_ = &tag;
  last_held_ = &tag.next_held;
  ++nr_held_;
}

template <class Visit>
void DeviceQueue::take_held(Visit visit) {
  Tag* tag = std::exchange(first_held_, nullptr);
  last_held_ = &first_held_;
  nr_held_ = 0;
  while (tag != nullptr) {
    Tag* next = tag->next_held;
    visit(*tag);
    tag = next;
  }
}

void DeviceQueue::release() {
  set_intake(Intake::kOpen);
  if (queue_ != nullptr) queue_->tell_of_completions(false);  // nobody waits until it is drained
  take_held([this](Tag& tag) { dispatch(tag); });
}

void DeviceQueue::refuse() {
  set_intake(Intake::kRefused);
  take_held([](Tag& tag) { tag.whole.complete(-EIO); });
  fail_waiting();
}

// Whoever completes a request meanwhile, its tag gets no other one before this has returned.
void DeviceQueue::cancel() {
  submits_no_more_.store(true, std::memory_order_seq_cst);  // see run_on_worker()
  const ublk_handler& table = handler_.table;
  if (table.cancel == nullptr) return;
  for (uint16_t i = 0; i < depth_; ++i) {
    Tag& tag = tag_for(i);
    if (tag.awaited.load(std::memory_order_seq_cst) != 0)
      table.cancel(handler_.instance, this, &tag.request);
  }
  if (timeouts_ != nullptr) timeouts_->cancel_orphans();
}

unsigned DeviceQueue::abandon() {
  unsigned abandoned = 0;
  const auto give_up = [this, &abandoned](Tag& tag) {
    life_ = Life::kAbandoned;
    tag.abandoned = true;
    ++abandoned;
    if (part_from_buffer(tag)) tag.whole.complete(-EIO);
  };
  submits_no_more_.store(true, std::memory_order_seq_cst);  // see run_on_worker()
  if (timeouts_ != nullptr)
    for (Tag* tag : timeouts_->take_claimed()) give_up(*tag);
  for (uint16_t i = 0; i < depth_; ++i) {
    Tag& tag = tag_for(i);
    const uint32_t awaited = tag.awaited.load(std::memory_order_seq_cst);
    if (awaited != 0 && claim(tag, static_cast<uint16_t>(awaited))) give_up(tag);
  }
  // The handler may still try to read and write what it knows as its requests' data.
  if (abandoned != 0 && queue_ != nullptr) queue_->keep_buffer_slots();
  return abandoned;
}

// The kernel copies the data of the tag's next write into the tag's buffer, and the handler may yet
// write out what is in there. False: there is no memory to give the kernel instead; then it must
// not have the tag.
bool DeviceQueue::part_from_buffer(const Tag& tag) {
  if (mode_ != ublk::BufferMode::kCopy) return true;
  try {
    if (refused_data_.get() == nullptr)
      refused_data_ = AnonymousMemory(queue_->node().info().max_io_buf_bytes);
  } catch (const std::bad_alloc&) {
    return false;
  }
  queue_->replace_io_buffer(number_of(tag), refused_data_.get());
  return true;
}

unsigned DeviceQueue::dispatched() const {
  const unsigned orphans = timeouts_ == nullptr ? 0 : timeouts_->nr_orphans();
  return orphans + (queue_ == nullptr ? 0 : queue_->in_flight() - nr_held_);
}

std::vector<uint64_t> DeviceQueue::unanswered() const {
  std::vector<uint64_t> numbers;
  for (uint16_t i = 0; i < depth_; ++i)
    if (const uint64_t awaited = tag_for(i).awaited.load(std::memory_order_acquire); awaited != 0)
      numbers.push_back(uint64_t{index_} << 48 | uint64_t{i} << 32 | awaited);
  return numbers;
}

void DeviceQueue::when_drained(std::function<void()> drained) {
  if (queue_ != nullptr) queue_->tell_of_completions(true);
  thread_.before_sleep([this, alive = alive_, drained = std::move(drained)] {
    if (dispatched() != 0) return false;
    if (queue_ != nullptr) queue_->tell_of_completions(false);
    drained();
    return true;
  });
}

}  // namespace ublk_runner
