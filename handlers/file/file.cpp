// SPDX-License-Identifier: MIT
//
// The file handler: a disk in a file or on a block device, read and written on the queue's ring or
// by worker threads.

#include <algorithm>
#include <ublk/handler.hpp>

#include "disk.h"
#include "ring.h"
#include "workers.h"

namespace {

using file::Disk;

class File final : public ublk::Handler {
 public:
  static constexpr const char* kName = "file";
  static constexpr const char* kSummary = "a file or a block device";
  static constexpr ublk_model kModel = UBLK_MODEL_RING;
  static constexpr uint32_t kScratchSize = sizeof(file::RingOp);
  static constexpr ublk_option kOptions[] = {
      ublk::path_option("path", "The file or block device that holds the data.",
                        {.required = true}),
      ublk::size_option("size",
                        "Size of the device, a multiple of its block; without it, the rest of the "
                        "file from offset on.",
                        {.minimum = 4096}),
      ublk::bool_option("create",
                        "Makes a file that is missing, and makes a shorter one longer, to hold "
                        "size bytes.",
                        {.default_value = "false"}),
      ublk::size_option("offset", "Where in the file the device starts, a multiple of its block.",
                        {.default_value = "0"}),
      ublk::bool_option("direct", "Reads and writes past the page cache (O_DIRECT).",
                        {.default_value = "false"}),
      ublk::choice_option("io", "ring|workers",
                          "Whether the file is accessed by io_uring on the queue's ring or by "
                          "system calls that block worker threads.",
                          {.default_value = "ring"}),
  };

  explicit File(const ublk::OpenArgs& args)
      : disk_(args), on_workers_(args.text("io") == "workers") {}

  void geometry(ublk_geometry& geometry) override {
    disk_.geometry(geometry);
    if (on_workers_) {
      geometry.model = UBLK_MODEL_WORKERS;
      return;
    }
    // Past the page cache the pages of whoever uses the disk are written as they are: with holes
    // between them only at whole blocks, and they may change meanwhile.
    if (disk_.direct())
      geometry.dma_alignment = std::max(geometry.dma_alignment, geometry.logical_block_size);
    if (!disk_.limits().stable_writes) geometry.flags |= UBLK_GEOMETRY_ZERO_COPY;
    if (disk_.is_block_device() && !file::ring_discards_block_devices())
      geometry.flags &= ~uint32_t{UBLK_GEOMETRY_DISCARD};
  }
  void fence(std::chrono::milliseconds timeout) override { disk_.fence(timeout); }

  int read(ublk::Io& io) override { return serve(io, &Disk::read); }
  int write(ublk::Io& io) override { return serve(io, &Disk::write); }
  int flush(ublk::Io& io) override { return serve(io, &Disk::flush); }
  int discard(ublk::Io& io) override { return serve(io, &Disk::discard); }
  int write_zeroes(ublk::Io& io) override { return serve(io, &Disk::write_zeroes); }

 private:
  int serve(const ublk::Io& io, Disk::Begin begin) {
    return on_workers_ ? file::serve_on_worker(disk_, io, begin)
                       : file::serve_on_ring(disk_, io, begin);
  }

  Disk disk_;
  const bool on_workers_;
};

}  // namespace

UBLK_HANDLER(File)
