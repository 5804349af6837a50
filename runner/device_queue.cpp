// SPDX-License-Identifier: MIT
#include "device_queue.h"

#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <new>
#include <utility>

#include "device_queue_tag.h"
#include "device_queue_timeout.h"
#include "log.h"

namespace ublk_runner {

namespace abi = ublk::abi;

namespace {

constexpr int kMaxErrno = 4095;

}  // namespace

// ------------------------------------------------------------- every request --

void DeviceQueue::submit(ublk::Request request) {
  Tag& tag = tag_for(request.tag());
  tag.whole = std::move(request);
  if (dispatches_all_) [[likely]]
    dispatch(tag);
  else
    submit_slowly(tag);
}

// It is counted, or not dispatched.
void DeviceQueue::submit_slowly(Tag& tag) {
  if (QueueStatistics* counting = statistics())
    counting->arrived(tag.whole, thread_.clock().turn());
  if (intake_ == Intake::kOpen)
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
  tag.queue = this;
  tag.has_data = op == UBLK_OP_READ || op == UBLK_OP_WRITE;
  const bool has_range = op != UBLK_OP_FLUSH;
  tag.length = has_range ? sectors * abi::kSectorSize : 0;
  tag.left = tag.length;

  ublk_request& request = tag.request;
  request.offset = has_range ? sector * abi::kSectorSize : 0;
  request.length = tag.length;
  request.flags = ((op_flags & abi::kIoFlagFua) != 0 ? uint32_t{UBLK_REQUEST_FUA} : 0) |
                  ((op_flags & abi::kIoFlagNoUnmap) != 0 ? uint32_t{UBLK_REQUEST_NO_UNMAP} : 0);
  request.op = op;
  request.tag = number_of(tag);
  request.buffer = nullptr;
  request.buffer_index = -1;
  request.scratch = scratch_stride_ == 0 ? nullptr : scratch_of(tag);
  if (tag.has_data) {
    request.buffer = whole.buffer();
    if (!std::exchange(tag.spoilt, false)) request.flags |= tag_buffer_flag_;
    if (zero_copy_ && find_registered(tag)) return start(tag);
    if (request.buffer == nullptr && uses_pool_) return get_buffer(tag);
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
  const bool has_data = op == UBLK_OP_READ || op == UBLK_OP_WRITE;
  const bool fits = !has_data || sectors <= rules_.max_sectors;
  return inside && aligned && countable && fits ? 0 : -EIO;
}

// Submits what is left of the request until all is done or the answer is to come later.
void DeviceQueue::serve(Tag& tag) {
  for (;;) {
    const uint16_t submission = next_submission(tag, std::memory_order_release);
    const int result = submit_(instance_, this, &tag.request);
    // With UBLK_PENDING the tag is somebody else's, and perhaps done already.
    if (result == UBLK_PENDING) return;
    if (!claim(tag, submission)) [[unlikely]] {
      if (end_late(tag, submission)) return;
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

// On a worker. Either cancel() and abandon() see here what is awaited, or it is seen here that they
// have run: each stores its own word before it loads the other's, all of that in one order.
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
  QueueStatistics* const counting = queue.statistics();
  if (counting != nullptr) [[unlikely]]
    counting->started(queue.number_of(tag), monotonic_nanoseconds());
  const uint16_t submission = next_submission(tag, std::memory_order_seq_cst);
  if (queue.submits_no_more_.load(std::memory_order_seq_cst)) {
    if (claim(tag, submission))
      tag.whole.complete(-EIO);
    else
      end_late(tag, submission);  // of a timeout, meanwhile
    return;
  }
  const int result = queue.submit_(queue.instance_, &queue, &tag.request);
  if (result == UBLK_PENDING) return;
  if (claim(tag, submission)) [[likely]] {
    if (counting != nullptr) [[unlikely]]
      counting->answered(queue.number_of(tag), monotonic_nanoseconds());
    queue.settle_elsewhere(tag, result, &WorkerPool::completions());
  } else if (!end_late(tag, submission)) {
    queue.complain("returned a result from submit for a request that it had completed", tag,
                   result);
  }
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
  tag.request.id = uint64_t{tag.submissions} << Tag::kIdShift | reinterpret_cast<uint64_t>(&tag);
  // Release at least: a thread that gets the id from the handler, and claims it, sees all of the
  // tag. With UBLK_PENDING it may be the next request's when submit() has returned.
  const uint16_t submission = tag.submissions;
  tag.awaited.store(submission, order);
  return submission;
}

bool DeviceQueue::claim(Tag& tag, uint16_t submission) {
  uint32_t expected = submission;
  return tag.awaited.compare_exchange_strong(expected, 0, std::memory_order_acq_rel,
                                             std::memory_order_relaxed);
}

// The answer of a request that was failed because it took too long: it is dropped. The last that
// its owner does with the tag.
bool DeviceQueue::end_late(Tag& tag, uint16_t submission) {
  uint32_t expected = submission | Tag::kTooLate;
  return tag.awaited.compare_exchange_strong(expected, 0, std::memory_order_acq_rel,
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
  const auto submission = Tag::submission_of(request_id);
  if (!claim(tag, submission)) [[unlikely]] {
    if (end_late(tag, submission)) return -EALREADY;
    queue.complain("completed a request that was not waiting", tag, result);
    return -EALREADY;
  }
  if (QueueStatistics* counting = queue.statistics()) [[unlikely]]
    queue.note_answer(tag, *counting);
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

// The one that the tag's requests have now.
DeviceQueue::Tag& DeviceQueue::tag_for(uint16_t number) const {
  Tag& tag = tags_[number];
  return tag.replaced ? timeouts_->stand_in(number) : tag;
}

std::byte* DeviceQueue::scratch_of(const Tag& tag) const {
  return tag.is_stand_in ? Timeouts::scratch_of(tag) : scratch_ + (&tag - tags_) * scratch_stride_;
}

// From its place, for another thread may have the rest.
uint16_t DeviceQueue::number_of(const Tag& tag) const {
  return tag.is_stand_in ? Timeouts::number_of(tag) : static_cast<uint16_t>(&tag - tags_);
}

DeviceQueue::Tag& DeviceQueue::tag_of(uint64_t request_id) {
  return *reinterpret_cast<Tag*>(request_id & ((uint64_t{1} << Tag::kIdShift) - 1));
}

const DeviceQueue::Tag* DeviceQueue::waiting_for(uint64_t request_id) {
  const Tag& tag = tag_of(request_id);
  const auto submission = Tag::submission_of(request_id);
  return tag.awaited.load(std::memory_order_acquire) == submission ? &tag : nullptr;
}

void DeviceQueue::complain(const char* what, const Tag& tag, int result) {
  uint64_t skipped = 0;
  if (!complaints_.allow(skipped)) return;
  log(LogLevel::kError, handler_.device,
      "handler %s %s: tag %u of queue %u, result %d (%" PRIu64 " more were not logged)",
      handler_.table.name, what, number_of(tag), index_, result, skipped);
}

}  // namespace ublk_runner
