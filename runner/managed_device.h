// SPDX-License-Identifier: MIT
//
// One configured device, from the handler's library to /dev/ublk/NAME and back.
#ifndef UBLK_RUNNER_MANAGED_DEVICE_H
#define UBLK_RUNNER_MANAGED_DEVICE_H

#include <ublk/abi.h>
#include <ublk/device.h>

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "async.h"
#include "buffer_choice.h"
#include "config.h"
#include "control_commands.h"
#include "device_ids.h"
#include "device_links.h"
#include "device_queue.h"
#include "device_statistics.h"
#include "device_users.h"
#include "handler_instance.h"
#include "job_pool.h"
#include "queue_statistics.h"
#include "queue_thread.h"
#include "shared_pools.h"
#include "state_store.h"

namespace ublk_runner {

// Keeps what can't be closed, because a handler or the kernel has something left to do with it,
// until the process ends. Control thread.
void leave_open(std::shared_ptr<void> object);

// What all devices share. Outlives them.
struct DeviceServices {
  MainContext context;
  std::shared_ptr<JobPool> jobs;
  ControlCommands& commands;
  QueueThreads& threads;
  std::shared_ptr<SharedPools> pools;
  DeviceIds& ids;
  DeviceLinks& links;
  std::string handler_dir;
  std::function<std::vector<DeviceUser>(const std::string& node)> users;  // any thread
  Semaphore& looks;               // for users(), which takes descriptors
  StateStore* state;              // nullptr: no device outlives this process
  std::function<void()> changed;  // called after a change of what a device says of itself
  bool statistics;                // whether requests are counted and timed
  std::chrono::milliseconds open_limit;
};

// The states, and what there is in each:
//
//   kNew
//    |  start()                                     |  adopt()
//   kOpening    the handler's library, instance     |
//    |                                              v
//   kAdding     /dev/ublkcN, parameters           kAdopting   all but a handler, perhaps
//    |                                              |
//   kStarting   queues, served by their threads     |
//    |                                              |
//   kLive <-----------------------------------------+-----> kHeld
//    |          /dev/ublkbN, /dev/ublk/NAME                   the same without a handler: I/O waits
//    |                                                        or, past recovery_timeout, fails
//    |  stop(), or any state above but kAdopting fails
//   kStopping   all of it is undone, the last first
//    |
//   kGone       or kStuck: a handler does not return from a queue's thread, so the kernel can't let
//               go of the device before this process ends; or kLeft: adopt() has failed, and may
//               be called again, or the next runner goes on with it, because it is in use at the
//               end of this one
//
// Each wait has a bound, is logged when the bound is passed, and goes on to what is still possible.
//
// Control thread. It must not be destroyed between start() and the end of stop(), unless the
// process is about to end.
class ManagedDevice : public std::enable_shared_from_this<ManagedDevice> {
 public:
  enum class State {
    kNew,
    kOpening,
    kAdding,
    kStarting,
    kAdopting,
    kLive,
    kHeld,
    kStopping,
    kGone,
    kStuck,
    kLeft
  };

  // `configured`: by a file, see SavedDevice.
  ManagedDevice(DeviceServices& services, DeviceConfig config, bool configured = true);

  // Brings the device up. Throws std::exception, "what failed: cause"; then nothing is left of it.
  // `lost` is called when a device that is live ends by itself: somebody else has stopped it, or
  // the kernel refuses a command. stop() is the answer to it.
  // `recovering`: a runner that has died may have left requests of it on their way to the storage.
  Task<> start(std::function<void()> lost, bool recovering = false);
  // Goes on with a device of a runner that has gone, which the kernel describes by `info`. Its
  // handler is opened until that succeeds, be it after this has ended. Throws std::exception: then
  // the device is kLeft, trouble() says why, and this may be called again if adoptable().
  Task<> adopt(SavedDevice saved, ublk::abi::DevInfo info, std::function<void()> lost);
  // Makes a start() that is under way fail soon.
  void interrupt();
  // Takes the device down: what the kernel has to write back is written, then all is undone. Never
  // fails. At any time after start() has ended; a second one waits for the first.
  Task<> stop();
  // The same, unless somebody uses the device. Throws std::runtime_error that says who.
  Task<> remove();
  // The same at the end of the process, unless somebody uses the device and the next runner can go
  // on with it: then its requests are left to that.
  Task<> end();

  // Holds the device's I/O, closes its handler, loads and opens it anew with what `change` makes of
  // its configuration, and goes on; with the old one if the new one can't be opened. `change` is
  // called when operations before this one have ended: they may have changed it, too. Throws what
  // that throws, or std::runtime_error: nothing has changed.
  Task<> restart(std::function<void(DeviceConfig&)> change);
  // Is there while a call of the handler runs, be it one that is waited for no more.
  std::weak_ptr<void> handler_call() const { return handler_job_; }
  // Asks the handler for the size, and tells the kernel.
  void refresh_size() { size_changed(); }

  // What is known of its I/O. Waits for the threads of its queues, a second at most. The device
  // must live until it has ended.
  Task<DeviceStatistics> statistics() const;
  // Takes over DeviceServices::statistics.
  void use_statistics() const;

  const std::string& name() const { return config_.name; }
  const DeviceConfig& config() const { return config_; }
  bool configured() const { return configured_; }
  void set_configured(bool configured);
  // Whether the value of a key of config() may be shown: it is no secret. False of a handler's
  // option as long as the handler has never been there to say so.
  bool may_show(const std::string& key) const;
  State state() const { return state_; }
  // In place of an adopt() that can't be tried yet: as if it had failed.
  void leave_for_later(const std::string& trouble);
  // Whether adopt() has failed before this process became its server.
  bool adoptable() const { return state_ == State::kLeft && queues_.empty(); }
  const char* state_name() const;
  const ublk::abi::DevInfo& info() const { return info_; }  // as the kernel gave it, once added
  uint64_t size() const;                                    // bytes
  std::string node() const;                                 // "/dev/ublkb3", once added
  const char* buffers() const { return buffer_name(buffers_); }
  // What keeps it from kLive, or what the handler says is wrong with it; empty: nothing that is
  // known.
  std::string trouble() const;

 private:
  struct Served {
    QueueThread* thread = nullptr;
    std::shared_ptr<DeviceQueue> queue;
    std::shared_ptr<QueueStatistics> statistics;  // of this queue of the kernel, whoever serves it
    Completion<> opened;
    Completion<> released;  // by the kernel
    Completion<> closed;    // by the handler
  };

  enum class Writeback : uint8_t { kDone, kTooSlow, kStalled };

  // An open instance, and when it is closed.
  struct OpenHandler {
    std::shared_ptr<HandlerInstance> instance;
    Completion<> closed;
    ublk_geometry geometry{};
  };

  void enter(State state);
  template <class T>
  Task<T> wait_for_handler(Completion<T> answer, Milliseconds limit, const char* step);
  template <class F>
  auto run_job(F function);
  bool is_up() const { return state_ == State::kLive || state_ == State::kHeld; }

  // managed_device.cpp: while it lives.
  void link();
  void save_state(std::chrono::nanoseconds held_since = {});
  void update_state(std::chrono::nanoseconds held_since = {});
  void queue_failed(uint16_t index, uint16_t tag, int error);
  void watch(std::function<void()> lost);
  void lose();
  ublk::abi::Params checked_params(const ublk_geometry& geometry, const DeviceConfig& config) const;
  void size_changed();
  Task<> resize();
  Task<> update_size(uint64_t sectors);
  std::vector<Completion<>> set_sectors(uint64_t sectors);

  // managed_device_start.cpp: up.
  void refuse_second() const;
  uint32_t wanted_queues(const DeviceConfig& config) const;
  void check_queues(const ublk_geometry& geometry) const;
  void check_offer(const ublk::abi::Params& offered) const;
  Task<> add();
  Task<> add_with_free_id(ublk::abi::DevInfo wanted);
  void choose_buffers(ublk::abi::DevInfo& wanted);
  uint64_t recovery_flags() const;
  std::shared_ptr<DeviceQueue> make_queue(uint16_t index, Served& served);
  Served open_queue(uint16_t index);
  Task<> wait_until_open(uint16_t index);
  Task<> open_queues();
  Task<> start_disk();

  // managed_device_handler.cpp: the handler comes and goes.
  Task<OpenHandler> open_handler(DeviceConfig config, std::shared_ptr<HandlerLibrary> library,
                                 bool recovering);
  Task<ublk_geometry> describe(std::shared_ptr<HandlerInstance> instance);
  void use_handler(OpenHandler handler, const DeviceConfig& config);
  void use_pool();
  Task<> fence();
  Task<> close_instance();
  Task<bool> hold();  // false: not drained in time, it goes on
  void release();
  void refuse();
  Task<> swap_queues();
  Task<> detach_handler();
  bool kernel_has_handlers_buffers() const;
  Task<> refuse_smaller(uint64_t sectors);
  Task<> restore_size(uint64_t sectors);
  enum class NewSize : uint8_t { kTakenIn, kLater };
  Task<> attach_handler(DeviceConfig config, std::shared_ptr<HandlerLibrary> library, NewSize size);
  Task<> reattach();
  Task<bool> try_reattach();
  void go_on();

  // managed_device_restart.cpp: another handler in its place.
  Task<> attach_and_save(DeviceConfig config);
  void keep_held(const std::string& cause);

  // managed_device_adopt.cpp: from one runner to the next.
  Task<> start_recovery(Milliseconds limit);
  Task<int> go_on_with_recovery();
  Task<> recover(ublk::abi::DevInfo info);
  Task<> open_adopted_queues();
  Task<std::vector<DeviceUser>> find_users();
  Task<std::string> find_user();
  Task<> leave();

  // managed_device_stop.cpp: down.
  Task<> tear_down();
  Task<bool> stop_disk();
  Task<bool> threads_answer();
  Task<> run_stop(Completion<> stopped);
  Task<Writeback> write_back(Completion<> stopped);
  Task<std::vector<uint64_t>> unanswered();
  std::vector<Completion<>> hold_queues();
  Task<bool> drain();
  Task<> drain_or_cancel(Milliseconds limit);
  Task<> fail_rest();
  void remove_link();
  void forget_state();
  Task<> delete_device();
  Task<> close_handler();
  Task<bool> queues_closed();

  DeviceServices& services_;
  DeviceConfig config_;
  bool configured_;
  State state_ = State::kNew;
  bool interrupted_ = false;
  std::function<void()> interrupt_wait_;
  std::function<void()> interrupt_retry_;
  std::function<void()> lost_;
  bool lost_unseen_ = false;  // while there was no lost_
  std::string trouble_;
  Semaphore operations_{1};  // one at a time changes what is below

  std::shared_ptr<HandlerInstance> instance_;  // nullptr: the handler is absent
  Completion<> instance_closed_;
  ublk::abi::Params params_{};
  Milliseconds io_timeout_{0};                           // of the handler's requests
  bool fails_late_requests_ = false;                     // those that exceed it
  uint32_t max_queues_ = 0;                              // the handler's limit; 0: none
  bool can_zero_copy_ = false;                           // the handler
  bool refusing_ = false;                                // without a handler for too long
  bool is_volatile_ = false;                             // its data is gone with the instance
  std::optional<std::set<std::string>> secret_options_;  // nullopt: not known
  BufferChoice buffers_;
  std::shared_ptr<ublk::BufferPool::Device> pool_share_;
  DeviceIds::Lease id_;
  ublk::abi::DevInfo info_{};
  uint64_t cookie_ = 0;  // of the saved state; 0: nothing is saved
  bool added_ = false;
  bool linked_ = false;
  std::shared_ptr<ublk::DeviceNode> node_;
  std::vector<Served> queues_;
  bool resize_wanted_ = false;
  bool resizing_ = false;
  bool unanswered_ = false;          // the handler has not answered all requests
  std::weak_ptr<void> handler_job_;  // the last run_job(), until it has returned
  Completion<> ended_;
  TaskSet tasks_;
};

// Runs what calls the handler and may block.
template <class F>
auto ManagedDevice::run_job(F function) {
  auto running = std::make_shared<char>();
  handler_job_ = running;
  return services_.jobs->run(
      [running = std::move(running), function = std::move(function)]() mutable {
        const auto until_returned = std::move(running);  // no longer: the answer is sent after that
        return function();
      });
}

// Waits for such a job. One that is given up goes on by itself, and what it brings is dropped.
template <class T>
Task<T> ManagedDevice::wait_for_handler(Completion<T> answer, Milliseconds limit,
                                        const char* step) {
  interrupt_wait_ = [answer, step] {
    answer.fail(std::make_exception_ptr(
        std::runtime_error(std::string(step) + ": interrupted, the runner stops")));
  };
  if (interrupted_) interrupt();
  const bool answered = co_await answer.within(services_.context, limit);
  interrupt_wait_ = nullptr;
  if (!answered)
    throw std::runtime_error(std::string(step) + ": no answer within " + seconds_text(limit));
  if constexpr (std::is_void_v<T>) {
    co_await answer;
  } else {
    T value = co_await answer;
    co_return value;
  }
}

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_MANAGED_DEVICE_H
