// SPDX-License-Identifier: MIT
// Zeroes that take their time, for tests of what waits meanwhile.
#include <chrono>
#include <cstring>
#include <thread>
#include <ublk/handler.hpp>

namespace {

class Slow final : public ublk::Handler {
 public:
  static constexpr const char* kName = "slow";
  static constexpr const char* kSummary = "takes 20 ms for each request";
  static constexpr ublk_model kModel = UBLK_MODEL_WORKERS;
  static constexpr ublk_option kOptions[] = {
      ublk::size_option("size", "Size of the device.", {.default_value = "1G"}),
  };

  explicit Slow(const ublk::OpenArgs& args) : size_(args.number("size")) {}
  void geometry(ublk_geometry& geometry) override { geometry.size = size_; }

  int read(ublk::Io& io) override {
    std::this_thread::sleep_for(kTime);
    std::memset(io.data(), 0, io.length());
    return static_cast<int>(io.length());
  }
  int write(ublk::Io& io) override {
    std::this_thread::sleep_for(kTime);
    return static_cast<int>(io.length());
  }

 private:
  static constexpr std::chrono::milliseconds kTime{20};

  const uint64_t size_;
};

}  // namespace

UBLK_HANDLER(Slow)
