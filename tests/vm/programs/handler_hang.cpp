// SPDX-License-Identifier: MIT
// A RAM disk that hangs where its options say, for tests of what a runner does about it.
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <string>
#include <ublk/handler.hpp>
#include <vector>

namespace {

class Hang final : public ublk::Handler {
 public:
  static constexpr const char* kName = "hang";
  static constexpr const char* kSummary = "hangs on demand";
  static constexpr ublk_model kModel = UBLK_MODEL_INLINE;
  static constexpr ublk_option kOptions[] = {
      ublk::choice_option("where", "never|open|fence|close|submit|write|queue_close",
                          "The call that does not return; with write, writes are not answered.",
                          {.default_value = "never"}),
      ublk::size_option("size", "Size of the device.", {.default_value = "16M"}),
      ublk::bool_option("on_workers", "Whether requests are served by workers.",
                        {.default_value = "false"}),
  };

  explicit Hang(const ublk::OpenArgs& args)
      : where_(args.text("where")),
        on_workers_(args.boolean("on_workers")),
        data_(args.number("size")) {
    hang_in("open");
  }
  ~Hang() override { hang_in("close"); }

  void geometry(ublk_geometry& geometry) override {
    geometry.size = data_.size();
    if (on_workers_) geometry.model = UBLK_MODEL_WORKERS;
  }
  void fence(std::chrono::milliseconds) override { hang_in("fence"); }
  int close_queue(ublk::HandlerQueue, void*) override {
    return where_ == "queue_close" ? UBLK_PENDING : 0;
  }

  int read(ublk::Io& io) override {
    std::memcpy(io.data(), data_.data() + io.offset(), io.length());
    return static_cast<int>(io.length());
  }
  int write(ublk::Io& io) override {
    if (where_ == "write") return UBLK_PENDING;
    hang_in("submit");
    std::memcpy(data_.data() + io.offset(), io.data(), io.length());
    return static_cast<int>(io.length());
  }

 private:
  void hang_in(const char* call) const {
    while (where_ == call) pause();
  }

  const std::string where_;
  const bool on_workers_;
  std::vector<std::byte> data_;
};

}  // namespace

UBLK_HANDLER(Hang)
