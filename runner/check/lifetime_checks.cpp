// SPDX-License-Identifier: MIT
// Buffers and instances at the end of their lives.
#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "fake/random_io.h"
#include "opener.h"
#include "process_state.h"
#include "volume.h"

namespace ublk_check {

using namespace std::chrono_literals;
using ublk_runner::BufferOption;

void check_buffers(Context& context) {
  if (context.library()->handler().alloc_io_buffer != nullptr)
    return context.report().skip("the handler brings its own buffers");
  context.use_driver({.guards_buffers = true});
  const auto served = context.serve({.queues = 1, .depth = 64, .buffer = BufferOption::kCopy});
  const Limits limits(served->params());
  const uint64_t used = std::min<uint64_t>(limits.device, (16 << 20) / ublk::abi::kSectorSize) /
                        limits.block * limits.block;
  // Few requests at a time, so that the buffers rest long, and rests, for those that come late.
  constexpr unsigned kBursts = 10;
  for (unsigned burst = 0; burst < kBursts; ++burst) {
    context.report().doing("burst " + std::to_string(burst));
    if (limits.read_only) {
      Volume volume(context, *served, 0, std::min<uint64_t>(used, 512));
      volume.fill();
    } else {
      fake::RandomIo io(served->disk(), {.seed = context.subject().seed + burst,
                                         .depth = 4,
                                         .requests = 200,
                                         .max_sectors = std::min(limits.max, 128u),
                                         .sectors = used,
                                         .block_sectors = limits.block,
                                         .chunk_sectors = limits.chunk,
                                         .zeroing = false,
                                         .discards = false,
                                         .blank = false,
                                         .compares = context.subject().keeps_data});
      if (!io.wait(context.subject().request_limit * 5))
        context.report().hung("never completes some of its requests");
      if (!io.error().empty()) throw std::runtime_error(io.error());
    }
    std::this_thread::sleep_for(20ms);
  }
  std::this_thread::sleep_for(200ms);
}

void check_stop(Context& context) {
  constexpr unsigned kRequests = 256;
  for (unsigned round = 0; round < 10; ++round) {
    context.report().doing("a stop with " + std::to_string(kRequests) + " requests in flight");
    const auto served = context.serve({.queues = 2, .depth = 128});
    const Limits limits(served->params());
    const uint32_t sectors = std::min(limits.max, 8 * limits.block);
    const uint64_t places = std::max<uint64_t>(1, limits.device / sectors);
    std::vector<std::byte> data(size_t{kRequests} * sectors * ublk::abi::kSectorSize);
    std::atomic<unsigned> ended{0};
    for (unsigned i = 0; i < kRequests; ++i) {
      fake::Io io = {.sector = i % places * sectors,
                     .data = data.data() + size_t{i} * sectors * ublk::abi::kSectorSize};
      io.op = i % 2 == 0 || limits.read_only ? ublk::Operation::kRead : ublk::Operation::kWrite;
      io.sectors = limits.clip(
          io.sector, static_cast<uint32_t>(std::min<uint64_t>(sectors, limits.device - io.sector)));
      served->disk()->submit(io, [&ended](int) { ++ended; });
    }
    std::this_thread::sleep_for(100us * round);
    served->stop();
    if (ended != kRequests)
      context.report().hung(std::to_string(kRequests - ended) +
                            " requests have not ended when the device is closed");
  }
}

namespace {

// Opens and closes; throws if something is left behind each time. Not what is left in one round
// only: libraries' caches and those of malloc for each thread grow up to a bound.
void check_opens_leave_nothing(Context& context) {
  constexpr int kWarmUps = 50;
  constexpr int kRepeats = 250;
  constexpr int kRounds = 4;
  constexpr size_t kSlack = kRepeats * 16;  // half of the least that malloc gives
  Opener opener(context.library());
  const auto device = context.device();
  int opens = 0;
  const auto open = [&](int times) {
    for (int i = 0; i < times; ++i, ++opens)
      if (const auto error = opener.try_open(device))
        throw std::runtime_error("the " + std::to_string(opens + 1) + "th open fails: " + *error);
  };
  open(kWarmUps);
  std::string left;
  for (int round = 0; round < kRounds; ++round) {
    context.report().doing("open and close, " + std::to_string(kRepeats) + " times");
    const ProcessState before = ProcessState::now();
    open(kRepeats);
    left = left_behind_for_good(before, kSlack);
    if (left.empty()) return;
  }
  throw std::runtime_error("opened and closed " + std::to_string(kRepeats) +
                           " times it leaves behind " + left);
}

}  // namespace

void check_reopen(Context& context) {
  check_opens_leave_nothing(context);
  // With queues and I/O.
  ProcessState before;
  for (int i = 0; i < 20; ++i) {
    if (i == 5) before = ProcessState::now();
    const auto served = context.serve({.queues = 2, .depth = 16});
    Volume volume(context, *served, 0, std::min<uint64_t>(64, Limits(served->params()).device));
    volume.fill();
  }
  constexpr size_t kServedSlack = 1 << 20;    // the runner's own caches
  constexpr size_t kStacksSlack = 256 << 20;  // of threads' stacks, which libc keeps
  const std::string served_left = left_behind_for_good(before, kServedSlack, kStacksSlack);
  if (!served_left.empty())
    throw std::runtime_error("served and stopped 15 times it leaves behind " + served_left);
}

}  // namespace ublk_check
