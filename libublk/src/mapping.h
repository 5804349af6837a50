// SPDX-License-Identifier: MIT
//
// Address space for I/O buffers: anonymous memory that costs nothing until a page is touched, and
// whose pages can be given back one by one.
#ifndef UBLK_SRC_MAPPING_H
#define UBLK_SRC_MAPPING_H

#include <cstddef>

namespace ublk::internal {

// Owns one mapping. Without huge pages, so that what is touched is what is resident. Any thread.
class Mapping {
 public:
  // `bytes`: not 0; rounded up to whole pages. Throws Error.
  explicit Mapping(size_t bytes);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

  // Gives whole pages back to the system; they read as zeroes afterwards. False if the system
  // refuses: nothing has changed then.
  bool discard(size_t offset, size_t bytes) const;

 private:
  size_t size_;
  std::byte* data_;
};

size_t page_size();
size_t round_up_to_page(size_t bytes);

}  // namespace ublk::internal

#endif  // UBLK_SRC_MAPPING_H
