// SPDX-License-Identifier: MIT
//
// A disk in a file, by calls that block: the runner makes them on worker threads.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>
#include <thread>
#include <ublk/handler.hpp>

class Blocking final : public ublk::Handler {
 public:
  static constexpr const char* kName = "blocking";
  static constexpr const char* kSummary = "a file, by pread and pwrite";
  static constexpr ublk_model kModel = UBLK_MODEL_WORKERS;
  static constexpr uint32_t kWorkers = 8;
  static constexpr ublk_option kOptions[] = {
      ublk::path_option("path", "The file.", {.required = true}),
  };

  explicit Blocking(const ublk::OpenArgs& args)
      : path_(args.text("path")),
        fd_(::open(path_.c_str(), (args.read_only() ? O_RDONLY : O_RDWR) | O_CLOEXEC)) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), path_);
  }
  ~Blocking() override { ::close(fd_); }

  void geometry(ublk_geometry& geometry) override {
    struct stat st;
    if (fstat(fd_, &st) != 0) throw std::system_error(errno, std::generic_category(), path_);
    geometry.size = static_cast<uint64_t>(st.st_size) / 512 * 512;
  }

  // The lock of a killed process is free once its last write has ended.
  void fence(std::chrono::milliseconds timeout) override {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK || std::chrono::steady_clock::now() >= deadline)
        throw std::system_error(errno, std::generic_category(), path_ + " is locked");
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  int read(ublk::Io& io) override {
    return result(pread(fd_, io.data(), io.length(), static_cast<off_t>(io.offset())));
  }
  int write(ublk::Io& io) override {
    return result(pwrite(fd_, io.data(), io.length(), static_cast<off_t>(io.offset())));
  }
  // The kernel tells of lost data once, but no later flush may succeed.
  int flush(ublk::Io&) override {
    if (fdatasync(fd_) != 0) flush_error_ = -errno;
    return flush_error_;
  }

 private:
  static int result(ssize_t n) { return n < 0 ? -errno : static_cast<int>(n); }

  const std::string path_;
  const int fd_;
  std::atomic<int> flush_error_{0};
};

UBLK_HANDLER(Blocking)
