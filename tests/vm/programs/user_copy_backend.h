// SPDX-License-Identifier: MIT
// A RAM disk for devices whose server moves the data itself.
#ifndef UBLK_TESTS_VM_USER_COPY_BACKEND_H
#define UBLK_TESTS_VM_USER_COPY_BACKEND_H

#include <sys/types.h>
#include <ublk/device.h>
#include <ublk/request.h>

#include <cstddef>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

// Moves the data itself, in two parts, on the ring's thread or on another one.
class UserCopyBackend : public ublk::Backend {
 public:
  explicit UserCopyBackend(size_t bytes) : data_(bytes) {}
  void submit(ublk::Request request) override {
    if (++count_ % 3 == 0)
      threads_.emplace_back(
          [this, request = std::move(request)]() mutable { serve(std::move(request)); });
    else
      serve(std::move(request));
  }

 private:
  void serve(ublk::Request request) {
    std::byte* data = data_.data() + request.offset();
    const uint32_t length = request.length();
    ssize_t done = length;
    if (request.op() == ublk::Operation::kRead)
      done = request.write_data(data + 512, length - 512, 512) + request.write_data(data, 512, 0);
    else if (request.op() == ublk::Operation::kWrite)
      done = request.read_data(data + 512, length - 512, 512) + request.read_data(data, 512, 0);
    request.complete(static_cast<int>(done));
  }
  std::vector<std::byte> data_;
  std::vector<std::jthread> threads_;
  int count_ = 0;
};

#endif  // UBLK_TESTS_VM_USER_COPY_BACKEND_H
