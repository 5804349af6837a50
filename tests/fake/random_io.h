// SPDX-License-Identifier: MIT
// Random I/O on a disk, compared with a model.
#ifndef UBLK_TESTS_FAKE_RANDOM_IO_H
#define UBLK_TESTS_FAKE_RANDOM_IO_H

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "disk.h"

namespace fake {

// Keeps `depth` requests under way, each in a part of the disk of its own, so that what must be
// read is known whatever the order. Has the disk open until the last one has ended. Any thread.
class RandomIo {
 public:
  struct Options {
    uint64_t seed = 1;  // the environment's UBLK_FAKE_SEED overrules it
    unsigned depth = 32;
    uint64_t requests = 1000;
    uint32_t max_sectors = 64;
    uint64_t sectors = 0;        // at the disk's start, which are used; 0: all
    uint32_t block_sectors = 1;  // what all requests are multiples of
    uint32_t chunk_sectors = 0;  // what no request crosses a multiple of; 0: none
    bool zeroing = true;         // WRITE_ZEROES, too
    bool discards = true;        // DISCARD, too
    bool flushes = false;        // FLUSH, too
    bool fua = false;            // some writes with FUA
    // The disk is all zero at first, and reads zeroes where it was discarded. Else nothing is known
    // of what was not written.
    bool blank = true;
    bool compares = true;  // false: the disk keeps no data
  };

  // Starts at once.
  RandomIo(std::shared_ptr<Disk> disk, const Options& options);
  ~RandomIo();  // what is under way goes on and ends with its request
  RandomIo(const RandomIo&) = delete;
  RandomIo& operator=(const RandomIo&) = delete;

  // False if the requests have not all ended within `timeout`.
  bool wait(std::chrono::milliseconds timeout);
  // What went wrong first, with the seed; empty: nothing.
  std::string error() const;
  uint64_t completed() const;

 private:
  struct State;
  class Lane;
  std::shared_ptr<State> state_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_RANDOM_IO_H
