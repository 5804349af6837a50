// SPDX-License-Identifier: MIT
#include "call_faults.h"

#include <dlfcn.h>
#include <liburing.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>

namespace test {
namespace {

std::atomic<unsigned> left{0};  // calls up to the one that fails
std::atomic<int> error_of_call{0};
std::atomic<const char*> failed_call{nullptr};

bool fails(const char* name) {
  unsigned before = left.load();
  while (before != 0 && !left.compare_exchange_weak(before, before - 1)) continue;
  if (before != 1) return false;
  failed_call = name;
  return true;
}

// The library's function of this name, which the program's own hides.
template <class Function>
Function* real(const char* name, Function*) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

template <class Function, class... Arguments>
int fail_or_call(const char* name, Function* own, Arguments... arguments) {
  return fails(name) ? -error_of_call : real(name, own)(arguments...);
}

}  // namespace

CallFault::CallFault(unsigned nth, int error) {
  failed_call = nullptr;
  error_of_call = error;
  left = nth;
}

CallFault::~CallFault() { left = 0; }

std::string CallFault::failed() const {
  const char* name = failed_call;
  return name != nullptr ? name : "";
}

}  // namespace test

#pragma GCC visibility push(default)
extern "C" {

void* mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) noexcept {
  const bool counts = fd < 0 || (protection & PROT_WRITE) == 0;
  if (!counts || !test::fails("mmap"))
    return test::real("mmap", mmap)(address, bytes, protection, flags, fd, offset);
  errno = test::error_of_call;
  return MAP_FAILED;
}

int eventfd(unsigned count, int flags) noexcept {
  if (!test::fails("eventfd")) return test::real("eventfd", eventfd)(count, flags);
  errno = test::error_of_call;
  return -1;
}

int io_uring_queue_init_params(unsigned entries, io_uring* ring, io_uring_params* params) {
  return test::fail_or_call("io_uring_queue_init_params", io_uring_queue_init_params, entries, ring,
                            params);
}

int io_uring_register_ring_fd(io_uring* ring) {
  return test::fail_or_call("io_uring_register_ring_fd", io_uring_register_ring_fd, ring);
}

int io_uring_register_files_sparse(io_uring* ring, unsigned count) {
  return test::fail_or_call("io_uring_register_files_sparse", io_uring_register_files_sparse, ring,
                            count);
}

int io_uring_register_files_update(io_uring* ring, unsigned offset, const int* fds,
                                   unsigned count) {
  return test::fail_or_call("io_uring_register_files_update", io_uring_register_files_update, ring,
                            offset, fds, count);
}

int io_uring_register_buffers_sparse(io_uring* ring, unsigned count) {
  return test::fail_or_call("io_uring_register_buffers_sparse", io_uring_register_buffers_sparse,
                            ring, count);
}

int io_uring_register_buf_ring(io_uring* ring, io_uring_buf_reg* registration, unsigned flags) {
  return test::fail_or_call("io_uring_register_buf_ring", io_uring_register_buf_ring, ring,
                            registration, flags);
}
}
#pragma GCC visibility pop
