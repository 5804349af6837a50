// SPDX-License-Identifier: MIT
// A device whose requests are served by a function of the test.
#ifndef UBLK_TESTS_FAKE_REQUEST_FIXTURE_H
#define UBLK_TESTS_FAKE_REQUEST_FIXTURE_H

#include <ublk/control.h>
#include <ublk/request.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include "backends.h"
#include "fixture.h"
#include "ring_thread.h"

namespace fake {

inline constexpr size_t kBytes = 1 << 20;

// A device whose requests go to a function, once the partition scan is over.
struct Served {
  Served(Driver& driver, std::function<void(ublk::Request)> function,
         const ublk::DeviceSpec& spec = device_spec(kBytes))
      : backend([this, f = std::move(function)](ublk::Request request) {
          if (!started)
            request.complete(static_cast<int>(request.length()));
          else
            f(std::move(request));
        }),
        control(driver),
        device(control, spec, backend, {&thread}),
        disk(driver.disk(device.id())) {
    started = true;
  }

  std::atomic<bool> started{false};
  FunctionBackend backend;
  ublk::Control control;
  RingThread thread;
  ServedDevice device;
  std::shared_ptr<Disk> disk;
};

inline int length_of(const ublk::Request& request) { return static_cast<int>(request.length()); }

using RequestTest = FakeTest;

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_REQUEST_FIXTURE_H
