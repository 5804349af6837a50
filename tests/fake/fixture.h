// SPDX-License-Identifier: MIT
// What each test against the fake driver starts with and must leave behind.
#ifndef UBLK_TESTS_FAKE_FIXTURE_H
#define UBLK_TESTS_FAKE_FIXTURE_H

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <system_error>

#include "driver.h"
#include "support/sanitizers.h"
#include "ublk/error.h"

namespace fake {

using test::kSanitized;
// ThreadSanitizer looks at every byte that is compared, and finds in a few hundred requests what it
// finds in thousands.
using test::kThreadSanitized;

// When something that must end soon counts as hung.
inline constexpr std::chrono::seconds kHung{60};

// Skips where io_uring is forbidden, and lets no test leave a device or a protocol error.
class FakeTest : public ::testing::Test {
 protected:
  Driver& driver() { return *driver_; }

  // In place of the one with all of Linux 7.2. Before anything uses that.
  void use(const Driver::Options& options) { driver_.emplace(options); }

  void SetUp() override {
    try {
      driver_.emplace();
    } catch (const std::system_error& e) {
      if (e.code().value() != EPERM && e.code().value() != ENOSYS) throw;
      GTEST_SKIP() << "io_uring is not allowed here: " << e.what();
    }
  }

  void TearDown() override {
    if (!driver_) return;
    for (const std::string& violation : driver_->violations()) ADD_FAILURE() << violation;
    EXPECT_EQ(driver_->nr_devices(), 0u) << "a device was not deleted";
  }

 private:
  std::optional<Driver> driver_;
};

// The ublk::Error that `call` throws.
inline ublk::Error error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ublk::Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error";
  return {0, "none"};
}

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_FIXTURE_H
