// SPDX-License-Identifier: MIT
// What the longer examples share: the description of a plain disk, and waiting for the end.
#ifndef UBLK_EXAMPLES_COMMON_H
#define UBLK_EXAMPLES_COMMON_H

#include <pthread.h>
#include <ublk/device.h>

#include <csignal>
#include <cstdint>

// A disk of `bytes` with 512-byte blocks that can flush and discard. `flags`: the buffer mode's
// flag, ublk::abi::kFlagUserCopy for example.
inline ublk::DeviceSpec plain_disk(uint64_t bytes, uint16_t queues, uint16_t depth,
                                   uint64_t flags = 0) {
  constexpr uint32_t kMaxIoBytes = 512 << 10;
  ublk::DeviceSpec spec;
  spec.info.nr_hw_queues = queues;
  spec.info.queue_depth = depth;
  spec.info.max_io_buf_bytes = kMaxIoBytes;
  spec.info.dev_id = ublk::abi::kAnyDeviceId;
  spec.info.flags = flags;
  spec.params.types = ublk::abi::kParamBasic | ublk::abi::kParamDiscard;
  spec.params.basic.attrs = ublk::abi::kAttrVolatileCache;
  spec.params.basic.logical_bs_shift = 9;
  spec.params.basic.physical_bs_shift = 12;
  spec.params.basic.io_min_shift = 12;
  spec.params.basic.max_sectors = kMaxIoBytes / ublk::abi::kSectorSize;
  spec.params.basic.dev_sectors = bytes / ublk::abi::kSectorSize;
  spec.params.discard.discard_granularity = 4096;
  spec.params.discard.max_discard_sectors = 1 << 20;
  spec.params.discard.max_discard_segments = 1;
  return spec;
}

// Blocks SIGINT and SIGTERM in this thread and in all that it makes, until wait() takes one.
class StopSignals {
 public:
  StopSignals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  void wait() const {
    int signal = 0;
    sigwait(&set_, &signal);
  }

 private:
  sigset_t set_;
};

#endif  // UBLK_EXAMPLES_COMMON_H
