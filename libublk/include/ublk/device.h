// SPDX-License-Identifier: MIT
//
// An open /dev/ublkcN, and a whole device around it.
//
//   ublk::Control control;
//   ublk::Device device(control, {.info = {.nr_hw_queues = 1, .queue_depth = 64,
//                                          .max_io_buf_bytes = 512 << 10,
//                                          .dev_id = ublk::abi::kAnyDeviceId},
//                                 .params = params});
//   ring.attach(device.node(), 0, backend);    // once a queue, see ublk/ring.h
//   device.start();                            // while other threads serve the queues
//   ...
//   device.stop();                             // likewise; then every queue reports stopped()
//
// Programs with an event loop of their own use Control::submit for the commands and DeviceNode for
// what they open; Device is the same in the order that is right, for programs that may wait.
#ifndef UBLK_DEVICE_H
#define UBLK_DEVICE_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ublk/abi.h"
#include "ublk/control.h"
#include "ublk/driver.h"
#include "ublk/export.h"
#include "ublk/unique_fd.h"

namespace ublk {

// The server's side of an added device: /dev/ublkcN, open, with the descriptors of all its queues
// mapped. Queues share it; the last owner closes it, and only then can the device be deleted.
// Immutable, so any thread may use it.
class UBLK_EXPORT DeviceNode {
 public:
  // `info` as the kernel returned it from ADD_DEV or GET_DEV_INFO. The calling process becomes the
  // device's server: START_DEV wants its pid. Throws Error.
  static std::shared_ptr<DeviceNode> open(Driver& driver, const abi::DevInfo& info);
  ~DeviceNode();
  DeviceNode(const DeviceNode&) = delete;
  DeviceNode& operator=(const DeviceNode&) = delete;

  Driver& driver() const { return driver_; }
  const abi::DevInfo& info() const { return info_; }
  int fd() const { return fd_.get(); }
  // The descriptors of a queue's tags, written by the kernel before it hands out a request.
  const abi::IoDesc* descriptors(uint16_t queue) const { return descriptors_[queue]; }

 private:
  DeviceNode(Driver& driver, const abi::DevInfo& info);
  void unmap();

  Driver& driver_;
  const abi::DevInfo info_;
  UniqueFd fd_;
  size_t map_size_ = 0;
  std::vector<const abi::IoDesc*> descriptors_;
};

struct DeviceSpec {
  abi::DevInfo info{};   // dev_id kAnyDeviceId: the kernel chooses
  abi::Params params{};  // len is filled in
};

// A device from ADD_DEV to DEL_DEV. Belongs to its Control's thread.
class UBLK_EXPORT Device {
 public:
  // Adds the device, sets its parameters and opens it. Throws Error and leaves nothing behind.
  Device(Control& control, const DeviceSpec& spec);
  // Stops, closes and deletes the device. All queues must have stopped, or must be served by other
  // threads meanwhile, or this waits until the deadlines have passed.
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Makes /dev/ublkbN appear. All queues must have been attached and be served by other threads
  // than this one: the kernel reads the partition table before this returns.
  void start(Control::Milliseconds deadline = Control::kDefaultDeadline);
  // Takes the disk away; waits for I/O in flight. Idempotent. A stopped device can't be started.
  void stop(Control::Milliseconds deadline = Control::kDefaultDeadline);

  uint32_t id() const { return info_.dev_id; }
  const abi::DevInfo& info() const { return info_; }  // as the kernel gave it
  const std::shared_ptr<DeviceNode>& node() const { return node_; }
  std::string block_path() const;  // "/dev/ublkb0"

 private:
  Control& control_;
  abi::DevInfo info_;
  std::shared_ptr<DeviceNode> node_;
  bool stopped_ = false;
};

}  // namespace ublk

#endif  // UBLK_DEVICE_H
