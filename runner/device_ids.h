// SPDX-License-Identifier: MIT
//
// The kernel's ids of this runner's devices.
#ifndef UBLK_RUNNER_DEVICE_IDS_H
#define UBLK_RUNNER_DEVICE_IDS_H

#include <cstdint>
#include <set>
#include <utility>

namespace ublk_runner {

// A new device's id is chosen here and not by the kernel, so that it can be saved before the device
// is there: a runner that dies in between leaves none that the next one does not know. The kernel
// has the last word, since there may be devices of others. Control thread.
class DeviceIds {
 public:
  // An id as long as a device has it.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept : ids_(std::exchange(other.ids_, nullptr)), id_(other.id_) {}
    Lease& operator=(Lease&& other) noexcept {
      std::swap(ids_, other.ids_);
      std::swap(id_, other.id_);
      return *this;
    }
    ~Lease() {
      if (ids_ != nullptr) ids_->taken_.erase(id_);
    }
    uint32_t id() const { return id_; }

   private:
    friend class DeviceIds;
    Lease(DeviceIds& ids, uint32_t id) : ids_(&ids), id_(id) { ids.taken_.insert(id); }

    DeviceIds* ids_ = nullptr;
    uint32_t id_ = 0;
  };

  // The lowest from `first` that no device of this runner has.
  Lease take_from(uint32_t first) {
    while (taken_.contains(first)) ++first;
    return {*this, first};
  }

 private:
  std::set<uint32_t> taken_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DEVICE_IDS_H
