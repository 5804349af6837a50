// SPDX-License-Identifier: MIT
#include "device.h"

#include <log.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "check/opener.h"
#include "check/served_handler.h"

namespace {

using ublk_check::HandlerFile;
using ublk_runner::DeviceConfig;

constexpr uint32_t kPage = 4096;

HandlerFile file_of(const ublk_fio_settings& settings) {
  if (settings.handler == nullptr)
    throw std::invalid_argument("expected handler=PATH of a handler_NAME.so");
  return HandlerFile(settings.handler);
}

DeviceConfig config_of(const ublk_fio_settings& settings) {
  ublk_check::Settings given;
  std::istringstream text(settings.options != nullptr ? settings.options : "");
  for (std::string setting; std::getline(text, setting, ',');)
    given.push_back(ublk_check::parse_setting(setting));
  DeviceConfig config = ublk_check::device_config(file_of(settings), given);
  config.queue_depth = settings.queue_depth;
  config.queues = settings.queues;
  config.max_io_size =
      std::max(config.max_io_size, (settings.max_io_size + kPage - 1) / kPage * kPage);
  return config;
}

void complain(const std::exception& e) { fprintf(stderr, "ublk_fio: %s\n", e.what()); }

ublk::Operation operation(ublk_fio_op op) {
  switch (op) {
    case UBLK_FIO_WRITE:
      return ublk::Operation::kWrite;
    case UBLK_FIO_FLUSH:
      return ublk::Operation::kFlush;
    case UBLK_FIO_DISCARD:
      return ublk::Operation::kDiscard;
    default:
      return ublk::Operation::kRead;
  }
}

}  // namespace

struct ublk_fio_device {
  explicit ublk_fio_device(const ublk_fio_settings& settings)
      : served(driver, file_of(settings).dir(), config_of(settings),
               std::max(1u, std::min<unsigned>(settings.queues, static_cast<unsigned>(sysconf(
                                                                    _SC_NPROCESSORS_ONLN))))) {}

  struct Event {
    void* cookie;
    int error;
  };

  std::mutex mutex;
  std::condition_variable ended;
  std::vector<Event> fresh;   // guarded by mutex
  std::vector<Event> events;  // the caller's

  fake::Driver driver;
  ublk_check::ServedHandler served;
};

uint64_t ublk_fio_size(const ublk_fio_settings* settings) {
  try {
    ublk_runner::set_log_level(ublk_runner::LogLevel::kWarning);
    const HandlerFile file = file_of(*settings);
    ublk_check::Opener opener(ublk_runner::HandlerLibrary::load(file.dir(), file.name()));
    return opener.open(config_of(*settings))->geometry().size;
  } catch (const std::exception& e) {
    complain(e);
    return 0;
  }
}

ublk_fio_device* ublk_fio_open(const ublk_fio_settings* settings) {
  try {
    return new ublk_fio_device(*settings);
  } catch (const std::exception& e) {
    complain(e);
    return nullptr;
  }
}

void ublk_fio_close(ublk_fio_device* device) { delete device; }

void ublk_fio_submit(ublk_fio_device* device, ublk_fio_op op, uint64_t offset, uint32_t length,
                     void* data, void* cookie) {
  const fake::Io io = {.op = operation(op),
                       .sector = offset / ublk::abi::kSectorSize,
                       .sectors = length / ublk::abi::kSectorSize,
                       .data = static_cast<std::byte*>(data)};
  device->served.disk()->submit(io, [device, cookie](int result) {
    const std::lock_guard lock(device->mutex);
    device->fresh.push_back({cookie, -result});
    device->ended.notify_one();
  });
}

unsigned ublk_fio_wait(ublk_fio_device* device, unsigned min, unsigned max,
                       const timespec* timeout) {
  std::unique_lock lock(device->mutex);
  const auto enough = [&] { return device->fresh.size() >= min; };
  if (timeout == nullptr)
    device->ended.wait(lock, enough);
  else
    device->ended.wait_for(
        lock, std::chrono::seconds(timeout->tv_sec) + std::chrono::nanoseconds(timeout->tv_nsec),
        enough);
  const auto end = device->fresh.begin() +
                   static_cast<std::ptrdiff_t>(std::min<size_t>(max, device->fresh.size()));
  device->events.assign(device->fresh.begin(), end);
  device->fresh.erase(device->fresh.begin(), end);
  return static_cast<unsigned>(device->events.size());
}

void* ublk_fio_event(ublk_fio_device* device, unsigned event, int* error) {
  *error = device->events[event].error;
  return device->events[event].cookie;
}
