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

namespace abi = ublk::abi;

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
  bool has_data;                  // a read or write
  uint32_t length;                // bytes of the whole request
  uint32_t left;                  // of a read or write: still to do
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
  const ublk::Request& whole = tag.handle;
  const auto op = static_cast<uint8_t>(whole.op());
  const uint64_t sector = whole.sector();
  const uint32_t sectors = whole.sectors();
  if (const int error = check(op, sector, sectors); error != 0) [[unlikely]] {
    tag.handle.complete(error);
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
  request.buffer = tag.has_data ? whole.buffer() : nullptr;
  request.scratch = scratch_stride_ == 0 ? nullptr : scratch_ + number * scratch_stride_;
  serve(tag);
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
    const uint16_t submission = next_submission(tag);
    const int result = submit_(instance_, this, &tag.request);
    // With UBLK_PENDING the tag is somebody else's, and perhaps done already.
    if (result == UBLK_PENDING) return;
    if (!claim(tag, submission)) [[unlikely]] {
      complain("returned a result from submit for a request that it had completed", tag, result);
      return;
    }
    if (!settle(tag, result)) return;
    take_rest(tag);
  }
}

void DeviceQueue::serve_rest(Tag& tag) {
  if (life_ == Life::kAbandoned) {
    tag.handle.complete(-EIO);
    return;
  }
  take_rest(tag);
  serve(tag);
}

void DeviceQueue::take_rest(Tag& tag) {
  const uint32_t done = tag.length - tag.left;
  tag.request.offset = tag.handle.offset() + done;
  tag.request.length = tag.left;
  tag.request.buffer = tag.handle.buffer() + done;
}

// Gives the request its id, under which it can be completed from now on.
uint16_t DeviceQueue::next_submission(Tag& tag) {
  if (++tag.submissions == 0) tag.submissions = 1;
  tag.request.id = uint64_t{tag.submissions} << kIdShift | reinterpret_cast<uint64_t>(&tag);
  // Release: a thread that gets the id from the handler, and claims it, sees all of the tag.
  tag.awaited.store(tag.submissions, std::memory_order_release);
  return tag.submissions;
}

bool DeviceQueue::claim(Tag& tag, uint16_t submission) {
  return tag.awaited.compare_exchange_strong(submission, 0, std::memory_order_acq_rel,
                                             std::memory_order_relaxed);
}

// Takes the result of a claimed submission. True if a rest is to be submitted; else the request is
// completed, and the tag may have its next one.
bool DeviceQueue::settle(Tag& tag, int result) {
  if (result >= 0 && !tag.has_data) {
    tag.handle.complete(0);
    return false;
  }
  if (result > 0 && static_cast<uint32_t>(result) <= tag.left) {
    tag.left -= static_cast<uint32_t>(result);
    if (tag.left != 0) return true;
    tag.handle.complete(static_cast<int>(tag.length));
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
