// SPDX-License-Identifier: MIT
//
// Named memory that outlives the process.
#ifndef UBLK_HANDLERS_MEMORY_SHARED_SEGMENT_H
#define UBLK_HANDLERS_MEMORY_SHARED_SEGMENT_H

#include <cstdint>
#include <string>

namespace memory {

// A file of /dev/shm, for root alone, that one process has at a time.
class SharedSegment {
 public:
  // Opens /dev/shm/NAME, or makes it empty, unless it `must_exist`. Throws std::system_error:
  // EBUSY, another process has it.
  SharedSegment(const std::string& name, bool must_exist);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  // Of a new one. Throws std::system_error: EINVAL, it is there with another size.
  void set_size(uint64_t bytes) const;
  int fd() const { return fd_; }

  // Bytes of the segment from `begin` to before `end` that take memory. Whole pages.
  struct Extent {
    uint64_t begin;
    uint64_t end;
  };
  // The first at or after `offset`; an empty one at the end. Throws std::system_error.
  Extent next_data(uint64_t offset) const;

 private:
  const std::string path_;
  int fd_;
};

}  // namespace memory

#endif  // UBLK_HANDLERS_MEMORY_SHARED_SEGMENT_H
