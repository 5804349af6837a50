// SPDX-License-Identifier: MIT
//
// What the queues of a device share.
#ifndef UBLK_HANDLERS_NBD_DISK_H
#define UBLK_HANDLERS_NBD_DISK_H

#include <ublk/handler.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "resolver.h"
#include "server.h"

namespace nbd {

struct Disk {
  // Any thread.
  void log(uint32_t level, const std::string& text) const {
    host.log(device, level, "%s: %s", server->text().c_str(), text.c_str());
  }
  uint64_t usable(uint64_t bytes) const { return bytes / logical_block * logical_block; }
  // A connection has found the export larger than it was.
  void grow(uint64_t bytes) {
    uint64_t before = size.load();
    while (before < bytes && !size.compare_exchange_weak(before, bytes)) {
    }
    if (before < bytes && usable(before) < usable(bytes)) host.size_changed(device, usable(bytes));
  }

  // What is wrong with a queue; "": nothing any more. `had`: it has said so before. The device
  // shows one as long as any queue has one. Any thread.
  void set_trouble(bool had, const std::string& text) {
    const std::lock_guard lock(trouble_mutex);
    if (!had) ++queues_in_trouble;
    if (text.empty() && --queues_in_trouble != 0) return;
    if (host.struct_size > offsetof(ublk_host, set_trouble))  // runners before it do without
      host.set_trouble(device, "%s", text.c_str());
  }

  const ublk_host& host;
  ublk_device* const device;
  const std::shared_ptr<const Server> server;  // the resolver may have it longer than the device
  const std::chrono::seconds connect_timeout;
  const std::chrono::seconds reconnect_timeout;
  std::shared_ptr<Resolver> resolver;  // nullptr: there are no names
  Export first;                        // what the device was made for
  uint32_t logical_block = 512;
  std::atomic<uint64_t> size{0};  // bytes of the export
  std::mutex trouble_mutex{};
  unsigned queues_in_trouble = 0;
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_DISK_H
