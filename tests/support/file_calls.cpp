// SPDX-License-Identifier: MIT
#include "file_calls.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <utility>

namespace test {
namespace {

FileCallHook::Look look_at;

// The C library's function of this name, which the program's own hides.
template <class Function>
Function* real(const char* name, Function*) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

template <class Function, class... Arguments>
auto look_or_call(const FileCall& call, const char* name, Function* own, Arguments... arguments)
    -> decltype(own(arguments...)) {
  const std::optional<int> result = look_at ? look_at(call) : std::nullopt;
  if (!result) return real(name, own)(arguments...);
  if (*result >= 0) return *result;
  errno = -*result;
  return -1;
}

}  // namespace

FileCall file_call(const io_uring_sqe& sqe) {
  if (sqe.opcode == IORING_OP_FALLOCATE) return {sqe.opcode, sqe.off, sqe.addr, sqe.len};
  return {sqe.opcode, sqe.off, sqe.len, static_cast<unsigned>(sqe.rw_flags)};
}

FileCallHook::FileCallHook(Look look) {
  if (std::exchange(look_at, std::move(look))) throw std::logic_error("a second FileCallHook");
}

FileCallHook::~FileCallHook() { look_at = nullptr; }

}  // namespace test

// A program's definition is found before that of the C library, also by what it loads.
#pragma GCC visibility push(default)
extern "C" {

ssize_t pread(int fd, void* data, size_t length, off_t offset) {
  const test::FileCall call = {IORING_OP_READ, static_cast<uint64_t>(offset), length, 0};
  return test::look_or_call(call, "pread", pread, fd, data, length, offset);
}

ssize_t pwritev2(int fd, const iovec* data, int count, off_t offset, int flags) {
  uint64_t length = 0;
  for (int i = 0; i < count; ++i) length += data[i].iov_len;
  const test::FileCall call = {IORING_OP_WRITE, static_cast<uint64_t>(offset), length,
                               static_cast<unsigned>(flags)};
  return test::look_or_call(call, "pwritev2", pwritev2, fd, data, count, offset, flags);
}

int fdatasync(int fd) {
  const test::FileCall call = {IORING_OP_FSYNC, 0, 0, IORING_FSYNC_DATASYNC};
  return test::look_or_call(call, "fdatasync", fdatasync, fd);
}

int sync_file_range(int fd, off_t offset, off_t length, unsigned flags) {
  const test::FileCall call = {IORING_OP_SYNC_FILE_RANGE, static_cast<uint64_t>(offset),
                               static_cast<uint64_t>(length), flags};
  return test::look_or_call(call, "sync_file_range", sync_file_range, fd, offset, length, flags);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  const test::FileCall call = {IORING_OP_FALLOCATE, static_cast<uint64_t>(offset),
                               static_cast<uint64_t>(length), static_cast<unsigned>(mode)};
  return test::look_or_call(call, "fallocate", fallocate, fd, mode, offset, length);
}
}
#pragma GCC visibility pop
