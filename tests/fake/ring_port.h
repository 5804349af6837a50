// SPDX-License-Identifier: MIT
// What the fake driver knows of one io_uring of the server.
#ifndef UBLK_TESTS_FAKE_RING_PORT_H
#define UBLK_TESTS_FAKE_RING_PORT_H

#include <liburing.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "command.h"
#include "node_table.h"

namespace fake {

// No reference to the ring is held, since a ring keeps /dev/ublkcN open by its file table: a port
// knows by the inode whether its descriptor still is the same ring.
//
// Threads: take() and target_of() on the ring's own thread, the others on the driver's.
class RingPort {
 public:
  explicit RingPort(const io_uring& ring);
  RingPort(const RingPort&) = delete;
  RingPort& operator=(const RingPort&) = delete;

  bool is_port_of(int fd, ino_t inode) const { return fd == fd_ && inode == inode_; }
  // Its server has died: nobody listens to what comes from here. On the driver's thread.
  void bury() { dead_ = true; }
  bool dead() const { return dead_; }
  // Each thread has its own registered rings. False once the ring has gone.
  bool is_registered_as(int index, pid_t thread) const {
    return index == enter_fd_ && thread == thread_ && answer_fd() >= 0;
  }

  // A command to fill in. Its memory belongs to the port.
  Command& take();
  void give_back(Command& command);

  // The device that an I/O command is for, whose node stands in the SQE as a descriptor or as a
  // slot of the ring's file table.
  struct Target {
    int fd;
    bool fixed;
    uint32_t device;               // abi::kAnyDeviceId: it is no node of the driver
    std::weak_ptr<NodeFile> node;  // must not keep it
  };
  // `driver` is the driver's number. A COMMIT_IO_CMDS may come on a ring that hears nothing of the
  // queue's end: its target is found each time.
  const Target& target_of(const io_uring_sqe& sqe, uint32_t driver, NodeTable& nodes);
  // To be called before a command is answered with an error. It may have been the last of its
  // queue, and then the node may be closed and its number or slot stand for another device.
  void forget_targets() { epoch_.fetch_add(1, std::memory_order_release); }

  // The descriptor to send answers to, or -1 if the ring has gone.
  int answer_fd() const;
  // Takes the next buffer of the ring's provided ones; nullptr: there is none. On the driver's
  // thread.
  struct Buffer {
    std::byte* data;
    size_t bytes;
    uint16_t id;
  };
  std::optional<Buffer> take_buffer(io_uring_buf_ring& buffers);
  // Those of the ring's buffer table in which data is registered. On the driver's thread.
  std::set<uint64_t>& buffer_slots() { return buffer_slots_; }
  // The SQEs between the kernel's head and tail. While the ring's thread is in io_uring_enter.
  std::vector<io_uring_sqe*> submission() const;
  // What the kernel's release of the CQ's tail does for the thread that then reads the CQE, told to
  // ThreadSanitizer, which can't see the kernel.
  void publish() const;

 private:
  const int fd_;
  const ino_t inode_;
  unsigned* const cq_tail_;
  const int enter_fd_;  // what the ring's thread gives to io_uring_enter
  const pid_t thread_;
  const io_uring_sq sq_;  // pointers into memory that is shared with the kernel
  const unsigned sqe_shift_;

  std::deque<Command> commands_;
  Command* unused_ = nullptr;                  // the ring's thread's
  std::atomic<Command*> given_back_{nullptr};  // pushed by the driver's thread

  bool dead_ = false;
  uint16_t buffers_head_ = 0;
  std::set<uint64_t> buffer_slots_;

  std::vector<Target> targets_;  // known in epoch known_epoch_
  uint64_t known_epoch_ = 0;
  std::atomic<uint64_t> epoch_{0};
};

// The inode behind a descriptor; 0 if it is closed.
ino_t inode_of(int fd);

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_RING_PORT_H
