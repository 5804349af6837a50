// SPDX-License-Identifier: MIT
//
// The null handler: reads give zeroes, everything else is forgotten. It measures the way to a
// handler and back, and shows how one is written.

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <ublk/handler.hpp>

namespace {

constexpr uint32_t kBlockSize = 512;

class Null final : public ublk::Handler {
 public:
  static constexpr const char* kName = "null";
  static constexpr const char* kSummary = "reads zeroes, forgets what is written";
  static constexpr ublk_model kModel = UBLK_MODEL_INLINE;
  static constexpr ublk_option kOptions[] = {
      ublk::size_option("size", "Size of the device, a multiple of 512 bytes.",
                        {.default_value = "250G", .minimum = 4096}),
      ublk::choice_option("io", "inline|workers",
                          "Whether requests are answered on the queue's thread or on workers.",
                          {.default_value = "inline"}),
  };

  // What a tag's own buffer is known to hold: what one read has zeroed is still zero at the next,
  // unless a write brought data in between.
  struct Tag {
    uint32_t zeroes;  // so many bytes at its start are zero
  };
  static constexpr uint32_t kScratchSize = sizeof(Tag);

  explicit Null(const ublk::OpenArgs& args)
      : size_(args.number("size")), on_workers_(args.text("io") == "workers") {
    if (size_ % kBlockSize != 0)
      throw std::invalid_argument("size is " + std::to_string(size_) +
                                  " bytes, expected a multiple of " + std::to_string(kBlockSize));
  }

  void geometry(ublk_geometry& geometry) override {
    geometry.size = size_;
    geometry.logical_block_size = kBlockSize;
    geometry.flags |= UBLK_GEOMETRY_FUA;
    if (on_workers_) geometry.model = UBLK_MODEL_WORKERS;
  }

  int read(ublk::Io& io) override {
    Tag& tag = io.scratch<Tag>();
    if (!io.tag_buffer()) tag.zeroes = 0;
    if (tag.zeroes < io.length()) {
      std::memset(io.data() + tag.zeroes, 0, io.length() - tag.zeroes);
      tag.zeroes = io.length();
    }
    return io.length();
  }

  int write(ublk::Io& io) override {
    io.scratch<Tag>().zeroes = 0;
    return io.length();
  }

  int flush(ublk::Io&) override { return 0; }
  int discard(ublk::Io&) override { return 0; }
  int write_zeroes(ublk::Io&) override { return 0; }

 private:
  const uint64_t size_;
  const bool on_workers_;
};

}  // namespace

UBLK_HANDLER(Null)
