// SPDX-License-Identifier: MIT
// The fake driver's thread, and the way of commands to it and of answers back.
#ifndef UBLK_TESTS_FAKE_LOOP_H
#define UBLK_TESTS_FAKE_LOOP_H

#include <liburing.h>
#include <ublk/unique_fd.h>

#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "command.h"
#include "ring_port.h"

namespace fake {

// Runs everything one after the other on one thread, so that what it calls needs no locks.
//
// A command is rewritten into an IORING_OP_MSG_RING to the loop's ring, which brings its address:
// it arrives when the kernel takes the SQE, in the order and the batches that the server submits.
// The answer is a MSG_RING into the server's ring, with the command's user_data and the result.
class Loop {
 public:
  class Client {
   public:
    virtual ~Client() = default;
    virtual void handle(Command& command) = 0;
    virtual void readable() = 0;  // the watched descriptor is
    virtual void disk_closed() = 0;
  };

  // `driver` numbers the fakes of a process, from 1. Everything of `client` is called on the loop's
  // thread. Throws std::system_error; EPERM: io_uring is forbidden.
  Loop(Client& client, int watched_fd, uint32_t driver, NodeTable& nodes);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Takes a URING_CMD, or an ASYNC_CANCEL of one, out of the server's ring. On the ring's thread.
  void capture(io_uring& ring, io_uring_sqe& sqe);
  // Ends a command. On the loop's thread.
  void answer(Command& command, int result);
  // A CQE of a command that goes on.
  void answer_more(const Command& command, int result, uint32_t cqe_flags);
  // Ends a command whose ring has gone. On the loop's thread.
  void forget(Command& command) { command.port->give_back(command); }

  // All rings that there are now are those of a dead server. On the loop's thread.
  void bury_rings();

  // Tells the client that a disk which was stopped is closed by its last user. Any thread.
  void tell_disk_closed();

  // Runs `task` on the loop's thread, in the order of the calls. Any thread.
  void post(std::function<void()> task);
  // The same, and waits for its result; on the loop's thread at once.
  template <class F>
  auto call(F&& function) {
    if (on_thread()) return function();
    // Shared: the caller goes on while the loop's thread still is in the task's last instructions.
    const auto task =
        std::make_shared<std::packaged_task<std::invoke_result_t<F>()>>(std::forward<F>(function));
    post([task] { (*task)(); });
    return task->get_future().get();
  }
  bool on_thread() const;

  // See Driver::submission(). Any thread.
  std::optional<std::vector<io_uring_sqe*>> submission(int ring_fd, unsigned flags, pid_t thread);

 private:
  RingPort& port_of(const io_uring& ring);
  void capture_io(Command& command, const io_uring_sqe& sqe);
  static void capture_batch(Command& command, const io_uring_sqe& sqe, NodeFile* node);
  void run();
  void run_posted();
  bool anything_posted();
  void handle(const io_uring_cqe& cqe);
  void poll(int fd, uint64_t user_data);
  io_uring_sqe& get_sqe();

  Client& client_;
  const int watched_fd_;
  const uint32_t driver_;
  NodeTable& nodes_;
  io_uring ring_{};
  ublk::UniqueFd wakeup_;
  bool ending_ = false;  // the thread's

  std::mutex ports_mutex_;
  std::vector<std::unique_ptr<RingPort>> ports_;

  std::mutex posted_mutex_;
  std::vector<std::function<void()>> posted_;

  std::thread thread_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_LOOP_H
