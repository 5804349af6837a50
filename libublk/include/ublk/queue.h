// SPDX-License-Identifier: MIT
//
// One queue of a device: the fetch and commit of its tags on a Ring, and who serves its requests.
#ifndef UBLK_QUEUE_H
#define UBLK_QUEUE_H

#include <cstddef>
#include <cstdint>
#include <memory>

#include "ublk/device.h"
#include "ublk/export.h"
#include "ublk/request.h"

namespace ublk {

class Queue;
class Ring;

// Who serves a queue's requests. One Backend may serve many queues. All functions run on the ring's
// thread, inside Ring::dispatch(), unless said otherwise.
class UBLK_EXPORT Backend {
 public:
  virtual ~Backend();

  // A new request. Complete it at once, or keep it and complete it later from any thread. Requests
  // of a queue have no order among each other.
  virtual void submit(Request request) = 0;

  // A command of the queue has failed: `tag` is not served any more. Stop the device. The usual
  // causes are misuse: a second FETCH, a ring of another thread.
  virtual void failed(Queue& queue, uint16_t tag, int error);

  // All tags have come back from the kernel after STOP_DEV (or the device's end). The last call for
  // this queue, whose buffers are free and whose node is released by now: the Queue is gone when it
  // returns, and the Backend may be, too.
  virtual void stopped(Queue& queue);

  // Copy mode: the backend's own memory for a tag, `bytes` long and page-aligned, used for all
  // requests of the tag until free_io_buffer. nullptr from the first tag's call: the library maps
  // memory of its own for all tags, of which only touched pages cost anything. Called in attach().
  virtual std::byte* alloc_io_buffer(Queue& queue, uint16_t tag, size_t bytes);
  virtual void free_io_buffer(Queue& queue, uint16_t tag, std::byte* buffer);
};

// Made by Ring::attach, which owns it until stopped() has returned. On the ring's thread, unless
// said otherwise.
class UBLK_EXPORT Queue {
 public:
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Any thread, until stopped() is called.
  const DeviceNode& node() const { return *node_; }
  uint16_t index() const { return index_; }
  uint16_t depth() const { return depth_; }
  Ring& ring() const { return ring_; }

  // Requests that the server has and has not completed yet.
  unsigned in_flight() const { return in_flight_; }

 private:
  friend class Request;
  friend class Ring;

  Queue(Ring& ring, std::shared_ptr<DeviceNode> node, uint16_t index, Backend& backend,
        internal::Slot* slots, uint16_t ring_slot, int file_slot);
  void allocate_buffers();
  void free_buffers();
  void fetch_all();
  void handle_cqe(uint16_t tag, int result);
  void dispatch(uint16_t tag);
  void commit(internal::Slot& slot, int result);
  bool submit_command(abi::IoOp op, uint16_t tag, int result);  // false: no SQE
  std::byte* buffer_of(uint16_t tag) const;

  Ring& ring_;
  std::shared_ptr<DeviceNode> node_;
  Backend& backend_;
  const abi::IoDesc* descriptors_;
  internal::Slot* slots_;  // depth_ of them; the ring's memory
  const uint16_t index_;
  const uint16_t depth_;
  const uint16_t ring_slot_;                   // this queue's number in user_data
  const int file_slot_;                        // of the node in the ring's file table, or -1
  uint32_t with_kernel_ = 0;                   // tags that the kernel holds
  uint32_t in_flight_ = 0;                     // tags that the server holds
  size_t buffer_size_ = 0;                     // bytes a tag
  std::byte* buffers_ = nullptr;               // the library's, for all tags
  std::unique_ptr<std::byte*[]> own_buffers_;  // the backend's, one a tag
};

}  // namespace ublk

#endif  // UBLK_QUEUE_H
