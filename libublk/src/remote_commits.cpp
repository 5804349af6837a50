// SPDX-License-Identifier: MIT
#include "remote_commits.h"

#include <cerrno>
#include <memory>

#include "command.h"
#include "slot.h"
#include "ublk/completion_batch.h"
#include "ublk/queue.h"
#include "ublk/ring.h"

namespace ublk::internal {

RemoteCommits::~RemoteCommits() { end_ring(); }

// Any thread may submit to it, since another one may flush.
bool RemoteCommits::set_up() {
  if (!has_ring_) has_ring_ = io_uring_queue_init(kQueues, &uring_, 0) == 0;
  return has_ring_;
}

void RemoteCommits::end_ring() {
  if (has_ring_) io_uring_queue_exit(&uring_);
  has_ring_ = false;
}

RemoteCommits::Commit& RemoteCommits::commit_of(Queue& queue) {
  for (unsigned i = 0; i < count_; ++i)
    if (commits_[i].queue == &queue && !commits_[i].elements.full()) return commits_[i];
  if (count_ == kQueues) flush();
  Commit& commit = commits_[count_++];
  commit.queue = &queue;
  commit.elements.count = 0;
  return commit;
}

bool RemoteCommits::add(Slot& slot) {
  if (!set_up()) return false;
  Queue& queue = *slot.queue;
  const abi::BatchElement element = queue.batch_element(slot.tag, slot.checked_result());
  // Release: for who takes the tag's next request, see Queue::take_request(). It can't come before
  // flush().
  slot.word.store(Slot::make_word(slot.generation() + 1, SlotState::kKernel),
                  std::memory_order_release);
  commit_of(queue).elements.add(element, queue.batch_->element_bytes);
  return true;
}

void RemoteCommits::flush() {
  for (unsigned i = 0; i < count_; ++i) commits_[i].taken = 0;
  // add() may have flushed and lost the ring meanwhile.
  if (count_ != 0 && set_up()) {
    for (unsigned i = 0; i < count_; ++i) prepare(i);
    submit();
  }
  for (unsigned i = 0; i < count_; ++i) settle(commits_[i]);
  count_ = 0;
}

// There is an SQE for each: the ring is empty before.
void RemoteCommits::prepare(unsigned number) {
  const Commit& commit = commits_[number];
  Queue& queue = *commit.queue;
  if (queue.tells_of_commits_.load(std::memory_order_relaxed)) [[unlikely]] {
    for (unsigned i = 0; i < commit.elements.count; ++i) {
      const abi::BatchElement element = commit.elements.at(i, queue.batch_->element_bytes);
      queue.backend_->committing(queue, element.tag, element.result);
    }
  }
  const abi::BatchIo payload = {.q_id = queue.index(),
                                .flags = queue.batch_->flags,
                                .nr_elem = commit.elements.count,
                                .elem_bytes = queue.batch_->element_bytes,
                                .reserved = 0,
                                .reserved2 = 0};
  io_uring_sqe& sqe = *io_uring_get_sqe(&uring_);
  prepare_io_command(sqe, queue.node().fd(), 0, abi::IoOp::kCommitIoCmds, payload,
                     reinterpret_cast<uint64_t>(commit.elements.bytes.data()), number);
  Driver& driver = queue.node().driver();
  if (driver.redirects()) driver.redirect(uring_, sqe);
}

// The kernel works on each command inside the system call.
void RemoteCommits::submit() {
  for (unsigned seen = 0; seen < count_;) {
    const int rc = io_uring_submit_and_wait(&uring_, count_ - seen);
    io_uring_cqe* cqe;
    while (io_uring_peek_cqe(&uring_, &cqe) == 0) {
      Commit& commit = commits_[cqe->user_data];
      if (cqe->res > 0)
        commit.taken = static_cast<unsigned>(cqe->res) / commit.queue->batch_->element_bytes;
      io_uring_cqe_seen(&uring_, cqe);
      ++seen;
    }
    if (rc >= 0 || rc == -EINTR || seen == count_) continue;
    // No memory for it, say. What is still in the ring must never be submitted.
    end_ring();
    return;
  }
}

void RemoteCommits::settle(Commit& commit) {
  Queue& queue = *commit.queue;
  Ring& ring = queue.ring();
  const uint8_t bytes = queue.batch_->element_bytes;
  for (unsigned i = commit.taken; i < commit.elements.count; ++i)
    ring.push_completed(queue.slots_[commit.elements.at(i, bytes).tag], nullptr);
  if (commit.taken == 0) return;
  // Held, because the ring may end as soon as its last queue's last request is counted.
  const std::shared_ptr<Wakeup> wakeup = ring.wakeup_;
  // Release: the queue's thread may end the queue, and what this one has done to it must be over.
  const uint64_t before =
      queue.remote_completions_.fetch_add(commit.taken, std::memory_order_acq_rel);
  if ((before & Queue::kTell) != 0) wakeup->write();
}

}  // namespace ublk::internal
