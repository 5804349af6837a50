// SPDX-License-Identifier: MIT
//
// FLUSH and FUA, as far as it can be seen without pulling a plug: that something is done which can
// make data stable, and that its failure is told.
#include <ublk/handler.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <system_error>

#include "check.h"
#include "opener.h"
#include "syscall_watch.h"
#include "volume.h"

namespace ublk_check {

namespace abi = ublk::abi;

using ublk::Operation;

namespace {

std::string names(const std::set<std::string>& first, const std::set<std::string>& second) {
  std::string text;
  for (const auto* set : {&first, &second})
    for (const std::string& name : *set) text += (text.empty() ? "" : ", ") + name;
  return text;
}

bool is_volatile(Context& context) {
  Opener opener(context.library());
  return (opener.open(context.device())->geometry().flags & UBLK_GEOMETRY_VOLATILE) != 0;
}

// Calls `request`, after `before`, which makes it matter: something must be done in it that can
// make data stable, and it must fail if that fails.
void check_stability(Context& context, SyscallWatch& watch, const std::string& what,
                     const std::function<void()>& before, const std::function<int()>& request) {
  constexpr int kRounds = 5;
  Acts acts;
  for (int round = 0; round < kRounds; ++round) {
    before();
    watch.begin();
    const int result = request();
    acts = watch.end();
    if (result != 0)
      throw std::runtime_error(what + " fails with error " + std::to_string(-result));
    if (acts.stable()) continue;
    const std::string done =
        acts.writes.empty() ? "nothing at all" : "only " + names(acts.writes, {}) + " to a file";
    throw std::runtime_error(
        "ignores " + what + ": it completes, but " + done +
        " was done until then, and nothing that makes data stable: no fsync, fdatasync, msync or "
        "the like, no SQE of that kind, no message to another process");
  }
  context.report().note("seen during " + what + ": " + names(acts.syncs, acts.messages));

  before();
  watch.begin();
  watch.fail_syncs(true);
  const int result = request();
  watch.fail_syncs(false);
  acts = watch.end();
  if (acts.failed != 0 && result == 0)
    throw std::runtime_error("hides a failure: " + names(acts.syncs, {}) +
                             " failed with EIO, but " + what + " succeeded");
  if (acts.failed == 0)
    context.report().note("the failure of " + what + " was not tried: it has no fsync to fail");
}

void check(Context& context, bool fua) {
  // The watch sees only threads that are made after it: before the device's, after the driver's.
  SyscallWatch* watch = nullptr;
  try {
    watch = &SyscallWatch::start(context.driver());
  } catch (const std::system_error& e) {
    return context.report().skip(std::string("system calls can't be watched here: ") + e.what());
  }
  const auto served = context.serve({.queues = 2, .depth = 16});
  const Limits limits(served->params());
  if (limits.read_only) return context.report().skip("the device is read-only");
  if (!limits.flush) return context.report().skip("the geometry offers no flush");
  if (fua && !limits.fua) return context.report().skip("the geometry offers no FUA");
  if (!context.subject().keeps_data) return context.report().skip("no data is kept");
  if (is_volatile(context))
    return context.report().skip("the data does not outlive the process anyway");

  Volume volume(context, *served, 0, limits.block);
  const auto on_queue = [&](int queue, Operation op, uint32_t flags) {
    std::vector<std::byte> data(size_t{limits.block} * abi::kSectorSize, std::byte{0x5a});
    return context.run(*served, {.op = op,
                                 .sectors = op == Operation::kFlush ? 0 : limits.block,
                                 .data = op == Operation::kFlush ? nullptr : data.data(),
                                 .flags = flags,
                                 .queue = queue});
  };
  // The write and the flush are on different queues: a flush is for all of them.
  if (fua)
    check_stability(
        context, *watch, "WRITE with FUA", [] {},
        [&] { return on_queue(0, Operation::kWrite, abi::kIoFlagFua); });
  else
    check_stability(
        context, *watch, "FLUSH", [&] { on_queue(0, Operation::kWrite, 0); },
        [&] { return on_queue(1, Operation::kFlush, 0); });
}

}  // namespace

void check_flush(Context& context) { check(context, false); }
void check_fua(Context& context) { check(context, true); }

}  // namespace ublk_check
