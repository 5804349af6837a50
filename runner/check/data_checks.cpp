// SPDX-License-Identifier: MIT
// Reads and writes against a model.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "check.h"
#include "fake/random_io.h"
#include "volume.h"

namespace ublk_check {

namespace abi = ublk::abi;

using abi::kSectorSize;
using ublk_runner::BufferOption;

namespace {

constexpr uint64_t kWindow = (8 << 20) / kSectorSize;
constexpr uint32_t kPage = 4096 / kSectorSize;

// Writes, and reads with a block more on both sides.
void write_and_read(Volume& volume, uint64_t sector, uint32_t sectors) {
  const Limits& limits = volume.limits();
  sectors = limits.clip(sector, sectors);
  if (!limits.read_only) volume.write(sector, sectors);
  const uint64_t begin = sector > volume.first() ? sector - limits.block : sector;
  const uint64_t end = std::min(sector + sectors + limits.block, volume.first() + volume.sectors());
  const auto wide = static_cast<uint32_t>(end - begin);
  if (wide <= limits.max && limits.clip(begin, wide) == wide)
    volume.read(begin, wide);
  else
    volume.read(sector, sectors);
}

}  // namespace

void check_sizes(Context& context) {
  const auto served = context.serve();
  const Limits limits(served->params());
  Volume volume(context, *served, 0, std::min(limits.device, kWindow));
  context.report().doing("filling the device");
  volume.fill();

  const uint64_t largest = std::min<uint64_t>(limits.max, volume.sectors());
  context.report().doing("each alignment in a page");
  for (uint32_t shift = 0; shift < kPage; shift += limits.block)
    for (uint32_t sectors = limits.block; sectors <= 2 * kPage; sectors += limits.block)
      if (shift + sectors <= volume.sectors() && sectors <= largest)
        write_and_read(volume, shift, sectors);

  context.report().doing("each size");
  constexpr uint32_t kMostSizes = 1024;
  const auto blocks = static_cast<uint32_t>(largest / limits.block);
  const uint32_t step = std::max(1u, blocks / kMostSizes);
  for (uint32_t n = 1; n <= blocks; n += n < 64 ? 1 : step) {
    const uint32_t sectors = n * limits.block;
    write_and_read(volume, volume.random_place(sectors), sectors);
  }
  write_and_read(volume, volume.random_place(blocks * limits.block), blocks * limits.block);
  volume.read_all();
}

void check_end(Context& context) {
  const auto served = context.serve();
  const Limits limits(served->params());
  const uint64_t sectors = std::min<uint64_t>(limits.device, 2 * std::max(limits.max, kPage));
  const uint64_t first = (limits.device - sectors) / limits.block * limits.block;
  try {
    Volume end(context, *served, first, limits.device - first);
    end.fill();
    for (uint32_t blocks = 1; blocks <= 16 && blocks * limits.block <= sectors; ++blocks)
      write_and_read(end, limits.device - blocks * limits.block, limits.block);
    for (uint32_t n = limits.block; n <= limits.max && n <= sectors; n *= 2)
      write_and_read(end, limits.device - n, n);
    end.read_all();
    if (first == 0 || limits.read_only) return;
    // An address that wraps would put the end onto the start.
    Volume start(context, *served, 0, std::min<uint64_t>(first, kPage));
    start.fill();
    end.fill();
    start.read_all();
    end.read_all();
  } catch (const std::runtime_error& e) {
    throw std::runtime_error("the geometry says that the device has " +
                             std::to_string(limits.device * kSectorSize) +
                             " bytes, but near its end a " + e.what());
  }
}

namespace {

// One device under random I/O.
void load(Context& context, const Shape& shape) {
  const std::unique_ptr<ServedHandler> served = context.serve(shape);
  const Limits limits(served->params());
  constexpr uint64_t kMost = (64 << 20) / kSectorSize;
  const uint64_t used = std::min(limits.device, kMost) / limits.block * limits.block;
  const auto depth = static_cast<unsigned>(
      std::min<uint64_t>(shape.queues * shape.depth, std::max<uint64_t>(1, used / limits.block)));
  fake::RandomIo io(served->disk(), {.seed = context.subject().seed,
                                     .depth = depth,
                                     .requests = std::max(400u, 12 * depth),
                                     .max_sectors = std::min(limits.max, 256u),
                                     .sectors = used,
                                     .block_sectors = limits.block,
                                     .chunk_sectors = limits.chunk,
                                     .zeroing = limits.max_zeroes != 0,
                                     .discards = limits.max_discard != 0,
                                     .flushes = limits.flush,
                                     .fua = limits.fua,
                                     .blank = false,
                                     .compares = context.subject().keeps_data});
  // Time for the slowest; a request that never ends is what is looked for.
  for (uint64_t last = 0; !io.wait(context.subject().request_limit);) {
    if (io.completed() == last)
      context.report().hung("never completes some of its requests: " + std::to_string(last) +
                            " have ended, then nothing happened for " +
                            ublk_runner::seconds_text(context.subject().request_limit));
    last = io.completed();
  }
  if (!io.error().empty()) throw std::runtime_error(io.error());
}

struct Mode {
  const char* name;
  BufferOption option;
};
constexpr Mode kModes[] = {{"copy", BufferOption::kCopy},
                           {"get-data", BufferOption::kGetData},
                           {"user-copy", BufferOption::kUserCopy},
                           {"auto", BufferOption::kAuto}};

std::string text_of(const Shape& shape, const Mode& mode) {
  return "queues = " + std::to_string(shape.queues) +
         ", queue_depth = " + std::to_string(shape.depth) + ", buffer = " + mode.name;
}

// False: the runner never serves the handler in that mode.
bool load_in_mode(Context& context, const Mode& mode, uint32_t queues, uint32_t depth) {
  const Shape shape = {queues, depth, mode.option};
  context.report().doing(text_of(shape, mode));
  try {
    load(context, shape);
  } catch (const std::runtime_error& e) {
    const std::string text = e.what();
    if (!text.starts_with("buffer = ") || mode.option == BufferOption::kAuto)
      throw std::runtime_error(text + ", with " + text_of(shape, mode));
    context.report().note("not in " + std::string(mode.name) + " mode: " + text);
    return false;
  }
  return true;
}

}  // namespace

void check_load(Context& context) {
  if (Limits(context.serve()->params()).read_only)
    return context.report().skip("the device is read-only");
  constexpr std::pair<uint32_t, uint32_t> kShapes[] = {{1, 1},  {1, 2},   {1, 4},  {1, 16},
                                                       {1, 64}, {1, 256}, {4, 16}, {4, 256}};
  for (const Mode& mode : kModes)
    for (const auto& [queues, depth] : kShapes)
      if (!load_in_mode(context, mode, queues, depth)) break;
}

}  // namespace ublk_check
