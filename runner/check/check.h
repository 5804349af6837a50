// SPDX-License-Identifier: MIT
//
// The checks: what each is, and what it works with.
#ifndef UBLK_CHECK_CHECK_H
#define UBLK_CHECK_CHECK_H

#include <buffer_choice.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "child.h"
#include "fake/driver.h"
#include "served_handler.h"

namespace ublk_check {

// What is checked, and how.
struct Subject {
  HandlerFile file;
  Settings settings;
  uint64_t seed = 1;
  bool keeps_data = true;                          // false: what is read is not compared
  std::chrono::milliseconds request_limit{10000};  // when a request counts as never completed
};

// The way of a device to be served in.
struct Shape {
  uint32_t queues = 1;
  uint32_t depth = 32;
  ublk_runner::BufferOption buffer = ublk_runner::BufferOption::kAuto;
};

// What a check has in its process.
class Context {
 public:
  Context(const Subject& subject, const Reporter& reporter);

  const Subject& subject() const { return subject_; }
  const Reporter& report() const { return reporter_; }
  fake::Driver& driver() { return *driver_; }
  // In place of the one that there is; nothing may use that.
  void use_driver(const fake::Driver::Options& options);

  ublk_runner::DeviceConfig device() const {
    return device_config(subject_.file, subject_.settings);
  }
  std::unique_ptr<ServedHandler> serve(const Shape& shape = {});
  std::shared_ptr<ublk_runner::HandlerLibrary> library() const {
    return ublk_runner::HandlerLibrary::load(subject_.file.dir(), subject_.file.name());
  }

  // Submits and waits; a request that does not end ends the process, as a finding. 0 or -errno.
  int run(const ServedHandler& served, const fake::Io& io);
  // The same; throws std::runtime_error if it fails.
  void must(const ServedHandler& served, const fake::Io& io);

 private:
  const Subject& subject_;
  const Reporter& reporter_;
  std::unique_ptr<fake::Driver> driver_;
};

struct Check {
  const char* name;
  const char* summary;  // what is right if it passes
  void (*run)(Context& context);
};

// In the order in which they run: what is simpler comes first.
std::span<const Check> checks();

// One function for each.
void check_options(Context& context);   // options_check.cpp
void check_open(Context& context);      // open_check.cpp
void check_geometry(Context& context);  // geometry_check.cpp
void check_sizes(Context& context);     // data_checks.cpp
void check_end(Context& context);
void check_load(Context& context);
void check_discard(Context& context);  // zeroing_checks.cpp
void check_write_zeroes(Context& context);
void check_unadvertised(Context& context);
void check_flush(Context& context);  // flush_check.cpp
void check_fua(Context& context);
void check_buffers(Context& context);  // lifetime_checks.cpp
void check_stop(Context& context);
void check_reopen(Context& context);

}  // namespace ublk_check

#endif  // UBLK_CHECK_CHECK_H
