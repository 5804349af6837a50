// SPDX-License-Identifier: MIT
// A file by an io_uring that has nothing to do with the kernel's driver, as the rings and sockets
// of a storage library have not: a write that is under way when the process is killed goes on
// without it, and the kernel gives the device to the next server meanwhile. Only the fence, which
// can be left out, keeps what the dead process has sent from newer data.
#include <fcntl.h>
#include <liburing.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <system_error>
#include <ublk/handler.hpp>

namespace {

constexpr size_t kAlignment = 4096;  // of the buffers and the device's blocks: O_DIRECT

void check(bool right, const char* what) {
  if (!right) throw std::system_error(errno, std::generic_category(), what);
}

// One request at a time, on the thread that has made it.
class Ring {
 public:
  Ring() { check(io_uring_queue_init(1, &ring_, 0) == 0, "io_uring_queue_init"); }
  ~Ring() { io_uring_queue_exit(&ring_); }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  template <class Prepare>
  int run(Prepare prepare) {
    prepare(io_uring_get_sqe(&ring_));
    if (const int rc = io_uring_submit(&ring_); rc < 0) return rc;
    io_uring_cqe* cqe = nullptr;
    // A wait that SIGKILL ends, unlike one in pwrite().
    while (io_uring_wait_cqe(&ring_, &cqe) == -EINTR) continue;
    const int result = cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    return result;
  }

 private:
  io_uring ring_{};
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

class Apart final : public ublk::Handler {
 public:
  static constexpr const char* kName = "apart";
  static constexpr const char* kSummary = "a file by an io_uring of its own, past the page cache";
  static constexpr ublk_model kModel = UBLK_MODEL_WORKERS;
  static constexpr ublk_option kOptions[] = {
      ublk::path_option("path", "The file.", {.required = true}),
      ublk::bool_option("fenced", "Waits for the last writes of a dead process.",
                        {.default_value = "true"}),
  };

  explicit Apart(const ublk::OpenArgs& args)
      : fd_(open(args.text("path").c_str(), O_RDWR | O_DIRECT | O_CLOEXEC)),
        fenced_(args.boolean("fenced")) {
    check(fd_ >= 0, "open");
  }
  ~Apart() override { close(fd_); }

  void geometry(ublk_geometry& geometry) override {
    geometry.size = static_cast<uint64_t>(lseek(fd_, 0, SEEK_END));
    geometry.logical_block_size = kAlignment;
  }

  // The write that is under way has the file open, and so locked.
  void fence(std::chrono::milliseconds) override {
    if (fenced_) check(flock(fd_, LOCK_EX) == 0, "flock");
  }

  int read(ublk::Io& io) override {
    const std::unique_ptr<void, Free> buffer(std::aligned_alloc(kAlignment, io.length()));
    thread_local Ring ring;
    const int result = ring.run([&](io_uring_sqe* sqe) {
      io_uring_prep_read(sqe, fd_, buffer.get(), io.length(), io.offset());
    });
    if (result > 0) std::memcpy(io.data(), buffer.get(), static_cast<size_t>(result));
    return result;
  }

  int write(ublk::Io& io) override {
    const std::unique_ptr<void, Free> buffer(std::aligned_alloc(kAlignment, io.length()));
    std::memcpy(buffer.get(), io.data(), io.length());
    thread_local Ring ring;
    return ring.run([&](io_uring_sqe* sqe) {
      io_uring_prep_write(sqe, fd_, buffer.get(), io.length(), io.offset());
    });
  }

 private:
  const int fd_;
  const bool fenced_;
};

}  // namespace

UBLK_HANDLER(Apart)
