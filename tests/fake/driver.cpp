// SPDX-License-Identifier: MIT
#include "driver.h"

#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <ublk/error.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <system_error>
#include <utility>

namespace fake {

namespace abi = ublk::abi;

using Op = abi::ControlOp;

namespace {

constexpr int kWaits = INT_MAX;

uint32_t next_number() {
  static std::atomic<uint32_t> last{0};
  return ++last;
}

ublk::UniqueFd watch_of_closed_files() {
  ublk::UniqueFd fd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!fd) throw std::system_error(errno, std::generic_category(), "inotify_init1");
  return fd;
}

// The part of a command's buffer that holds a T, or what fits.
template <class T>
T from_buffer(const abi::CtrlCmd& command) {
  T value{};
  std::memcpy(&value, pointer_to<const void>(command.addr),
              std::min<size_t>(command.len, sizeof(T)));
  return value;
}

template <class T>
void to_buffer(const abi::CtrlCmd& command, const T& value) {
  std::memcpy(pointer_to<void>(command.addr), &value, std::min<size_t>(command.len, sizeof(T)));
}

}  // namespace

Driver::Driver(const Options& options)
    : ublk::Driver(true),
      options_{options.features & kPlayed, options.cpus, options.registers_buffers,
               options.guards_buffers},
      number_(next_number()),
      closed_files_(watch_of_closed_files()),
      loop_(*this, closed_files_.get(), number_, nodes_),
      faults_(
          loop_, [this](Command& command) { execute(command); },
          [this](Command& command, int error) { refuse(command, error); }) {}

Driver::~Driver() = default;

// ------------------------------------------------------------------ the seam --

ublk::UniqueFd Driver::open_control() {
  ublk::UniqueFd fd(eventfd(0, EFD_CLOEXEC));  // only its number matters
  if (!fd) throw ublk::Error(errno, "eventfd in place of /dev/ublk-control");
  return fd;
}

ublk::UniqueFd Driver::open_device(uint32_t device_id) {
  int error = ENOENT;
  ublk::UniqueFd fd = loop_.call([&]() -> ublk::UniqueFd {
    readable();  // the server before this one may have closed it just now
    Device* device = find(device_id);
    if (device == nullptr || server_dead_) return {};
    ublk::UniqueFd opened = device->open();
    error = errno;
    return opened;
  });
  if (!fd) throw ublk::Error(error, "open " + (abi::kCharDevicePrefix + std::to_string(device_id)));
  return fd;
}

void Driver::redirect(io_uring& ring, io_uring_sqe& sqe) { loop_.capture(ring, sqe); }

// --------------------------------------------------------------------- tests --

std::shared_ptr<Disk> Driver::disk(uint32_t id) {
  return loop_.call([&] {
    Device* device = find(id);
    return device != nullptr ? device->disk() : nullptr;
  });
}

void Driver::cancel_queues(uint32_t id) {
  loop_.call([&] {
    if (Device* device = find(id); device != nullptr) device->cancel_queues();
  });
}

void Driver::kill(uint32_t id) {
  loop_.call([&] {
    if (Device* device = find(id); device != nullptr) device->kill();
  });
}

void Driver::kill_server() {
  loop_.call([&] {
    server_dead_ = true;
    for (auto& [id, device] : devices_) {
      if (device->opened()) device->kill();
      device->interrupt_all();
    }
  });
}

void Driver::bury_server() {
  loop_.call([&] {
    loop_.bury_rings();
    server_dead_ = false;
  });
}

std::vector<std::string> Driver::violations() {
  return loop_.call([&] { return violations_; });
}

size_t Driver::nr_devices() {
  return loop_.call([&] { return devices_.size(); });
}

// ------------------------------------------------------------------ commands --

Device* Driver::find(uint32_t id) {
  const auto found = devices_.find(id);
  return found != devices_.end() ? found->second.get() : nullptr;
}

void Driver::handle(Command& command) {
  if (server_dead_ || command.port->dead())
    loop_.answer(command, -ENODEV);
  else if (!faults_.take(command))
    execute(command);
}

void Driver::execute(Command& command) {
  if (!command.valid)
    loop_.answer(command, -EINVAL);
  else if (command.kind == CommandKind::kCancel)
    cancel(command);
  else if (command.kind == CommandKind::kControl)
    control(command);
  else if (Device* device = find(command.device); device != nullptr)
    device->handle_io(command);
  else
    loop_.answer(command, -ENODEV);
}

void Driver::refuse(Command& command, int error) {
  Device* device = command.kind == CommandKind::kIo ? find(command.device) : nullptr;
  if (device != nullptr)
    device->refuse_io(command, error);
  else
    loop_.answer(command, -error);
}

void Driver::cancel(Command& command) {
  for (auto& [id, device] : devices_) {
    if (!device->interrupt(*command.port, command.cancels)) continue;
    loop_.answer(command, 0);
    remove_deleted();
    return;
  }
  loop_.answer(command, -ENOENT);
}

void Driver::control(Command& command) {
  int result = 0;
  try {
    result = control_result(command);
  } catch (const std::system_error& e) {
    result = -e.code().value();
  }
  if (result != kWaits) loop_.answer(command, result);
}

int Driver::control_result(Command& command) {
  const abi::CtrlCmd& control = command.control;
  if (command.control_op() == Op::kGetFeatures) {
    if (control.len != sizeof(uint64_t)) return -EINVAL;
    to_buffer(control, options_.features);
    return 0;
  }
  if (command.control_op() == Op::kAddDev) return add(control);
  Device* device = find(control.dev_id);
  return device != nullptr ? device_command(command, *device) : -ENODEV;
}

int Driver::device_command(Command& command, Device& device) {
  const abi::CtrlCmd& control = command.control;
  switch (command.control_op()) {
    case Op::kGetDevInfo:
      if (control.len < sizeof(abi::DevInfo)) return -EINVAL;
      to_buffer(control, device.info());
      return 0;
    case Op::kGetQueueAffinity:
      return queue_affinity(control, device);
    case Op::kSetParams: {
      const auto params = from_buffer<abi::Params>(control);
      return params.len <= control.len ? device.set_params(params, options_.features) : -EINVAL;
    }
    case Op::kGetParams: {
      constexpr size_t kHeader = 2 * sizeof(uint32_t);
      if (control.len <= kHeader || from_buffer<abi::Params>(control).len == 0) return -EINVAL;
      abi::Params params = device.params();
      params.types |= abi::kParamDevt;
      to_buffer(control, params);
      return 0;
    }
    case Op::kStartDev:
    case Op::kEndUserRecovery:
      if (static_cast<int>(control.data) <= 0) return -EINVAL;
      device.start(command);
      return kWaits;
    case Op::kStopDev:
      return stop(command, device);
    case Op::kTryStopDev:
      if (!device.has(abi::kFlagSafeStopDev)) return -EOPNOTSUPP;
      if (const int error = device.try_stop_allowed(); error != 0) return error;
      return stop(command, device);
    case Op::kDelDev:
    case Op::kDelDevAsync:
      return remove(command, device);
    case Op::kStartUserRecovery:
      return device.start_recovery();
    case Op::kUpdateSize:
      return (options_.features & abi::kFlagUpdateSize) != 0 ? device.update_size(control.data)
                                                             : -EOPNOTSUPP;
    case Op::kQuiesceDev:
      return device.quiesce();
    default:
      return -EOPNOTSUPP;
  }
}

int Driver::add(const abi::CtrlCmd& command) {
  if (command.len < sizeof(abi::DevInfo) || command.queue_id != abi::kNoQueue) return -EINVAL;
  auto info = from_buffer<abi::DevInfo>(command);
  if (info.dev_id != command.dev_id) return -EINVAL;
  if (info.dev_id != abi::kAnyDeviceId && info.dev_id > abi::kMaxDeviceId) return -EINVAL;
  if (const int error = settle_info(info, options_.features, options_.cpus); error != 0)
    return error;
  if (info.dev_id == abi::kAnyDeviceId)
    for (info.dev_id = 0; devices_.count(info.dev_id) != 0;) ++info.dev_id;
  if (devices_.count(info.dev_id) != 0) return -EEXIST;
  const auto node =
      std::make_shared<NodeFile>(number_, info.dev_id, info.nr_hw_queues, info.queue_depth);
  const int watch = inotify_add_watch(closed_files_.get(), node->path().c_str(), IN_CLOSE);
  if (watch < 0) return -errno;
  watches_[watch] = info.dev_id;
  devices_.emplace(info.dev_id, std::make_unique<Device>(
                                    loop_, violations_, node, info, options_.registers_buffers,
                                    options_.guards_buffers ? &guarded_buffers_ : nullptr));
  nodes_.add(info.dev_id, node);
  to_buffer(command, info);
  return 0;
}

int Driver::stop(Command& command, Device& device) {
  device.stop([this, &command] { loop_.answer(command, 0); });
  return kWaits;
}

int Driver::remove(Command& command, Device& device) {
  const bool wait = command.control_op() == Op::kDelDev;
  device.stop([this, &command, &device, wait] {
    device.mark_deleted();
    if (wait)
      device.wait_for_removal(command);
    else
      loop_.answer(command, 0);
    remove_deleted();
  });
  return kWaits;
}

// Later, since it is called by devices, too.
void Driver::remove_deleted() {
  loop_.post([this] {
    std::erase_if(devices_, [](const auto& entry) {
      if (!entry.second->removable()) return false;
      entry.second->answer_removal();
      return true;
    });
  });
}

int Driver::queue_affinity(const abi::CtrlCmd& command, const Device& device) const {
  const unsigned queues = device.info().nr_hw_queues;
  if (command.data >= queues || command.len % 8 != 0 || command.len * 8U < options_.cpus)
    return -EINVAL;
  auto* mask = pointer_to<unsigned char>(command.addr);
  std::fill_n(mask, command.len, static_cast<unsigned char>(0));
  for (unsigned cpu = 0; cpu < options_.cpus; ++cpu)
    if (cpu % queues == command.data) mask[cpu / 8] |= static_cast<unsigned char>(1U << (cpu % 8));
  return 0;
}

void Driver::readable() {
  alignas(inotify_event) std::array<char, 4096> events;
  for (ssize_t size; (size = read(closed_files_.get(), events.data(), events.size())) > 0;) {
    for (const char* at = events.data(); at < events.data() + size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(at);
      at += sizeof(*event) + event->len;
      const auto watch = watches_.find(event->wd);
      if (watch == watches_.end()) continue;
      if ((event->mask & IN_CLOSE) != 0) closing_.insert(watch->second);
      if ((event->mask & IN_IGNORED) != 0) watches_.erase(watch);
    }
  }
  release_closed();
}

// The kernel tells of a file's end a moment before it takes the file's lock away.
void Driver::release_closed() {
  std::erase_if(closing_, [this](uint32_t id) {
    Device* device = find(id);
    if (device == nullptr || !device->opened()) return true;
    if (device->node().is_open()) return false;
    device->released();
    return true;
  });
  if (!closing_.empty()) loop_.post([this] { release_closed(); });
  remove_deleted();
}

}  // namespace fake
