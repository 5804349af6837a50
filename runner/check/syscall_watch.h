// SPDX-License-Identifier: MIT
//
// Sees by which system calls and SQEs data can become stable, or leave the process, and makes those
// fail that make it stable. By seccomp's user notification: no root, no ptrace, any library.
#ifndef UBLK_CHECK_SYSCALL_WATCH_H
#define UBLK_CHECK_SYSCALL_WATCH_H

#include <mutex>
#include <set>
#include <string>

#include "fake/driver.h"

namespace ublk_check {

// What was done meanwhile; the names are those of calls and of SQEs.
struct Acts {
  std::set<std::string> syncs;     // fsync, msync, a write with RWF_DSYNC or on an O_DSYNC file ...
  std::set<std::string> messages;  // to where this process can't look: a socket, an ioctl, another
                                   // io_uring
  std::set<std::string> writes;    // to files and block devices, without a sync
  unsigned failed = 0;             // syncs that were made to fail

  bool stable() const { return !syncs.empty() || !messages.empty(); }
};

// Sees the threads that the maker's thread starts from then on, and that thread itself. Not seen:
// stores to memory that is stable by itself or that another process reads, and the submissions of a
// ring with SQPOLL.
class SyscallWatch {
 public:
  // Never ends: a filter can't be removed, and who waits for its answer would wait for ever. Throws
  // std::system_error: it is not allowed here.
  static SyscallWatch& start(fake::Driver& driver);

  void begin();  // forgets what was done before
  Acts end();
  // From now on fsync and its kind fail with EIO, SQEs of that kind with EBADF.
  void fail_syncs(bool fail);

 private:
  explicit SyscallWatch(fake::Driver& driver) : driver_(driver) {}
  struct Call;
  void serve(int listener);
  int judge(const Call& call);
  int judge_submission(const Call& call);
  void judge_write(const char* name, int fd, bool synced);
  int sync(const char* name);

  fake::Driver& driver_;
  std::mutex mutex_;
  bool watching_ = false;
  bool failing_ = false;
  Acts acts_;
};

}  // namespace ublk_check

#endif  // UBLK_CHECK_SYSCALL_WATCH_H
