// SPDX-License-Identifier: MIT
//
// A RAM disk that keeps the requests that come while the file "hold" exists, until the file
// "release" does, and then, when the runner has failed them long since, makes use of all that a
// handler may use of a request: it must find it as it was, and change nothing else. It ends the
// process if it does not. With LATE_MOVES_DATA the data is moved by the host's functions, with
// LATE_OWN_BUFFERS in buffers of its own, of which there is one for each tag.
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <exception>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <ublk/handler.hpp>
#include <vector>

namespace {

constexpr uint32_t kBlock = 512;

class Late final : public ublk::Handler {
 public:
  static constexpr const char* kName = LATE_NAME;
  static constexpr const char* kSummary = "answers late, for tests";
  static constexpr ublk_model kModel = UBLK_MODEL_INLINE;
  static constexpr uint32_t kScratchSize = 64;
#ifdef LATE_MOVES_DATA
  static constexpr bool kMovesData = true;
#endif
  static constexpr ublk_option kOptions[] = {
      ublk::size_option("size", "Size of the device.", {.required = true}),
      ublk::bool_option("on_workers", "Whether workers serve it.", {.default_value = "false"}),
      ublk::path_option("hold", "While it exists requests are kept.", {.required = true}),
      ublk::path_option("release", "Once it exists they are answered.", {.required = true}),
  };

  explicit Late(const ublk::OpenArgs& args)
      : host_(args.host()),
        on_workers_(args.boolean("on_workers")),
        hold_(args.text("hold")),
        release_(args.text("release")),
        ram_(args.number("size")) {}
  ~Late() override {
    if (answering_.joinable()) answering_.join();
  }

  void geometry(ublk_geometry& geometry) override {
    geometry.size = ram_.size();
    geometry.logical_block_size = kBlock;
    if (on_workers_) geometry.model = UBLK_MODEL_WORKERS;
  }

  int read(ublk::Io& io) override {
    if (exists(hold_)) return keep(io);
#ifdef LATE_MOVES_DATA
    return io.write_data(ram_.data() + io.offset(), io.length(), 0);
#else
    std::memcpy(io.data(), ram_.data() + io.offset(), io.length());
    return static_cast<int>(io.length());
#endif
  }
  int write(ublk::Io& io) override {
    if (exists(hold_)) return keep(io);
#ifdef LATE_MOVES_DATA
    return io.read_data(ram_.data() + io.offset(), io.length(), 0);
#else
    std::memcpy(ram_.data() + io.offset(), io.data(), io.length());
    return static_cast<int>(io.length());
#endif
  }
#ifdef LATE_OWN_BUFFERS
  void* alloc_io_buffer(ublk::HandlerQueue, uint16_t tag, size_t bytes) override {
    if (!with_buffer_.insert(tag).second) return nullptr;
    void* buffer = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return buffer == MAP_FAILED ? nullptr : buffer;
  }
  void free_io_buffer(ublk::HandlerQueue, uint16_t tag, void* buffer, size_t bytes) override {
    must(with_buffer_.erase(tag) == 1);
    munmap(buffer, bytes);
  }
#endif
  int flush(ublk::Io& io) override { return exists(hold_) ? keep(io) : 0; }
  int discard(ublk::Io& io) override {
    std::memset(ram_.data() + io.offset(), 0, io.length());
    return 0;
  }
  int write_zeroes(ublk::Io& io) override { return discard(io); }

 private:
  struct Kept {
    const ublk_request* request;
    ublk_request copy;
    std::vector<std::byte> data;
  };

  static bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }
  static void must(bool holds) {
    if (!holds) std::terminate();
  }

  int keep(const ublk::Io& io) {
    Kept kept{&io.request(), io.request(), {}};
    std::memset(kept.request->scratch, 0x5c, kScratchSize);
    if (kept.request->buffer != nullptr) {
      const auto* data = static_cast<const std::byte*>(kept.request->buffer);
      kept.data.assign(data, data + kept.request->length);
    }
    if (on_workers_) {
      while (!exists(release_)) poll(nullptr, 0, 1);
      return use(kept);
    }
    const std::lock_guard lock(mutex_);
    kept_.push_back(std::move(kept));
    if (!answering_.joinable()) answering_ = std::thread([this] { answer(); });
    return UBLK_PENDING;
  }

  void answer() {
    while (!exists(release_)) poll(nullptr, 0, 1);
    const std::lock_guard lock(mutex_);
    for (const Kept& kept : kept_) {
      const int result = use(kept);
      must(host_.complete(kept.copy.id, result) == -EALREADY);
    }
  }

  // As a backend that has been away.
  int use(const Kept& kept) const {
    const ublk_request& request = *kept.request;
    must(std::memcmp(&request, &kept.copy, sizeof(request)) == 0);
    for (size_t i = 0; i < kScratchSize; ++i)
      must(static_cast<unsigned char*>(request.scratch)[i] == 0x5c);
    if (request.buffer != nullptr) {
      must(std::memcmp(request.buffer, kept.data.data(), request.length) == 0);
      if (request.op == UBLK_OP_READ) std::memset(request.buffer, 0xee, request.length);
    } else if (request.length != 0) {
      std::vector<std::byte> own(request.length, std::byte{0xee});
      const int32_t moved = request.op == UBLK_OP_READ
                                ? host_.write_data(&request, own.data(), request.length, 0)
                                : host_.read_data(&request, own.data(), request.length, 0);
      must(moved == -EALREADY);
    }
    return static_cast<int>(request.length);
  }

  const ublk_host& host_;
  const bool on_workers_;
  const std::string hold_;
  const std::string release_;
  std::vector<std::byte> ram_;
  std::mutex mutex_;
  std::vector<Kept> kept_;
  std::thread answering_;
  std::set<uint16_t> with_buffer_;
};

}  // namespace

UBLK_HANDLER(Late)
