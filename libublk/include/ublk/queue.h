// SPDX-License-Identifier: MIT
//
// One queue of a device: the fetch and commit of its tags on a Ring, and who serves its requests.
#ifndef UBLK_QUEUE_H
#define UBLK_QUEUE_H

#include <liburing.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "ublk/device.h"
#include "ublk/export.h"
#include "ublk/request.h"

namespace ublk {

class Queue;
class Ring;

namespace internal {
class Mapping;
struct CommitBlock;
struct QueueBatch;
class RemoteCommits;
}  // namespace internal

// Who serves a queue's requests. One Backend may serve many queues. All functions run on the ring's
// thread, inside Ring::dispatch(), unless said otherwise. None may throw, but for
// alloc_io_buffer().
class UBLK_EXPORT Backend {
 public:
  virtual ~Backend();

  // A new request. Complete it at once, or keep it and complete it later from any thread. Requests
  // of a queue have no order among each other.
  virtual void submit(Request request) = 0;

  // A command of the queue has failed: `tag` is not served any more, or, with kFlagBatchIo and a
  // command that is for all tags, `tag` 0, the queue. Stop the device. `error`: the kernel's errno,
  // positive; EPROTO for an answer that isn't known. The usual causes are misuse: a second FETCH, a
  // ring of another thread.
  virtual void failed(Queue& queue, uint16_t tag, int error);

  // All tags have come back from the kernel after STOP_DEV (or the device's end). The last call for
  // this queue, whose buffers are free and whose node is released by now: the Queue is gone when it
  // returns, and the Backend may be, too.
  virtual void stopped(Queue& queue);

  // Get-data mode: a write of request.length() bytes has come and wants memory for its data. Give
  // it, now or later, by request.provide_buffer(), or fail the request.
  virtual void need_buffer(Request request);
  // Get-data and user-copy mode: neither the kernel nor the library touches the buffer of a
  // completed read or write any more, which set_buffer() or provide_buffer() has given.
  virtual void buffer_done(Queue& queue, uint16_t tag, std::byte* buffer);

  // Copy mode: the backend's own memory for a tag, `bytes` long and page-aligned, used for all
  // requests of the tag until free_io_buffer. nullptr from the first tag's call: the library maps
  // memory of its own for all tags, of which only touched pages cost anything. Called in attach(),
  // which fails with what this throws.
  virtual std::byte* alloc_io_buffer(Queue& queue, uint16_t tag, size_t bytes);
  virtual void free_io_buffer(Queue& queue, uint16_t tag, std::byte* buffer);

  // After Queue::tell_of_commits(): a request is about to go back to the kernel, which gets
  // `result`, bytes or -errno. On the ring's thread, or, with kFlagBatchIo, on one that flushes a
  // CompletionBatch; the tag's next request can't come before this has returned. What the kernel
  // did not take from such a thread comes again, on the ring's.
  virtual void committing(Queue& queue, uint16_t tag, int result);
};

// How the data of reads and writes gets to the backend and back. The device's flags decide.
enum class BufferMode : uint8_t {
  kCopy,      // no flag: a buffer for each tag, which the kernel copies to and from
  kGetData,   // kFlagNeedGetData: buffers are provided once a request's size is known
  kUserCopy,  // kFlagUserCopy: the backend copies, to and from whatever memory it likes
};
UBLK_EXPORT BufferMode buffer_mode(const abi::DevInfo& info);

// Zero copy: in user-copy mode the data of a read or write may be registered in the buffer table of
// the queue's ring, see Request::buffer_index(). Who does it:
enum class ZeroCopy : uint8_t {
  kNone,
  kAutomatic,  // kFlagAutoBufReg, Linux 6.16: the kernel, before it hands out the request
  kExplicit,  // kFlagSupportZeroCopy alone, Linux 6.15: the library, before Backend::submit(), by a
              // command that costs a turn of the loop, and another one before each commit
};
UBLK_EXPORT ZeroCopy zero_copy(const abi::DevInfo& info);

// Made by Ring::attach, which owns it until stopped() has returned. On the ring's thread, unless
// said otherwise.
class UBLK_EXPORT Queue {
 public:
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Any thread, until stopped() is called.
  const DeviceNode& node() const { return *node_; }
  const std::shared_ptr<DeviceNode>& shared_node() const { return node_; }
  uint16_t index() const { return index_; }
  uint16_t depth() const { return depth_; }
  Ring& ring() const { return ring_; }
  BufferMode mode() const { return mode_; }

  // User-copy mode: fills in an SQE of any ring of this process (registered files are used on the
  // queue's own) that moves a part of the request's data, as Request::read_data() does for a write
  // and write_data() for a read. The caller sets user_data. Its CQE must have come before the
  // request is completed. Any thread.
  void prepare_copy(io_uring_sqe& sqe, const io_uring& uring, const Request& request, void* memory,
                    uint32_t length, uint32_t offset) const;

  // Zero copy: the slots of the tags in the ring's buffer table are used for no other queue once
  // this one has stopped. For a backend that may have I/O in flight that names them.
  void keep_buffer_slots() { keeps_buffer_slots_ = true; }

  // Whether the backend hears of each commit, see Backend::committing(). Before any request is
  // completed, or on the ring's thread.
  void tell_of_commits(bool on) { tells_of_commits_.store(on, std::memory_order_relaxed); }

  // Copy mode, with the backend's own memory: `buffer` is the tag's from now on, in place of the
  // one it has, which is the backend's alone. For a tag whose request is about to be completed, but
  // not with success.
  void replace_io_buffer(uint16_t tag, std::byte* buffer);

  // Another Backend serves the queue from now on; `backend` must live until stopped(), and the one
  // before may go. With kFlagBatchIo no other thread may have a request, or a CompletionBatch that
  // is to be flushed, meanwhile: it may be about to call committing() of the one before. The new
  // one gets the calls that were the other's: the requests that are not completed yet come back by
  // buffer_done() to the new one, and in copy mode so do the tags' buffers by free_io_buffer().
  void set_backend(Backend& backend) { backend_ = &backend; }

  // Requests that the server has and has not completed yet. Not a write whose data is on its way to
  // the buffer that provide_buffer() gave: submit() comes for it, and its buffer is in use until
  // buffer_done().
  unsigned in_flight() const;
  // With `on` the ring's thread is woken for each request that another thread completes, also where
  // it has nothing to do with it (kFlagBatchIo): for who waits until in_flight() is 0. A switch,
  // not a count.
  void tell_of_completions(bool on);

 private:
  friend class Request;
  friend class Ring;
  friend class internal::RemoteCommits;

  static constexpr int kNoZeroCopy = -1;
  static constexpr int kTableIsFull = UINT16_MAX;  // no table has that slot: registering fails

  Queue(Ring& ring, std::shared_ptr<DeviceNode> node, uint16_t index, Backend& backend,
        internal::Slot* slots, uint16_t ring_slot, int file_slot, int buffer_slot);
  void allocate_buffers();
  void free_buffers();
  void fetch_all();
  void handle_cqe(uint16_t tag, int result);
  void take_request(uint16_t tag, bool wants_buffer);
  void register_data(internal::Slot& slot);
  void data_registered(internal::Slot& slot, int result);
  bool unregister_data(internal::Slot& slot);
  void hand_over(internal::Slot& slot);
  void get_data(internal::Slot& slot);
  void data_arrived(internal::Slot& slot, int result);
  void command_failed(uint16_t tag, int error);
  void commit(internal::Slot& slot);
  void give_to_kernel(internal::Slot& slot);
  uint64_t registration(uint16_t tag) const;
  // False: the ring has no SQE.
  bool submit_command(abi::IoOp op, uint16_t tag, int result, uint64_t address);
  bool place_command(abi::IoOp op, const abi::IoCmd& payload, uint64_t user_data, uint8_t flags);
  std::byte* tag_buffer(uint16_t tag) const;

  // queue_batch.cpp
  void prepare_batch();
  void fetch_batch();
  void fetch_again();
  bool wants_fetch() const;
  void handle_batch_cqe(uint16_t which, int result, uint32_t flags);
  void fetched(int result, uint32_t flags);
  void committed(internal::CommitBlock& block, int result);
  io_uring_sqe* submit_batch(abi::IoOp op, uint16_t count, const void* elements, uint16_t which);
  abi::BatchElement batch_element(uint16_t tag, int result) const;
  bool commit_in_batch(const internal::Slot& slot, int result);
  internal::CommitBlock* commit_block(const abi::BatchElement& element);
  bool takes_commits_anywhere(const internal::Slot& slot) const;
  void take_in_remote_completions();
  void end();
  void stop_if_idle();

  Ring& ring_;
  std::shared_ptr<DeviceNode> node_;
  Backend* backend_;
  const abi::IoDesc* descriptors_;
  internal::Slot* slots_;  // depth_ of them; the ring's memory
  const BufferMode mode_;
  const ZeroCopy zero_copy_;
  const uint16_t index_;
  const uint16_t depth_;
  const uint16_t ring_slot_;  // this queue's number in user_data
  const int file_slot_;       // of the node in the ring's file table, or -1
  const int buffer_slot_;     // tag 0's in its buffer table, or one of those above
  bool keeps_buffer_slots_ = false;
  std::atomic<bool> tells_of_commits_{false};
  uint32_t with_kernel_ = 0;                    // tags that the kernel holds
  uint32_t in_flight_ = 0;                      // tags that the server holds
  size_t buffer_size_ = 0;                      // bytes a tag, in copy mode
  std::unique_ptr<internal::Mapping> buffers_;  // the library's, for all tags
  std::unique_ptr<std::byte*[]> own_buffers_;   // the backend's, one a tag
  std::unique_ptr<internal::Mapping> waste_;  // where data of failed writes goes, in get-data mode
  const std::unique_ptr<internal::QueueBatch> batch_;  // with kFlagBatchIo
  bool ending_ = false;                                // with it: waits for the last completions

  // With kFlagBatchIo: requests that other threads have committed, ever, and the flag that the
  // ring's thread wants to hear of each. The queue may be gone once its last one has been counted.
  static constexpr uint64_t kTell = uint64_t{1} << 63;
  alignas(64) std::atomic<uint64_t> remote_completions_{0};
  uint64_t remote_completions_seen_ = 0;  // and taken off in_flight_
};

}  // namespace ublk

#endif  // UBLK_QUEUE_H
