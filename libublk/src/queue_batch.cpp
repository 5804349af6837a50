// SPDX-License-Identifier: MIT
// The commands of a queue with kFlagBatchIo: PREP makes all tags ready, one multishot FETCH brings
// the tags of new requests, many a CQE, and COMMITs take them back, many a command.
//
// No tag is lost: an element that a COMMIT has not taken is committed again, alone, and if the
// kernel refuses even that, the backend hears of it. A FETCH that has ended for want of a buffer or
// of room for its CQE starts again; the kernel keeps the tags meanwhile.
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "batch.h"
#include "command.h"
#include "slot.h"
#include "ublk/queue.h"
#include "ublk/ring.h"

namespace ublk {

using internal::CommandKind;
using internal::CommitBlock;
using Fetch = internal::QueueBatch::Fetch;
using internal::Slot;

// The kernel has had no memory, or no buffer for new tags, and has done nothing.
static bool is_transient(int result) {
  return result == -ENOBUFS || result == -ENOMEM || result == -EAGAIN || result == -EINTR;
}

CommitBlock* internal::RingBatch::take() {
  if (unused.empty()) {
    if (blocks.size() == internal::kFetch) return nullptr;
    try {
      unused.reserve(blocks.size() + 1);
      blocks.push_back(std::make_unique<CommitBlock>());
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
    blocks.back()->number = static_cast<uint16_t>(blocks.size() - 1);
    unused.push_back(blocks.back().get());
  }
  CommitBlock* block = unused.back();
  unused.pop_back();
  block->elements.count = 0;
  return block;
}

io_uring_sqe* Queue::submit_batch(abi::IoOp op, uint16_t count, const void* elements,
                                  uint16_t which) {
  io_uring_sqe* sqe = ring_.get_sqe();
  if (sqe == nullptr) return nullptr;
  const bool fetch = op == abi::IoOp::kFetchIoCmds;
  const abi::BatchIo payload = {.q_id = index_,
                                .flags = fetch ? uint16_t{0} : batch_->flags,
                                .nr_elem = count,
                                .elem_bytes = fetch ? abi::kBatchTagBytes : batch_->element_bytes,
                                .reserved = 0,
                                .reserved2 = 0};
  const bool fixed = file_slot_ >= 0;
  internal::prepare_io_command(*sqe, fixed ? file_slot_ : node_->fd(), fixed ? IOSQE_FIXED_FILE : 0,
                               op, payload, reinterpret_cast<uint64_t>(elements),
                               internal::make_user_data(CommandKind::kBatch, ring_slot_, which));
  if (fetch) internal::make_multishot(*sqe, internal::FetchBuffers::kGroup);
  if (node_->driver().redirects()) node_->driver().redirect(*ring_.uring(), *sqe);
  return sqe;
}

abi::BatchElement Queue::batch_element(uint16_t tag, int result) const {
  return {.tag = tag,
          .buf_index = static_cast<uint16_t>(registration(tag)),
          .result = result,
          .buf_addr = reinterpret_cast<uint64_t>(tag_buffer(tag))};
}

// ---------------------------------------------------------------- fetching --

void Queue::prepare_batch() {
  const size_t bytes = batch_->element_bytes;
  for (uint16_t tag = 0; tag < depth_; ++tag) {
    const abi::BatchElement element = batch_element(tag, 0);
    std::memcpy(&batch_->prepared[tag * bytes], &element, bytes);
  }
  if (submit_batch(abi::IoOp::kPrepIoCmds, depth_, batch_->prepared.get(), internal::kPrepare) ==
      nullptr) {
    backend_->failed(*this, 0, EBUSY);
    end();
    return;
  }
  ++batch_->outstanding;
  fetch_batch();
}

// The address is for a Driver that redirects, see there; the kernel looks at none.
void Queue::fetch_batch() {
  if (submit_batch(abi::IoOp::kFetchIoCmds, 0, ring_.batch_->fetched.ring(), internal::kFetch) !=
      nullptr)
    batch_->fetch = Fetch::kSubmitted;
  else
    fetch_again();
}

void Queue::fetch_again() {
  batch_->fetch = Fetch::kAgain;
  ring_.fetches_again_ = true;
}

bool Queue::wants_fetch() const { return batch_ != nullptr && batch_->fetch == Fetch::kAgain; }

void Queue::handle_batch_cqe(uint16_t which, int result, uint32_t flags) {
  if (which == internal::kFetch) {
    fetched(result, flags);
  } else {
    --batch_->outstanding;
    if (which == internal::kPrepare) {
      batch_->prepared.reset();
      if (result != 0) backend_->failed(*this, 0, result < 0 ? -result : EPROTO);
    } else {
      committed(*ring_.batch_->blocks[which], result);
    }
  }
  if (batch_->fetch == Fetch::kNone) stop_if_idle();
}

void Queue::fetched(int result, uint32_t flags) {
  take_in_remote_completions();
  internal::FetchBuffers& buffers = ring_.batch_->fetched;
  if ((flags & IORING_CQE_F_BUFFER) != 0) {
    const uint16_t number = internal::FetchBuffers::number_of(flags);
    const uint16_t* tags = buffers.take(number);
    const int count = tags == nullptr ? 0 : result / abi::kBatchTagBytes;
    for (int i = 0; i < count; ++i)
      if (tags[i] < depth_) take_request(tags[i], false);
    if (tags != nullptr) buffers.give_back(number);
  }
  if ((flags & IORING_CQE_F_MORE) != 0) return;
  if (is_transient(result)) {
    fetch_again();
    return;
  }
  batch_->fetch = Fetch::kNone;
  if (result != -ENODEV) backend_->failed(*this, 0, result < 0 ? -result : EPROTO);
}

// -------------------------------------------------------------- committing --

bool Queue::commit_in_batch(const Slot& slot, int result) {
  const abi::BatchElement element = batch_element(slot.tag, result);
  CommitBlock* open = batch_->open;
  if (open == nullptr || open->elements.full() || open->is_submitted(*ring_.uring())) {
    batch_->open = commit_block(element);
    return batch_->open != nullptr;
  }
  open->elements.add(element, batch_->element_bytes);
  constexpr size_t kCount = offsetof(abi::BatchIo, nr_elem);
  std::memcpy(&open->sqe->cmd[kCount], &open->elements.count, sizeof(open->elements.count));
  return true;
}

// A COMMIT of one element. Others may be added to it, unless who takes it looks at it at once, or
// at any time.
CommitBlock* Queue::commit_block(const abi::BatchElement& element) {
  CommitBlock* block = ring_.batch_->take();
  if (block == nullptr) return nullptr;
  block->elements.add(element, batch_->element_bytes);
  io_uring& uring = *ring_.uring();
  block->sqe =
      submit_batch(abi::IoOp::kCommitIoCmds, 1, block->elements.bytes.data(), block->number);
  if (block->sqe == nullptr) {
    ring_.batch_->give_back(*block);
    return nullptr;
  }
  ++batch_->outstanding;
  const bool closed = node_->driver().redirects() || (uring.flags & IORING_SETUP_SQPOLL) != 0;
  block->position = closed ? IO_URING_READ_ONCE(*uring.sq.khead) - 1 : uring.sq.sqe_tail - 1;
  return block;
}

void Queue::committed(CommitBlock& block, int result) {
  const uint8_t bytes = batch_->element_bytes;
  const unsigned count = block.elements.count;
  unsigned taken = result > 0 ? static_cast<unsigned>(result) / bytes : 0;
  if (taken == 0 && count == 1 && !is_transient(result)) {
    backend_->failed(*this, block.elements.at(0, bytes).tag, result < 0 ? -result : EPROTO);
    ++taken;
  }
  for (; taken < count; ++taken) {
    const abi::BatchElement element = block.elements.at(taken, bytes);
    if (commit_block(element) == nullptr) backend_->failed(*this, element.tag, EBUSY);
  }
  if (batch_->open == &block) batch_->open = nullptr;
  ring_.batch_->give_back(block);
}

// ------------------------------------------------- completed on other threads --

bool Queue::takes_commits_anywhere(const Slot& slot) const {
  return batch_ != nullptr && buffer_slot_ == kNoZeroCopy &&
         (mode_ == BufferMode::kCopy || slot.buffer == nullptr);
}

void Queue::take_in_remote_completions() {
  const uint64_t done = remote_completions_.load(std::memory_order_acquire) & ~kTell;
  const auto news = static_cast<uint32_t>(done - remote_completions_seen_);
  remote_completions_seen_ = done;
  in_flight_ -= news;
  ring_.in_flight_ -= news;
  ring_.remote_completions_ += news;
}

unsigned Queue::in_flight() const {
  const uint64_t done = remote_completions_.load(std::memory_order_acquire) & ~kTell;
  return in_flight_ - static_cast<uint32_t>(done - remote_completions_seen_);
}

void Queue::tell_of_completions(bool on) {
  if (on)
    remote_completions_.fetch_or(kTell, std::memory_order_acq_rel);
  else if (!ending_)
    remote_completions_.fetch_and(~kTell, std::memory_order_acq_rel);
}

// The ring's thread looks at it from now on.
void Queue::end() {
  if (!std::exchange(ending_, true)) ++ring_.nr_ending_;
}

// The flag and the count are one word: a completion either is counted here, or sees the flag and
// wakes this thread.
void Queue::stop_if_idle() {
  end();
  tell_of_completions(true);
  take_in_remote_completions();
  if (batch_->outstanding == 0 && in_flight_ == 0) ring_.queue_stopped(*this);
}

}  // namespace ublk
