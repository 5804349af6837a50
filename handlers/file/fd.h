// SPDX-License-Identifier: MIT
//
// Owns a file descriptor.
#ifndef UBLK_HANDLERS_FILE_FD_H
#define UBLK_HANDLERS_FILE_FD_H

#include <unistd.h>

#include <utility>

namespace file {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (fd_ >= 0) close(fd_);
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

}  // namespace file

#endif  // UBLK_HANDLERS_FILE_FD_H
