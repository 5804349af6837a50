// SPDX-License-Identifier: MIT
// A part of a disk whose content is known.
#ifndef UBLK_CHECK_VOLUME_H
#define UBLK_CHECK_VOLUME_H

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"

namespace ublk_check {

// The limits of a device's requests, in sectors.
struct Limits {
  explicit Limits(const ublk::abi::Params& params);

  uint32_t block;        // logical
  uint32_t max;          // of a READ or WRITE, whole blocks
  uint32_t max_discard;  // 0: not offered
  uint32_t max_zeroes;   // 0: not offered
  uint32_t granularity;  // of discards
  uint32_t chunk;        // what no request crosses a multiple of; 0: none
  uint64_t device;
  bool read_only;
  bool flush;
  bool fua;

  // `sectors` from `first` on, without what would cross a chunk.
  uint32_t clip(uint64_t first, uint32_t sectors) const;
};

// Requests one after the other; each of them throws std::runtime_error if it fails or brings what
// was not there. Sectors are the disk's.
class Volume {
 public:
  Volume(Context& context, const ServedHandler& served, uint64_t first, uint64_t sectors);

  // Makes all of it known: by writing, or by reading block by block if it is read-only.
  void fill();
  void write(uint64_t sector, uint32_t sectors, uint32_t flags = 0);
  void read(uint64_t sector, uint32_t sectors);
  void read_all();
  // Of any length: split as the kernel would.
  void discard(uint64_t sector, uint64_t sectors);  // what is there afterwards is not known
  void write_zeroes(uint64_t sector, uint64_t sectors, uint32_t flags = 0);

  // One request, whatever the content becomes.
  int run(ublk::Operation op, uint64_t sector, uint32_t sectors, uint32_t flags = 0);

  const Limits& limits() const { return limits_; }
  uint64_t first() const { return first_; }
  uint64_t sectors() const { return known_.size(); }
  // Whole blocks somewhere in it, `sectors` long unless that crosses a chunk.
  uint64_t random_place(uint32_t sectors);

 private:
  std::byte* model(uint64_t sector);
  void compare(const fake::Io& io);

  Context& context_;
  const ServedHandler& served_;
  const Limits limits_;
  const uint64_t first_;
  std::mt19937_64 random_;
  std::vector<std::byte> model_;
  std::vector<bool> known_;
  std::vector<std::byte> data_;
};

}  // namespace ublk_check

#endif  // UBLK_CHECK_VOLUME_H
