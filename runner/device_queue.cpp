// SPDX-License-Identifier: MIT
#include "device_queue.h"

#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <new>
#include <utility>

#include "device_queue_tag.h"
#include "host.h"
#include "log.h"

namespace ublk_runner {

namespace abi = ublk::abi;

namespace {

constexpr int kMaxErrno = 4095;
constexpr size_t kScratchAlignment = 64;

// A request id: the submission in the top bits, which user-space addresses leave free, above the
// address of the tag. The next submission of the tag has another id.
constexpr unsigned kIdShift = 48;

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
      events_(std::move(events)) {}

// Every request has been completed, so no Tag holds anything that would need its destructor.
DeviceQueue::~DeviceQueue() = default;

void DeviceQueue::open(std::shared_ptr<ublk::DeviceNode> node, std::shared_ptr<void> alive) {
  alive_ = std::move(alive);
  const ublk_handler& table = handler_.table;
  if (table.queue_open != nullptr) {
    clear_callback_error();
    if (const int rc = table.queue_open(instance_, this, &handler_data_); rc != 0) {
      life_ = Life::kClosing;
      auto error = callback_error("queue_open", rc);
      events_.released();
      handler_closed();
      throw error;
    }
  }
  life_ = Life::kServing;
  mode_ = ublk::buffer_mode(node->info());
  copies_ = mode_ == ublk::BufferMode::kUserCopy && !moves_data_;
  tag_buffer_flag_ = mode_ == ublk::BufferMode::kCopy ? uint32_t{UBLK_REQUEST_TAG_BUFFER} : 0;
  zero_copy_ = (node->info().flags & abi::kFlagAutoBufReg) != 0;
  commits_anywhere_ = (node->info().flags & abi::kFlagBatchIo) != 0 && !zero_copy_ &&
                      (mode_ == ublk::BufferMode::kCopy || handler_.buffers == nullptr);
  if (moves_data_ || zero_copy_) node_ = node;
  try {
    if (handler_.buffers != nullptr) waiters_ = AnonymousMemory(depth_ * sizeof(BufferWaiter));
    queue_ = &thread_.ring().attach(std::move(node), index_, *this);
  } catch (...) {
    node_.reset();
    events_.released();
    close_handler_queue();
    throw;
  }
}

void DeviceQueue::failed(ublk::Queue&, uint16_t tag, int error) { events_.failed(tag, error); }

void DeviceQueue::stopped(ublk::Queue&) {
  queue_ = nullptr;
  if (zero_copy_)
    log(LogLevel::kDebug, handler_.device,
        "queue %u: %" PRIu64 " requests with zero copy, %" PRIu64 " fell back to a copy", index_,
        nr_registered_, nr_fallen_back_);
  // A handler that has not answered may still move data, with this descriptor.
  const bool close = life_ == Life::kServing;
  if (close) node_.reset();
  events_.released();
  // An abandoned queue may be gone by now, with its handler.
  if (close) close_handler_queue();
}

void DeviceQueue::close_handler_queue() {
  life_ = Life::kClosing;
  const ublk_handler& table = handler_.table;
  const int rc =
      table.queue_close == nullptr ? 0 : table.queue_close(instance_, this, handler_data_);
  if (rc != UBLK_PENDING) handler_closed();
}

void DeviceQueue::handler_closed() {
  if (life_ != Life::kClosing) return;
  life_ = Life::kClosed;
  if (const unsigned left = thread_.timers().cancel_all(static_cast<ublk_queue*>(this)); left != 0)
    log(LogLevel::kWarning, handler_.device, "%s has left %u timers of queue %u set",
        handler_.table.name, left, index_);
  // With it this object may go, at the end of this function.
  const std::shared_ptr<void> alive = std::move(alive_);
  events_.closed();
}

// ------------------------------------------------------------- every request --

void DeviceQueue::submit(ublk::Request request) {
  Tag& tag = tags_[request.tag()];
  tag.whole = std::move(request);
  if (intake_ == Intake::kOpen) [[likely]]
    dispatch(tag);
  else
    set_aside(tag);
}

void DeviceQueue::dispatch(Tag& tag) {
  const ublk::Request& whole = tag.whole;
  const auto op = static_cast<uint8_t>(whole.op());
  const uint64_t sector = whole.sector();
  const uint32_t sectors = whole.sectors();
  if (const int error = check(op, sector, sectors); error != 0) [[unlikely]] {
    tag.spoilt |= op == UBLK_OP_WRITE;
    tag.whole.complete(error);
    return;
  }
  const uint32_t op_flags = whole.op_flags();
  const auto number = static_cast<uint16_t>(&tag - tags_);
  tag.queue = this;
  tag.has_data = op == UBLK_OP_READ || op == UBLK_OP_WRITE;
  tag.length = sectors * abi::kSectorSize;
  tag.left = tag.length;

  ublk_request& request = tag.request;
  request.offset = op == UBLK_OP_FLUSH ? 0 : sector * abi::kSectorSize;
  request.length = tag.length;
  request.flags = ((op_flags & abi::kIoFlagFua) != 0 ? uint32_t{UBLK_REQUEST_FUA} : 0) |
                  ((op_flags & abi::kIoFlagNoUnmap) != 0 ? uint32_t{UBLK_REQUEST_NO_UNMAP} : 0);
  request.op = op;
  request.tag = number;
  request.buffer = nullptr;
  request.buffer_index = -1;
  request.scratch = scratch_stride_ == 0 ? nullptr : scratch_ + number * scratch_stride_;
  if (tag.has_data) {
    request.buffer = whole.buffer();
    if (!std::exchange(tag.spoilt, false)) request.flags |= tag_buffer_flag_;
    if (zero_copy_ && find_registered(tag)) return start(tag);
    if (request.buffer == nullptr && handler_.buffers != nullptr) return get_buffer(tag);
  }
  start(tag);
}

bool DeviceQueue::find_registered(Tag& tag) {
  tag.request.buffer_index = tag.whole.buffer_index();
  const bool registered = tag.request.buffer_index >= 0;
  ++(registered ? nr_registered_ : nr_fallen_back_);
  return registered;
}

// The request has its data, or memory for it.
void DeviceQueue::ready(Tag& tag) {
  if (intake_ == Intake::kOpen) [[likely]]
    start(tag);
  else
    set_aside(tag);
}

void DeviceQueue::start(Tag& tag) {
  if (handler_.workers == nullptr) [[likely]] {
    serve(tag);
  } else {
    tag.run = run_on_worker;
    thread_.feeder().add(*handler_.workers, tag);
    if (!commits_anywhere_) thread_.expect_answer();
  }
}

int DeviceQueue::check(uint8_t op, uint64_t sector, uint64_t sectors) const {
  if (op >= 32 || (rules_.operations >> op & 1) == 0)
    return rules_.read_only && op != UBLK_OP_READ && op != UBLK_OP_FLUSH ? -EROFS : -EOPNOTSUPP;
  if (op == UBLK_OP_FLUSH) return 0;
  const bool inside =
      sectors != 0 && sectors <= rules_.sectors && sector <= rules_.sectors - sectors;
  const bool aligned = ((sector | sectors) & (rules_.block_sectors - 1)) == 0;
  const bool countable = sectors <= UINT32_MAX / abi::kSectorSize;  // in bytes
  return inside && aligned && countable ? 0 : -EIO;
}

// Submits what is left of the request until all is done or the answer is to come later.
void DeviceQueue::serve(Tag& tag) {
  for (;;) {
    const uint16_t submission = next_submission(tag, std::memory_order_release);
    const int result = submit_(instance_, this, &tag.request);
    // With UBLK_PENDING the tag is somebody else's, and perhaps done already.
    if (result == UBLK_PENDING) return;
    if (!claim(tag, submission)) [[unlikely]] {
      complain("returned a result from submit for a request that it had completed", tag, result);
      return;
    }
    if (!settle(tag, result, nullptr)) return;
    take_rest(tag);
  }
}

void DeviceQueue::serve_rest(Tag& tag) {
  if (intake_ == Intake::kRefused) {
    tag.whole.complete(-EIO);
    return;
  }
  take_rest(tag);
  start(tag);
}

// On a worker. Either abandon() sees here what is awaited, or it is seen here that it has run: each
// stores its own word before it loads the other's, all of that in one order.
void DeviceQueue::run_on_worker(WorkerPool::Item& item) noexcept {
  Tag& tag = static_cast<Tag&>(item);
  DeviceQueue& queue = *tag.queue;
  const bool first = tag.left == tag.length;
  if (queue.copies_ && tag.request.op == UBLK_OP_WRITE && first) {
    if (const int error = queue.copy_here(tag); error != 0) {
      tag.whole.complete(error);
      return;
    }
  }
  const uint16_t submission = next_submission(tag, std::memory_order_seq_cst);
  if (queue.abandoned_.load(std::memory_order_seq_cst)) {
    if (claim(tag, submission)) tag.whole.complete(-EIO);
    return;
  }
  const int result = queue.submit_(queue.instance_, &queue, &tag.request);
  if (result == UBLK_PENDING) return;
  if (claim(tag, submission)) [[likely]]
    queue.settle_elsewhere(tag, result, &WorkerPool::completions());
  else
    queue.complain("returned a result from submit for a request that it had completed", tag,
                   result);
}

void DeviceQueue::drop(WorkerPool::Item& item) { static_cast<Tag&>(item).whole.complete(-EIO); }

void DeviceQueue::take_rest(Tag& tag) {
  const uint32_t done = tag.length - tag.left;
  tag.request.offset = tag.whole.offset() + done;
  tag.request.length = tag.left;
  if (std::byte* buffer = tag.whole.buffer())
    tag.request.buffer = buffer + done;
  else if (tag.request.buffer_index >= 0)
    tag.request.buffer = reinterpret_cast<void*>(uintptr_t{done});
}

// Gives the request its id, under which it can be completed from now on.
uint16_t DeviceQueue::next_submission(Tag& tag, std::memory_order order) {
  if (++tag.submissions == 0) tag.submissions = 1;
  tag.request.id = uint64_t{tag.submissions} << kIdShift | reinterpret_cast<uint64_t>(&tag);
  // Release at least: a thread that gets the id from the handler, and claims it, sees all of the
  // tag. With UBLK_PENDING it may be the next request's when submit() has returned.
  const uint16_t submission = tag.submissions;
  tag.awaited.store(submission, order);
  return submission;
}

bool DeviceQueue::claim(Tag& tag, uint16_t submission) {
  return tag.awaited.compare_exchange_strong(submission, 0, std::memory_order_acq_rel,
                                             std::memory_order_relaxed);
}

// Takes the result of a claimed submission. True if a rest is to be submitted; else the request is
// completed, and the tag may have its next one.
bool DeviceQueue::settle(Tag& tag, int result, ublk::CompletionBatch* batch) {
  if (result >= 0 && !tag.has_data) {
    tag.whole.complete(0, batch);
    return false;
  }
  if (result > 0 && static_cast<uint32_t>(result) <= tag.left) {
    tag.left -= static_cast<uint32_t>(result);
    if (tag.left != 0) return true;
    if (copies_ && tag.request.op == UBLK_OP_READ && tag.whole.buffer() != nullptr)
      finish_copied_read(tag, static_cast<int>(tag.length), batch);
    else
      tag.whole.complete(static_cast<int>(tag.length), batch);
    return false;
  }
  if (result > 0 || result < -kMaxErrno) {
    complain("gave a result that is none", tag, result);
    result = -EIO;
  }
  tag.whole.complete(result == 0 ? -EIO : result, batch);
  return false;
}

int DeviceQueue::complete(uint64_t request_id, int32_t result) noexcept {
  if (request_id == 0) return -EALREADY;
  Tag& tag = tag_of(request_id);
  DeviceQueue& queue = *tag.queue;
  if (!claim(tag, static_cast<uint16_t>(request_id >> kIdShift))) [[unlikely]] {
    queue.complain("completed a request that was not waiting", tag, result);
    return -EALREADY;
  }
  queue.settle_elsewhere(tag, result, nullptr);
  return 0;
}

// A rest is never submitted from here, not even on the queue's thread: handlers don't expect
// submit() inside of complete(), and it could go on like that as deep as the request is long.
void DeviceQueue::settle_elsewhere(Tag& tag, int result, ublk::CompletionBatch* batch) {
  if (!settle(tag, result, batch)) [[likely]]
    return;
  try {
    thread_.post([this, &tag] { serve_rest(tag); });
  } catch (const std::bad_alloc&) {
    tag.whole.complete(-ENOMEM);
  }
}

DeviceQueue::Tag& DeviceQueue::tag_of(uint64_t request_id) {
  return *reinterpret_cast<Tag*>(request_id & ((uint64_t{1} << kIdShift) - 1));
}

const DeviceQueue::Tag* DeviceQueue::waiting_for(uint64_t request_id) {
  const Tag& tag = tag_of(request_id);
  const auto submission = static_cast<uint16_t>(request_id >> kIdShift);
  return tag.awaited.load(std::memory_order_acquire) == submission ? &tag : nullptr;
}

void DeviceQueue::complain(const char* what, const Tag& tag, int result) {
  uint64_t skipped = 0;
  if (!complaints_.allow(skipped)) return;
  // The rest of the tag may be the next request's by now.
  const auto number = &tag - tags_;
  log(LogLevel::kError, handler_.device,
      "handler %s %s: tag %td of queue %u, result %d (%" PRIu64 " more were not logged)",
      handler_.table.name, what, number, index_, result, skipped);
}

// ------------------------------------------------------------------- holding --

void DeviceQueue::hold() { intake_ = Intake::kHeld; }

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
  intake_ = Intake::kOpen;
  take_held([this](Tag& tag) { dispatch(tag); });
}

void DeviceQueue::refuse() {
  intake_ = Intake::kRefused;
  take_held([](Tag& tag) { tag.whole.complete(-EIO); });
  fail_waiting();
}

unsigned DeviceQueue::abandon() {
  unsigned abandoned = 0;
  abandoned_.store(true, std::memory_order_seq_cst);  // see run_on_worker()
  for (uint16_t i = 0; i < depth_; ++i) {
    Tag& tag = tags_[i];
    const uint16_t submission = tag.awaited.load(std::memory_order_seq_cst);
    if (submission == 0 || !claim(tag, submission)) continue;
    life_ = Life::kAbandoned;
    tag.abandoned = true;
    tag.whole.complete(-EIO);
    ++abandoned;
  }
  // The handler may still try to read and write what it knows as its requests' data.
  if (abandoned != 0 && queue_ != nullptr) queue_->keep_buffer_slots();
  return abandoned;
}

unsigned DeviceQueue::dispatched() const {
  return queue_ == nullptr ? 0 : queue_->in_flight() - nr_held_;
}

void DeviceQueue::when_drained(std::function<void()> drained) {
  if (queue_ != nullptr) queue_->tell_of_completions(true);
  thread_.before_sleep([this, alive = alive_, drained = std::move(drained)] {
    if (dispatched() != 0) return false;
    drained();
    return true;
  });
}

}  // namespace ublk_runner
