// SPDX-License-Identifier: MIT
#include "disk.h"

#include <cerrno>
#include <future>
#include <utility>

#include "device.h"

namespace fake {

using ublk::Operation;

const char* operation_name(Operation op) noexcept {
  switch (op) {
    case Operation::kRead:
      return "READ";
    case Operation::kWrite:
      return "WRITE";
    case Operation::kFlush:
      return "FLUSH";
    case Operation::kDiscard:
      return "DISCARD";
    case Operation::kWriteZeroes:
      return "WRITE_ZEROES";
    default:
      return "request";
  }
}

std::string to_string(const Io& io) {
  std::string text = operation_name(io.op);
  if (io.op == Operation::kFlush) return text;
  if ((io.flags & ublk::abi::kIoFlagFua) != 0) text += " with FUA";
  return text + " of " + std::to_string(size_t{io.sectors} * ublk::abi::kSectorSize) +
         " bytes at " + std::to_string(io.sector * ublk::abi::kSectorSize);
}

Disk::~Disk() {
  if (device_ == nullptr) loop_.tell_disk_closed();
}

void Disk::submit(const Io& io, Done done) {
  // A plain pointer, since a std::function must be copyable.
  auto* raw = new BlockRequest{io, std::move(done), shared_from_this()};
  loop_.post([raw] {
    std::unique_ptr<BlockRequest> arrived(raw);
    if (Device* device = arrived->disk->device_; device != nullptr)
      device->submit(std::move(arrived));
    else
      arrived->done(-EIO);
  });
}

int Disk::run(const Io& io) {
  // Shared: this thread goes on while the driver's still is in set_value().
  const auto ended = std::make_shared<std::promise<int>>();
  submit(io, [ended](int result) { ended->set_value(result); });
  return ended->get_future().get();
}

int Disk::read(uint64_t sector, uint32_t sectors, std::byte* data) {
  return run({.op = Operation::kRead, .sector = sector, .sectors = sectors, .data = data});
}

int Disk::write(uint64_t sector, uint32_t sectors, const std::byte* data, uint32_t flags) {
  return run({.op = Operation::kWrite,
              .sector = sector,
              .sectors = sectors,
              .data = const_cast<std::byte*>(data),
              .flags = flags});
}

int Disk::flush() { return run({.op = Operation::kFlush}); }

int Disk::discard(uint64_t sector, uint32_t sectors) {
  return run({.op = Operation::kDiscard, .sector = sector, .sectors = sectors});
}

int Disk::write_zeroes(uint64_t sector, uint32_t sectors, uint32_t flags) {
  return run({.op = Operation::kWriteZeroes, .sector = sector, .sectors = sectors, .flags = flags});
}

}  // namespace fake
