// SPDX-License-Identifier: MIT
#include "handler_host.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "handler_host_parts.h"

namespace test {

// Of this process alone: tests run beside each other, and a name may be that of a shared memory.
const std::string& device_name() {
  static const std::string name = "test-" + std::to_string(getpid());
  return name;
}

Device::Device(const std::string& handler, const Options& options, uint32_t open_flags,
               uint32_t nr_queues, std::chrono::milliseconds fence_timeout)
    : library_(handler), handle_(new ublk_device{this}) {
  const ublk_handler& table = library_.table();
  const std::vector<ublk_option_value> values = parse_options(table, options);
  const ublk_open_args args = {
      .struct_size = sizeof(ublk_open_args),
      .flags = open_flags,
      .host = &host_calls(),
      .device = handle_.get(),
      .device_name = device_name().c_str(),
      .options = values.data(),
      .nr_options = static_cast<uint32_t>(values.size()),
      .nr_queues = nr_queues,
      .queue_depth = Queue::kDepth,
      .reserved = 0,
  };
  check(table.open(&args, &instance_));
  try {
    geometry_ = {
        .struct_size = sizeof(ublk_geometry),
        .flags = 0,
        .size = 0,
        .logical_block_size = 512,
        .physical_block_size = 4096,
        .io_min = 4096,
        .io_opt = 0,
        .max_io_size = 0,
        .dma_alignment = 4,
        .max_segments = 0,
        .max_segment_size = 0,
        .chunk_size = 0,
        .discard_granularity = 512,
        .discard_alignment = 0,
        .max_discard_size = 1u << 30,
        .max_write_zeroes_size = 1u << 30,
        .max_queues = 0,
        .model = table.model,
        .workers = table.workers,
    };
    check(table.geometry(instance_, &geometry_));
    if (table.fence != nullptr)
      check(table.fence(instance_, static_cast<uint32_t>(fence_timeout.count())));
    for (uint32_t i = 0; i < nr_queues; ++i) queues_.push_back(std::make_unique<Queue>(*this, i));
  } catch (...) {
    close();
    throw;
  }
}

Device::~Device() { close(); }

void Device::close() {
  queues_.clear();
  library_.table().close(instance_);
}

void Device::check(int result) {
  if (result >= 0) return;
  if (error_text_.empty()) error_text_ = std::generic_category().message(-result);
  throw HandlerError(-result, std::exchange(error_text_, {}));
}

Bytes Device::read(uint64_t offset, uint32_t length) {
  Bytes data;
  while (data.size() < length) {
    const auto left = length - static_cast<uint32_t>(data.size());
    const int n = queue().run(UBLK_OP_READ, offset + data.size(), left);
    check(n == 0 ? -EIO : n);
    const auto got = queue().buffer(0).first(static_cast<size_t>(n));
    data.insert(data.end(), got.begin(), got.end());
  }
  return data;
}

int Device::write(uint64_t offset, std::span<const std::byte> data, uint32_t flags) {
  size_t done = 0;
  while (done < data.size()) {
    std::ranges::copy(data.subspan(done), queue().buffer(0).begin());
    const int n =
        queue().run(UBLK_OP_WRITE, offset + done, static_cast<uint32_t>(data.size() - done), flags);
    check(n == 0 ? -EIO : n);
    done += static_cast<size_t>(n);
  }
  return static_cast<int>(done);
}

int Device::write(uint64_t offset, const std::string& text, uint32_t flags) {
  return write(offset, std::as_bytes(std::span(text)), flags);
}

void Device::flush() { check(queue().run(UBLK_OP_FLUSH, 0, 0)); }

void Device::discard(uint64_t offset, uint32_t length) {
  check(queue().run(UBLK_OP_DISCARD, offset, length));
}

void Device::write_zeroes(uint64_t offset, uint32_t length, uint32_t flags) {
  check(queue().run(UBLK_OP_WRITE_ZEROES, offset, length, flags));
}

}  // namespace test
