// SPDX-License-Identifier: MIT
//
// A disk that is kept in two files, by coroutines: no thread waits for either.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>
#include <thread>
#include <ublk/handler.hpp>

class Mirror final : public ublk::CoroutineHandler {
 public:
  static constexpr const char* kName = "mirror";
  static constexpr const char* kSummary = "two files with the same data";
  static constexpr ublk_model kModel = UBLK_MODEL_RING;
  static constexpr ublk_option kOptions[] = {
      ublk::path_option("left", "A file.", {.required = true}),
      ublk::path_option("right", "Another one, of the same size.", {.required = true}),
  };

  explicit Mirror(const ublk::OpenArgs& args)
      : legs_{Leg(args.text("left")), Leg(args.text("right"))} {}

  void geometry(ublk_geometry& geometry) override {
    geometry.size = std::min(legs_[0].size(), legs_[1].size()) / 512 * 512;
  }

  // The lock of a killed process is free once its last write has ended.
  void fence(std::chrono::milliseconds timeout) override {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    for (const Leg& leg : legs_)
      while (!leg.lock()) {
        if (std::chrono::steady_clock::now() >= deadline)
          throw std::system_error(EBUSY, std::generic_category(), leg.path + " is locked");
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
  }

  // From the first leg that can.
  ublk::Task<int> read(ublk::Io& io) override {
    int result = -EIO;
    for (const Leg& leg : legs_) {
      result = co_await io.read(leg.fd, io.data(), io.length(), io.offset());
      if (result > 0) break;
    }
    co_return result;
  }

  // To both at once. If one writes less, the rest comes again, for both.
  ublk::Task<int> write(ublk::Io& io) override {
    const auto [left, right] =
        co_await ublk::when_all(io.write(legs_[0].fd, io.data(), io.length(), io.offset()),
                                io.write(legs_[1].fd, io.data(), io.length(), io.offset()));
    co_return std::min(left, right);
  }

  // The kernel tells of lost data once, but no later flush may succeed.
  ublk::Task<int> flush(ublk::Io& io) override {
    const auto [left, right] =
        co_await ublk::when_all(io.fdatasync(legs_[0].fd), io.fdatasync(legs_[1].fd));
    if (left < 0 || right < 0) flush_error_ = std::min(left, right);
    co_return flush_error_;
  }

 private:
  struct Leg {
    explicit Leg(std::string name)
        : path(std::move(name)), fd(open(path.c_str(), O_RDWR | O_CLOEXEC)) {
      if (fd < 0) throw std::system_error(errno, std::generic_category(), path);
    }
    Leg(Leg&& other) = delete;
    ~Leg() { close(fd); }

    uint64_t size() const {
      struct stat st;
      if (fstat(fd, &st) != 0) throw std::system_error(errno, std::generic_category(), path);
      return static_cast<uint64_t>(st.st_size);
    }
    bool lock() const {
      if (flock(fd, LOCK_EX | LOCK_NB) == 0) return true;
      if (errno != EWOULDBLOCK) throw std::system_error(errno, std::generic_category(), path);
      return false;
    }

    const std::string path;
    const int fd;
  };

  const std::array<Leg, 2> legs_;
  std::atomic<int> flush_error_{0};
};

UBLK_HANDLER(Mirror)
