// SPDX-License-Identifier: MIT
// The fake's /dev/ublkcN: a sparse memory file with the layout of the real one.
#ifndef UBLK_TESTS_FAKE_NODE_FILE_H
#define UBLK_TESTS_FAKE_NODE_FILE_H

#include <ublk/abi.h>
#include <ublk/unique_fd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace fake {

// Descriptors are where the server maps them, user copy is pread and pwrite at its offsets. Unlike
// the kernel it allows any access at any time.
//
// The server's opening carries an OFD lock, which ends with its last reference, be it a descriptor,
// a mapping or a slot of a ring's file table: so the fake knows, as the kernel does, whether the
// device is open.
class NodeFile {
 public:
  // `driver` tells the fakes of one process apart. Throws std::system_error.
  NodeFile(uint32_t driver, uint32_t device, uint16_t queues, uint16_t depth);
  ~NodeFile();
  NodeFile(const NodeFile&) = delete;
  NodeFile& operator=(const NodeFile&) = delete;

  // The server's descriptor; none with errno set. EBUSY: it is open already.
  ublk::UniqueFd open() const;
  bool is_open() const;

  bool has(uint16_t queue, uint16_t tag) const {
    return queue < descriptors_.size() && tag < depth_;
  }
  ublk::abi::IoDesc& descriptor(uint16_t queue, uint16_t tag) { return descriptors_[queue][tag]; }

  // User copy: a request's data as the server sees it.
  void put_data(uint16_t queue, uint16_t tag, const std::byte* data, size_t bytes);
  void get_data(uint16_t queue, uint16_t tag, std::byte* data, size_t bytes) const;

  // A name that leads to the file as long as it is there; for inotify.
  std::string path() const;
  // The device of a path as /proc shows it; abi::kAnyDeviceId if it is none of that driver's nodes.
  static uint32_t device_of_path(const std::string& path, uint32_t driver);

 private:
  ublk::UniqueFd fd_;
  const uint16_t depth_;
  size_t map_size_;
  std::vector<ublk::abi::IoDesc*> descriptors_;  // by queue
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_NODE_FILE_H
