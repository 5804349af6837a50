// SPDX-License-Identifier: MIT
#include "handler_instance.h"

#include <glib.h>

#include <climits>
#include <stdexcept>
#include <utility>

#include "host.h"
#include "options.h"

namespace ublk_runner {

namespace {

// What geometry() finds before it fills in its own. Fields that are 0 here follow from others.
constexpr ublk_geometry default_geometry() {
  ublk_geometry geometry{};
  geometry.struct_size = sizeof(geometry);
  geometry.logical_block_size = 512;
  geometry.physical_block_size = 4096;
  geometry.dma_alignment = 4;
  geometry.max_discard_size = 1u << 30;
  geometry.max_write_zeroes_size = 1u << 30;
  return geometry;
}

}  // namespace

HandlerInstance::HandlerInstance(std::shared_ptr<HandlerLibrary> library,
                                 const DeviceConfig& device, bool recovering,
                                 std::shared_ptr<SharedPools> pools,
                                 std::function<void()> size_changed,
                                 std::function<void()> trouble_changed)
    : pools_(std::move(pools)),
      library_(std::move(library)),
      device_name_(device.name),
      size_changed_(std::move(size_changed)),
      trouble_changed_(std::move(trouble_changed)) {
  const OptionValues options = OptionValues::parse(table(), device);
  ublk_open_args args{};
  args.struct_size = sizeof(args);
  args.flags = (device.read_only ? uint32_t{UBLK_OPEN_READ_ONLY} : 0) |
               (recovering ? uint32_t{UBLK_OPEN_RECOVERING} : 0);
  args.host = &handler_host();
  args.device = this;
  args.device_name = device_name_.c_str();
  args.options = options.data();
  args.nr_options = options.size();
  args.nr_queues = device.queues;
  args.queue_depth = device.queue_depth;
  clear_callback_error();
  if (const int rc = table().open(&args, &instance_); rc != 0) throw callback_error("open", rc);
}

HandlerInstance::~HandlerInstance() {
  workers_.reset();
  table().close(instance_);
}

ublk_geometry HandlerInstance::geometry() {
  ublk_geometry geometry = default_geometry();
  geometry.model = table().model;
  geometry.workers = table().workers;
  clear_callback_error();
  if (const int rc = table().geometry(instance_, &geometry); rc != 0)
    throw callback_error("geometry", rc);
  return geometry;
}

void HandlerInstance::use_workers(unsigned workers) {
  workers_.emplace(pools_->workers(), workers != 0 ? workers : kDefaultWorkers);
}

void HandlerInstance::set_trouble(std::string text) {
  {
    const std::lock_guard lock(trouble_mutex_);
    trouble_ = std::move(text);
  }
  trouble_changed_();
}

std::string HandlerInstance::trouble() const {
  const std::lock_guard lock(trouble_mutex_);
  return trouble_;
}

void HandlerInstance::fence(Milliseconds timeout) {
  if (table().fence == nullptr) return;
  clear_callback_error();
  const int rc = table().fence(instance_, static_cast<uint32_t>(timeout.count()));
  if (rc != 0) throw callback_error("fence", rc);
}

}  // namespace ublk_runner
