// SPDX-License-Identifier: MIT
// Commits of requests from another thread than their ring's, where the kernel allows that.
#ifndef UBLK_REMOTE_COMMITS_H
#define UBLK_REMOTE_COMMITS_H

#include <liburing.h>

#include <array>
#include <cstdint>

#include "batch.h"
#include "ublk/request.h"

namespace ublk {

class Queue;

namespace internal {

// The COMMIT_IO_CMDS of some queues, and an io_uring to submit them. One thread at a time.
//
// A request belongs to whoever has won it (see Request) until flush(), and its queue lives as long.
class RemoteCommits {
 public:
  RemoteCommits() = default;
  ~RemoteCommits();
  RemoteCommits(const RemoteCommits&) = delete;
  RemoteCommits& operator=(const RemoteCommits&) = delete;

  // Takes a completed request of a Queue::takes_commits_anywhere(). False: there is no io_uring.
  bool add(Slot& slot);
  // Commits all. What the kernel does not take goes to the ring's thread, which tries again.
  void flush();

 private:
  static constexpr unsigned kQueues = 8;
  static constexpr unsigned kElements = 32;
  struct Commit {
    Queue* queue;
    unsigned taken;  // elements, by the kernel
    BatchElements<kElements> elements;
  };

  bool set_up();
  void end_ring();
  Commit& commit_of(Queue& queue);
  void prepare(unsigned number);
  void submit();
  void settle(Commit& commit);

  io_uring uring_{};
  bool has_ring_ = false;
  unsigned count_ = 0;
  std::array<Commit, kQueues> commits_;
};

}  // namespace internal
}  // namespace ublk

#endif  // UBLK_REMOTE_COMMITS_H
