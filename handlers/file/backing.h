// SPDX-License-Identifier: MIT
//
// The file or block device that a device's data lives in: opened, checked, locked, and measured.
#ifndef UBLK_HANDLERS_FILE_BACKING_H
#define UBLK_HANDLERS_FILE_BACKING_H

#include <ublk/unique_fd.h>

#include <cstdint>
#include <optional>
#include <string>

namespace file {

struct BackingOptions {
  std::string path;
  std::optional<uint64_t> size;  // bytes of the device; absent: the rest of the file from offset
  uint64_t offset = 0;           // bytes into the file where the device starts
  bool create = false;           // may make the file, or make it longer, to hold `size` bytes
  bool direct = false;           // past the page cache (O_DIRECT)
  bool read_only = false;
  bool recovering = false;  // a runner has served this file before: it must be there
};

// What the storage is like, in bytes.
struct Limits {
  uint32_t logical_block = 512;
  uint32_t physical_block = 4096;
  uint32_t io_min = 4096;
  uint32_t io_opt = 0;         // 0: unknown
  uint32_t dma_alignment = 4;  // of a buffer
  uint32_t discard_granularity = 4096;
  bool rotational = false;
  bool can_discard = false;
  bool stable_writes = false;  // data must not change while it is written past the page cache
};

class Backing {
 public:
  // Opens the file and tries to acquire it. Throws with a text for the user; then a file that it
  // has created is removed again.
  explicit Backing(BackingOptions options);
  ~Backing() = default;
  Backing(const Backing&) = delete;
  Backing& operator=(const Backing&) = delete;

  // Makes the storage ours: takes the lock, which also waits for the writes of a dead predecessor,
  // and then makes the file as long as it must be. False: another holds the lock. Until it has
  // returned true nothing may be read or written. Throws std::system_error.
  bool acquire();

  int fd() const { return fd_.get(); }
  bool is_block_device() const { return block_device_; }
  const std::string& path() const { return options_.path; }
  uint64_t offset() const { return options_.offset; }
  uint64_t size() const { return size_; }
  uint64_t ignored_tail() const { return ignored_tail_; }  // bytes that make no whole block
  const Limits& limits() const { return limits_; }
  bool direct() const { return options_.direct; }
  bool read_only() const { return options_.read_only; }

 private:
  bool exists() const;
  void create();
  ublk::UniqueFd open(int more_flags) const;
  void open_to_measure();
  void measure_file();
  bool can_punch_holes() const;
  void measure_block_device();
  void measure_direct();
  uint64_t file_size() const;
  void settle_size();
  bool lock() const;
  void claim();
  void grow();
  [[noreturn]] void fail(int error, const std::string& what) const;
  [[noreturn]] void refuse(const std::string& what) const;

  const BackingOptions options_;
  ublk::UniqueFd fd_;
  bool block_device_ = false;
  bool claimed_ = false;
  bool acquired_ = false;
  uint64_t size_ = 0;
  uint64_t ignored_tail_ = 0;
  Limits limits_;
};

}  // namespace file

#endif  // UBLK_HANDLERS_FILE_BACKING_H
