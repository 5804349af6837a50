// SPDX-License-Identifier: MIT
//
// A null device whose requests are completed by threads of the program's own. The ring's thread
// hands each request to a worker and goes on; the worker completes it, and the library takes care
// that the ring's thread hears of it: by a list without locks, and an eventfd that is written only
// when that thread may be asleep.
//
//   example_worker_threads [SIZE_IN_MIB [THREADS]]
#include <ublk/error.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common.h"
#include "serving.h"
#include "work_queue.h"

namespace {

class WorkerBackend final : public ublk::Backend {
 public:
  explicit WorkerBackend(unsigned threads)
      : workers_(threads, [](ublk::Request request) { serve(std::move(request)); }) {}

  // On the ring's thread: must not block.
  void submit(ublk::Request request) override { workers_.add(std::move(request)); }

 private:
  // On a worker: may block as long as it likes.
  static void serve(ublk::Request request) {
    if (request.op() == ublk::Operation::kRead) std::memset(request.buffer(), 0, request.length());
    request.complete(static_cast<int>(request.length()));
  }

  WorkQueue workers_;
};

void run(uint64_t bytes, unsigned threads) {
  const StopSignals signals;
  WorkerBackend backend(threads);
  ublk::Control control;
  ublk::Device device(control, plain_disk(bytes, 2, 128));
  serve_until_signal(device, backend, signals);
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t mib = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1024;
  const unsigned threads = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 2;
  try {
    run(mib << 20, threads);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "example_worker_threads: %s\n", e.what());
    return 1;
  }
  return 0;
}
