// SPDX-License-Identifier: MIT
//
// A disk in a file, whose queues can't be opened while the file "no_open" exists (or one of them,
// if its number is in there), and do not close while "no_close" does. Its open hangs while "hang"
// exists, which gets a byte longer each time; a read keeps its thread while "block" does.
#include <fcntl.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <ublk/handler.hpp>

namespace {

class Touchy final : public ublk::Handler {
 public:
  static constexpr const char* kName = "touchy";
  static constexpr const char* kSummary = "a disk whose queues come and go with trouble, for tests";
  static constexpr ublk_model kModel = UBLK_MODEL_INLINE;
  static constexpr ublk_option kOptions[] = {
      ublk::path_option("path", "Where its data is.", {.required = true}),
      ublk::size_option("size", "Size of the device.", {.required = true}),
      ublk::path_option("no_open", "While it exists no queue can be opened.", {.required = true}),
      ublk::path_option("no_close", "While it exists no queue closes.", {.required = true}),
      ublk::integer_option("most_queues", "Queues that it takes; 0: any number.",
                           {.default_value = "0"}),
      ublk::bool_option("as_asked", "It takes no more queues than it is told of.",
                        {.default_value = "false"}),
      ublk::path_option("hang", "While it exists the disk can't be opened."),
      ublk::path_option("block", "While it exists reads don't return."),
  };

  explicit Touchy(const ublk::OpenArgs& args)
      : size_(args.number("size")),
        most_queues_(args.boolean("as_asked") ? args.nr_queues()
                                              : static_cast<uint32_t>(args.number("most_queues"))),
        no_open_(args.text("no_open")),
        no_close_(args.text("no_close")),
        block_(args.text("block")),
        fd_(open(args.text("path").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    if (!fd_) throw std::system_error(errno, std::generic_category(), args.text("path"));
    const std::string hang = args.text("hang");
    if (!exists(hang)) return;
    std::ofstream(hang, std::ios::app) << ' ';
    while (exists(hang)) usleep(5000);
  }

  void geometry(ublk_geometry& geometry) override {
    geometry.size = size_;
    geometry.max_queues = most_queues_;
  }

  void* open_queue(ublk::HandlerQueue queue) override {
    if (unsigned only = queue.index();
        exists(no_open_) && (!(std::ifstream(no_open_) >> only) || only == queue.index()))
      throw std::system_error(EBUSY, std::generic_category(), "touchy");
    return std::make_unique<Closing>(queue, *this).release();
  }
  int close_queue(ublk::HandlerQueue, void* data) override {
    auto* closing = static_cast<Closing*>(data);
    if (exists(no_close_)) {
      closing->wait();
      return UBLK_PENDING;
    }
    delete closing;
    return 0;
  }

  int read(ublk::Io& io) override {
    while (exists(block_)) usleep(5000);
    const ssize_t n = pread(fd_.get(), io.data(), io.length(), static_cast<off_t>(io.offset()));
    if (n < 0) return -errno;
    std::memset(static_cast<std::byte*>(io.data()) + n, 0, io.length() - static_cast<size_t>(n));
    return static_cast<int>(io.length());
  }
  int write(ublk::Io& io) override {
    const ssize_t n = pwrite(fd_.get(), io.data(), io.length(), static_cast<off_t>(io.offset()));
    return n < 0 ? -errno : static_cast<int>(n);
  }

 private:
  // Of a queue that is to close, once the file is gone.
  struct Closing : ublk_timer {
    Closing(ublk::HandlerQueue of, const Touchy& handler)
        : ublk_timer{}, queue(of), touchy(handler) {
      fired = [](ublk_timer* timer) { static_cast<Closing*>(timer)->look(); };
    }
    void wait() { queue.set_timer(*this, std::chrono::milliseconds(5)); }
    void look() {
      if (exists(touchy.no_close_)) return wait();
      const ublk::HandlerQueue closed = queue;
      delete this;
      closed.closed();
    }
    const ublk::HandlerQueue queue;
    const Touchy& touchy;
  };

  static bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

  const uint64_t size_;
  const uint32_t most_queues_;
  const std::string no_open_;
  const std::string no_close_;
  const std::string block_;
  const ublk::UniqueFd fd_;
};

}  // namespace

UBLK_HANDLER(Touchy)
