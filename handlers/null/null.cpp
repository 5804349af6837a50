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
  };

  // What a tag's buffer is known to hold. A tag keeps its buffer, so what one read has zeroed is
  // still zero at the next, unless a write brought data in between.
  struct Tag {
    std::byte* buffer;
    uint32_t zeroes;  // so many bytes at its start are zero
  };
  static constexpr uint32_t kScratchSize = sizeof(Tag);

  explicit Null(const ublk::OpenArgs& args) : size_(args.number("size")) {
    if (size_ % kBlockSize != 0)
      throw std::invalid_argument("size is " + std::to_string(size_) +
                                  " bytes, expected a multiple of " + std::to_string(kBlockSize));
  }

  void geometry(ublk_geometry& geometry) override {
    geometry.size = size_;
    geometry.logical_block_size = kBlockSize;
    geometry.flags |= UBLK_GEOMETRY_FUA;
  }

  int read(ublk::Io& io) override {
    Tag& tag = io.scratch<Tag>();
    if (tag.buffer != io.data()) tag = {.buffer = io.data(), .zeroes = 0};
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
};

}  // namespace

UBLK_HANDLER(Null)
