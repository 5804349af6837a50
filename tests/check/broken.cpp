// SPDX-License-Identifier: MIT
// A handler over a file that is right, but for one sin: BROKEN_SIN, built once for each.
#include <fcntl.h>
#include <sys/stat.h>
#include <ublk/handler.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr std::string_view kSin = BROKEN_SIN;
constexpr bool is(std::string_view sin) { return kSin == sin; }

constexpr uint64_t kBlock = 512;
constexpr uint64_t kLie = 64 << 10;

struct Broken {
  const ublk_host* host;
  int fd;
  uint64_t size;
  std::atomic<unsigned> requests{0};
  std::mutex mutex{};  // guards threads
  std::vector<std::jthread> threads{};
};

int open_instance(const ublk_open_args* args, void** instance) {
  const int other = is("leaks_descriptor") ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1;
  const int fd = open(args->options[0].text, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    const int error = errno;
    args->host->set_error(args->device, "%s: %s", args->options[0].text, strerror(error));
    return -error;
  }
  if (other >= 0) close(other);
  const uint64_t size = args->options[1].number;
  if (ftruncate(fd, static_cast<off_t>(size)) != 0) {
    close(fd);
    return -EINVAL;
  }
  *instance = new Broken{args->host, fd, size};
  return 0;
}

void close_instance(void* instance) {
  auto* broken = static_cast<Broken*>(instance);
  broken->threads.clear();
  close(broken->fd);
  if (is("leaks_memory")) return;
  delete broken;
}

int describe(void* instance, ublk_geometry* geometry) {
  const auto* broken = static_cast<Broken*>(instance);
  geometry->size = broken->size + (is("lies_about_size") ? kLie : 0);
  geometry->flags = UBLK_GEOMETRY_FLUSH | UBLK_GEOMETRY_DISCARD | UBLK_GEOMETRY_WRITE_ZEROES;
  return 0;
}

int punch(const Broken& broken, uint64_t offset, uint64_t length) {
  if (is("discards_too_much")) length = std::min(length + kBlock, broken.size - offset);
  const int rc = fallocate(broken.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           static_cast<off_t>(offset), static_cast<off_t>(length));
  return rc == 0 ? 0 : -errno;
}

int flush(const Broken& broken) {
  if (is("ignores_flush")) return 0;
  const int rc = fdatasync(broken.fd);
  return rc == 0 || is("hides_sync_errors") ? 0 : -errno;
}

// Looks at the data a little later, when the request is over.
void use_late(Broken& broken, const ublk_request& request) {
  const std::lock_guard lock(broken.mutex);
  if (broken.threads.size() >= 100) return;
  broken.threads.emplace_back([at = static_cast<volatile char*>(request.buffer)] {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    static_cast<void>(*at);
  });
}

int move(Broken& broken, const ublk_request& request) {
  uint32_t length = request.length;
  const bool ends = request.offset + length >= broken.size;
  if (is("lies_about_size") && request.offset + length > broken.size) return -EIO;
  if (is("loses_last_block") && request.op == UBLK_OP_WRITE && ends) length -= kBlock;
  const auto at = static_cast<off_t>(request.offset);
  const ssize_t done = request.op == UBLK_OP_READ ? pread(broken.fd, request.buffer, length, at)
                                                  : pwrite(broken.fd, request.buffer, length, at);
  if (done < 0) return -errno;
  if (is("corrupts") && request.op == UBLK_OP_READ && broken.requests % 10 == 0)
    static_cast<unsigned char*>(request.buffer)[length / 2] ^= 1;
  if (is("uses_buffer_late")) use_late(broken, request);
  if (is("does_too_much")) return static_cast<int>(request.length + kBlock);
  return static_cast<int>(request.length);
}

int serve(Broken& broken, const ublk_request& request) {
  switch (request.op) {
    case UBLK_OP_READ:
    case UBLK_OP_WRITE:
      return move(broken, request);
    case UBLK_OP_FLUSH:
      return flush(broken);
    default:
      return punch(broken, request.offset, request.length);
  }
}

int submit(void* instance, ublk_queue*, ublk_request* request) {
  auto& broken = *static_cast<Broken*>(instance);
  const unsigned number = ++broken.requests;
  if (is("prints_junk") && number == 1) fputs("\xff\xfe\n", stderr);
  if (is("never_completes") && number == 50) return UBLK_PENDING;
  if (is("crashes") && number == 50) abort();
  if (is("exits") && number == 50) exit(0);
  const uint64_t id = request->id;
  const int result = serve(broken, *request);
  if (is("completes_twice")) {
    broken.host->complete(id, result);
    broken.host->complete(id, result);
    return UBLK_PENDING;
  }
  return result;
}

constexpr ublk_option kOptions[] = {
    {.name = "path",
     .type = UBLK_OPTION_PATH,
     .flags = UBLK_OPTION_REQUIRED,
     .default_value = nullptr,
     .minimum = 0,
     .maximum = 0,
     .choices = nullptr,
     .help = is("explains_nothing") ? nullptr : "The file."},
    {.name = "size",
     .type = UBLK_OPTION_SIZE,
     .flags = 0,
     .default_value = "1M",
     .minimum = 64 << 10,
     .maximum = 0,
     .choices = nullptr,
     .help = "Size of the device."},
};

constexpr ublk_handler kHandler = {
    UBLK_HANDLER_HEADER,
    .name = "broken_" BROKEN_SIN,
    .summary = "a file, but for one sin",
    .version = nullptr,
    .options = kOptions,
    .nr_options = 2,
    .option_size = sizeof(ublk_option),
    .model = UBLK_MODEL_INLINE,
    .request_private_size = 0,
    .workers = 0,
    .flags = 0,
    .open = open_instance,
    .close = close_instance,
    .geometry = describe,
    .fence = nullptr,
    .queue_open = nullptr,
    .queue_close = nullptr,
    .submit = submit,
    .alloc_io_buffer = nullptr,
    .free_io_buffer = nullptr,
    .cancel = nullptr,
};

}  // namespace

UBLK_REGISTER_HANDLER(kHandler)
