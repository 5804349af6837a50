// SPDX-License-Identifier: MIT
#include "ublk/ring.h"

#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "batch.h"
#include "command.h"
#include "slot.h"
#include "ublk/error.h"

namespace ublk {

using internal::CommandKind;
using internal::Phase;
using internal::Slot;
using internal::SlotState;

namespace {

constexpr unsigned kSubmitEntries = 256;
constexpr unsigned kFileSlots = 1024;     // devices; the default RLIMIT_NOFILE allows no more
constexpr unsigned kBufferSlots = 16384;  // the kernel's limit
// Of 6.14, and liburing's headers may be older. Up to 6.12 a file that has left the table is held
// until all commands have ended that any file of it had then: one idle device would keep another,
// which is to be deleted. Nothing tells 6.13 from those.
constexpr unsigned kFeatureRwAttr = 1u << 16;

// With these, requests or their data look other than this library knows them.
void check_flags(const abi::DevInfo& info) {
  constexpr uint64_t kNotServed =
      abi::kFlagZoned | abi::kFlagIntegrity | abi::kFlagShmemZeroCopy | abi::kFlagIoDescSize;
  if (const uint64_t flags = info.flags & kNotServed; flags != 0)
    throw Error(EOPNOTSUPP, "attach a queue of device " + std::to_string(info.dev_id),
                "its flags " + std::to_string(flags) + " (abi::kFlag*) are not served");
}

// Beyond that the data of the next tag follows in /dev/ublkcN.
void check_user_copy(const abi::DevInfo& info) {
  if ((info.flags & abi::kFlagUserCopy) != 0 && info.max_io_buf_bytes > abi::kUserCopyMaxIoBytes)
    throw Error(EINVAL, "attach a queue of device " + std::to_string(info.dev_id),
                "with user copy a request has 32 MiB at most");
}

void check_zero_copy(const abi::DevInfo& info) {
  const ZeroCopy kind = zero_copy(info);
  if (kind == ZeroCopy::kNone) return;
  const std::string what = "attach a queue of device " + std::to_string(info.dev_id);
  if ((info.flags & abi::kFlagUserCopy) == 0)
    throw Error(EINVAL, what, "zero copy without kFlagUserCopy, for data that can't be registered");
  // A commit joins others in a command that is before its unregistration in the ring.
  if (kind == ZeroCopy::kExplicit && (info.flags & abi::kFlagBatchIo) != 0)
    throw Error(EINVAL, what, "zero copy with kFlagBatchIo, but without kFlagAutoBufReg");
}

}  // namespace

unsigned Ring::init(io_uring* uring, unsigned cq_entries) {
  io_uring_params params{};
  params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG;
  params.cq_entries = cq_entries;
  if (const int rc = io_uring_queue_init_params(kSubmitEntries, uring, &params); rc < 0)
    throw Error(-rc, "io_uring_setup",
                rc == -EPERM    ? "is kernel.io_uring_disabled set?"
                : rc == -EINVAL ? "is the kernel older than 6.1?"
                                : "");
  // Saves the lookup of the ring's descriptor in each io_uring_enter; not having it costs no more.
  io_uring_register_ring_fd(uring);
  const bool releases_files = (params.features & kFeatureRwAttr) != 0;
  return releases_files && io_uring_register_files_sparse(uring, kFileSlots) == 0 ? kFileSlots : 0;
}

Ring::Ring(io_uring* uring, unsigned file_slots)
    : uring_(uring),
      thread_(pthread_self()),
      wakeup_(std::make_shared<internal::Wakeup>()),
      file_slots_(file_slots) {
  static_assert(internal::kUserDataMark == kMark << 48);
  arm_wakeup_poll();
}

Ring::~Ring() {
  for (const SlotBlock& block : slot_blocks_) munmap(block.slots, block.bytes);
}

// ------------------------------------------------------------------ queues --

Queue& Ring::attach(std::shared_ptr<DeviceNode> node, uint16_t queue, Backend& backend) {
  if (queue >= node->info().nr_hw_queues)
    throw Error(EINVAL,
                "attach queue " + std::to_string(queue) + " of device " +
                    std::to_string(node->info().dev_id),
                "it has " + std::to_string(node->info().nr_hw_queues) + " queues");
  check_flags(node->info());
  check_user_copy(node->info());
  check_zero_copy(node->info());
  if ((node->info().flags & abi::kFlagBatchIo) != 0 && batch_ == nullptr)
    batch_ = std::make_unique<internal::RingBatch>(*uring_);
  size_t number = 0;
  while (number < queues_.size() && queues_[number] != nullptr) ++number;
  if (number > UINT16_MAX) throw Error(ENOSPC, "attach a queue", "the ring serves 65536 already");
  if (number == queues_.size()) queues_.emplace_back();

  Slot* slots = take_slots(node->info().queue_depth);
  const int file_slot = take_file_slot(*node);
  int buffer_slot = Queue::kNoZeroCopy;
  try {
    buffer_slot = take_buffer_slots(*node);
    queues_[number].reset(new Queue(*this, std::move(node), queue, backend, slots,
                                    static_cast<uint16_t>(number), file_slot, buffer_slot));
  } catch (...) {
    give_back_buffer_slots(buffer_slot);
    give_back_file_slot(file_slot);
    give_back_slots(slots);
    throw;
  }
  ++nr_queues_;
  queues_[number]->fetch_all();
  // START_DEV waits for the tags, perhaps before this thread's next turn.
  io_uring_submit(uring_);
  return *queues_[number];
}

void Ring::queue_stopped(Queue& queue) {
  const std::unique_ptr<Queue> ended = std::move(queues_[queue.ring_slot_]);
  --nr_queues_;
  if (ended->ending_) --nr_ending_;
  release_buffers_of(queue);
  ended->free_buffers();
  give_back_slots(ended->slots_);
  // The table's reference would keep the device from being deleted.
  give_back_file_slot(ended->file_slot_);
  if (!ended->keeps_buffer_slots_) give_back_buffer_slots(ended->buffer_slot_);
  ended->node_.reset();
  ended->backend_->stopped(*ended);
}

Slot* Ring::take_slots(uint16_t depth) {
  const size_t bytes = depth * sizeof(Slot);
  for (SlotBlock& block : slot_blocks_) {
    if (!block.free || block.bytes != bytes) continue;
    block.free = false;
    return block.slots;
  }
  slot_blocks_.reserve(slot_blocks_.size() + 1);
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) {
    const int error = errno;
    throw Error(error, "mmap of " + std::to_string(bytes) + " bytes for a queue's tags");
  }
  slot_blocks_.push_back({static_cast<Slot*>(map), bytes, false});
  return slot_blocks_.back().slots;
}

void Ring::give_back_slots(Slot* slots) {
  for (SlotBlock& block : slot_blocks_)
    if (block.slots == slots) block.free = true;
}

int Ring::take_file_slot(const DeviceNode& node) {
  int free_slot = -1;
  for (size_t slot = 0; slot < file_slots_.size(); ++slot) {
    if (file_slots_[slot].node == &node) {
      ++file_slots_[slot].queues;
      return static_cast<int>(slot);
    }
    if (file_slots_[slot].node == nullptr && !file_slots_[slot].stale && free_slot < 0)
      free_slot = static_cast<int>(slot);
  }
  if (free_slot < 0) return -1;
  const int fd = node.fd();
  if (io_uring_register_files_update(uring_, free_slot, &fd, 1) != 1) return -1;
  file_slots_[free_slot] = {.node = &node, .queues = 1, .stale = false};
  return free_slot;
}

void Ring::give_back_file_slot(int slot) {
  if (slot < 0 || --file_slots_[slot].queues != 0) return;
  file_slots_[slot] = {.node = nullptr, .queues = 0, .stale = true};
  clear_file_slots();
}

// What the kernel refuses, for want of memory, is tried again in the next turn.
void Ring::clear_file_slots() {
  stale_file_slots_ = false;
  for (size_t slot = 0; slot < file_slots_.size(); ++slot) {
    if (!file_slots_[slot].stale) continue;
    const int none = -1;
    file_slots_[slot].stale =
        io_uring_register_files_update(uring_, static_cast<unsigned>(slot), &none, 1) != 1;
    stale_file_slots_ = stale_file_slots_ || file_slots_[slot].stale;
  }
  if (stale_file_slots_) wakeup_->write();
}

int Ring::take_buffer_slots(const DeviceNode& node) {
  if (zero_copy(node.info()) == ZeroCopy::kNone) return Queue::kNoZeroCopy;
  if (!std::exchange(tried_buffer_table_, true) &&
      io_uring_register_buffers_sparse(uring_, kBufferSlots) == 0)
    buffer_table_size_ = kBufferSlots;
  const unsigned depth = node.info().queue_depth;
  unsigned first = 0;
  auto next = buffer_slots_.begin();
  while (next != buffer_slots_.end() && next->first < first + depth) {
    first = next->first + next->count;
    ++next;
  }
  if (first + depth > buffer_table_size_) return Queue::kTableIsFull;
  buffer_slots_.insert(next, {first, depth});
  return static_cast<int>(first);
}

void Ring::give_back_buffer_slots(int first) {
  std::erase_if(buffer_slots_, [first](const BufferSlots& slots) {
    return static_cast<int>(slots.first) == first;
  });
}

// -------------------------------------------------------------- completions --

void Ring::handle(uint64_t user_data, int result, uint32_t flags) {
  if (user_data == internal::kWakeupUserData) {
    // Nobody reads the eventfd: each write is an event of its own, and the value never matters.
    if ((flags & IORING_CQE_F_MORE) == 0) arm_wakeup_poll();
    return;
  }
  const auto number = static_cast<uint16_t>(user_data >> 16);
  if (number >= queues_.size() || queues_[number] == nullptr) return;
  const auto which = static_cast<uint16_t>(user_data);
  switch (static_cast<CommandKind>(user_data >> 32 & UINT16_MAX)) {
    case CommandKind::kTag:
      queues_[number]->handle_cqe(which, result);
      return;
    case CommandKind::kBatch:
      queues_[number]->handle_batch_cqe(which, result, flags);
      return;
    case CommandKind::kUnregister:  // an error: the slot was empty, and is now
    case CommandKind::kWakeup:
      return;
  }
}

// No wake-up can be lost, because `completed_` is one word that says both whether something is in
// the list and whether the ring's thread may sleep. That thread goes to sleep only if its exchange
// turns "empty" into "asleep"; a completion from another thread comes in the word's order either
// before that exchange, which then fails, or after it, and then sees "asleep" and writes the
// eventfd, or leaves it to its CompletionBatch. Only one thread can replace "asleep", so a batch
// costs one write.
void Ring::push_completed(Slot& slot, CompletionBatch* batch) {
  uintptr_t head = completed_.load(std::memory_order_relaxed);
  std::shared_ptr<internal::Wakeup> wakeup;
  do {
    // The ring may end as soon as its last request is in the list.
    if (head == kAsleep) wakeup = wakeup_;
    slot.next = head == kAsleep ? nullptr : reinterpret_cast<Slot*>(head);
    // Release: result, next and the data in the buffer are visible to who takes the list.
  } while (!completed_.compare_exchange_weak(head, reinterpret_cast<uintptr_t>(&slot),
                                             std::memory_order_release, std::memory_order_relaxed));
  // Nothing of the slot or the ring's queues may be touched from here on: the request may be
  // committed already.
  if (head != kAsleep) return;
  if (batch != nullptr)
    batch->add(std::move(wakeup));
  else
    wakeup->write();
}

void Ring::drain_completed() {
  const uintptr_t taken = completed_.exchange(kEmpty, std::memory_order_acquire);
  Slot* slot = taken == kAsleep ? nullptr : reinterpret_cast<Slot*>(taken);
  while (slot != nullptr) {
    Slot* next = slot->next;
    ++remote_completions_;
    commit_or_get_data(*slot);
    slot = next;
  }
}

void Ring::route_completion(Slot& slot, CompletionBatch* batch) {
  if (on_own_thread())
    commit_or_get_data(slot);
  else if (batch == nullptr || !slot.queue->takes_commits_anywhere(slot) || !batch->commit(slot))
    push_completed(slot, batch);
}

void Ring::commit_or_get_data(Slot& slot) {
  if (slot.phase == Phase::kServing)
    slot.queue->commit(slot);
  else
    slot.queue->get_data(slot);
}

void Ring::defer(Slot& slot) {
  slot.word.store(Slot::make_word(slot.generation(), SlotState::kCompleted),
                  std::memory_order_relaxed);
  slot.next = std::exchange(deferred_, &slot);
}

void Ring::retry_deferred() {
  Slot* slot = std::exchange(deferred_, nullptr);
  while (slot != nullptr) {
    Slot* next = slot->next;
    commit_or_get_data(*slot);
    slot = next;
  }
}

void Ring::release_after_submit(Queue& queue, uint16_t tag, std::byte* buffer) {
  used_buffers_.push_back({&queue, tag, buffer});
}

void Ring::release_buffers() {
  // What the kernel has not taken yet, it has not copied yet.
  if (io_uring_sq_ready(uring_) != 0) return;
  // Whoever gets a buffer back may complete another read at once.
  std::vector<UsedBuffer> released;
  released.swap(used_buffers_);
  for (const UsedBuffer& used : released)
    used.queue->backend_->buffer_done(*used.queue, used.tag, used.buffer);
  // Keeps the memory for the next ones.
  released.clear();
  if (used_buffers_.empty()) used_buffers_.swap(released);
}

// The last CQE of a queue can be found in the turn that placed its last commit.
void Ring::release_buffers_of(Queue& queue) {
  const auto first =
      std::stable_partition(used_buffers_.begin(), used_buffers_.end(),
                            [&queue](const UsedBuffer& used) { return used.queue != &queue; });
  const std::vector<UsedBuffer> released(first, used_buffers_.end());
  used_buffers_.erase(first, used_buffers_.end());
  for (const UsedBuffer& used : released) queue.backend_->buffer_done(queue, used.tag, used.buffer);
}

// ------------------------------------------------------------ the loop's turn --

void Ring::prepare_wait() {
  if (has_posted_.load(std::memory_order_acquire)) run_posted();
  if (deferred_ != nullptr) retry_deferred();
  if (fetches_again_) start_fetches();
  if (stale_file_slots_) clear_file_slots();
  do {
    // Before the thread sleeps: others, on other rings too, may wait for just these buffers.
    while (!used_buffers_.empty() && io_uring_submit(uring_) >= 0 && io_uring_sq_ready(uring_) == 0)
      release_buffers();
  } while (!may_sleep());
  // For want of memory the kernel has not taken it yet: there is no CQE to wait for.
  if (deferred_ != nullptr || fetches_again_ || !used_buffers_.empty()) wakeup_->write();
}

// Other threads wake this one from now on; or they have completed requests before, whose commits
// are in the ring now.
bool Ring::may_sleep() {
  // Without a request in the server's hands no other thread can complete one.
  if (in_flight_ == 0) return true;
  uintptr_t expected = kEmpty;
  if (completed_.compare_exchange_strong(expected, kAsleep, std::memory_order_relaxed)) return true;
  drain_completed();
  return false;
}

void Ring::wait_over() {
  // Not only before the next wait: a task may be what ends the caller's loop.
  if (has_posted_.load(std::memory_order_acquire)) run_posted();
  if (!used_buffers_.empty()) release_buffers();
  if (completed_.load(std::memory_order_relaxed) != kEmpty) drain_completed();
  if (nr_ending_ != 0) stop_idle_queues();
}

// All CQEs of the last turn have been handled. As long as others are on the kernel's overflow list,
// no fetch can post any.
void Ring::start_fetches() {
  fetches_again_ = false;
  if (io_uring_cq_ready(uring_) == 0) batch_->fetched.find_lost();
  if ((IO_URING_READ_ONCE(*uring_->sq.kflags) & IORING_SQ_CQ_OVERFLOW) != 0)
    io_uring_get_events(uring_);
  for (const auto& queue : queues_)
    if (queue != nullptr && queue->wants_fetch()) queue->fetch_batch();
}

// By index: a backend may attach queues while one is stopped.
void Ring::stop_idle_queues() {
  for (size_t i = 0; i < queues_.size(); ++i)
    if (queues_[i] != nullptr && queues_[i]->ending_) queues_[i]->stop_if_idle();
}

void Ring::arm_wakeup_poll() {
  io_uring_sqe* sqe = get_sqe();
  if (sqe == nullptr) throw Error(EBUSY, "io_uring_submit", "the ring takes no SQE");
  io_uring_prep_poll_multishot(sqe, wakeup_->fd(), POLLIN);
  io_uring_sqe_set_data64(sqe, internal::kWakeupUserData);
}

void Ring::post(std::function<void()> task) {
  {
    const std::lock_guard lock(posted_mutex_);
    posted_.push_back(std::move(task));
    has_posted_.store(true, std::memory_order_release);
  }
  wakeup_->write();
}

void Ring::run_posted() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(posted_mutex_);
    tasks.swap(posted_);
    has_posted_.store(false, std::memory_order_relaxed);
  }
  for (auto& task : tasks) task();
}

io_uring_sqe* Ring::get_sqe() {
  io_uring_sqe* sqe = io_uring_get_sqe(uring_);
  if (sqe != nullptr) [[likely]]
    return sqe;
  io_uring_submit(uring_);
  return io_uring_get_sqe(uring_);
}

void Ring::reserve_sqes(unsigned count) {
  if (io_uring_sq_space_left(uring_) < count) io_uring_submit(uring_);
}

}  // namespace ublk
