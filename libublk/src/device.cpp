// SPDX-License-Identifier: MIT
#include "ublk/device.h"

#include <sys/mman.h>

#include <cerrno>

#include "mapping.h"
#include "ublk/error.h"

namespace ublk {

std::shared_ptr<DeviceNode> DeviceNode::open(Driver& driver, const abi::DevInfo& info) {
  return std::shared_ptr<DeviceNode>(new DeviceNode(driver, info));
}

DeviceNode::DeviceNode(Driver& driver, const abi::DevInfo& info)
    : driver_(driver), info_(info), fd_(driver.open_device(info.dev_id)) {
  map_size_ = internal::round_up_to_page(info_.queue_depth * sizeof(abi::IoDesc));
  const size_t stride = internal::round_up_to_page(abi::kDescriptorStride);
  descriptors_.reserve(info_.nr_hw_queues);
  for (uint16_t queue = 0; queue < info_.nr_hw_queues; ++queue) {
    void* map = mmap(nullptr, map_size_, PROT_READ, MAP_SHARED | MAP_POPULATE, fd_.get(),
                     static_cast<off_t>(queue * stride));
    if (map == MAP_FAILED) {
      const int error = errno;
      unmap();
      throw Error(error, "mmap of " + (abi::kCharDevicePrefix + std::to_string(info_.dev_id)),
                  "the descriptors of queue " + std::to_string(queue));
    }
    // A forked child would keep the device from being deleted.
    madvise(map, map_size_, MADV_DONTFORK);
    descriptors_.push_back(static_cast<const abi::IoDesc*>(map));
  }
}

DeviceNode::~DeviceNode() { unmap(); }

void DeviceNode::unmap() {
  for (const abi::IoDesc* map : descriptors_) munmap(const_cast<abi::IoDesc*>(map), map_size_);
}

Device::Device(Control& control, const DeviceSpec& spec)
    : control_(control), info_(control.add(spec.info)) {
  try {
    control_.set_params(id(), spec.params);
    node_ = DeviceNode::open(control_.driver(), info_);
  } catch (...) {
    node_.reset();
    try {
      control_.del(id());
    } catch (const Error&) {
      // The first failure is the one to report.
    }
    throw;
  }
}

Device::~Device() {
  try {
    stop();
    node_.reset();
    control_.del(id());
  } catch (const Error&) {
    // A deadline has passed: nobody serves the queues, or a user holds the disk. The device stays.
  }
}

void Device::start(Control::Milliseconds deadline) { control_.start(id(), getpid(), deadline); }

void Device::stop(Control::Milliseconds deadline) {
  if (stopped_) return;
  control_.stop(id(), deadline);
  stopped_ = true;
}

std::string Device::block_path() const { return abi::kBlockDevicePrefix + std::to_string(id()); }

}  // namespace ublk
