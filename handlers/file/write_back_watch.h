// SPDX-License-Identifier: MIT
//
// Whether the kernel has failed to write data of a file back.
#ifndef UBLK_HANDLERS_FILE_WRITE_BACK_WATCH_H
#define UBLK_HANDLERS_FILE_WRITE_BACK_WATCH_H

#include <ublk/unique_fd.h>

#include <mutex>

namespace file {

// The kernel reports a failed write-back to each open file once. A sync that succeeds therefore
// does not mean that the data are there: another one, still on its way, may be about to bring the
// error. This open file is used for nothing but to ask, and asking and remembering are one step, so
// that the answer is true whoever else asks.
class WriteBackWatch {
 public:
  // Before the first write to the file. Throws std::system_error.
  explicit WriteBackWatch(int fd);

  // 0, or -errno of the first failure that nobody had been told of before. Call it after a sync has
  // succeeded. Any thread.
  int error();

 private:
  const ublk::UniqueFd fd_;
  std::mutex mutex_;  // a leaf; nothing that could wait is done with it held
  int error_ = 0;
};

}  // namespace file

#endif  // UBLK_HANDLERS_FILE_WRITE_BACK_WATCH_H
