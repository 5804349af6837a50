// SPDX-License-Identifier: MIT
//
// Serves a disk on the queue's ring, each command an SQE.
#ifndef UBLK_HANDLERS_FILE_RING_H
#define UBLK_HANDLERS_FILE_RING_H

#include <cstdint>
#include <ublk/handler.hpp>

#include "disk.h"

namespace file {

// In the tag's scratch.
struct RingOp : Op, ublk_event, ublk_timer {
  Disk* disk;
  ublk_queue* queue;
  int buffer_index;  // of the request's data in the ring's buffer table, or -1
  uint64_t id;
};

// Whether the ring has the discard command of block devices: since Linux 6.12.
bool ring_discards_block_devices();

int serve_on_ring(Disk& disk, const ublk::Io& io, Disk::Begin begin);

}  // namespace file

#endif  // UBLK_HANDLERS_FILE_RING_H
