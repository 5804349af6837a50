// SPDX-License-Identifier: MIT
#include "device_queue.h"

#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <new>
#include <utility>

#include "host.h"
#include "log.h"

namespace ublk_runner {

// A tag's request. All zero is an idle tag, so that memory of tags that never see a request is
// never touched.
//
// Who may touch it: the queue's thread, until submit() is called; then whoever wins the exchange of
// `awaited`, which says that a submission's result is still to come. It is won once, by submit()'s
// return or by one call of complete(), so a result that comes twice finds nothing.
struct alignas(64) DeviceQueue::Tag {
  ublk_request request;           // the handler's view of what is left to do
  ublk::Request handle;           // the whole request
  DeviceQueue* queue;             // set by the first request
  std::atomic<uint16_t> awaited;  // the submission whose result is to come; 0: none
  uint16_t submissions;           // counts them; never 0 in a request id
  uint32_t left;                  // bytes of a read or write still to do
  Tag* next_held;
};

namespace {

constexpr int kMaxErrno = 4095;
constexpr size_t kScratchAlignment = 64;

// A request id: the submission in the top bits, which user-space addresses leave free, above the
// address of the tag. The next submission of the tag has another id.
constexpr unsigned kIdShift = 48;

constexpr size_t round_up(size_t size, size_t alignment) {
  return (size + alignment - 1) / alignment * alignment;
}

bool has_data(uint8_t op) { return op == UBLK_OP_READ || op == UBLK_OP_WRITE; }

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
  try {
    queue_ = &thread_.ring().attach(std::move(node), index_, *this);
  } catch (...) {
    events_.released();
    close_handler_queue();
    throw;
  }
}

std::byte* DeviceQueue::alloc_io_buffer(ublk::Queue&, uint16_t tag, size_t bytes) {
  if (tag == 0) buffers_ = AnonymousMemory(depth_ * bytes);
  return buffers_.get() + tag * bytes;
}

void DeviceQueue::failed(ublk::Queue&, uint16_t tag, int error) { events_.failed(tag, error); }

void DeviceQueue::stopped(ublk::Queue&) {
  queue_ = nullptr;
  events_.released();
  if (life_ == Life::kServing) close_handler_queue();
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
  tag.handle = std::move(request);
  if (intake_ == Intake::kOpen) [[likely]]
    dispatch(tag);
  else
    set_aside(tag);
}

void DeviceQueue::dispatch(Tag& tag) {
  if (const int error = check(tag.handle); error != 0) [[unlikely]] {
    tag.handle.complete(error);
    return;
  }
  tag.queue = this;
  tag.left = tag.handle.length();
  serve(tag);
}

int DeviceQueue::check(const ublk::Request& request) const {
  const auto op = static_cast<uint32_t>(request.op());
  if (op >= 32 || (rules_.operations >> op & 1) == 0)
    return rules_.read_only && op != UBLK_OP_READ && op != UBLK_OP_FLUSH ? -EROFS : -EOPNOTSUPP;
  if (op == UBLK_OP_FLUSH) return 0;
  const uint64_t sector = request.sector();
  const uint64_t sectors = request.sectors();
  const bool inside =
      sectors != 0 && sectors <= rules_.sectors && sector <= rules_.sectors - sectors;
  const bool aligned = ((sector | sectors) & (rules_.block_sectors - 1)) == 0;
  return inside && aligned ? 0 : -EIO;
}

// Submits what is left of the request until all is done or the answer is to come later.
void DeviceQueue::serve(Tag& tag) {
  for (;;) {
    fill(tag);
    const uint16_t submission = tag.submissions;
    const int result = submit_(instance_, this, &tag.request);
    // With UBLK_PENDING the tag is somebody else's, and perhaps done already.
    if (result == UBLK_PENDING) return;
    if (!claim(tag, submission)) [[unlikely]] {
      complain("returned a result from submit for a request that it had completed", tag, result);
      return;
    }
    if (!settle(tag, result)) return;
  }
}

void DeviceQueue::serve_rest(Tag& tag) {
  if (life_ == Life::kAbandoned)
    tag.handle.complete(-EIO);
  else
    serve(tag);
}

void DeviceQueue::fill(Tag& tag) {
  const ublk::Request& handle = tag.handle;
  const auto op = static_cast<uint8_t>(handle.op());
  const uint16_t number = handle.tag();
  const uint32_t done = handle.length() - tag.left;
  if (++tag.submissions == 0) tag.submissions = 1;

  ublk_request& request = tag.request;
  request.id = uint64_t{tag.submissions} << kIdShift | reinterpret_cast<uint64_t>(&tag);
  request.offset = op == UBLK_OP_FLUSH ? 0 : handle.offset() + done;
  request.length = tag.left;
  request.flags = (handle.fua() ? uint32_t{UBLK_REQUEST_FUA} : 0) |
                  (handle.no_unmap() ? uint32_t{UBLK_REQUEST_NO_UNMAP} : 0);
  request.op = op;
  request.tag = number;
  request.buffer = has_data(op) ? handle.buffer() + done : nullptr;
  request.scratch = scratch_stride_ == 0 ? nullptr : scratch_ + number * scratch_stride_;
  // Release: a thread that gets the id from the handler, and claims it, sees all of the tag.
  tag.awaited.store(tag.submissions, std::memory_order_release);
}

bool DeviceQueue::claim(Tag& tag, uint16_t submission) {
  return tag.awaited.compare_exchange_strong(submission, 0, std::memory_order_acq_rel,
                                             std::memory_order_relaxed);
}

// Takes the result of a claimed submission. True if a rest is to be submitted; else the request is
// completed, and the tag may have its next one.
bool DeviceQueue::settle(Tag& tag, int result) {
  const uint8_t op = tag.request.op;
  if (result >= 0 && !has_data(op)) {
    tag.handle.complete(0);
    return false;
  }
  if (result > 0 && static_cast<uint32_t>(result) <= tag.left) {
    tag.left -= static_cast<uint32_t>(result);
    if (tag.left != 0) return true;
    tag.handle.complete(static_cast<int>(tag.handle.length()));
    return false;
  }
  if (result > 0 || result < -kMaxErrno) {
    complain("gave a result that is none", tag, result);
    result = -EIO;
  }
  tag.handle.complete(result == 0 ? -EIO : result);
  return false;
}

int DeviceQueue::complete(uint64_t request_id, int32_t result) noexcept {
  if (request_id == 0) return -EALREADY;
  Tag& tag = *reinterpret_cast<Tag*>(request_id & ((uint64_t{1} << kIdShift) - 1));
  DeviceQueue& queue = *tag.queue;
  if (!claim(tag, static_cast<uint16_t>(request_id >> kIdShift))) [[unlikely]] {
    queue.complain("completed a request that was not waiting", tag, result);
    return -EALREADY;
  }
  if (!queue.settle(tag, result)) [[likely]]
    return 0;
  // Never from here, not even on the queue's thread: handlers don't expect submit() inside of
  // complete(), and it could go on like that as deep as the request is long.
  try {
    queue.thread_.post([&queue, &tag] { queue.serve_rest(tag); });
  } catch (const std::bad_alloc&) {
    tag.handle.complete(-ENOMEM);
  }
  return 0;
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
    tag.handle.complete(-EIO);
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
  take_held([](Tag& tag) { tag.handle.complete(-EIO); });
}

unsigned DeviceQueue::abandon() {
  unsigned abandoned = 0;
  for (uint16_t i = 0; i < depth_; ++i) {
    Tag& tag = tags_[i];
    const uint16_t submission = tag.awaited.load(std::memory_order_relaxed);
    if (submission == 0 || !claim(tag, submission)) continue;
    life_ = Life::kAbandoned;
    tag.handle.complete(-EIO);
    ++abandoned;
  }
  return abandoned;
}

unsigned DeviceQueue::dispatched() const {
  return queue_ == nullptr ? 0 : queue_->in_flight() - nr_held_;
}

void DeviceQueue::when_drained(std::function<void()> drained) {
  thread_.before_sleep([this, alive = alive_, drained = std::move(drained)] {
    if (dispatched() != 0) return false;
    drained();
    return true;
  });
}

}  // namespace ublk_runner
