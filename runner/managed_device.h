// SPDX-License-Identifier: MIT
//
// One configured device, from the handler's library to /dev/ublk/NAME and back.
#ifndef UBLK_RUNNER_MANAGED_DEVICE_H
#define UBLK_RUNNER_MANAGED_DEVICE_H

#include <ublk/abi.h>
#include <ublk/device.h>

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "async.h"
#include "buffer_choice.h"
#include "config.h"
#include "control_commands.h"
#include "device_links.h"
#include "device_queue.h"
#include "handler_instance.h"
#include "job_pool.h"
#include "queue_thread.h"
#include "shared_pools.h"

namespace ublk_runner {

// What all devices share. Outlives them.
struct DeviceServices {
  MainContext context;
  std::shared_ptr<JobPool> jobs;
  ControlCommands& commands;
  QueueThreads& threads;
  std::shared_ptr<SharedPools> pools;
  DeviceLinks& links;
  std::string handler_dir;
};

// The states, and what there is in each:
//
//   kNew
//    |  start()
//   kOpening    the handler's library, its instance
//    |
//   kAdding     /dev/ublkcN, parameters
//    |
//   kStarting   queues, served by their threads
//    |
//   kLive       /dev/ublkbN, /dev/ublk/NAME
//    |  stop(), or any state above that fails
//   kStopping   all of it is undone, the last first
//    |
//   kGone       (or kStuck: a handler does not return from a queue's thread, so the kernel can't
//   let
//                go of the device before this process ends)
//
// Each wait has a bound, is logged when the bound is passed, and goes on to what is still possible.
//
// Control thread. It must not be destroyed between start() and the end of stop(), unless the
// process is about to end.
class ManagedDevice : public std::enable_shared_from_this<ManagedDevice> {
 public:
  enum class State { kNew, kOpening, kAdding, kStarting, kLive, kStopping, kGone, kStuck };

  ManagedDevice(DeviceServices& services, DeviceConfig config);

  // Brings the device up. Throws std::exception, "what failed: cause"; then nothing is left of it.
  // `lost` is called when a device that is live ends by itself: somebody else has stopped it, or
  // the kernel refuses a command. stop() is the answer to it.
  Task<> start(std::function<void()> lost);
  // Makes a start() that is under way fail soon.
  void interrupt();
  // Takes the device down: what the kernel has to write back is written, then all is undone. Never
  // fails. At any time after start() has ended; a second one waits for the first.
  Task<> stop();

  const std::string& name() const { return config_.name; }
  State state() const { return state_; }

 private:
  struct Served {
    std::shared_ptr<DeviceQueue> queue;
    Completion<> opened;
    Completion<> released;  // by the kernel
    Completion<> closed;    // by the handler
  };

  void enter(State state);
  template <class T>
  Task<T> wait_for_handler(Completion<T> answer, Milliseconds limit, const char* step);

  // managed_device.cpp: up, and while it lives.
  Task<> open_handler();
  ublk::abi::Params checked_params(const ublk_geometry& geometry) const;
  Task<> add();
  void choose_buffers(ublk::abi::DevInfo& wanted);
  Task<> open_queues();
  void open_queue(uint16_t index);
  Task<> start_disk();
  void queue_failed(uint16_t index, uint16_t tag, int error);
  void lose();
  void size_changed();
  Task<> resize();
  Task<> update_size();
  void set_sectors(uint64_t sectors);

  // managed_device_stop.cpp: down.
  Task<> tear_down();
  Task<bool> stop_disk();
  Task<bool> threads_answer();
  Task<> run_stop(Completion<> stopped);
  Task<> drain();
  Task<> fail_rest();
  void remove_link();
  Task<> delete_device();
  Task<> close_handler();
  Task<bool> queues_closed();

  DeviceServices& services_;
  const DeviceConfig config_;
  State state_ = State::kNew;
  bool interrupted_ = false;
  std::function<void()> interrupt_wait_;
  std::function<void()> lost_;

  std::shared_ptr<HandlerInstance> instance_;
  Completion<> instance_closed_;
  ublk::abi::Params params_{};
  uint32_t max_queues_ = 0;     // the handler's limit; 0: none
  bool can_zero_copy_ = false;  // the handler
  BufferChoice buffers_;
  std::shared_ptr<ublk::BufferPool::Device> pool_share_;
  ublk::abi::DevInfo info_{};
  bool added_ = false;
  bool linked_ = false;
  std::shared_ptr<ublk::DeviceNode> node_;
  std::vector<Served> queues_;
  bool resize_wanted_ = false;
  bool resizing_ = false;
  bool unanswered_ = false;  // the handler has not answered all requests
  Completion<> ended_;
  TaskSet tasks_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_MANAGED_DEVICE_H
