// SPDX-License-Identifier: MIT
//
// A RAM disk that moves the data of requests in the ways that the built-in handlers don't:
//
//   RAM_MOVES_DATA   by the host's functions, at once or on the ring; also answers reads and writes
//                    in two parts now and then
//   else             in buffers of its own, in copy mode
//
// What begins in its last 64 KiB is served only while the file "gate" exists, if that is given; who
// waits for it makes the device's trouble.
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <set>
#include <string>
#include <ublk/handler.hpp>
#include <utility>
#include <vector>

namespace {

constexpr uint32_t kBlock = 512;

struct Op : ublk_event {
  const ublk_host* host;
  uint64_t id;
};

class Ram final : public ublk::Handler {
 public:
  static constexpr const char* kName = RAM_NAME;
  static constexpr const char* kSummary = "a RAM disk for tests";
  static constexpr ublk_model kModel = UBLK_MODEL_INLINE;
  static constexpr uint32_t kScratchSize = sizeof(Op);
#ifdef RAM_MOVES_DATA
  static constexpr bool kMovesData = true;
#endif
  static constexpr ublk_option kOptions[] = {
      ublk::size_option("size", "Size of the device.", {.required = true}),
      ublk::choice_option("io", "inline|ring|workers", "Where requests are served.",
                          {.default_value = "inline"}),
      ublk::path_option("gate", "The file without which the last requests hang."),
      ublk::string_option("token", "Nothing that is used.", {.secret = true}),
  };

  explicit Ram(const ublk::OpenArgs& args)
      : host_(args.host()),
        device_(args.device()),
        on_ring_(args.text("io") == "ring"),
        gate_(args.text("gate")),
        ram_(args.number("size")) {
    if (args.text("io") == "workers") model_ = UBLK_MODEL_WORKERS;
    if (on_ring_) model_ = UBLK_MODEL_RING;
  }
  ~Ram() override {
    if (!buffers_.empty()) std::terminate();  // the runner has not freed them
  }

  void geometry(ublk_geometry& geometry) override {
    geometry.size = ram_.size();
    geometry.logical_block_size = kBlock;
    geometry.model = model_;
  }

#ifdef RAM_MOVES_DATA
  int read(ublk::Io& io) override {
    pass_gate(io);
    return move(io);
  }
  int write(ublk::Io& io) override { return move(io); }
#else
  int read(ublk::Io& io) override {
    if (io.tag_buffer() && !is_mine(io.data())) return -EBADF;
    std::memcpy(io.data(), at(io), io.length());
    return static_cast<int>(io.length());
  }
  int write(ublk::Io& io) override {
    if (io.tag_buffer() && !is_mine(io.data())) return -EBADF;
    std::memcpy(at(io), io.data(), io.length());
    return static_cast<int>(io.length());
  }
  void* alloc_io_buffer(ublk::HandlerQueue, uint16_t, size_t bytes) override {
    void* buffer = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) return nullptr;
    const std::lock_guard lock(mutex_);
    buffers_.insert(buffer);
    return buffer;
  }
  void free_io_buffer(ublk::HandlerQueue, uint16_t, void* buffer, size_t bytes) override {
    munmap(buffer, bytes);
    const std::lock_guard lock(mutex_);
    buffers_.erase(buffer);
  }
#endif
  int discard(ublk::Io& io) override { return zero(io); }
  int write_zeroes(ublk::Io& io) override { return zero(io); }

 private:
  void pass_gate(const ublk::Io& io) const {
    if (gate_.empty() || io.offset() + (64 << 10) < ram_.size()) return;
    if (access(gate_.c_str(), F_OK) == 0) return;
    host_.set_trouble(device_, "no %s", gate_.c_str());
    while (access(gate_.c_str(), F_OK) != 0) poll(nullptr, 0, 1);
    host_.set_trouble(device_, "%s", "");
  }

  std::byte* at(const ublk::Io& io) { return ram_.data() + io.offset(); }

  int zero(const ublk::Io& io) {
    std::memset(at(io), 0, io.length());
    return 0;
  }

  bool is_mine(void* buffer) {
    const std::lock_guard lock(mutex_);
    return buffers_.contains(buffer);
  }

  // Every third request is done in part only.
  uint32_t part_of(uint32_t length) {
    if (turn_.fetch_add(1, std::memory_order_relaxed) % 3 != 0 || length < 2 * kBlock)
      return length;
    return length / 2 / kBlock * kBlock;
  }

  int move(ublk::Io& io) {
    const uint32_t length = part_of(io.length());
    if (!on_ring_) return move_here(io, length);
    Op& op = io.scratch<Op>();
    op.host = &host_;
    op.id = io.id();
    op.handle = [](ublk_event* event, int32_t result, uint32_t) {
      const Op& moved = *static_cast<Op*>(event);
      moved.host->complete(moved.id, result);
    };
    return io.move_on_ring(at(io), length, 0, op);
  }

  // In pieces, the last one first.
  int move_here(const ublk::Io& io, uint32_t length) {
    const uint32_t middle = length / 2;
    for (const auto& [from, to] : {std::pair(middle, length), std::pair(0u, middle)}) {
      if (from == to) continue;
      const int moved = io.request().op == UBLK_OP_READ
                            ? io.write_data(at(io) + from, to - from, from)
                            : io.read_data(at(io) + from, to - from, from);
      if (moved != static_cast<int>(to - from)) return moved < 0 ? moved : -EIO;
    }
    return static_cast<int>(length);
  }

  const ublk_host& host_;
  ublk_device* const device_;
  const bool on_ring_;
  const std::string gate_;
  uint32_t model_ = kModel;
  std::vector<std::byte> ram_;
  std::atomic<unsigned> turn_{0};
  std::mutex mutex_;
  std::set<void*> buffers_;
};

}  // namespace

UBLK_HANDLER(Ram)
