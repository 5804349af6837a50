// SPDX-License-Identifier: MIT
//
// A RAM disk served by a program that has a main loop already, here GLib's: the loop watches an
// eventfd of the ring and the descriptor of the control commands, and one thread does everything.
//
//   example_glib_loop [SIZE_IN_MIB]
#include <glib-unix.h>
#include <glib.h>
#include <sys/eventfd.h>
#include <ublk/error.h>
#include <ublk/ring.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>

#include "common.h"

namespace {

class MemoryBackend final : public ublk::Backend {
 public:
  explicit MemoryBackend(size_t bytes) : data_(bytes) {}

  void submit(ublk::Request request) override {
    std::byte* data = data_.data() + (request.length() == 0 ? 0 : request.offset());
    switch (request.op()) {
      case ublk::Operation::kRead:
        std::memcpy(request.buffer(), data, request.length());
        break;
      case ublk::Operation::kWrite:
        std::memcpy(data, request.buffer(), request.length());
        break;
      case ublk::Operation::kDiscard:
        std::memset(data, 0, request.length());
        break;
      default:
        break;
    }
    request.complete(static_cast<int>(request.length()));
  }

 private:
  std::vector<std::byte> data_;
};

// The ring as a GLib event source. The kernel writes to the eventfd when there is something to do:
// a ring with DEFER_TASKRUN does not wake those who poll its own descriptor.
struct RingSource {
  GSource source;
  ublk::Ring* ring;
  int eventfd;

  static RingSource& of(GSource* source) { return *reinterpret_cast<RingSource*>(source); }

  static gboolean prepare(GSource* source, int* timeout) {
    ublk::Ring& ring = *of(source).ring;
    *timeout = -1;
    ring.prepare_wait();
    io_uring_submit(ring.uring());
    return io_uring_cq_ready(ring.uring()) != 0;
  }
  static gboolean check(GSource* source) {
    ublk::Ring& ring = *of(source).ring;
    // Read first: what comes after the read is signalled again.
    eventfd_t count = 0;
    eventfd_read(of(source).eventfd, &count);
    io_uring_get_events(ring.uring());
    ring.wait_over();
    return io_uring_cq_ready(ring.uring()) != 0;
  }
  static gboolean dispatch(GSource* source, GSourceFunc, void*) {
    ublk::Ring& ring = *of(source).ring;
    unsigned head;
    unsigned count = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(ring.uring(), head, cqe) {
      ring.dispatch(*cqe);
      ++count;
    }
    io_uring_cq_advance(ring.uring(), count);
    return G_SOURCE_CONTINUE;
  }
};

GSource* watch_ring(ublk::Ring& ring, int eventfd) {
  static GSourceFuncs functions = {
      RingSource::prepare, RingSource::check, RingSource::dispatch, nullptr, nullptr, nullptr};
  GSource* source = g_source_new(&functions, sizeof(RingSource));
  RingSource::of(source).ring = &ring;
  RingSource::of(source).eventfd = eventfd;
  g_source_add_unix_fd(source, eventfd, G_IO_IN);
  g_source_attach(source, nullptr);
  return source;
}

// The device's life, step by step, each the answer to the last: nothing waits.
class Disk {
 public:
  Disk(GMainLoop* loop, ublk::Ring& ring, ublk::Control& control, ublk::Backend& backend)
      : loop_(loop), ring_(ring), control_(control), backend_(backend) {}

  void add(uint64_t bytes) {
    const ublk::DeviceSpec spec = plain_disk(bytes, 1, 64);
    call(ublk::Command::add(spec.info), [this, spec](const ublk::Command& added) {
      info_ = added.info();
      call(ublk::Command::set_params(info_.dev_id, spec.params),
           [this](const ublk::Command&) { start(); });
    });
  }

  void remove() {
    call(ublk::Command::stop(info_.dev_id), [this](const ublk::Command&) {
      call(ublk::Command::del(info_.dev_id),
           [this](const ublk::Command&) { g_main_loop_quit(loop_); });
    });
  }

 private:
  void start() {
    auto node = ublk::DeviceNode::open(control_.driver(), info_);
    ring_.attach(std::move(node), 0, backend_);
    call(ublk::Command::start(info_.dev_id, getpid()), [this](const ublk::Command&) {
      std::printf("%s%u\n", ublk::abi::kBlockDevicePrefix, info_.dev_id);
      std::fflush(stdout);
    });
  }

  void call(ublk::Command command, std::function<void(const ublk::Command&)> then) {
    control_.submit(std::move(command), ublk::Control::kDefaultDeadline,
                    [this, then = std::move(then)](int result, const ublk::Command& ended) {
                      if (result == 0) return then(ended);
                      std::fprintf(stderr, "%s\n", ublk::Control::error(result, ended).what());
                      g_main_loop_quit(loop_);
                    });
  }

  GMainLoop* loop_;
  ublk::Ring& ring_;
  ublk::Control& control_;
  ublk::Backend& backend_;
  ublk::abi::DevInfo info_{};
};

void run(uint64_t bytes) {
  MemoryBackend backend(bytes);
  io_uring uring;
  const unsigned file_slots = ublk::Ring::init(&uring, 4096);
  const ublk::UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  io_uring_register_eventfd(&uring, event.get());
  {
    ublk::Ring ring(&uring, file_slots);
    ublk::Control control;
    GMainLoop* loop = g_main_loop_new(nullptr, FALSE);
    GSource* ring_source = watch_ring(ring, event.get());
    g_unix_fd_add(
        control.fd(), G_IO_IN,
        [](int, GIOCondition, void* c) -> gboolean {
          static_cast<ublk::Control*>(c)->dispatch();
          return G_SOURCE_CONTINUE;
        },
        &control);
    Disk disk(loop, ring, control, backend);
    for (const int signal : {SIGINT, SIGTERM})
      g_unix_signal_add(
          signal,
          [](void* d) -> gboolean {
            static_cast<Disk*>(d)->remove();
            return G_SOURCE_REMOVE;
          },
          &disk);
    disk.add(bytes);
    g_main_loop_run(loop);
    g_source_destroy(ring_source);
    g_source_unref(ring_source);
    g_main_loop_unref(loop);
  }
  io_uring_queue_exit(&uring);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run((argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 64) << 20);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "example_glib_loop: %s\n", e.what());
    return 1;
  }
  return 0;
}
