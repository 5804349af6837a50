// SPDX-License-Identifier: MIT
// DISCARD, WRITE_ZEROES, and what is not offered.
#include <ublk/error.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <string>

#include "check.h"
#include "volume.h"

namespace ublk_check {

namespace abi = ublk::abi;

using ublk::Operation;

namespace {

constexpr uint64_t kWindow = (4 << 20) / abi::kSectorSize;

uint64_t window_of(const Limits& limits) {
  return std::min(limits.device, kWindow) / limits.block * limits.block;
}

}  // namespace

void check_discard(Context& context) {
  const auto served = context.serve();
  const Limits limits(served->params());
  if (limits.max_discard == 0) return context.report().skip("the geometry offers no discard");
  Volume volume(context, *served, 0, window_of(limits));
  // Whole units of the granularity, single blocks, a unit and a half, nearly all, the first and the
  // last block.
  const uint64_t unit = std::min<uint64_t>(limits.granularity, volume.sectors());
  const uint64_t last = volume.sectors() - limits.block;
  const struct {
    uint64_t first, sectors;
  } ranges[] = {{unit, unit},
                {limits.block, limits.block},
                {unit / 2 / limits.block * limits.block, unit + limits.block},
                {limits.block, volume.sectors() - 2 * uint64_t{limits.block}},
                {0, limits.block},
                {last, limits.block}};
  for (const auto& range : ranges) {
    if (range.sectors == 0 || range.first + range.sectors > volume.sectors()) continue;
    volume.fill();
    volume.discard(range.first, range.sectors);
    volume.read_all();  // what is around it
    const uint32_t again = limits.clip(
        range.first, static_cast<uint32_t>(std::min<uint64_t>(range.sectors, limits.max)));
    volume.write(range.first, again);
    volume.read_all();
  }
  if (limits.device == volume.sectors()) return;
  Volume end(context, *served, limits.device - limits.block, limits.block);
  end.discard(end.first(), limits.block);
  end.fill();
  end.read_all();
}

void check_write_zeroes(Context& context) {
  const auto served = context.serve();
  const Limits limits(served->params());
  if (limits.max_zeroes == 0) return context.report().skip("the geometry offers no write-zeroes");
  Volume volume(context, *served, 0, window_of(limits));
  for (const uint32_t flags : {0u, uint32_t{abi::kIoFlagNoUnmap}}) {
    volume.fill();
    for (uint32_t blocks = 1; blocks * uint64_t{limits.block} <= volume.sectors(); blocks *= 3)
      volume.write_zeroes(volume.random_place(blocks * limits.block), blocks * limits.block, flags);
    volume.read_all();
    volume.fill();
    volume.write_zeroes(limits.block, volume.sectors() - 2 * uint64_t{limits.block}, flags);
    volume.read_all();
    volume.write(0, limits.block);
    volume.write_zeroes(0, volume.sectors(), flags);
    volume.read_all();
    volume.write(0, limits.block);
    volume.read_all();
  }
  Volume end(context, *served, limits.device - limits.block, limits.block);
  end.fill();
  end.write_zeroes(end.first(), limits.block);
  end.read_all();
}

void check_unadvertised(Context& context) {
  const auto served = context.serve();
  const Limits limits(served->params());
  Volume volume(context, *served, 0, window_of(limits));
  volume.fill();
  bool any = false;
  const auto refuses = [&](Operation op, uint32_t flags, const char* what) {
    any = true;
    const int result = volume.run(op, 0, limits.block, flags);
    if (result == 0)
      throw std::runtime_error(std::string(what) + " is done, but the geometry does not offer it");
    context.report().note(std::string(what) + " is refused with " + ublk::errno_name(-result));
  };
  if (limits.read_only) refuses(Operation::kWrite, 0, "WRITE");
  if (limits.max_discard == 0) refuses(Operation::kDiscard, 0, "DISCARD");
  if (limits.max_zeroes == 0) refuses(Operation::kWriteZeroes, 0, "WRITE_ZEROES");
  if (!limits.fua && !limits.read_only)
    refuses(Operation::kWrite, abi::kIoFlagFua, "WRITE with FUA");
  volume.read_all();
  if (!any) context.report().skip("everything is offered");
}

}  // namespace ublk_check
