// SPDX-License-Identifier: MIT
#include "managed_device.h"

#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "log.h"
#include "params_from_geometry.h"

namespace ublk_runner {

namespace {

using std::chrono::seconds;
namespace abi = ublk::abi;

constexpr seconds kOpenLimit{60};  // a cluster's client has to find its cluster
constexpr seconds kGeometryLimit{30};
constexpr seconds kFenceLimit{30};        // what the handler is told
constexpr seconds kFenceAnswerLimit{40};  // what it gets
constexpr seconds kQueueOpenLimit{10};
constexpr seconds kStartLimit{30};  // the kernel reads the partition table in it

constexpr const char* kStateNames[] = {"new",  "opening",  "adding", "starting",
                                       "live", "stopping", "gone",   "stuck"};

}  // namespace

ManagedDevice::ManagedDevice(DeviceServices& services, DeviceConfig config)
    : services_(services), config_(std::move(config)) {}

void ManagedDevice::enter(State state) {
  log(LogLevel::kDebug, name(), "%s -> %s", kStateNames[static_cast<size_t>(state_)],
      kStateNames[static_cast<size_t>(state)]);
  state_ = state;
}

// ----------------------------------------------------------------- starting --

Task<> ManagedDevice::start(std::function<void()> lost) {
  std::exception_ptr failure;
  try {
    co_await open_handler();
    co_await add();
    co_await open_queues();
    co_await start_disk();
  } catch (...) {
    failure = std::current_exception();
  }
  if (failure) {
    co_await tear_down();
    std::rethrow_exception(failure);
  }
  lost_ = std::move(lost);
  if (resize_wanted_) size_changed();
}

void ManagedDevice::interrupt() {
  interrupted_ = true;
  if (interrupt_wait_) std::exchange(interrupt_wait_, nullptr)();
}

// Waits for a job that runs the handler's code. A job that is given up goes on by itself, and what
// it brings is dropped.
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

// The instance is closed by a job, whoever lets go of it last: an I/O thread must not block in the
// handler's close(), nor must this one.
static std::shared_ptr<HandlerInstance> open_instance(const std::string& handler_dir,
                                                      const DeviceConfig& config,
                                                      std::shared_ptr<SharedPools> pools,
                                                      std::function<void()> size_changed,
                                                      const std::shared_ptr<JobPool>& jobs,
                                                      std::function<void()> closed) {
  std::shared_ptr<HandlerLibrary> library = HandlerLibrary::load(handler_dir, config.handler);
  auto instance = std::make_unique<HandlerInstance>(std::move(library), config, std::move(pools),
                                                    std::move(size_changed));
  return {instance.release(), [jobs, closed = std::move(closed)](HandlerInstance* last) {
            jobs->push([last, closed] {
              delete last;
              closed();
            });
          }};
}

Task<> ManagedDevice::open_handler() {
  enter(State::kOpening);
  const MainContext context = services_.context;
  const auto on_size_changed = [context, device = weak_from_this()] {
    context.post([device] {
      if (const auto alive = device.lock()) alive->size_changed();
    });
  };
  const auto on_closed = [context, closed = instance_closed_] {
    context.post([closed] { closed.set(); });
  };
  const auto opening =
      services_.jobs->run([dir = services_.handler_dir, config = config_, pools = services_.pools,
                           on_size_changed, jobs = services_.jobs, on_closed] {
        return open_instance(dir, config, pools, on_size_changed, jobs, on_closed);
      });
  instance_ = co_await wait_for_handler(opening, kOpenLimit, "open");

  const auto describing = services_.jobs->run([i = instance_] { return i->geometry(); });
  const ublk_geometry geometry = co_await wait_for_handler(describing, kGeometryLimit, "geometry");
  params_ = checked_params(geometry);
  max_queues_ = geometry.max_queues;
  can_zero_copy_ = geometry.model == UBLK_MODEL_RING && geometry.flags & UBLK_GEOMETRY_ZERO_COPY;
  if (geometry.model == UBLK_MODEL_WORKERS)
    instance_->use_workers(config_.workers != 0 ? config_.workers : geometry.workers);

  const auto fencing = services_.jobs->run([i = instance_] { i->fence(kFenceLimit); });
  co_await wait_for_handler(fencing, kFenceAnswerLimit, "fence");
}

abi::Params ManagedDevice::checked_params(const ublk_geometry& geometry) const {
  try {
    return params_from_geometry(geometry, {config_.read_only, config_.max_io_size});
  } catch (const std::invalid_argument& e) {
    throw std::runtime_error("geometry of handler " + config_.handler + ": " + e.what());
  }
}

Task<> ManagedDevice::add() {
  enter(State::kAdding);
  abi::DevInfo wanted{};
  wanted.dev_id = abi::kAnyDeviceId;
  wanted.nr_hw_queues = static_cast<uint16_t>(
      max_queues_ != 0 ? std::min(config_.queues, max_queues_) : config_.queues);
  wanted.queue_depth = static_cast<uint16_t>(config_.queue_depth);
  wanted.max_io_buf_bytes = params_.basic.max_sectors * abi::kSectorSize;
  choose_buffers(wanted);
  const ublk::Command added = co_await services_.commands.run(ublk::Command::add(wanted));
  info_ = added.info();
  added_ = true;
  if (info_.nr_hw_queues < config_.queues)
    log(LogLevel::kInfo, name(), "%u queues instead of %u, the limit of %s", info_.nr_hw_queues,
        config_.queues,
        wanted.nr_hw_queues < config_.queues ? config_.handler.c_str() : "the CPUs");
  co_await services_.commands.run(ublk::Command::set_params(info_.dev_id, params_));
  node_ = ublk::DeviceNode::open(services_.commands.driver(), info_);
}

void ManagedDevice::choose_buffers(abi::DevInfo& wanted) {
  const ublk_handler& handler = instance_->table();
  ublk::BufferPool& pool = services_.pools->buffers();
  const size_t max_io_size = wanted.max_io_buf_bytes;
  const uint64_t features = services_.commands.features();
  // An automatic choice must not stand in the way of what is asked for.
  const bool avoids_get_data =
      config_.batch_io == BatchOption::kOn && config_.buffer == BufferOption::kAuto;
  const BufferNeeds needs = {handler, can_zero_copy_,
                             avoids_get_data ? features & ~abi::kFlagNeedGetData : features,
                             max_io_size * wanted.queue_depth * wanted.nr_hw_queues};
  buffers_ = choose_buffer_mode(config_.buffer, config_.zero_copy, needs, pool);
  pool_share_ = pool_share(buffers_.mode, handler, pool, max_io_size);
  wanted.flags |= buffer_flags(buffers_) |
                  choose_batch_flag(config_.batch_io, buffers_.mode, wanted.queue_depth, features);
}

void ManagedDevice::open_queue(uint16_t index) {
  QueueThread& thread = services_.threads.next();
  const MainContext context = services_.context;
  Served served;
  DeviceQueueEvents events;
  events.failed = [context, device = weak_from_this(), index](uint16_t tag, int error) {
    context.post([device, index, tag, error] {
      if (const auto alive = device.lock()) alive->queue_failed(index, tag, error);
    });
  };
  events.released = [context, device = weak_from_this(), released = served.released] {
    context.post([device, released] {
      released.set();
      if (const auto alive = device.lock()) alive->lose();
    });
  };
  events.closed = [context, closed = served.closed] { context.post([closed] { closed.set(); }); };
  served.queue = std::make_shared<DeviceQueue>(
      DeviceQueue::Handler{instance_->table(), instance_->get(), name(), instance_->workers(),
                           pool_share_},
      thread, index, info_.queue_depth, rules_from_params(params_), std::move(events));
  instance_->keep(served.queue);
  // If the thread comes to it only after this device has given up, the node is gone by then.
  served.opened = thread.run(
      [queue = served.queue.get(), instance = instance_, weak_node = std::weak_ptr(node_)] {
        std::shared_ptr<ublk::DeviceNode> node = weak_node.lock();
        if (node != nullptr) queue->open(std::move(node), instance);
      });
  queues_.push_back(std::move(served));
}

Task<> ManagedDevice::open_queues() {
  enter(State::kStarting);
  for (uint16_t index = 0; index < info_.nr_hw_queues; ++index) open_queue(index);
  for (Served& served : queues_) {
    const bool opened = co_await served.opened.within(services_.context, kQueueOpenLimit);
    if (!opened)
      throw std::runtime_error("queue " + std::to_string(served.queue->index()) +
                               ": its thread does not answer within " +
                               seconds_text(kQueueOpenLimit));
    co_await served.opened;
  }
}

Task<> ManagedDevice::start_disk() {
  if (interrupted_) throw std::runtime_error("interrupted, the runner stops");
  co_await services_.commands.run(ublk::Command::start(info_.dev_id, getpid()), kStartLimit);
  const std::string node = abi::kBlockDevicePrefix + std::to_string(info_.dev_id);
  services_.links.add(name(), node);
  linked_ = true;
  enter(State::kLive);
  log(LogLevel::kInfo, name(), "%s: %s, %llu bytes, %u queues of %u, buffers: %s (%s)%s",
      node.c_str(), config_.handler.c_str(),
      static_cast<unsigned long long>(params_.basic.dev_sectors) * abi::kSectorSize,
      info_.nr_hw_queues, info_.queue_depth, buffer_name(buffers_), buffers_.reason.c_str(),
      (info_.flags & abi::kFlagBatchIo) != 0 ? ", batch I/O" : "");
}

// ------------------------------------------------------------ while it lives --

void ManagedDevice::queue_failed(uint16_t index, uint16_t tag, int error) {
  log(LogLevel::kError, name(), "the kernel refuses to serve tag %u of queue %u: %s", tag, index,
      ublk::errno_name(error).c_str());
  lose();
}

void ManagedDevice::lose() {
  if (state_ != State::kLive || lost_ == nullptr) return;
  log(LogLevel::kError, name(), "the kernel has ended the device");
  services_.context.post(std::exchange(lost_, nullptr));
}

void ManagedDevice::size_changed() {
  resize_wanted_ = true;
  if (state_ == State::kLive && !resizing_) tasks_.start(resize());
}

Task<> ManagedDevice::resize() {
  resizing_ = true;
  while (resize_wanted_ && state_ == State::kLive) {
    resize_wanted_ = false;
    try {
      co_await update_size();
    } catch (const std::exception& e) {
      if (!interrupted_) log(LogLevel::kError, name(), "the size is not changed: %s", e.what());
    }
  }
  resizing_ = false;
}

Task<> ManagedDevice::update_size() {
  const auto describing = services_.jobs->run([i = instance_] { return i->geometry(); });
  const ublk_geometry geometry = co_await wait_for_handler(describing, kGeometryLimit, "geometry");
  const abi::Params wanted = checked_params(geometry);
  const uint64_t sectors = wanted.basic.dev_sectors;
  if (sectors == params_.basic.dev_sectors) co_return;
  if ((services_.commands.features() & abi::kFlagUpdateSize) == 0)
    throw std::runtime_error("this kernel can't change it (UBLK_F_UPDATE_SIZE, Linux 6.16)");

  // Requests beyond the old end come as soon as the kernel knows the new one.
  if (sectors > params_.basic.dev_sectors) set_sectors(sectors);
  co_await services_.commands.run(ublk::Command::update_size(info_.dev_id, sectors));
  set_sectors(sectors);
  log(LogLevel::kInfo, name(), "the size is now %llu bytes",
      static_cast<unsigned long long>(sectors) * abi::kSectorSize);
}

void ManagedDevice::set_sectors(uint64_t sectors) {
  params_.basic.dev_sectors = sectors;
  const RequestRules rules = rules_from_params(params_);
  for (const Served& served : queues_)
    served.queue->thread().post([queue = served.queue, rules] { queue->set_rules(rules); });
}

}  // namespace ublk_runner
