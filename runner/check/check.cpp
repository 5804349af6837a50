// SPDX-License-Identifier: MIT
#include "check.h"

#include <ublk/error.h>

#include <future>
#include <stdexcept>

#include "crash.h"
#include "log.h"

namespace ublk_check {

namespace {

constexpr Check kChecks[] = {
    {"options", "the table is sound, each option is explained, wrong values are refused",
     check_options},
    {"open", "opens; a failed open has a text and leaves nothing behind", check_open},
    {"geometry", "says what a device can be, and the same each time", check_geometry},
    {"sizes", "reads what was written, of every size at every alignment", check_sizes},
    {"end", "the last blocks are like all others", check_end},
    {"load", "reads what was written, at depth 1 to 256, on several queues, in each buffer mode",
     check_load},
    {"discard", "a discard touches nothing else", check_discard},
    {"write-zeroes", "zeroes are read where they were written, and nowhere else",
     check_write_zeroes},
    {"unadvertised", "what the geometry does not offer is not done", check_unadvertised},
    {"flush", "a flush does something that makes data stable, and tells of its failure",
     check_flush},
    {"fua", "a FUA write is made stable", check_fua},
    {"buffers", "no buffer is used after its request was completed", check_buffers},
    {"stop", "closes with I/O in flight, all of which ends", check_stop},
    {"reopen", "opens and closes 250 times and leaves no memory, descriptor or thread",
     check_reopen},
};

}  // namespace

std::span<const Check> checks() { return kChecks; }

Context::Context(const Subject& subject, const Reporter& reporter)
    : subject_(subject), reporter_(reporter) {
  ublk_runner::set_log_level(ublk_runner::LogLevel::kWarning);
  use_driver({});
}

void Context::use_driver(const fake::Driver::Options& options) {
  driver_.reset();
  driver_ = std::make_unique<fake::Driver>(options);
  report_crashes(reporter_, driver_->guarded_buffers());
}

std::unique_ptr<ServedHandler> Context::serve(const Shape& shape) {
  ublk_runner::DeviceConfig config = device();
  config.queues = shape.queues;
  config.queue_depth = shape.depth;
  config.buffer = shape.buffer;
  return std::make_unique<ServedHandler>(*driver_, subject_.file.dir(), config);
}

int Context::run(const ServedHandler& served, const fake::Io& io) {
  const auto ended = std::make_shared<std::promise<int>>();
  std::future<int> result = ended->get_future();
  served.disk()->submit(io, [ended](int value) { ended->set_value(value); });
  if (result.wait_for(subject_.request_limit) != std::future_status::ready)
    reporter_.hung("never completes a request: " + fake::to_string(io));
  return result.get();
}

void Context::must(const ServedHandler& served, const fake::Io& io) {
  if (const int result = run(served, io); result != 0)
    throw std::runtime_error(fake::to_string(io) + " fails with " + ublk::errno_name(-result));
}

}  // namespace ublk_check
