// SPDX-License-Identifier: MIT
//
// A device's handler comes and goes while the kernel's side of the device stays. Without one its
// queues are with absent_handler(): held, so that I/O waits, or refusing, so that it fails.
#include <algorithm>
#include <span>
#include <stdexcept>
#include <utility>

#include "deadline.h"
#include "log.h"
#include "managed_device.h"
#include "params_from_geometry.h"
#include "runner_error.h"

namespace ublk_runner {

namespace {

using std::chrono::seconds;

constexpr seconds kGeometryLimit{30};
constexpr seconds kFenceLimit{30};        // what the handler is told
constexpr seconds kFenceAnswerLimit{40};  // what it gets
constexpr seconds kSwapLimit{10};
constexpr seconds kCloseLimit{30};
constexpr Milliseconds kFirstRetry{500};
constexpr Milliseconds kLongestRetry{15'000};

// The instance is closed by a job, whoever lets go of it last: an I/O thread must not block in the
// handler's close(), nor must the control thread.
std::shared_ptr<HandlerInstance> open_instance(std::shared_ptr<HandlerLibrary> library,
                                               const DeviceConfig& config, bool recovering,
                                               std::shared_ptr<SharedPools> pools,
                                               std::function<void()> size_changed,
                                               std::function<void()> trouble_changed,
                                               const std::shared_ptr<JobPool>& jobs,
                                               std::function<void()> closed) {
  auto instance =
      std::make_unique<HandlerInstance>(std::move(library), config, recovering, std::move(pools),
                                        std::move(size_changed), std::move(trouble_changed));
  return {instance.release(), [jobs, closed = std::move(closed)](HandlerInstance* last) {
            jobs->push([last, closed] {
              delete last;
              closed();
            });
          }};
}

}  // namespace

// --------------------------------------------------------------- open and close --

// `library` nullptr: it is loaded.
Task<ManagedDevice::OpenHandler> ManagedDevice::open_handler(
    DeviceConfig config, std::shared_ptr<HandlerLibrary> library, bool recovering) {
  const MainContext context = services_.context;
  config.queues = added_ ? info_.nr_hw_queues : wanted_queues(config);
  OpenHandler handler;
  const auto on_size_changed = [context, device = weak_from_this()] {
    context.post([device] {
      if (const auto alive = device.lock()) alive->size_changed();
    });
  };
  const auto on_trouble_changed = [context, device = weak_from_this()] {
    context.post([device] {
      if (const auto alive = device.lock()) alive->services_.changed();
    });
  };
  const auto on_closed = [context, closed = handler.closed] {
    context.post([closed] { closed.set(); });
  };
  const auto opening = run_job([dir = services_.handler_dir, library = std::move(library), config,
                                recovering, pools = services_.pools, on_size_changed,
                                on_trouble_changed, jobs = services_.jobs, on_closed] {
    return open_instance(library != nullptr ? library : HandlerLibrary::load(dir, config.handler),
                         config, recovering, pools, on_size_changed, on_trouble_changed, jobs,
                         on_closed);
  });
  handler.instance = co_await wait_for_handler(opening, services_.open_limit, "open");

  std::exception_ptr failure;
  try {
    handler.geometry = co_await describe(handler.instance);
  } catch (...) {
    failure = std::current_exception();
  }
  if (failure) {
    handler.instance.reset();
    co_await handler.closed.within(context, kCloseLimit);
    std::rethrow_exception(failure);
  }
  co_return handler;
}

Task<ublk_geometry> ManagedDevice::describe(std::shared_ptr<HandlerInstance> instance) {
  const auto describing = run_job([instance] { return instance->geometry(); });
  co_return co_await wait_for_handler(describing, kGeometryLimit, "geometry");
}

void ManagedDevice::use_handler(OpenHandler handler, const DeviceConfig& config) {
  const ublk_geometry& geometry = handler.geometry;
  instance_ = std::move(handler.instance);
  instance_closed_ = handler.closed;
  can_zero_copy_ = geometry.model == UBLK_MODEL_RING && geometry.flags & UBLK_GEOMETRY_ZERO_COPY;
  io_timeout_ = config.io_timeout;
  fails_late_requests_ =
      io_timeout_.count() != 0 && config.io_timeout_action == TimeoutAction::kFail;
  is_volatile_ = (geometry.flags & UBLK_GEOMETRY_VOLATILE) != 0;
  secret_options_.emplace();
  for (const ublk_option& option :
       std::span(instance_->table().options, instance_->table().nr_options))
    if ((option.flags & UBLK_OPTION_SECRET) != 0) secret_options_->insert(option.name);
  if (geometry.model == UBLK_MODEL_WORKERS)
    instance_->use_workers(config.workers != 0 ? config.workers : geometry.workers);
}

// The handler before may have needed none of it.
void ManagedDevice::use_pool() {
  if (pool_share_ != nullptr) return;
  pool_share_ = pool_share(ublk::buffer_mode(info_), instance_->table(), services_.pools->buffers(),
                           info_.max_io_buf_bytes);
}

// Nothing of a dead predecessor may reach the storage any more before this has ended.
Task<> ManagedDevice::fence() {
  const auto fencing = run_job([i = instance_] { i->fence(kFenceLimit); });
  co_await wait_for_handler(fencing, kFenceAnswerLimit, "fence");
}

// No queue is open.
Task<> ManagedDevice::close_instance() {
  if (instance_ == nullptr) co_return;
  instance_.reset();
  const bool closed = co_await instance_closed_.within(services_.context, kCloseLimit);
  if (!closed)
    log(LogLevel::kError, name(), "handler %s does not close within %s", config_.handler.c_str(),
        seconds_text(kCloseLimit).c_str());
}

// ------------------------------------------------------------- hold and go on --

// Nothing more is dispatched; true once the handler has answered all that was.
Task<bool> ManagedDevice::hold() {
  const bool drained = co_await drain();
  if (!drained) release();
  co_return drained;
}

void ManagedDevice::release() {
  for (const Served& served : queues_)
    served.thread->post([queue = served.queue] { queue->release(); });
}

void ManagedDevice::refuse() {
  for (const Served& served : queues_)
    served.thread->post([queue = served.queue] { queue->refuse(); });
}

// Gives the queues, which are held and drained, from who serves them to the handler that is open,
// or to none. One that can't be given stays with who has it, the others are held by the new one, or
// with none refuse, once recovery_timeout has passed.
Task<> ManagedDevice::swap_queues() {
  std::vector<Completion<>> taken;
  std::vector<Completion<>> closed;
  const std::vector<Served> before = queues_;
  for (Served& served : queues_) {
    closed.push_back(served.closed);
    auto queue = make_queue(static_cast<uint16_t>(&served - queues_.data()), served);
    std::shared_ptr<void> alive = instance_;
    if (alive == nullptr) alive = queue;
    taken.push_back(served.thread->run(
        [queue, predecessor = served.queue, alive, refuses = instance_ == nullptr && refusing_] {
          queue->take_over(*predecessor, alive);
          if (refuses) queue->refuse();
        }));
    served.queue = std::move(queue);
  }
  std::exception_ptr failure;
  for (size_t i = 0; i < taken.size(); ++i) {
    const bool in_time = co_await taken[i].within(services_.context, kSwapLimit);
    if (!in_time) {
      // Once it runs again the new one has the queue before it is used.
      failure =
          std::make_exception_ptr(std::runtime_error("the thread of a queue does not answer"));
      continue;
    }
    try {
      co_await taken[i];
    } catch (...) {
      failure = std::current_exception();
      queues_[i] = before[i];
    }
  }
  if (failure) std::rethrow_exception(failure);
  const Deadline deadline(kSwapLimit);
  for (const Completion<>& done : closed) {
    const bool in_time = co_await done.within(services_.context, deadline.left());
    if (!in_time) throw std::runtime_error("the handler does not close a queue");
  }
}

// The device must be held, and it stays so, without a handler, also if this throws: then the
// instance is closed once the last of its queues is.
Task<> ManagedDevice::detach_handler() {
  std::shared_ptr<HandlerInstance> instance = std::exchange(instance_, nullptr);
  enter(State::kHeld);
  co_await swap_queues();
  instance_ = std::move(instance);
  co_await close_instance();
}

// The kernel writes into them as long as it has the tags, whatever becomes of the handler.
bool ManagedDevice::kernel_has_handlers_buffers() const {
  return instance_ != nullptr && instance_->table().alloc_io_buffer != nullptr &&
         ublk::buffer_mode(info_) == ublk::BufferMode::kCopy;
}

// Who uses it may have written up to its end.
Task<> ManagedDevice::refuse_smaller(uint64_t sectors) {
  if (sectors >= params_.basic.dev_sectors) co_return;
  const std::vector<DeviceUser> users = co_await find_users();
  for (const DeviceUser& user : users)
    if (!user.transient)
      throw RunnerError(RunnerError::Kind::kInUse,
                        "it can't become smaller while it is in use: " + user.what);
}

// Of a handler that did not come after all: nothing was dispatched beyond it. The device is held.
Task<> ManagedDevice::restore_size(uint64_t sectors) {
  try {
    co_await update_size(sectors);
  } catch (const std::exception& e) {
    log(LogLevel::kError, name(), "%s", e.what());
  }
}

// The device must be held, without a handler. It still is afterwards, for release(). Another size
// is taken in, or it fails; kLater: whoever has served the device would have gone on with it, so it
// is only looked at by go_on().
Task<> ManagedDevice::attach_handler(DeviceConfig config, std::shared_ptr<HandlerLibrary> library,
                                     NewSize size) {
  const uint64_t sectors_before = params_.basic.dev_sectors;
  OpenHandler handler = co_await open_handler(config, std::move(library), true);
  const ublk_geometry geometry = handler.geometry;
  std::exception_ptr failure;
  bool swapping = false;
  try {
    use_handler(std::move(handler), config);
    use_pool();
    check_queues(geometry);
    const ublk::abi::Params wanted = checked_params(geometry, config);
    check_offer(wanted);
    if (size == NewSize::kTakenIn) co_await refuse_smaller(wanted.basic.dev_sectors);
    co_await fence();
    if (size == NewSize::kTakenIn)
      co_await update_size(wanted.basic.dev_sectors);
    else if (wanted.basic.dev_sectors != sectors_before)
      resize_wanted_ = true;
    swapping = true;
    co_await swap_queues();
  } catch (...) {
    failure = std::current_exception();
  }
  if (!failure) co_return;
  if (swapping) {
    try {
      co_await detach_handler();
    } catch (const std::exception& e) {
      log(LogLevel::kError, name(), "%s", e.what());
    }
    co_await restore_size(sectors_before);
  } else {
    co_await close_instance();
  }
  std::rethrow_exception(failure);
}

// Opens the handler of a held device, again and again until it can be opened or the device is to
// go. I/O waits for that until recovery_timeout has passed, then it fails.
Task<> ManagedDevice::reattach() {
  Source timeout;
  if (config_.recovery_timeout.count() != 0)
    timeout = services_.context.after(config_.recovery_timeout, [this] {
      if (state_ != State::kHeld) return;  // a restart has given it one
      log(LogLevel::kError, name(), "no handler within %s: its I/O fails until there is one",
          seconds_text(config_.recovery_timeout).c_str());
      refusing_ = true;
      refuse();
    });
  for (Milliseconds pause = kFirstRetry;; pause = std::min(2 * pause, kLongestRetry)) {
    const bool ended = co_await try_reattach();
    if (ended) co_return;
    const Completion<> interrupted;
    interrupt_retry_ = [interrupted] { interrupted.set(); };
    co_await interrupted.within(services_.context, pause);
    interrupt_retry_ = nullptr;
  }
}

// False: to be tried again.
Task<bool> ManagedDevice::try_reattach() {
  const auto permit = co_await operations_.acquire();
  if (interrupted_ || state_ != State::kHeld) co_return true;
  // With each try another thread would hang in it.
  if (!handler_job_.expired()) co_return false;
  std::string trouble;
  try {
    co_await attach_handler(config_, nullptr, NewSize::kLater);
  } catch (const std::exception& e) {
    trouble = e.what();
  }
  if (!trouble.empty()) {
    if (trouble != trouble_) log(LogLevel::kWarning, name(), "held: %s", trouble.c_str());
    trouble_ = trouble;
    services_.changed();
    co_return interrupted_;
  }
  go_on();
  log(LogLevel::kInfo, name(), "%s: served again", node().c_str());
  co_return true;
}

// With the handler that has been attached.
void ManagedDevice::go_on() {
  trouble_.clear();
  refusing_ = false;
  enter(State::kLive);
  release();
  if (interrupt_retry_) std::exchange(interrupt_retry_, nullptr)();
  if (resize_wanted_) size_changed();
}

}  // namespace ublk_runner
