// SPDX-License-Identifier: MIT
#include "shared_segment.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace memory {

namespace {

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

}  // namespace

SharedSegment::SharedSegment(const std::string& name, bool must_exist)
    : path_("/dev/shm/" + name),
      fd_(open(path_.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | (must_exist ? 0 : O_CREAT), 0600)) {
  if (fd_ < 0) fail(errno, path_);
  struct stat status {};
  int error = 0;
  if (fstat(fd_, &status) != 0)
    error = errno;
  else if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || (status.st_mode & 0077) != 0)
    error = EPERM;  // somebody else has made it, to look at the data
  else if (flock(fd_, LOCK_EX | LOCK_NB) != 0)
    error = errno == EWOULDBLOCK ? EBUSY : errno;
  if (error == 0) return;
  close(fd_);
  fail(error, path_);
}

SharedSegment::~SharedSegment() { close(fd_); }

void SharedSegment::set_size(uint64_t bytes) const {
  struct stat status {};
  if (fstat(fd_, &status) != 0) fail(errno, path_);
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size == bytes) return;
  if (size != 0)
    fail(EINVAL, path_ + " is of a device of another size; remove it to begin with an empty one");
  if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) fail(errno, path_);
}

SharedSegment::Extent SharedSegment::next_data(uint64_t offset) const {
  const off_t begin = lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
  if (begin < 0 && errno == ENXIO) return {offset, offset};
  const off_t end = begin < 0 ? -1 : lseek(fd_, begin, SEEK_HOLE);
  if (end < 0) fail(errno, path_);
  return {static_cast<uint64_t>(begin), static_cast<uint64_t>(end)};
}

}  // namespace memory
