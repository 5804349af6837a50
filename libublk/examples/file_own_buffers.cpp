// SPDX-License-Identifier: MIT
//
// A file served by pread and pwrite on the program's own threads, with buffers of the program's
// own: user-copy mode, in which the library keeps no buffer at all. A write's data is fetched into
// whatever memory the backend picks once it knows the size; a read's data is handed over from
// there. A backend that speaks RPC does the same with the buffers of its RPC library.
//
//   example_file_own_buffers FILE [THREADS]
#include <fcntl.h>
#include <sys/stat.h>
#include <ublk/error.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <system_error>
#include <vector>

#include "common.h"
#include "serving.h"
#include "work_queue.h"

namespace {

// The program's buffers: as many as requests are in work, not as many as there are tags.
class Buffers {
 public:
  static constexpr size_t kBytes = 512 << 10;
  using Buffer = std::unique_ptr<std::byte[]>;

  Buffer take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return std::make_unique_for_overwrite<std::byte[]>(kBytes);
    Buffer buffer = std::move(free_.back());
    free_.pop_back();
    return buffer;
  }
  void give_back(Buffer buffer) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(buffer));
  }

 private:
  std::mutex mutex_;
  std::vector<Buffer> free_;
};

class FileBackend final : public ublk::Backend {
 public:
  FileBackend(const char* path, unsigned threads)
      : fd_(::open(path, O_RDWR | O_CLOEXEC)), workers_(threads, [this](ublk::Request request) {
          const int result = serve(request);
          request.complete(result);
        }) {
    if (!fd_) throw std::system_error(errno, std::generic_category(), path);
  }

  uint64_t size() const {
    struct stat status {};
    if (fstat(fd_.get(), &status) != 0)
      throw std::system_error(errno, std::generic_category(), "fstat");
    return static_cast<uint64_t>(status.st_size);
  }

  void submit(ublk::Request request) override { workers_.add(std::move(request)); }

 private:
  int serve(const ublk::Request& request) {
    const auto offset = static_cast<off_t>(request.offset());
    switch (request.op()) {
      case ublk::Operation::kRead:
      case ublk::Operation::kWrite: {
        Buffers::Buffer buffer = buffers_.take();
        const int result = request.op() == ublk::Operation::kRead ? read(request, buffer.get())
                                                                  : write(request, buffer.get());
        buffers_.give_back(std::move(buffer));
        return result;
      }
      case ublk::Operation::kFlush:
        return fdatasync(fd_.get()) == 0 ? 0 : -errno;
      case ublk::Operation::kDiscard:
        return fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                         request.length()) == 0
                   ? 0
                   : -errno;
      default:
        return -EOPNOTSUPP;
    }
  }

  int read(const ublk::Request& request, std::byte* buffer) {
    const uint32_t length = request.length();
    for (uint32_t done = 0; done < length;) {
      const ssize_t n = pread(fd_.get(), buffer + done, length - done,
                              static_cast<off_t>(request.offset() + done));
      if (n <= 0) return n < 0 ? -errno : -EIO;
      done += static_cast<uint32_t>(n);
    }
    return static_cast<int>(request.write_data(buffer, length, 0));
  }

  int write(const ublk::Request& request, const std::byte* buffer) {
    const uint32_t length = request.length();
    const ssize_t fetched = request.read_data(const_cast<std::byte*>(buffer), length, 0);
    if (fetched < 0) return static_cast<int>(fetched);
    for (uint32_t done = 0; done < length;) {
      const ssize_t n = pwrite(fd_.get(), buffer + done, length - done,
                               static_cast<off_t>(request.offset() + done));
      if (n < 0) return -errno;
      done += static_cast<uint32_t>(n);
    }
    return static_cast<int>(length);
  }

  const ublk::UniqueFd fd_;
  Buffers buffers_;
  WorkQueue workers_;
};

void run(const char* path, unsigned threads) {
  const StopSignals signals;
  FileBackend backend(path, threads);
  ublk::Control control;
  ublk::Device device(control,
                      plain_disk(backend.size() / 512 * 512, 2, 128, ublk::abi::kFlagUserCopy));
  serve_until_signal(device, backend, signals);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: example_file_own_buffers FILE [THREADS]\n");
    return 2;
  }
  try {
    run(argv[1], argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 4);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "example_file_own_buffers: %s\n", e.what());
    return 1;
  }
  return 0;
}
